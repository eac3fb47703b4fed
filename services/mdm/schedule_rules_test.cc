// The rules of snapshot schedules: times, names, retention.
#include "services/mdm/schedule_rules.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <set>

#include "absl/time/civil_time.h"
#include "absl/time/time.h"

namespace tessera::mdm {
namespace {

using Ids = std::vector<uint64_t>;

uint64_t At(int year, int month, int day, int hour = 0, int minute = 0, int second = 0) {
  return static_cast<uint64_t>(absl::ToUnixMillis(absl::FromCivil(
      absl::CivilSecond(year, month, day, hour, minute, second), absl::UTCTimeZone())));
}

v1::SnapshotSchedule Every(uint32_t interval, uint32_t offset = 0) {
  v1::SnapshotSchedule settings;
  settings.set_name("s");
  settings.set_interval_seconds(interval);
  settings.set_offset_seconds(offset);
  return settings;
}

v1::SnapshotRetention Keep(uint32_t last, uint32_t hourly = 0, uint32_t daily = 0,
                           uint32_t weekly = 0, uint32_t monthly = 0) {
  v1::SnapshotRetention retention;
  retention.set_keep_last(last);
  retention.set_keep_hourly(hourly);
  retention.set_keep_daily(daily);
  retention.set_keep_weekly(weekly);
  retention.set_keep_monthly(monthly);
  return retention;
}

// Numbered from 1 in the order given.
std::vector<ScheduledSnapshot> Made(const std::vector<uint64_t>& times) {
  std::vector<ScheduledSnapshot> snapshots;
  for (const uint64_t ms : times) snapshots.push_back({snapshots.size() + 1, ms});
  return snapshots;
}

TEST_CASE("a schedule's times are multiples of its interval, from its offset on", "[schedule]") {
  CHECK(LastRunTime(Every(3'600), At(2026, 1, 31, 23, 59, 59)) == At(2026, 1, 31, 23));
  CHECK(LastRunTime(Every(3'600), At(2026, 1, 31, 23)) == At(2026, 1, 31, 23));
  CHECK(LastRunTime(Every(3'600), At(2026, 1, 31, 23) - 1) == At(2026, 1, 31, 22));
  CHECK(NextRunTime(Every(3'600), At(2026, 1, 31, 23)) == At(2026, 2, 1));
  CHECK(NextRunTime(Every(3'600), At(2026, 1, 31, 23) - 1) == At(2026, 1, 31, 23));
  // Daily at two in the night.
  const v1::SnapshotSchedule nightly = Every(86'400, 7'200);
  CHECK(LastRunTime(nightly, At(2026, 2, 28, 1, 59, 59)) == At(2026, 2, 27, 2));
  CHECK(NextRunTime(nightly, At(2026, 2, 28, 2)) == At(2026, 3, 1, 2));
  CHECK(LastRunTime(nightly, 7'199'999) == 0);
  CHECK(NextRunTime(nightly, 0) == 7'200'000);
}

TEST_CASE("a run that is late by a minute has the time that it really has", "[schedule]") {
  const uint64_t time = At(2026, 3, 1, 12);
  CHECK(NamedTime(time, time) == time);
  CHECK(NamedTime(time, time + 59'999) == time);
  CHECK(NamedTime(time, time + 60'000) == time + 60'000);
}

TEST_CASE("names say volume, schedule and time, and are never those of two volumes", "[schedule]") {
  const uint64_t time = At(2026, 1, 31, 23, 59, 59) + 999;
  CHECK(SnapshotName("db", 7, "hourly", time) == "db-hourly-20260131T235959Z");
  const std::string schedule(kScheduleNameMax, 's');
  const std::string longest(63, 'v');
  const std::string name = SnapshotName(longest, 1'234, schedule, time);
  CHECK(name.size() == 63);
  CHECK(name == std::string(16, 'v') + ".1234-" + schedule + "-20260131T235959Z");
  CHECK(SnapshotName(longest, 1'235, schedule, time) != name);
  // As long as may be, and not cut.
  const std::string fits(63 - 24 - 18, 'v');
  CHECK(SnapshotName(fits, 1, schedule, time) == fits + "-" + schedule + "-20260131T235959Z");
  CHECK(SnapshotName(longest, UINT64_MAX, schedule, time).size() == 63);
}

TEST_CASE("settings that can't be are refused, and say which", "[schedule]") {
  const v1::SnapshotSchedule good = Every(60);
  CHECK(CheckSchedule(good).ok());
  const auto refused = [&](const char* field, auto change) {
    v1::SnapshotSchedule bad = good;
    change(&bad);
    const absl::Status status = CheckSchedule(bad);
    INFO(field << ": " << status);
    return absl::IsInvalidArgument(status) &&
           status.message().find(field) != std::string_view::npos;
  };
  using S = v1::SnapshotSchedule;
  CHECK(refused("schedule.name", [](S* s) { s->set_name(""); }));
  CHECK(refused("schedule.name", [](S* s) { s->set_name("a b"); }));
  CHECK(refused("schedule.name", [](S* s) { s->set_name(std::string(25, 'a')); }));
  CHECK(refused("schedule.interval_seconds", [](S* s) { s->set_interval_seconds(0); }));
  CHECK(refused("schedule.interval_seconds", [](S* s) { s->set_interval_seconds(90); }));
  CHECK(refused("schedule.interval_seconds", [](S* s) { s->set_interval_seconds(32 * 86'400); }));
  CHECK(refused("schedule.offset_seconds", [](S* s) { s->set_offset_seconds(60); }));
  CHECK(refused("schedule.volume_label", [](S* s) { s->set_volume_label("=gold"); }));
  CHECK(refused("schedule.deadline_ms", [](S* s) { s->set_deadline_ms(10'001); }));
  CHECK(refused("schedule.lock_seconds", [](S* s) { s->set_lock_seconds(11ull * 366 * 86'400); }));
  CHECK(refused("keep_last", [](S* s) { s->mutable_retention()->set_keep_last(1'025); }));
  CHECK(refused("keep_monthly", [](S* s) { s->mutable_retention()->set_keep_monthly(1'025); }));
  CHECK(refused("schedule.volume_ids", [](S* s) {
    s->set_consistent(true);
    for (uint64_t id = 1; id <= 65; ++id) s->add_volume_ids(id);
  }));
  v1::SnapshotSchedule most = Every(31 * 86'400, 31 * 86'400 - 1);
  most.set_name(std::string(24, 'a'));
  CHECK(CheckSchedule(most).ok());
}

TEST_CASE("without retention everything is kept", "[schedule]") {
  CHECK(PastRetention(Keep(0), Made({1, 2, 3})).empty());
  CHECK(PastRetention(Keep(5), Made({1, 2, 3})).empty());
  CHECK(PastRetention(Keep(1), {}).empty());
}

TEST_CASE("keep_last keeps the newest, whatever the order of the list", "[schedule]") {
  CHECK(PastRetention(Keep(2), Made({10, 40, 20, 30})) == Ids{1, 3});
  // Of one moment: the one with the higher id is newer.
  CHECK(PastRetention(Keep(1), Made({10, 10, 10})) == Ids{1, 2});
}

TEST_CASE("of each hour, day, week and month the newest counts", "[schedule]") {
  const std::vector<uint64_t> times = {
      At(2025, 12, 28, 23, 59, 59),  // 1: Sunday, the last of its week
      At(2025, 12, 29),              // 2: Monday, ISO week 1 of 2026
      At(2025, 12, 31, 23),          // 3: the last of December
      At(2026, 1, 1),                // 4: of the same week
      At(2026, 1, 4, 23, 30),        // 5: Sunday, the last of that week
      At(2026, 1, 5, 0, 10),         // 6
      At(2026, 1, 5, 0, 50),         // 7: the newest of its hour
      At(2026, 1, 5, 1),             // 8
  };
  CHECK(PastRetention(Keep(0, 2), Made(times)) == Ids{1, 2, 3, 4, 5, 6});
  CHECK(PastRetention(Keep(0, 0, 3), Made(times)) == Ids{1, 2, 3, 6, 7});
  CHECK(PastRetention(Keep(0, 0, 0, 3), Made(times)) == Ids{2, 3, 4, 6, 7});
  CHECK(PastRetention(Keep(0, 0, 0, 0, 2), Made(times)) == Ids{1, 2, 4, 5, 6, 7});
  // Any of them is enough.
  CHECK(PastRetention(Keep(1, 2, 0, 2, 2), Made(times)) == Ids{1, 2, 4, 6});
  // Periods without any do not count: there are ten months between the two.
  CHECK(PastRetention(Keep(0, 0, 0, 0, 2),
                      Made({At(2025, 1, 1), At(2025, 1, 2), At(2025, 11, 1)})) == Ids{1});
}

TEST_CASE("what is locked or mapped is never deleted, and counts", "[schedule]") {
  std::vector<ScheduledSnapshot> snapshots = Made({10, 20, 30, 40});
  snapshots[0].held = true;
  snapshots[3].held = true;
  CHECK(PastRetention(Keep(2), snapshots) == Ids{2});
}

// Against the definition, read plainly: a snapshot stays if it is among the newest so many, or the
// newest of one of the newest so many periods that have any.
TEST_CASE("retention of random snapshots is that of its definition", "[schedule]") {
  const uint32_t seed = GENERATE(range(1u, 60u));
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  std::vector<ScheduledSnapshot> snapshots;
  const uint64_t span = (uint64_t{1} << (20 + random() % 18));
  for (uint64_t id = 1; id <= 1 + random() % 80; ++id) {
    snapshots.push_back({id, At(2026, 1, 1) + random() % span, random() % 8 == 0});
  }
  const v1::SnapshotRetention retention =
      Keep(static_cast<uint32_t>(random() % 5), static_cast<uint32_t>(random() % 5),
           static_cast<uint32_t>(random() % 5), static_cast<uint32_t>(random() % 5),
           static_cast<uint32_t>(random() % 3));
  const bool any = retention.keep_last() + retention.keep_hourly() + retention.keep_daily() +
                       retention.keep_weekly() + retention.keep_monthly() >
                   0;
  std::set<uint64_t> stay;
  const auto newer = [](const ScheduledSnapshot& a, const ScheduledSnapshot& b) {
    return a.created_ms != b.created_ms ? a.created_ms > b.created_ms
                                        : a.snapshot_id > b.snapshot_id;
  };
  const auto keep = [&](uint32_t count, const char* format) {
    std::map<std::string, ScheduledSnapshot> newest;  // by period
    for (const ScheduledSnapshot& snapshot : snapshots) {
      const absl::Time time = absl::FromUnixMillis(static_cast<int64_t>(snapshot.created_ms));
      const std::string period = absl::FormatTime(format, time, absl::UTCTimeZone());
      const auto [found, fresh] = newest.emplace(period, snapshot);
      if (!fresh && newer(snapshot, found->second)) found->second = snapshot;
    }
    std::vector<ScheduledSnapshot> ordered;
    for (const auto& [period, snapshot] : newest) ordered.push_back(snapshot);
    std::sort(ordered.begin(), ordered.end(), newer);
    for (size_t i = 0; i < ordered.size() && i < count; ++i) stay.insert(ordered[i].snapshot_id);
  };
  keep(retention.keep_hourly(), "%Y-%m-%d %H");
  keep(retention.keep_daily(), "%Y-%m-%d");
  keep(retention.keep_weekly(), "%G-%V");
  keep(retention.keep_monthly(), "%Y-%m");
  std::vector<ScheduledSnapshot> ordered = snapshots;
  std::sort(ordered.begin(), ordered.end(), newer);
  for (size_t i = 0; i < ordered.size(); ++i) {
    if (i < retention.keep_last() || ordered[i].held || !any) stay.insert(ordered[i].snapshot_id);
  }
  std::set<uint64_t> expected;
  for (const ScheduledSnapshot& snapshot : snapshots) {
    if (!stay.contains(snapshot.snapshot_id)) expected.insert(snapshot.snapshot_id);
  }
  const Ids past = PastRetention(retention, snapshots);
  CHECK(std::set<uint64_t>(past.begin(), past.end()) == expected);
}

}  // namespace
}  // namespace tessera::mdm
