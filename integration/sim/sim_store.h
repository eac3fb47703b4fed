// A chunk store that takes its time: flushes and background work are events; every change is shown
// to an observer before and after.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_SIM_STORE_H_
#define TESSERA_INTEGRATION_SIM_SIM_STORE_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "integration/sim/world.h"
#include "libchunk/sim_disk.h"
#include "libchunk/store.h"

namespace tessera::sim {

// A machine's disk, over all lives of its process.
struct Disk {
  std::unique_ptr<chunk::SimulatedDisk> medium;
  Nanos cycle = 20 * kMicrosecond;  // of one cycle of the worker
  Nanos flush = 300 * kMicrosecond;
  uint64_t capacity_bytes = uint64_t{1} << 40;
};

// What the store of a machine did with a change.
using ChangeObserver = std::function<void(const chunk::Change&, const absl::Status&)>;

class SimStore final : public chunk::Store {
 public:
  SimStore(std::unique_ptr<chunk::Store> store, Disk* disk, ChangeObserver observer);

  const chunk::OpenReport& open_report() const override { return store_->open_report(); }
  absl::Status AcknowledgeLoss() override { return store_->AcknowledgeLoss(); }
  uint32_t chunk_bytes() const override { return store_->chunk_bytes(); }
  void Apply(std::span<const chunk::Change> changes, std::span<absl::Status> results) override;
  absl::Status Read(const chunk::ChunkKey& key, const chunk::LayerPath* path, uint32_t offset,
                    std::span<std::byte> out) override {
    return store_->Read(key, path, offset, out);
  }
  absl::Status ReadCached(const chunk::ChunkKey& key, const chunk::LayerPath* path, uint32_t offset,
                          std::span<std::byte> out) override {
    return store_->ReadCached(key, path, offset, out);
  }
  absl::StatusOr<std::vector<chunk::Extent>> Map(const chunk::ChunkKey& key,
                                                 const chunk::LayerPath* path, uint32_t offset,
                                                 uint32_t length) override {
    return store_->Map(key, path, offset, length);
  }
  absl::StatusOr<std::vector<chunk::ChangedExtent>> Changes(const chunk::ChunkKey& key,
                                                            const chunk::LayerPath* base_path,
                                                            const chunk::LayerPath& path,
                                                            uint32_t offset,
                                                            uint32_t length) override {
    return store_->Changes(key, base_path, path, offset, length);
  }
  absl::Status Flush() override { return store_->Flush(); }
  void FlushAsync(std::function<void(absl::Status)> done) override;
  absl::StatusOr<std::vector<chunk::ChunkInfo>> ListChunks(uint64_t group,
                                                           std::optional<chunk::ChunkKey> after,
                                                           size_t limit) override {
    return store_->ListChunks(group, after, limit);
  }
  absl::StatusOr<std::optional<chunk::ChunkInfo>> GetChunk(const chunk::ChunkKey& key) override {
    return store_->GetChunk(key);
  }
  absl::StatusOr<chunk::ChunkImage> ReadImage(const chunk::ChunkKey& key,
                                              chunk::ImageContent content) override {
    return store_->ReadImage(key, content);
  }
  absl::StatusOr<chunk::ChunkBlocks> ReadBlocks(const chunk::ChunkKey& key, uint32_t first_block,
                                                uint32_t count, chunk::BlockRead what) override {
    return store_->ReadBlocks(key, first_block, count, what);
  }
  absl::Status RepairBlock(const chunk::ChunkKey& key, const chunk::Version& version,
                           uint32_t block, std::span<const std::byte> content) override {
    return store_->RepairBlock(key, version, block, content);
  }
  absl::StatusOr<std::unique_ptr<chunk::StagedImage>> StageImage(
      chunk::ChunkImage image, const std::function<void(uint64_t bytes)>& pace) override {
    return store_->StageImage(std::move(image), pace);
  }
  absl::Status ApplyStaged(std::unique_ptr<chunk::StagedImage> staged,
                           const chunk::ImageMerge& merge) override;
  absl::Status DeleteChunk(const chunk::ChunkKey& key) override { return store_->DeleteChunk(key); }
  absl::StatusOr<std::vector<chunk::ChunkInfo>> ListLayers(uint64_t vtree_id,
                                                           uint64_t chunk_index) override {
    return store_->ListLayers(vtree_id, chunk_index);
  }
  absl::StatusOr<std::vector<chunk::ChunkLayers>> ListVtreeLayers(uint64_t vtree_id,
                                                                  std::optional<uint64_t> after,
                                                                  size_t limit) override {
    return store_->ListVtreeLayers(vtree_id, after, limit);
  }
  absl::StatusOr<uint64_t> ExclusiveBytes(const chunk::ChunkKey& key) override {
    return store_->ExclusiveBytes(key);
  }
  void DropLayers(std::span<const chunk::ChunkKey> keys, std::span<absl::Status> results) override {
    store_->DropLayers(keys, results);
  }
  absl::Status DeleteVtree(uint64_t vtree_id, uint64_t group) override {
    return store_->DeleteVtree(vtree_id, group);
  }
  chunk::Version Cursor(const chunk::StreamId& stream) override { return store_->Cursor(stream); }
  std::vector<chunk::StreamCursor> Cursors(uint64_t group) override {
    return store_->Cursors(group);
  }
  absl::Status SetCursor(const chunk::StreamId& stream, const chunk::Version& version) override {
    return store_->SetCursor(stream, version);
  }
  absl::Status DropPlacementGroup(uint64_t group) override {
    return store_->DropPlacementGroup(group);
  }
  chunk::StoreStats stats() override;
  absl::Status failed() override { return store_->failed(); }
  absl::Status RunBackgroundWork(bool force) override { return store_->RunBackgroundWork(force); }
  absl::Status VerifyAll(const std::function<void(const chunk::ChunkKey&, uint32_t,
                                                  const absl::Status&)>& bad) override {
    return store_->VerifyAll(bad);
  }
  absl::Status Close() override { return store_->Close(); }

 private:
  void Checkpoints();

  const std::unique_ptr<chunk::Store> store_;
  Disk* const disk_;
  const ChangeObserver observer_;
  Life* const life_;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_SIM_STORE_H_
