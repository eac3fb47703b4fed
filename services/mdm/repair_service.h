// RepairService: settings of repair, maintenance, drain, removal and replacement.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MDM_REPAIR_SERVICE_H_
#define TESSERA_SERVICES_MDM_REPAIR_SERVICE_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "services/mdm/device_assigner.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/learner_board.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_directory.h"
#include "services/mdm/repair_reader.h"
#include "services/mdm/rpc_methods.h"
#include "tessera/v1/repair.grpc.pb.h"

namespace tessera::mdm {

class RepairService final : public v1::RepairService::CallbackService {
 public:
  // `wake` starts a round of the scheduler.
  RepairService(RpcDispatcher* rpc, MdmStore* store, DeviceAssigner* assigner, NodeDirectory* nodes,
                HealthMonitor* health, const LearnerBoard* board, const EventLog* events,
                const MdmTime* time, std::function<void()> wake)
      : rpc_(rpc),
        store_(store),
        assigner_(assigner),
        nodes_(nodes),
        health_(health),
        board_(board),
        events_(events),
        time_(time),
        wake_(std::move(wake)) {}

  TESSERA_MDM_UNARY(GetRepairSettings);
  TESSERA_MDM_UNARY(UpdateRepairSettings);
  TESSERA_MDM_UNARY(GetRebalanceStatus);
  TESSERA_MDM_UNARY(EnterMaintenance);
  TESSERA_MDM_UNARY(ExitMaintenance);
  TESSERA_MDM_UNARY(StartDrain);
  TESSERA_MDM_UNARY(RemoveDevice);
  TESSERA_MDM_UNARY(RemoveSds);
  TESSERA_MDM_UNARY(ReplaceDevice);

 private:
  // What is drained, with its devices that are in a pool.
  struct DrainSubject {
    uint64_t sds_id = 0;
    uint64_t device_id = 0;  // 0: the whole server
    std::string name;
    std::vector<uint64_t> device_ids;
  };
  [[nodiscard]] absl::StatusOr<DrainSubject> Subject(SQLite::Database& db, uint64_t sds_id,
                                                     uint64_t device_id) const;
  // Checks and begins; the operation that does it.
  [[nodiscard]] absl::StatusOr<v1::Operation> Drain(WriteTransaction& transaction,
                                                    const DrainSubject& subject,
                                                    uint64_t successor_device_id) const;
  [[nodiscard]] absl::Status CheckMaintenance(const RepairSnapshot& snapshot,
                                              uint64_t sds_id) const;

  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  DeviceAssigner* const assigner_;
  NodeDirectory* const nodes_;
  HealthMonitor* const health_;
  const LearnerBoard* const board_;
  const EventLog* const events_;
  const MdmTime* const time_;
  const std::function<void()> wake_;
};

// The settings with those of the mask changed. INVALID_ARGUMENT: which, and what would be right.
[[nodiscard]] absl::StatusOr<v1::RepairSettings> MergeSettings(
    const v1::RepairSettings& now, const v1::UpdateRepairSettingsRequest& request);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_REPAIR_SERVICE_H_
