#include "services/mdm/schedule_rules.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/request_checks.h"

namespace tessera::mdm {
namespace {

constexpr size_t kNameMax = 63;
// More than a volume can have means nothing.
constexpr uint32_t kKeepMax = 1'024;
constexpr uint64_t kLockMaxSeconds = 10 * 366 * 86'400ull;
constexpr uint32_t kHoldMaxMillis = 10'000;
// A run that begins no later than this after its time is on time.
constexpr uint64_t kPunctualMillis = 60'000;

uint64_t IntervalMillis(const v1::SnapshotSchedule& settings) {
  return settings.interval_seconds() * uint64_t{1'000};
}

uint64_t OffsetMillis(const v1::SnapshotSchedule& settings) {
  return settings.offset_seconds() * uint64_t{1'000};
}

absl::CivilSecond CivilOf(uint64_t ms) {
  return absl::ToCivilSecond(absl::FromUnixMillis(static_cast<int64_t>(ms)), absl::UTCTimeZone());
}

// Periods of UTC as numbers: equal for two times of one period, greater for a later one.
int64_t HourOf(uint64_t ms) { return absl::CivilHour(CivilOf(ms)) - absl::CivilHour(1970); }
int64_t DayOf(uint64_t ms) { return absl::CivilDay(CivilOf(ms)) - absl::CivilDay(1970); }
int64_t WeekOf(uint64_t ms) {
  return absl::PrevWeekday(absl::CivilDay(CivilOf(ms)) + 1, absl::Weekday::monday) -
         absl::CivilDay(1970);
}
int64_t MonthOf(uint64_t ms) { return absl::CivilMonth(CivilOf(ms)) - absl::CivilMonth(1970); }

absl::Status CheckKeep(const char* field, uint32_t value) {
  if (value <= kKeepMax) return absl::OkStatus();
  return InvalidField(
      absl::StrCat("schedule.retention.", field),
      absl::StrCat(value, " is more than ", kKeepMax, ", as many snapshots as a volume can have"));
}

}  // namespace

absl::Status CheckSchedule(const v1::SnapshotSchedule& settings) {
  TESSERA_RETURN_IF_ERROR(CheckVolumeName("schedule.name", settings.name()));
  if (settings.name().size() > kScheduleNameMax) {
    return InvalidField("schedule.name", absl::StrCat("'", settings.name(), "' is longer than ",
                                                      kScheduleNameMax, " characters"));
  }
  if (settings.volume_ids_size() > kScheduleVolumesMax) {
    return InvalidField("schedule.volume_ids", absl::StrCat("are ", settings.volume_ids_size(),
                                                            ", more than ", kScheduleVolumesMax));
  }
  if (settings.consistent() && settings.volume_ids_size() > kConsistentVolumesMax) {
    return InvalidField("schedule.volume_ids",
                        absl::StrCat("are ", settings.volume_ids_size(), ": at most ",
                                     kConsistentVolumesMax, " can have one moment"));
  }
  const std::string& label = settings.volume_label();
  if (!label.empty() && label.front() == '=') {
    return InvalidField("schedule.volume_label", "has no key before '='");
  }
  const uint32_t interval = settings.interval_seconds();
  if (interval < kScheduleIntervalMinSeconds || interval > kScheduleIntervalMaxSeconds ||
      interval % 60 != 0) {
    return InvalidField(
        "schedule.interval_seconds",
        absl::StrCat(interval, " is not a multiple of 60 from ", kScheduleIntervalMinSeconds,
                     " to ", kScheduleIntervalMaxSeconds));
  }
  if (settings.offset_seconds() >= interval) {
    return InvalidField(
        "schedule.offset_seconds",
        absl::StrCat(settings.offset_seconds(), " is not less than the interval, ", interval));
  }
  const v1::SnapshotRetention& retention = settings.retention();
  TESSERA_RETURN_IF_ERROR(CheckKeep("keep_last", retention.keep_last()));
  TESSERA_RETURN_IF_ERROR(CheckKeep("keep_hourly", retention.keep_hourly()));
  TESSERA_RETURN_IF_ERROR(CheckKeep("keep_daily", retention.keep_daily()));
  TESSERA_RETURN_IF_ERROR(CheckKeep("keep_weekly", retention.keep_weekly()));
  TESSERA_RETURN_IF_ERROR(CheckKeep("keep_monthly", retention.keep_monthly()));
  if (settings.lock_seconds() > kLockMaxSeconds) {
    return InvalidField("schedule.lock_seconds",
                        absl::StrCat(settings.lock_seconds(), " is more than ten years"));
  }
  if (settings.deadline_ms() > kHoldMaxMillis) {
    return InvalidField("schedule.deadline_ms",
                        absl::StrCat(settings.deadline_ms(), " is more than ", kHoldMaxMillis));
  }
  return absl::OkStatus();
}

uint64_t LastRunTime(const v1::SnapshotSchedule& settings, uint64_t now_ms) {
  const uint64_t offset = OffsetMillis(settings);
  if (now_ms < offset) return 0;
  const uint64_t interval = IntervalMillis(settings);
  return offset + (now_ms - offset) / interval * interval;
}

uint64_t NextRunTime(const v1::SnapshotSchedule& settings, uint64_t ms) {
  if (ms < OffsetMillis(settings)) return OffsetMillis(settings);
  return LastRunTime(settings, ms) + IntervalMillis(settings);
}

uint64_t NamedTime(uint64_t run_time_ms, uint64_t now_ms) {
  return now_ms < run_time_ms + kPunctualMillis ? run_time_ms : now_ms;
}

std::string SnapshotName(const std::string& volume_name, uint64_t volume_id,
                         const std::string& schedule_name, uint64_t time_ms) {
  const std::string suffix = absl::StrCat(
      "-", schedule_name, "-",
      absl::FormatTime("%Y%m%dT%H%M%SZ", absl::FromUnixMillis(static_cast<int64_t>(time_ms)),
                       absl::UTCTimeZone()));
  if (volume_name.size() + suffix.size() <= kNameMax) return volume_name + suffix;
  const std::string id = absl::StrCat(".", volume_id);
  return absl::StrCat(volume_name.substr(0, kNameMax - suffix.size() - id.size()), id, suffix);
}

std::vector<uint64_t> PastRetention(const v1::SnapshotRetention& retention,
                                    std::vector<ScheduledSnapshot> snapshots) {
  struct Rule {
    uint32_t keep;
    int64_t (*period)(uint64_t ms);
    std::set<int64_t> seen;
  };
  Rule rules[] = {{retention.keep_hourly(), HourOf, {}},
                  {retention.keep_daily(), DayOf, {}},
                  {retention.keep_weekly(), WeekOf, {}},
                  {retention.keep_monthly(), MonthOf, {}}};
  const bool any =
      retention.keep_last() > 0 || std::any_of(std::begin(rules), std::end(rules),
                                               [](const Rule& rule) { return rule.keep > 0; });
  if (!any) return {};
  // Newest first, so that the first one of a period is the one that counts.
  std::sort(snapshots.begin(), snapshots.end(), [](const auto& a, const auto& b) {
    return std::pair(a.created_ms, a.snapshot_id) > std::pair(b.created_ms, b.snapshot_id);
  });
  std::vector<uint64_t> past;
  for (size_t i = 0; i < snapshots.size(); ++i) {
    bool kept = snapshots[i].held || i < retention.keep_last();
    for (Rule& rule : rules) {
      if (rule.seen.size() < rule.keep &&
          rule.seen.insert(rule.period(snapshots[i].created_ms)).second) {
        kept = true;
      }
    }
    if (!kept) past.push_back(snapshots[i].snapshot_id);
  }
  std::reverse(past.begin(), past.end());
  return past;
}

}  // namespace tessera::mdm
