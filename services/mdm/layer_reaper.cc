#include "services/mdm/layer_reaper.h"

#include <utility>
#include <vector>

#include "services/common/logging.h"
#include "services/mdm/node_table.h"

namespace tessera::mdm {

bool LayerReaper::Ask(const SdsTarget& target, const PendingLayerDrop& drop, int* calls_left) {
  // At least as new as the mark. When there is a newer mark by now, this one is not confirmed.
  v1::DropLayersRequest request;
  const absl::Status read = store_->Read([&](SQLite::Database& db) {
    *request.mutable_catalog() = ReadCatalog(db, drop.vtree_id);
    return absl::OkStatus();
  });
  // The vtree is gone by now: nothing may be dropped as if nobody had ever seen anything.
  if (!read.ok() || request.catalog().paths().empty()) return true;
  while (*calls_left > 0) {
    --*calls_left;
    const auto answer = control_->DropLayers(target, request, kCallTimeout);
    if (!answer.ok()) {
      LogWarning("layers not dropped yet",
                 {{"vtree", drop.vtree_id}, {"sds", target.sds_id}, {"error", answer.status()}});
      return false;
    }
    if (!answer->done()) {
      if (answer->layers() == 0) return true;  // not now: asked again next time
      continue;
    }
    const absl::Status confirmed = store_->Write([&](WriteTransaction& transaction) {
      ConfirmLayerDrops(transaction.db, drop, target.sds_id);
      return absl::OkStatus();
    });
    if (!confirmed.ok()) LogError("confirming dropped layers failed", {{"error", confirmed}});
    return true;
  }
  return false;
}

void LayerReaper::Run() {
  std::vector<std::pair<SdsTarget, std::vector<PendingLayerDrop>>> due;
  const absl::Status read = store_->Read([&](SQLite::Database& db) {
    if (CountPendingLayerDrops(db) == 0) return absl::OkStatus();
    for (const SdsRow& sds : ListSdsRows(db)) {
      if (!health_->Reachable({v1::COMPONENT_KIND_SDS, sds.sds_id})) continue;
      due.emplace_back(TargetOf(sds), ListPendingLayerDrops(db, sds.sds_id));
    }
    return absl::OkStatus();
  });
  if (!read.ok()) LogError("reading layers to drop failed", {{"error", read}});
  for (const auto& [target, drops] : due) {
    int calls_left = kCallsMax;
    for (const PendingLayerDrop& drop : drops) {
      if (!Ask(target, drop, &calls_left)) break;
    }
  }
}

}  // namespace tessera::mdm
