#include "services/mgmt/monitor/history_store.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <map>

#include "absl/strings/str_cat.h"
#include "libchunk/seeded_random.h"
#include "services/mgmt/monitor/history_schema.h"
#include "services/mgmt/monitor/testing/temporary_folder.h"

namespace tessera::mgmt {
namespace {

constexpr uint64_t kStart = 1'700'006'400'000;  // a whole day
constexpr char kFigure[] = "reads_per_second";

SeriesSample Sample(uint64_t part, double value) {
  return {{v1::COMPONENT_KIND_SDS, part, 0, kFigure}, "sds", "operations per second", value};
}

v1::SeriesKey Key(uint64_t part) {
  v1::SeriesKey key;
  key.set_kind(v1::COMPONENT_KIND_SDS);
  key.set_component_id(part);
  key.set_figure(kFigure);
  return key;
}

// A store on a database of its own, with a clock that stands until it is told.
class Fixture {
 public:
  explicit Fixture(HistoryOptions options = {}) : options_(options) { Open(); }

  void Open() {
    store_.reset();
    db_.reset();
    auto db = MgmtDb::Open(folder_.path() + "/mgmt.db", {kHistorySchema});
    REQUIRE(db.ok());
    db_ = *std::move(db);
    auto store = HistoryStore::Open(db_.get(), &clock_, options_);
    REQUIRE(store.ok());
    store_ = *std::move(store);
  }
  void Record(const std::vector<SeriesSample>& samples) {
    const absl::Status status = store_->Record(samples);
    INFO(status);
    REQUIRE(status.ok());
  }
  // One value every 10 s for so long.
  void RecordFor(uint64_t ms, const std::function<double(uint64_t)>& value) {
    for (uint64_t at = 0; at < ms; at += 10'000) {
      Record({Sample(1, value(clock_.WallMillis()))});
      clock_.AdvanceMillis(10'000);
    }
  }
  [[nodiscard]] v1::QueryHistoryResponse Query(uint64_t from, uint64_t until, uint32_t points) {
    v1::QueryHistoryRequest request;
    *request.add_series() = Key(1);
    request.set_from_ms(from);
    request.set_until_ms(until);
    request.set_points(points);
    auto response = store_->Query(request);
    INFO(response.status());
    REQUIRE(response.ok());
    return *std::move(response);
  }
  [[nodiscard]] uint64_t FileBytes() const {
    return std::filesystem::file_size(folder_.path() + "/mgmt.db");
  }
  [[nodiscard]] int64_t Number(const std::string& sql) {
    int64_t number = 0;
    REQUIRE(db_->Read([&](SQLite::Database& db) {
                 number = db.execAndGet(sql).getInt64();
                 return absl::OkStatus();
               })
                .ok());
    return number;
  }

  const TemporaryFolder folder_;
  ManualClock clock_{kStart};
  const HistoryOptions options_;
  std::unique_ptr<MgmtDb> db_;
  std::unique_ptr<HistoryStore> store_;
};

// What history should say of the values, by brute force.
struct ModelStep {
  double sum = 0;
  double maximum = 0;
  size_t count = 0;
};

}  // namespace

TEST_CASE("points are there at once, and after a restart") {
  Fixture fixture;
  fixture.RecordFor(12 * kMinuteMs, [](uint64_t now) { return static_cast<double>(now % 7); });
  const auto check = [&] {
    const auto answer = fixture.Query(kStart, kStart + 12 * kMinuteMs, 100);
    CHECK(answer.step_ms() == 10'000);
    REQUIRE(answer.series(0).time_ms_size() == 72);
    for (int i = 0; i < 72; ++i) {
      const uint64_t at = kStart + static_cast<uint64_t>(i) * 10'000;
      CHECK(answer.series(0).time_ms(i) == at);
      CHECK(answer.series(0).mean(i) == Approx(at % 7));
    }
  };
  check();
  REQUIRE(fixture.store_->Flush().ok());
  fixture.Open();
  check();
  // The block that was begun is gone on with.
  fixture.RecordFor(10'000, [](uint64_t) { return 99; });
  const auto answer = fixture.Query(kStart, kStart + 13 * kMinuteMs, 100);
  REQUIRE(answer.series(0).time_ms_size() == 73);
  CHECK(answer.series(0).mean(71) != 99);
  CHECK(answer.series(0).mean(72) == 99);
}

TEST_CASE("several values in one step are one point: their mean and their greatest") {
  Fixture fixture;
  for (const double value : {1.0, 9.0, 2.0}) {
    fixture.Record({Sample(1, value)});
    fixture.clock_.AdvanceMillis(3'000);
  }
  const auto answer = fixture.Query(kStart, kStart + 60'000, 6);
  REQUIRE(answer.series(0).time_ms_size() == 1);
  CHECK(answer.series(0).mean(0) == Approx(4));
  CHECK(answer.series(0).maximum(0) == 9);
}

// Random values with gaps over days, asked for over random ranges: each step is the mean and the
// greatest of the values in it, from whatever level they come.
TEST_CASE("coarser history says what the finer one did, whatever range is asked for") {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    chunk::SeededRandom random(seed);
    Fixture fixture;
    std::map<uint64_t, double> values;
    while (fixture.clock_.WallMillis() < kStart + 3 * kDayMs) {
      if (random.Below(2'000) == 0) fixture.clock_.AdvanceMillis(10'000 * random.Below(1'000));
      const auto value = static_cast<double>(random.Below(1'000));
      values[FloorTo(fixture.clock_.WallMillis(), 10'000)] = value;
      fixture.Record({Sample(1, value)});
      fixture.clock_.AdvanceMillis(10'000);
    }
    const uint64_t now = fixture.clock_.WallMillis();
    for (int i = 0; i < 60; ++i) {
      const uint64_t from = kStart + random.Below(now - kStart - 1);
      const uint64_t until = from + 1 + random.Below(now - from);
      const auto answer = fixture.Query(from, until, static_cast<uint32_t>(1 + random.Below(400)));
      INFO("seed " << seed << " from " << from << " until " << until);
      const uint64_t step = answer.step_ms();
      std::map<uint64_t, ModelStep> model;
      for (auto at = values.lower_bound(FloorTo(from, step));
           at != values.end() && at->first < CeilTo(until, step); ++at) {
        ModelStep& to = model[FloorTo(at->first, step)];
        to.sum += at->second;
        to.maximum = std::max(to.maximum, at->second);
        ++to.count;
      }
      REQUIRE(static_cast<size_t>(answer.series(0).time_ms_size()) == model.size());
      int next = 0;
      for (const auto& [time_ms, want] : model) {
        CHECK(answer.series(0).time_ms(next) == time_ms);
        CHECK(answer.series(0).maximum(next) == Approx(want.maximum));
        // A coarse point of a step with gaps weighs as much as one without: means of means.
        const double whole = static_cast<double>(step) / 10'000;
        if (static_cast<double>(want.count) == whole) {
          CHECK(answer.series(0).mean(next) ==
                Approx(want.sum / static_cast<double>(want.count)).epsilon(1e-5));
        }
        ++next;
      }
    }
  }
}

TEST_CASE("fine points go after a day, those of five minutes stay") {
  Fixture fixture;
  fixture.RecordFor(27 * kHourMs, [](uint64_t) { return 5; });
  CHECK(fixture.Number("SELECT MIN(begin_ms) FROM history_block WHERE level=0") >=
        static_cast<int64_t>(kStart + 3 * kHourMs - kHistory[0].block_ms));
  CHECK(fixture.Number("SELECT MIN(begin_ms) FROM history_block WHERE level=1") ==
        static_cast<int64_t>(kStart));
  CHECK(fixture.Number("SELECT MIN(begin_ms) FROM history_block WHERE level=2") ==
        static_cast<int64_t>(kStart));
  const auto answer = fixture.Query(kStart, kStart + kHourMs, 2'000);
  CHECK(answer.step_ms() == 5 * kMinuteMs);
  CHECK(answer.series(0).time_ms_size() == 12);
}

TEST_CASE("the database stays under its limit: the oldest fine points go, the coarse stay") {
  HistoryOptions options;
  options.limit_bytes = 2 << 20;
  Fixture fixture(options);
  chunk::SeededRandom random(7);
  constexpr uint64_t kParts = 120;
  uint64_t greatest = 0;
  for (uint64_t at = 0; at < 14 * kHourMs; at += 10'000) {
    std::vector<SeriesSample> samples;
    for (uint64_t part = 1; part <= kParts; ++part) {
      samples.push_back(Sample(part, static_cast<double>(random.Below(1'000'000))));
    }
    fixture.Record(samples);
    fixture.clock_.AdvanceMillis(10'000);
    greatest = std::max(greatest, fixture.FileBytes());
  }
  CHECK(greatest < options.limit_bytes);
  CHECK(fixture.store_->database_bytes() < options.limit_bytes);
  const auto oldest = [&](int level) {
    return fixture.Number(
        absl::StrCat("SELECT MIN(begin_ms) FROM history_block WHERE level=", level));
  };
  CHECK(oldest(0) > static_cast<int64_t>(kStart));
  CHECK(oldest(0) <= static_cast<int64_t>(kStart + 13 * kHourMs));
  CHECK(oldest(1) == static_cast<int64_t>(kStart));
  // What went is read from the next level.
  CHECK(fixture.Query(kStart, kStart + kHourMs, 2'000).series(0).time_ms_size() == 12);
}

TEST_CASE("freed space goes back to the file system, also in a database made without that") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/mgmt.db";
  REQUIRE(MgmtDb::Open(path, {kHistorySchema}).ok());
  auto db = MgmtDb::Open(path, {kHistorySchema});
  REQUIRE(db.ok());
  ManualClock clock(kStart);
  REQUIRE(HistoryStore::Open(db->get(), &clock, {}).ok());
  REQUIRE((*db)
              ->Read([](SQLite::Database& database) {
                CHECK(database.execAndGet("PRAGMA auto_vacuum").getInt() == 2);
                return absl::OkStatus();
              })
              .ok());
}

TEST_CASE("a clock that jumps ahead for a while costs no history") {
  Fixture fixture;
  fixture.RecordFor(3 * kHourMs, [](uint64_t) { return 5; });
  const uint64_t right = fixture.clock_.WallMillis();
  fixture.clock_.SetWallMillis(right + 800 * kDayMs);
  fixture.RecordFor(20 * kMinuteMs, [](uint64_t) { return 7; });
  fixture.clock_.SetWallMillis(right + 20 * kMinuteMs);
  fixture.RecordFor(20 * kMinuteMs, [](uint64_t) { return 5; });
  CHECK(fixture.Query(kStart, kStart + 3 * kHourMs, 2'000).series(0).time_ms_size() == 1'080);
  // What was of the wrong time is gone once the clock has been right for an hour, and coarser
  // history is made as ever.
  fixture.RecordFor(3 * kHourMs, [](uint64_t) { return 5; });
  CHECK(fixture.Number("SELECT MAX(begin_ms) FROM history_block") <=
        static_cast<int64_t>(fixture.clock_.WallMillis()));
  CHECK(fixture.Number("SELECT MAX(begin_ms) FROM history_block WHERE level=1") ==
        static_cast<int64_t>(kStart + 4 * kHourMs));
}

TEST_CASE("a clock that is set back writes over what was, and loses nothing") {
  Fixture fixture;
  fixture.RecordFor(5 * kHourMs, [](uint64_t) { return 5; });
  fixture.clock_.SetWallMillis(kStart + 4 * kHourMs);
  fixture.RecordFor(30 * kMinuteMs, [](uint64_t) { return 8; });
  REQUIRE(fixture.store_->Flush().ok());
  const auto answer = fixture.Query(kStart, kStart + 5 * kHourMs, 2'000);
  REQUIRE(answer.series(0).time_ms_size() == 1'800);
  CHECK(answer.series(0).mean(4 * 360 - 1) == 5);
  CHECK(answer.series(0).mean(4 * 360) == 8);
  CHECK(answer.series(0).mean(4 * 360 + 180) == 5);
}

TEST_CASE("series that ended first are forgotten when there are too many") {
  HistoryOptions options;
  options.series_max = 1'500;
  Fixture fixture(options);
  std::vector<SeriesSample> samples;
  for (uint64_t part = 1; part <= 1'500; ++part) samples.push_back(Sample(part, 1));
  fixture.Record(samples);
  fixture.clock_.AdvanceMillis(10'000);
  fixture.Record({samples.begin(), samples.begin() + 400});
  fixture.Record({Sample(2'000, 1)});
  CHECK(fixture.store_->series() == 501);
  CHECK(fixture.Number("SELECT COUNT(*) FROM history_series") == 501);
  CHECK(fixture.Number("SELECT COUNT(*) FROM history_series WHERE component_id<=400") == 400);
}

TEST_CASE("series are listed page by page, by part, with their present names") {
  Fixture fixture;
  SeriesSample volume{{v1::COMPONENT_KIND_UNSPECIFIED, 0, 7, kFigure}, "data", "bytes", 1};
  fixture.Record({Sample(1, 1), Sample(2, 1), volume});
  volume.name = "renamed";
  fixture.Record({volume});
  v1::ListSeriesRequest request;
  request.set_page_size(2);
  auto page = fixture.store_->List(request);
  REQUIRE(page.ok());
  CHECK(page->series_size() == 2);
  request.set_page_token(page->next_page_token());
  page = fixture.store_->List(request);
  REQUIRE(page.ok());
  REQUIRE(page->series_size() == 1);
  CHECK(page->next_page_token().empty());
  CHECK(page->series(0).name() == "renamed");
  CHECK(page->series(0).key().volume_id() == 7);
  v1::ListSeriesRequest of_part;
  of_part.set_kind(v1::COMPONENT_KIND_SDS);
  of_part.set_component_id(2);
  page = fixture.store_->List(of_part);
  REQUIRE(page.ok());
  REQUIRE(page->series_size() == 1);
  CHECK(page->series(0).key().component_id() == 2);
}

TEST_CASE("a query that makes no sense is refused with the field and what would be right") {
  Fixture fixture;
  const auto refused = [&](const std::function<void(v1::QueryHistoryRequest*)>& spoil) {
    v1::QueryHistoryRequest request;
    *request.add_series() = Key(1);
    request.set_from_ms(kStart);
    spoil(&request);
    fixture.clock_.SetWallMillis(kStart + kHourMs);
    const absl::Status status = fixture.store_->Query(request).status();
    return status.ok() ? "" : std::string(status.message());
  };
  using Catch::Contains;
  CHECK(refused([](auto*) {}).empty());
  CHECK_THAT(refused([](auto* request) { request->clear_series(); }), Contains("series"));
  CHECK_THAT(refused([](auto* request) {
               for (int i = 0; i < 50; ++i) *request->add_series() = Key(1);
             }),
             Contains("at most 50"));
  CHECK_THAT(refused([](auto* request) { request->mutable_series(0)->clear_figure(); }),
             Contains("series[0].figure"));
  CHECK_THAT(refused([](auto* request) { request->set_points(2'001); }), Contains("2000"));
  CHECK_THAT(refused([](auto* request) { request->set_until_ms(kStart); }), Contains("empty"));
  CHECK_THAT(refused([](auto* request) { request->set_until_ms(UINT64_MAX); }),
             Contains("until_ms"));
  v1::ListSeriesRequest list;
  list.set_page_token("7x");
  CHECK(absl::IsInvalidArgument(fixture.store_->List(list).status()));
  list.clear_page_token();
  list.set_page_size(10'001);
  CHECK(absl::IsInvalidArgument(fixture.store_->List(list).status()));
}

TEST_CASE("a series that does not exist has no points, and others are answered") {
  Fixture fixture;
  fixture.Record({Sample(1, 3)});
  v1::QueryHistoryRequest request;
  *request.add_series() = Key(55);
  *request.add_series() = Key(1);
  request.set_from_ms(kStart - kHourMs);
  const auto answer = fixture.store_->Query(request);
  REQUIRE(answer.ok());
  REQUIRE(answer->series_size() == 2);
  CHECK(answer->series(0).time_ms().empty());
  CHECK(answer->series(0).key().component_id() == 55);
  CHECK(answer->series(1).time_ms_size() == 1);
}

}  // namespace tessera::mgmt
