// Which layers of a chunk nobody sees any more (docs/decisions/0009, "Who is seen"; the reasons are
// in docs/REPLICATION.md, "Dropping layers").
//
// Threads: values and pure functions.
#ifndef TESSERA_SERVICES_SDS_LAYER_DROP_H_
#define TESSERA_SERVICES_SDS_LAYER_DROP_H_

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "libchunk/store.h"
#include "tessera/v1/types.pb.h"

namespace tessera::sds {

// Who sees what of a vtree, at one moment, which may be long ago.
class LayerCatalog {
 public:
  // INVALID_ARGUMENT: what is wrong with it.
  [[nodiscard]] static absl::StatusOr<LayerCatalog> Make(const v1::VtreeCatalog& catalog);

  [[nodiscard]] uint64_t vtree_id() const { return vtree_id_; }
  [[nodiscard]] std::span<const chunk::LayerPath> paths() const { return paths_; }
  // The layer may have been there at that moment.
  [[nodiscard]] bool Knows(uint64_t layer) const;

 private:
  uint64_t vtree_id_ = 0;
  std::vector<chunk::LayerPath> paths_;
  std::map<uint32_t, uint32_t> heads_;  // by branch: the greatest ordinal
};

// Of all layers of one chunk, in order, those that can be dropped, the greatest first.
[[nodiscard]] std::vector<chunk::ChunkKey> LayersToDrop(std::span<const chunk::ChunkInfo> layers,
                                                        const LayerCatalog& catalog);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_LAYER_DROP_H_
