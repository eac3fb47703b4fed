// Gives back what this server should not hold any more: deleted vtrees, and the chunks of placement
// groups that it left. Works in small steps between the IO of the device; what a crash interrupts
// is begun anew at the next start.
//
// Threads: any; the work is done on one thread of its own, except DropVtree.
#ifndef TESSERA_SERVICES_SDS_JANITOR_H_
#define TESSERA_SERVICES_SDS_JANITOR_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "services/common/executor.h"
#include "services/sds/device_worker.h"
#include "services/sds/engine_context.h"
#include "services/sds/io_engine.h"
#include "services/sds/local_state.h"

namespace tessera::sds {

class Janitor {
 public:
  // All must outlive the janitor.
  Janitor(IoEngine* engine, LocalState* state, DeletedVtrees* deleted)
      : engine_(engine),
        state_(state),
        deleted_(deleted),
        executor_({.name = "janitor", .threads = 1, .queue_limit = 65'536}) {}
  ~Janitor() { Stop(); }

  // The vtrees are gone for good: durable when it returns OK. What is held of them goes in the
  // background.
  [[nodiscard]] absl::Status OnVtreesDeleted(std::span<const uint64_t> vtree_ids);
  // The same for one, at once: nothing of it is left when it returns OK. `volume_id` may be 0.
  [[nodiscard]] absl::Status DropVtree(uint64_t vtree_id, uint64_t volume_id);
  // The group's replica left the worker's device.
  void OnRetired(uint64_t placement_group_id, DeviceWorker* worker);
  void Stop() { executor_.Shutdown(); }

 private:
  void DropGroup(uint64_t placement_group_id, DeviceWorker* worker);

  IoEngine* const engine_;
  LocalState* const state_;
  DeletedVtrees* const deleted_;
  Executor executor_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_JANITOR_H_
