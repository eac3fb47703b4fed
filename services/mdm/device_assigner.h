// Brings devices into pools: adopts those that ask for a pool that exists, has their servers open
// them (ConfigureDevice, after each restart of a server anew), and lays out the placement groups of
// pools that have no volumes yet.
//
// Threads: any; calls to servers are made without a lock and with deadlines.
#ifndef TESSERA_SERVICES_MDM_DEVICE_ASSIGNER_H_
#define TESSERA_SERVICES_MDM_DEVICE_ASSIGNER_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_control.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {

struct AssignerRules {
  // Fault sets that new servers ask for and that don't exist are made; else such a server waits.
  bool create_fault_sets = false;
};

class DeviceAssigner {
 public:
  static constexpr std::chrono::milliseconds kConfigureTimeout{10'000};
  static constexpr uint64_t kRetryMillis = 2'000;

  DeviceAssigner(const AssignerRules& rules, MdmStore* store, NodeControl* control,
                 const HealthMonitor* health, const EventLog* events, const MdmTime* time)
      : rules_(rules),
        store_(store),
        control_(control),
        health_(health),
        events_(events),
        time_(time) {}

  // Everything that is due now: for the maintenance loop.
  void Run();

  // Puts the device into the pool, opens it on its server and lays the pool out. NOT_FOUND,
  // FAILED_PRECONDITION (another domain or pool, failed, no domain), or the server's error, with
  // which the device stays assigned and is configured as soon as the server can be reached.
  [[nodiscard]] absl::Status Assign(uint64_t device_id, uint64_t pool_id);
  // FAILED_PRECONDITION while it holds placement groups of a pool with volumes. With `use` REMOVED
  // it is not adopted again.
  [[nodiscard]] absl::Status Unassign(uint64_t device_id,
                                      v1::DeviceUse use = v1::DEVICE_USE_NORMAL);

  // Plans the groups of a pool without volumes anew over its open devices, if that changes
  // anything.
  void LayOut(WriteTransaction& transaction, const v1::StoragePool& pool) const;

 private:
  void Adopt();
  bool AdoptServer(WriteTransaction& transaction, SdsRow* sds) const;
  [[nodiscard]] absl::Status Configure(const SdsRow& sds, const DeviceRow& device,
                                       NodeControl::Patience patience);

  const AssignerRules rules_;
  MdmStore* const store_;
  NodeControl* const control_;
  const HealthMonitor* const health_;
  const EventLog* const events_;
  const MdmTime* const time_;
  absl::Mutex mutex_;
  // After a failure: boot time before which the device is not tried again.
  std::map<uint64_t, uint64_t> retry_boot_ms_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_DEVICE_ASSIGNER_H_
