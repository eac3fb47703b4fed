#include "services/mdm/vtree_reaper.h"

#include <utility>
#include <vector>

#include "services/common/logging.h"
#include "services/mdm/node_table.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {

void VtreeReaper::Run() {
  std::vector<std::pair<SdsTarget, DeletedVtree>> due;
  const absl::Status read = store_->Read([&](SQLite::Database& db) {
    if (CountPendingDeletions(db) == 0) return absl::OkStatus();
    for (const SdsRow& sds : ListSdsRows(db)) {
      if (!health_->Reachable({v1::COMPONENT_KIND_SDS, sds.sds_id})) continue;
      for (DeletedVtree& deleted : ListPendingDeletions(db, sds.sds_id)) {
        due.emplace_back(TargetOf(sds), std::move(deleted));
      }
    }
    return absl::OkStatus();
  });
  if (!read.ok()) LogError("reading deleted vtrees failed", {{"error", read}});
  uint64_t silent_sds_id = 0;
  for (const auto& [target, deleted] : due) {
    if (target.sds_id == silent_sds_id) continue;
    v1::DeleteVtreeRequest request;
    request.set_vtree_id(deleted.vtree_id);
    request.set_volume_id(deleted.volume_id);
    const absl::StatusOr<bool> done = control_->DeleteVtree(target, request, kCallTimeout);
    if (!done.ok()) {
      LogWarning("vtree not deleted yet",
                 {{"vtree", deleted.vtree_id}, {"sds", target.sds_id}, {"error", done.status()}});
      silent_sds_id = target.sds_id;
      continue;
    }
    if (!*done) continue;  // it is at work: asked again next time
    const absl::Status confirmed = store_->Write([&](WriteTransaction& transaction) {
      ConfirmDeletion(transaction.db, deleted.vtree_id, target.sds_id);
      return absl::OkStatus();
    });
    if (!confirmed.ok()) LogError("confirming a deletion failed", {{"error", confirmed}});
  }
}

}  // namespace tessera::mdm
