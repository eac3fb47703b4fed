// Keeps scrub going: turns schedules and operations into one order a device, and what the devices
// say into the operations' figures. The passes themselves are the servers' work.
//
// Threads: Run from one; everything else from any.
#ifndef TESSERA_SERVICES_MDM_SCRUB_SCHEDULER_H_
#define TESSERA_SERVICES_MDM_SCRUB_SCHEDULER_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/integrity_board.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/scrub_table.h"
#include "tessera/v1/operation.pb.h"
#include "tessera/v1/scrub.pb.h"

namespace tessera::mdm {

class ScrubScheduler {
 public:
  ScrubScheduler(MdmStore* store, const IntegrityBoard* board, const HealthMonitor* health,
                 const EventLog* events, const MdmTime* time)
      : store_(store), board_(board), health_(health), events_(events), time_(time) {}

  // Makes the orders anew and ends operations that are over: for the maintenance loop, and after a
  // change of operations or settings.
  void Run();

  // For the answer to a server's heartbeat.
  [[nodiscard]] std::vector<v1::ScrubOrder> OrdersFor(uint64_t sds_id) const;
  // Puts the figures into a scrub that runs. Other operations are left alone.
  void FillFigures(v1::Operation* operation) const;

 private:
  [[nodiscard]] absl::Status Refresh();
  // The operation with the figures of its devices; *finished gets those that have just ended.
  [[nodiscard]] v1::Operation FiguresOf(SQLite::Database& db, const v1::Operation& stored,
                                        std::vector<ScrubTarget>* finished) const;
  [[nodiscard]] absl::Status Settle(const std::vector<ScrubTarget>& finished,
                                    const std::vector<v1::Operation>& over);

  MdmStore* const store_;
  const IntegrityBoard* const board_;
  const HealthMonitor* const health_;
  const EventLog* const events_;
  const MdmTime* const time_;
  absl::Mutex run_mutex_;  // one Run at a time
  mutable absl::Mutex mutex_;
  std::map<uint64_t, std::vector<v1::ScrubOrder>> orders_ ABSL_GUARDED_BY(mutex_);  // by server
  std::map<uint64_t, v1::Operation> running_ ABSL_GUARDED_BY(mutex_);               // by id
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SCRUB_SCHEDULER_H_
