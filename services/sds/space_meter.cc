#include "services/sds/space_meter.h"

#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libchunk/space_counter.h"
#include "services/common/status_macros.h"
#include "services/common/thread_priority.h"
#include "services/sds/device_space.h"

namespace tessera::sds {
namespace {

constexpr size_t kChunksPerPage = 512;
// Views in one message, about: each takes up to 20 bytes.
constexpr int kViewsPerMessage = 20'000;

// The store, when it can be counted.
chunk::Store* StoreOf(const Device& device) { return device.failed() ? nullptr : device.store(); }

}  // namespace

absl::Status SpaceMeter::Measure(const v1::MeasureVtreesRequest& request,
                                 const std::function<bool()>& cancelled, const Write& write) {
  std::vector<LayerCatalog> catalogs;
  for (const v1::VtreeCatalog& message : request.catalogs()) {
    TESSERA_ASSIGN_OR_RETURN(LayerCatalog catalog, LayerCatalog::Make(message));
    catalogs.push_back(std::move(catalog));
  }
  CountedReplicas counted;
  for (const v1::CountedReplica& replica : request.counted()) {
    counted.emplace(replica.device_id(), replica.placement_group_id());
  }
  TESSERA_RETURN_IF_ERROR(CheckCounted(counted));
  absl::Status status;
  RunInBackground([&] {
    v1::MeasureVtreesResponse page;
    int views = 0;
    for (const LayerCatalog& catalog : catalogs) {
      status = MeasureVtree(catalog, counted, cancelled, page.add_vtrees());
      if (!status.ok()) return;
      views += 1 + static_cast<int>(catalog.paths().size());
      if (views < kViewsPerMessage) continue;
      if (!write(page)) {
        status = absl::CancelledError("the caller is gone");
        return;
      }
      page.Clear();
      views = 0;
    }
    MeasureDevices(&page);
    page.set_complete(true);
    if (!write(page)) status = absl::CancelledError("the caller is gone");
  });
  return status;
}

absl::Status SpaceMeter::CheckCounted(const CountedReplicas& counted) const {
  std::set<uint64_t> devices;
  for (const auto& worker : engine_->workers()) {
    if (StoreOf(*worker->device()) != nullptr) devices.insert(worker->device()->device_id());
  }
  for (const auto& [device_id, group] : counted) {
    if (devices.contains(device_id)) continue;
    return absl::UnavailableError(absl::StrCat("device ", device_id,
                                               " is not open here: placement group ", group,
                                               " can't be counted on it"));
  }
  return absl::OkStatus();
}

absl::Status SpaceMeter::MeasureVtree(const LayerCatalog& catalog, const CountedReplicas& counted,
                                      const std::function<bool()>& cancelled,
                                      v1::VtreeMeasure* measure) const {
  chunk::SpaceCounter counter(catalog.paths());
  uint64_t raw_blocks = 0;
  for (const auto& worker : engine_->workers()) {
    chunk::Store* store = StoreOf(*worker->device());
    if (store == nullptr) continue;
    const uint64_t device_id = worker->device()->device_id();
    std::optional<uint64_t> after;
    for (;;) {
      if (cancelled()) return absl::CancelledError("the caller is gone");
      const absl::StatusOr<std::vector<chunk::ChunkLayers>> page =
          store->ListVtreeLayers(catalog.vtree_id(), after, kChunksPerPage);
      if (!page.ok()) return absl::UnavailableError(page.status().message());
      if (page->empty()) break;
      after = page->back().chunk_index;
      for (const chunk::ChunkLayers& chunk : *page) {
        for (const chunk::LayerBlocks& layer : chunk.layers) raw_blocks += layer.own_blocks;
        if (counted.contains({device_id, chunk.placement_group_id})) counter.Add(chunk);
      }
    }
  }
  const chunk::VtreeSpace space = counter.Result();
  measure->set_vtree_id(catalog.vtree_id());
  for (const chunk::ViewSpace& view : space.views) {
    v1::ViewMeasure* entry = measure->add_views();
    entry->set_logical_bytes(view.logical_blocks * chunk::kBlockBytes);
    entry->set_unique_bytes(view.unique_blocks * chunk::kBlockBytes);
  }
  measure->set_data_bytes(space.data_blocks * chunk::kBlockBytes);
  measure->set_unseen_bytes(space.unseen_blocks * chunk::kBlockBytes);
  measure->set_snapshot_only_bytes(space.snapshot_only_blocks * chunk::kBlockBytes);
  measure->set_raw_data_bytes(raw_blocks * chunk::kBlockBytes);
  return absl::OkStatus();
}

void SpaceMeter::MeasureDevices(v1::MeasureVtreesResponse* response) const {
  for (const auto& worker : engine_->workers()) {
    const Device& device = *worker->device();
    chunk::Store* store = StoreOf(device);
    if (store == nullptr || device.device_id() == 0) continue;
    const chunk::StoreStats stats = store->stats();
    v1::DeviceMeasure* measure = response->add_devices();
    measure->set_device_id(device.device_id());
    measure->set_capacity_bytes(stats.capacity_bytes);
    measure->set_used_bytes(stats.used_bytes + BytesBesideStore(device.path()));
    measure->set_data_bytes(stats.data_bytes);
  }
}

}  // namespace tessera::sds
