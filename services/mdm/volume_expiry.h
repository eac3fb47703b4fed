// Deletes volumes and snapshots whose time has come: unmaps them by force, fences, deletes for good
// (docs/volumes/expiry.md). What has snapshots waits until these are gone.
//
// Threads: Run from one thread at a time.
#ifndef TESSERA_SERVICES_MDM_VOLUME_EXPIRY_H_
#define TESSERA_SERVICES_MDM_VOLUME_EXPIRY_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/volume_fence.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {

class VolumeExpiry {
 public:
  // Of one volume in one run: the next run goes on with it, after the others.
  static constexpr std::chrono::milliseconds kFenceTimeout{5'000};

  // `deleted` is called when servers have something to drop.
  VolumeExpiry(MdmStore* store, VolumeFence* fence, HealthMonitor* health, const EventLog* events,
               const MdmTime* time, std::function<void()> deleted)
      : store_(store),
        fence_(fence),
        health_(health),
        events_(events),
        time_(time),
        deleted_(std::move(deleted)) {}

  void Run();

 private:
  // Takes it away from all who have it mapped, in one transaction. False: not now, or it is gone
  // already.
  [[nodiscard]] bool Begin(uint64_t volume_id, VolumeRow* volume);
  [[nodiscard]] absl::Status End(const VolumeRow& volume);

  MdmStore* const store_;
  VolumeFence* const fence_;
  HealthMonitor* const health_;
  const EventLog* const events_;
  const MdmTime* const time_;
  const std::function<void()> deleted_;
  // Under which generation a volume that is not fenced yet was taken away from everybody.
  std::map<uint64_t, uint64_t> ended_generations_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_VOLUME_EXPIRY_H_
