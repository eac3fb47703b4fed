// Has servers drop the layers of vtrees that nobody sees any more, until each says that nothing is
// left. A server that was away is told when it is back.
//
// Threads: Run from one thread at a time.
#ifndef TESSERA_SERVICES_MDM_LAYER_REAPER_H_
#define TESSERA_SERVICES_MDM_LAYER_REAPER_H_

#include <chrono>

#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_control.h"
#include "services/mdm/snapshot_table.h"

namespace tessera::mdm {

class LayerReaper {
 public:
  static constexpr std::chrono::milliseconds kCallTimeout{5'000};
  // Of one server in one run, while it has something to drop; the others wait meanwhile.
  static constexpr int kCallsMax = 16;

  LayerReaper(MdmStore* store, NodeControl* control, const HealthMonitor* health)
      : store_(store), control_(control), health_(health) {}

  // Asks each server that is well about what it has to drop.
  void Run();

 private:
  // False when the server does not answer, or has done enough for now.
  [[nodiscard]] bool Ask(const SdsTarget& target, const PendingLayerDrop& drop, int* calls_left);

  MdmStore* const store_;
  NodeControl* const control_;
  const HealthMonitor* const health_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_LAYER_REAPER_H_
