// Layers and paths of a vtree (docs/decisions/0009-layers.md): which layer a volume's writes go to,
// and which layers a volume or snapshot sees.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_LAYER_PATHS_H_
#define TESSERA_SERVICES_MDM_LAYER_PATHS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "libtoken/token.h"
#include "tessera/v1/types.pb.h"

namespace tessera::mdm {

// A layer's number: branch (upper 32 bits) and ordinal.
constexpr uint64_t MakeLayer(uint32_t branch, uint32_t ordinal) {
  return uint64_t{branch} << 32 | ordinal;
}
constexpr uint32_t BranchOf(uint64_t layer) { return static_cast<uint32_t>(layer >> 32); }
constexpr uint32_t OrdinalOf(uint64_t layer) { return static_cast<uint32_t>(layer); }

// As in token::Grant: the own branch first, branches falling; empty: the head of branch 0.
using LayerPath = std::vector<token::PathPart>;

// Of a snapshot of what sees `head` and is written to `layer` from now on. REQUIRES: `layer` is of
// the path's branch, and not its first.
[[nodiscard]] LayerPath SnapshotPath(const LayerPath& head, uint64_t layer);
// Of a volume with the content of `snapshot` and a branch of its own, greater than all in the path.
// nullopt: the path would have more parts than there may be.
[[nodiscard]] std::optional<LayerPath> BranchPath(uint32_t branch, const LayerPath& snapshot);
[[nodiscard]] bool Sees(const LayerPath& path, uint64_t layer);

// "3:4294967295,0:4"; "" for the empty path.
[[nodiscard]] std::string FormatPath(const LayerPath& path);
// nullopt: not one that FormatPath makes.
[[nodiscard]] std::optional<LayerPath> ParsePath(const std::string& text);

[[nodiscard]] v1::LayerPath ToMessage(const LayerPath& path);
[[nodiscard]] LayerPath FromMessage(const v1::LayerPath& message);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_LAYER_PATHS_H_
