#include "services/sds/layer_drop.h"

#include <optional>
#include <set>

#include "absl/strings/str_cat.h"

namespace tessera::sds {

absl::StatusOr<LayerCatalog> LayerCatalog::Make(const v1::VtreeCatalog& catalog) {
  LayerCatalog made;
  made.vtree_id_ = catalog.vtree_id();
  if (made.vtree_id_ == 0) return absl::InvalidArgumentError("the catalog names no vtree");
  // A vtree that nobody sees any more is deleted as a whole.
  if (catalog.paths().empty()) return absl::InvalidArgumentError("the catalog has no path");
  for (const v1::LayerPath& path : catalog.paths()) {
    std::vector<chunk::LayerPath::Part> parts;
    for (const v1::LayerPathPart& part : path.parts()) {
      parts.push_back({part.branch(), part.ordinal_max()});
    }
    if (parts.empty()) {
      made.paths_.emplace_back();
      continue;
    }
    const std::optional<chunk::LayerPath> valid = chunk::LayerPath::Make(parts);
    if (!valid.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("a path of the catalog has ", parts.size(),
                                                     " parts, or branches that do not fall"));
    }
    made.paths_.push_back(*valid);
  }
  for (const v1::LayerPathPart& head : catalog.heads()) {
    if (!made.heads_.emplace(head.branch(), head.ordinal_max()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("the catalog has two heads of branch ", head.branch()));
    }
  }
  return made;
}

bool LayerCatalog::Knows(uint64_t layer) const {
  const auto found = heads_.find(chunk::BranchOf(layer));
  return found != heads_.end() && chunk::OrdinalOf(layer) <= found->second;
}

std::vector<chunk::ChunkKey> LayersToDrop(std::span<const chunk::ChunkInfo> layers,
                                          const LayerCatalog& catalog) {
  std::set<uint64_t> kept;
  for (const chunk::ChunkInfo& info : layers) {
    if (catalog.Knows(info.key.layer)) continue;
    kept.insert(info.key.layer);
    if (info.base.has_value()) kept.insert(*info.base);
  }
  for (const chunk::LayerPath& path : catalog.paths()) {
    // A snapshot that was made since then sees what the path saw then, and the path itself may see
    // something newer by now.
    std::optional<uint64_t> newest;
    std::optional<uint64_t> newest_known;
    for (const chunk::ChunkInfo& info : layers) {
      if (!path.Sees(info.key.layer)) continue;
      newest = info.key.layer;
      if (catalog.Knows(info.key.layer)) newest_known = info.key.layer;
    }
    if (newest.has_value()) kept.insert(*newest);
    if (newest_known.has_value()) kept.insert(*newest_known);
  }
  std::vector<chunk::ChunkKey> drop;
  for (size_t i = layers.size(); i-- > 0;) {
    if (!kept.contains(layers[i].key.layer)) drop.push_back(layers[i].key);
  }
  return drop;
}

}  // namespace tessera::sds
