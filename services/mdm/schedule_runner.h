// Makes the snapshots of schedules at their times, and deletes those that nothing keeps any more
// (docs/volumes/schedules.md).
//
// A run is written down before it is begun, with the time that its snapshots are named by. So an
// MDM that dies in it makes the same run again, and finds what is there by its name.
//
// Threads: Run from one thread at a time; the others from any. Of one schedule one run is made at a
// time.
#ifndef TESSERA_SERVICES_MDM_SCHEDULE_RUNNER_H_
#define TESSERA_SERVICES_MDM_SCHEDULE_RUNNER_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/metrics.h"
#include "services/mdm/event_log.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/schedule_table.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {

// What a run did.
struct ScheduleRun {
  std::vector<v1::Volume> snapshots;
  std::vector<uint64_t> deleted_snapshot_ids;
};

class ScheduleRunner {
 public:
  // How long servers may be waited for beyond the time that writes may be held.
  static constexpr std::chrono::milliseconds kCallReserve{30'000};

  ScheduleRunner(MdmStore* store, VolumeService* volumes, const EventLog* events,
                 const MdmTime* time, MetricRegistry* metrics)
      : store_(store),
        volumes_(volumes),
        events_(events),
        time_(time),
        runs_done_(RunsCounter(metrics, "done")),
        runs_failed_(RunsCounter(metrics, "failed")),
        stopped_(std::make_shared<std::atomic<bool>>(false)) {}

  // Every schedule that is due.
  void Run();
  // This one now, besides. FAILED_PRECONDITION: it has no volumes.
  [[nodiscard]] absl::StatusOr<ScheduleRun> RunNow(const CallContext& call, uint64_t schedule_id);
  // Ends what runs as soon as it may; what is not done is made again by the next MDM.
  void Stop() { stopped_->store(true); }

 private:
  static prometheus::Counter& RunsCounter(MetricRegistry* metrics, const char* result);

  struct Source;
  struct Plan;
  class Turn;

  void RunDue(uint64_t schedule_id);
  // Its volumes, with the names that their snapshots have at that time, and which are there.
  [[nodiscard]] absl::StatusOr<Plan> MakePlan(uint64_t schedule_id, uint64_t named_ms);
  // `run_time_ms`: of a run that is made again when it did not end; 0: by hand.
  [[nodiscard]] absl::StatusOr<ScheduleRun> Carry(const CallContext& call, Plan* plan,
                                                  uint64_t run_time_ms);
  [[nodiscard]] absl::Status Snap(const CallContext& call, const Plan& plan,
                                  const std::vector<const Source*>& sources, uint64_t run_time_ms,
                                  ScheduleRun* run);
  void Retain(const CallContext& call, Plan* plan, ScheduleRun* run);
  // Writes down how the run ended; an event when that is another than before.
  void End(const Plan& plan, uint64_t run_time_ms);
  [[nodiscard]] CallContext OwnCall(const v1::SnapshotSchedule& settings) const;

  MdmStore* const store_;
  VolumeService* const volumes_;
  const EventLog* const events_;
  const MdmTime* const time_;
  prometheus::Counter& runs_done_;
  prometheus::Counter& runs_failed_;
  const std::shared_ptr<std::atomic<bool>> stopped_;  // shared with calls that are running

  absl::Mutex mutex_;
  std::set<uint64_t> busy_schedule_ids_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SCHEDULE_RUNNER_H_
