// Reading of history: QueryHistory and ListSeries.
#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mgmt/monitor/history_store.h"

namespace tessera::mgmt {
namespace {

constexpr int kSeriesAtOnceMax = 50;
constexpr uint32_t kPointsDefault = 300;
constexpr uint32_t kPointsMax = 2'000;
constexpr uint32_t kPageDefault = 1'000;
constexpr uint32_t kPageMax = 10'000;
// Beyond, times would not fit the database's numbers; it is the year 5138.
constexpr uint64_t kTimeMaxMs = 100'000'000'000'000;

int64_t Sql(uint64_t value) { return static_cast<int64_t>(value); }

absl::Status CheckQuery(const v1::QueryHistoryRequest& request, uint64_t until_ms) {
  if (request.series().empty()) return InvalidField("series", "name 1 to 50 series");
  if (request.series_size() > kSeriesAtOnceMax) {
    return InvalidField("series", absl::StrCat("there are ", request.series_size(),
                                               ": ask for at most ", kSeriesAtOnceMax));
  }
  for (int i = 0; i < request.series_size(); ++i) {
    if (request.series(i).figure().empty()) {
      return InvalidField(absl::StrCat("series[", i, "].figure"),
                          "is empty: name a figure, as ListSeries does");
    }
  }
  if (request.points() > kPointsMax) {
    return InvalidField("points", absl::StrCat("is ", request.points(), ": at most ", kPointsMax,
                                               ", 0 means ", kPointsDefault));
  }
  if (until_ms > kTimeMaxMs) {
    return InvalidField("until_ms", "is no time: milliseconds since 1970-01-01T00:00:00Z, or 0");
  }
  if (request.from_ms() >= until_ms) {
    return InvalidField(
        "from_ms", absl::StrCat("the range is empty: from ", request.from_ms(), " until ", until_ms,
                                "; from_ms must be the smaller one"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::QueryHistoryResponse> HistoryStore::Query(
    const v1::QueryHistoryRequest& request) {
  const uint64_t now_ms = clock_->WallMillis();
  // The step that is going on now is part of it.
  const uint64_t until_ms = request.until_ms() == 0 ? now_ms + 1 : request.until_ms();
  TESSERA_RETURN_IF_ERROR(CheckQuery(request, until_ms));
  TESSERA_ASSIGN_OR_RETURN(LevelExtents extents, Extents());
  {
    absl::MutexLock lock(&mutex_);
    for (const OpenBlock* block : {&std::as_const(open_), writing_.get()}) {
      if (block == nullptr || block->points.empty()) continue;
      if (extents[0].empty) extents[0] = {block->begin_ms, block->begin_ms, false};
      extents[0].oldest_ms = std::min(extents[0].oldest_ms, block->begin_ms);
    }
  }
  const uint32_t points = request.points() == 0 ? kPointsDefault : request.points();
  const QueryPlan plan = PlanQuery(request.from_ms(), until_ms, points, now_ms, extents);
  v1::QueryHistoryResponse response;
  response.set_step_ms(plan.step_ms);
  for (const v1::SeriesKey& key : request.series()) {
    v1::HistorySeries* series = response.add_series();
    *series->mutable_key() = key;
    int64_t series_id = 0;
    {
      absl::MutexLock lock(&mutex_);
      const auto found =
          series_.find({key.kind(), key.component_id(), key.volume_id(), key.figure()});
      if (found == series_.end()) continue;
      series_id = found->second.series_id;
    }
    std::vector<StepAccumulator> steps((plan.end_ms - plan.begin_ms) / plan.step_ms);
    TESSERA_RETURN_IF_ERROR(
        AddPoints(plan, plan.level, plan.begin_ms, plan.end_ms, series_id, &steps));
    for (size_t i = 0; i < steps.size(); ++i) {
      if (steps[i].empty()) continue;
      series->add_time_ms(plan.begin_ms + i * plan.step_ms);
      series->add_mean(steps[i].mean());
      series->add_maximum(steps[i].maximum());
    }
  }
  return response;
}

absl::Status HistoryStore::AddPoints(const QueryPlan& plan, size_t level, uint64_t begin_ms,
                                     uint64_t end_ms, int64_t series_id,
                                     std::vector<StepAccumulator>* steps) {
  const HistoryLevel& rule = kHistory[level];
  uint64_t stored_until_ms = end_ms;
  if (level > 0) {
    TESSERA_ASSIGN_OR_RETURN(const uint64_t progress_ms, Progress(level));
    stored_until_ms = std::min(end_ms, progress_ms);
  }
  if (begin_ms < stored_until_ms) {
    TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) -> absl::Status {
      SQLite::Statement next(
          db, "SELECT MIN(begin_ms) FROM history_block WHERE level=? AND begin_ms>=?");
      SQLite::Statement row(
          db, "SELECT points FROM history_block WHERE level=? AND begin_ms=? AND series_id=?");
      uint64_t at = FloorTo(begin_ms, rule.block_ms);
      while (at < stored_until_ms) {
        next.reset();
        next.bind(1, static_cast<int>(level));
        next.bind(2, Sql(at));
        if (!next.executeStep() || next.getColumn(0).isNull()) break;
        at = static_cast<uint64_t>(next.getColumn(0).getInt64());
        if (at >= stored_until_ms) break;
        row.reset();
        row.bind(1, static_cast<int>(level));
        row.bind(2, Sql(at));
        row.bind(3, series_id);
        if (row.executeStep()) {
          const SQLite::Column bytes = row.getColumn(0);
          TESSERA_ASSIGN_OR_RETURN(const BlockPoints points,
                                   DecodeBlock({static_cast<const char*>(bytes.getBlob()),
                                                static_cast<size_t>(bytes.getBytes())},
                                               rule.slots()));
          for (size_t i = 0; i < points.size(); ++i) {
            const uint64_t time_ms = at + i * rule.step_ms;
            if (!points[i] || time_ms < begin_ms || time_ms >= stored_until_ms) continue;
            (*steps)[(time_ms - plan.begin_ms) / plan.step_ms].Add(
                points[i]->mean, points[i]->maximum, static_cast<double>(rule.step_ms));
          }
        }
        at += rule.block_ms;
      }
      return absl::OkStatus();
    }));
  }
  if (level == 0) {
    AddFromMemory(plan, begin_ms, end_ms, series_id, steps);
    return absl::OkStatus();
  }
  const uint64_t rest_ms = std::max(begin_ms, stored_until_ms);
  if (rest_ms >= end_ms) return absl::OkStatus();
  return AddPoints(plan, level - 1, rest_ms, end_ms, series_id, steps);
}

void HistoryStore::AddFromMemory(const QueryPlan& plan, uint64_t begin_ms, uint64_t end_ms,
                                 int64_t series_id, std::vector<StepAccumulator>* steps) {
  absl::MutexLock lock(&mutex_);
  for (const OpenBlock* block : {writing_.get(), &std::as_const(open_)}) {
    if (block == nullptr) continue;
    const auto found = block->points.find(series_id);
    if (found == block->points.end()) continue;
    for (size_t i = 0; i < kSlots; ++i) {
      const uint64_t time_ms = block->begin_ms + i * kHistory[0].step_ms;
      const StepAccumulator& from = found->second[i];
      if (from.empty() || time_ms < begin_ms || time_ms >= end_ms) continue;
      (*steps)[(time_ms - plan.begin_ms) / plan.step_ms].Add(
          from.mean(), from.maximum(), static_cast<double>(kHistory[0].step_ms));
    }
  }
}

absl::StatusOr<v1::ListSeriesResponse> HistoryStore::List(const v1::ListSeriesRequest& request) {
  if (request.page_size() > kPageMax) {
    return InvalidField("page_size", absl::StrCat("is ", request.page_size(), ": at most ",
                                                  kPageMax, ", 0 means ", kPageDefault));
  }
  int64_t after = 0;
  if (!request.page_token().empty() &&
      (!absl::SimpleAtoi(request.page_token(), &after) || after < 0)) {
    return InvalidField("page_token", "is not one of an answer's next_page_token");
  }
  const int64_t page = request.page_size() == 0 ? kPageDefault : request.page_size();
  v1::ListSeriesResponse response;
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    SQLite::Statement rows(db,
                           "SELECT series_id, kind, component_id, volume_id, figure, name, unit "
                           "FROM history_series WHERE series_id>?1 AND (?2=0 OR kind=?2) "
                           "AND (?3=0 OR component_id=?3) AND (?4=0 OR volume_id=?4) "
                           "ORDER BY series_id LIMIT ?5");
    rows.bind(1, after);
    rows.bind(2, static_cast<int>(request.kind()));
    rows.bind(3, Sql(request.component_id()));
    rows.bind(4, Sql(request.volume_id()));
    rows.bind(5, page + 1);
    int64_t last = after;
    while (rows.executeStep()) {
      if (response.series_size() == page) {
        response.set_next_page_token(absl::StrCat(last));
        break;
      }
      last = rows.getColumn(0).getInt64();
      v1::SeriesInfo* series = response.add_series();
      v1::SeriesKey* key = series->mutable_key();
      key->set_kind(static_cast<v1::ComponentKind>(rows.getColumn(1).getInt()));
      key->set_component_id(static_cast<uint64_t>(rows.getColumn(2).getInt64()));
      key->set_volume_id(static_cast<uint64_t>(rows.getColumn(3).getInt64()));
      key->set_figure(rows.getColumn(4).getString());
      series->set_name(rows.getColumn(5).getString());
      series->set_unit(rows.getColumn(6).getString());
    }
    return absl::OkStatus();
  }));
  return response;
}

}  // namespace tessera::mgmt
