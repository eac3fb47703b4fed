// Has servers drop what they hold of deleted vtrees, until each has confirmed. A server that was
// away is told when it is back: tombstones wait for it.
//
// Threads: Run from one thread at a time.
#ifndef TESSERA_SERVICES_MDM_VTREE_REAPER_H_
#define TESSERA_SERVICES_MDM_VTREE_REAPER_H_

#include <chrono>

#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_control.h"

namespace tessera::mdm {

class VtreeReaper {
 public:
  static constexpr std::chrono::milliseconds kCallTimeout{5'000};

  VtreeReaper(MdmStore* store, NodeControl* control, const HealthMonitor* health)
      : store_(store), control_(control), health_(health) {}

  // Asks each server that is well about its pending deletions, once.
  void Run();

 private:
  MdmStore* const store_;
  NodeControl* const control_;
  const HealthMonitor* const health_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_VTREE_REAPER_H_
