// SnapshotScheduleService: schedules by which the MDM makes and deletes snapshots by itself.
//
// Threads: handlers run on the dispatcher's threads; RunSnapshotSchedule waits for clients and
// servers.
#ifndef TESSERA_SERVICES_MDM_SCHEDULE_SERVICE_H_
#define TESSERA_SERVICES_MDM_SCHEDULE_SERVICE_H_

#include "services/mdm/event_log.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/rpc_methods.h"
#include "services/mdm/schedule_runner.h"
#include "services/mdm/schedule_table.h"
#include "tessera/v1/schedule.grpc.pb.h"

namespace tessera::mdm {

class SnapshotScheduleService final : public v1::SnapshotScheduleService::CallbackService {
 public:
  SnapshotScheduleService(RpcDispatcher* rpc, MdmStore* store, ScheduleRunner* runner,
                          const EventLog* events, const MdmTime* time)
      : rpc_(rpc), store_(store), runner_(runner), events_(events), time_(time) {}

  TESSERA_MDM_UNARY(CreateSnapshotSchedule);
  TESSERA_MDM_UNARY(GetSnapshotSchedule);
  TESSERA_MDM_UNARY(ListSnapshotSchedules);
  TESSERA_MDM_UNARY(UpdateSnapshotSchedule);
  TESSERA_MDM_UNARY(DeleteSnapshotSchedule);
  TESSERA_MDM_UNARY(RunSnapshotSchedule);

 private:
  [[nodiscard]] absl::Status Update(WriteTransaction& transaction,
                                    const v1::UpdateSnapshotScheduleRequest& request,
                                    ScheduleRow* row) const;

  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  ScheduleRunner* const runner_;
  const EventLog* const events_;
  const MdmTime* const time_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SCHEDULE_SERVICE_H_
