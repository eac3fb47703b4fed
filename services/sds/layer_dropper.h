// Drops the layers that nobody sees any more, of a vtree, on all devices of this server, in pieces:
// each call does a bounded amount of work beside the clients' IO, and goes on where the last one
// ended.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_LAYER_DROPPER_H_
#define TESSERA_SERVICES_SDS_LAYER_DROPPER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/store.h"
#include "services/sds/engine_context.h"
#include "services/sds/io_engine.h"
#include "services/sds/layer_drop.h"
#include "tessera/v1/sds_control.pb.h"

namespace tessera::sds {

class LayerDropper {
 public:
  // Both must outlive the dropper.
  LayerDropper(IoEngine* engine, const EngineContext* context)
      : engine_(engine), context_(context) {}

  // DropLayers of SdsControlService. INVALID_ARGUMENT: the catalog is none; UNAVAILABLE: not now.
  [[nodiscard]] absl::Status Drop(const v1::DropLayersRequest& request,
                                  v1::DropLayersResponse* response);

 private:
  // Where going through a vtree stands.
  struct Pass {
    std::string catalog;  // of the last call
    // Another catalog came in between, or something could not be dropped: once more from the front.
    bool incomplete = false;
    uint64_t placement_group_id = 0;       // gone through: everything before this, and of this
    std::optional<chunk::ChunkKey> after;  // everything up to this
  };
  struct Call {
    const LayerCatalog* catalog = nullptr;
    Pass pass;
    uint64_t until_ms = 0;  // boot time
    uint64_t layers = 0;    // dropped
    size_t tried = 0;
  };

  // False: the call has done enough.
  [[nodiscard]] absl::StatusOr<bool> DropInGroup(uint64_t placement_group_id, Call* call);
  [[nodiscard]] absl::Status DropBatch(uint64_t placement_group_id,
                                       const std::vector<chunk::ChunkInfo>& batch, Call* call);
  [[nodiscard]] Pass TakePass(const v1::VtreeCatalog& catalog);
  void KeepPass(uint64_t vtree_id, Pass pass);

  IoEngine* const engine_;
  const EngineContext* const context_;
  absl::Mutex mutex_;
  std::map<uint64_t, Pass> passes_ ABSL_GUARDED_BY(mutex_);  // by vtree: those that go on
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_LAYER_DROPPER_H_
