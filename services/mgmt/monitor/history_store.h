// History of figures in mgmt.db: takes a round's samples, answers queries, and keeps what it has
// under a stated size.
//
// The newest block (5 minutes) of all series is in memory and goes to the database at once when it
// is over, or with Flush: a process that is killed loses that much. Whatever the wall clock does,
// nothing is deleted because of a jump; a step that is written twice keeps the newer point.
//
// Threads: any. Record and Flush from one.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_HISTORY_STORE_H_
#define TESSERA_SERVICES_MGMT_MONITOR_HISTORY_STORE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/monitor/history_rules.h"
#include "tessera/v1/console.pb.h"

namespace tessera::mgmt {

// Names a series, as v1::SeriesKey.
struct SeriesName {
  v1::ComponentKind kind = v1::COMPONENT_KIND_UNSPECIFIED;
  uint64_t component_id = 0;
  uint64_t volume_id = 0;
  std::string_view figure;

  friend bool operator==(const SeriesName&, const SeriesName&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const SeriesName& name) {
    h = H::combine(std::move(h), static_cast<int>(name.kind), name.component_id, name.volume_id);
    return H::combine_contiguous(std::move(h), name.figure.data(), name.figure.size());
  }
};

// A figure at one moment. The views need live only for the call.
struct SeriesSample {
  SeriesName series;
  std::string_view name;  // of the part or volume
  std::string_view unit;
  double value = 0;
};

struct HistoryOptions {
  uint64_t limit_bytes = uint64_t{2} << 30;  // of the whole database
  size_t series_max = 50'000;                // beyond, those that ended first are forgotten
};

class HistoryStore {
 public:
  // `db` has kHistorySchema. Its pointers must outlive it.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<HistoryStore>> Open(
      MgmtDb* db, const Clock* clock, const HistoryOptions& options);

  // Samples of now. Errors of the database: what could not be written is lost, what comes next is
  // taken.
  [[nodiscard]] absl::Status Record(const std::vector<SeriesSample>& samples);
  // Writes what is in memory.
  [[nodiscard]] absl::Status Flush();

  // As ConsoleService; INVALID_ARGUMENT naming the field.
  [[nodiscard]] absl::StatusOr<v1::QueryHistoryResponse> Query(
      const v1::QueryHistoryRequest& request);
  [[nodiscard]] absl::StatusOr<v1::ListSeriesResponse> List(const v1::ListSeriesRequest& request);

  // Of the database file, as of the last flush.
  [[nodiscard]] uint64_t database_bytes() const;
  [[nodiscard]] uint64_t limit_bytes() const { return options_.limit_bytes; }
  [[nodiscard]] size_t series() const;

 private:
  struct Series {
    int64_t series_id = 0;
    uint64_t last_ms = 0;
    std::string name;
  };
  static constexpr size_t kSlots = kHistory[0].slots();
  // The newest block, by series.
  struct OpenBlock {
    uint64_t begin_ms = 0;
    absl::flat_hash_map<int64_t, std::array<StepAccumulator, kSlots>> points;
  };

  HistoryStore(MgmtDb* db, const Clock* clock, const HistoryOptions& options)
      : db_(db), clock_(clock), options_(options), guard_(0) {}
  [[nodiscard]] absl::Status Load();
  // Gives ids to the samples' series that have none, and remembers names that changed.
  [[nodiscard]] absl::Status AddSeries(const std::vector<SeriesSample>& samples, uint64_t now_ms);
  // What AddSeries changed, in the database; ids of the new ones are appended.
  [[nodiscard]] absl::Status WriteSeries(
      const std::vector<const SeriesSample*>& fresh,
      const std::vector<std::pair<int64_t, std::string>>& renamed,
      const std::vector<int64_t>& forgotten, uint64_t now_ms, std::vector<int64_t>* ids);
  void ForgetSeries(std::vector<int64_t>* ids) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] absl::Status WriteBlock(const OpenBlock& block);
  // What there is to do after a block was written: coarser levels, what is too old, room.
  [[nodiscard]] absl::Status Upkeep(uint64_t now_ms);
  [[nodiscard]] absl::Status Compact(size_t level, uint64_t finished_ms);
  [[nodiscard]] absl::Status CompactWindow(size_t level, uint64_t begin_ms);
  [[nodiscard]] absl::Status DropOld(uint64_t now_ms);
  [[nodiscard]] absl::Status MakeRoom();
  [[nodiscard]] absl::Status TouchSeries();
  [[nodiscard]] absl::StatusOr<LevelExtents> Extents();
  [[nodiscard]] absl::StatusOr<uint64_t> Progress(size_t level);
  // Adds the series' points of [begin, end) to steps of the plan.
  [[nodiscard]] absl::Status AddPoints(const QueryPlan& plan, size_t level, uint64_t begin_ms,
                                       uint64_t end_ms, int64_t series_id,
                                       std::vector<StepAccumulator>* steps);
  void AddFromMemory(const QueryPlan& plan, uint64_t begin_ms, uint64_t end_ms, int64_t series_id,
                     std::vector<StepAccumulator>* steps);

  MgmtDb* const db_;
  const Clock* const clock_;
  const HistoryOptions options_;
  ClockGuard guard_;  // Record's thread
  mutable absl::Mutex mutex_;
  std::set<std::string, std::less<>> figures_ ABSL_GUARDED_BY(mutex_);  // what keys' views are of
  absl::flat_hash_map<SeriesName, Series> series_ ABSL_GUARDED_BY(mutex_);
  OpenBlock open_ ABSL_GUARDED_BY(mutex_);
  // Goes to the database now; shared with Flush, which writes it. Null: nothing does.
  std::shared_ptr<const OpenBlock> writing_ ABSL_GUARDED_BY(mutex_);
  uint64_t database_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_HISTORY_STORE_H_
