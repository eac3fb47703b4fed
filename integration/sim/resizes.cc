#include "integration/sim/resizes.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "integration/sim/addresses.h"
#include "integration/sim/coverage.h"
#include "integration/sim/faults.h"
#include "integration/sim/mdm_node.h"
#include "integration/sim/oracle.h"

namespace tessera::sim {
namespace {

constexpr Nanos kResizeTimeout = 60 * kSecond;

}  // namespace

void Resizes::Run() {
  while (!stopped_) {
    World::Get().Sleep(World::Get().random().Between(100, 3'000) * kMillisecond);
    if (stopped_) return;
    busy_ = true;
    Act();
    busy_ = false;
  }
}

void Resizes::Act() {
  const std::vector<uint64_t> ids = faults_->VolumeIds();
  const uint64_t id = ids[World::Get().random().Below(ids.size())];
  // Whole more often than not, so that there is something to do.
  const uint64_t regions =
      World::Get().random().Chance(1, 2) ? kRegions : World::Get().random().Below(kRegions);
  const uint64_t cells = regions * kCellsOfRegion;
  const uint64_t size = regions == kRegions ? kVolumeBytes : OffsetOfCell(cells);
  cluster_->oracle().Resizing(id);
  const auto answer = cluster_->AskMdm<v1::UpdateVolumeResponse>(
      kResizeTimeout, [id, size](MdmNode& mdm, v1::UpdateVolumeResponse* response) {
        v1::UpdateVolumeRequest request;
        request.set_volume_id(id);
        request.mutable_volume()->set_size_bytes(size);
        request.mutable_update_mask()->add_paths("size_bytes");
        request.set_allow_shrink(true);
        return mdm.volume().Do(MdmNode::CallOf(v1::ROLE_ADMIN, 0), request, response);
      });
  World::Get().Trace(
      absl::StrCat("volume ", id, " to ", size, " bytes: ", answer.status().ToString()));
  if (!answer.ok()) return;
  Hit(Coverage::kResized);
  // Who was not told goes on with the size that it knows, for a while.
  if (answer->later_sdc_ids().empty()) cluster_->oracle().Resized(id, cells);
}

}  // namespace tessera::sim
