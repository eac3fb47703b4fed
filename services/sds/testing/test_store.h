// A store around another, whose calls a test can make fail.
//
// Threads: as Store; the switches are atomics.
#ifndef TESSERA_SERVICES_SDS_TESTING_TEST_STORE_H_
#define TESSERA_SERVICES_SDS_TESTING_TEST_STORE_H_

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "libchunk/store.h"
#include "services/sds/device.h"

namespace tessera::sds {

// What is to go wrong, shared by a test with the stores that it opens.
struct StoreFaults {
  std::atomic<bool> full{false};  // writes find no space
  std::atomic<bool> flush_fails{false};
  std::atomic<bool> apply_fails{false};
  std::atomic<bool> merge_corrupt{false};  // every write cuts a block that is lost
  std::atomic<bool> failed{false};         // where no operation of a worker has met it
  std::atomic<bool> read_corrupt{false};
  std::atomic<bool> never_cached{false};  // every read goes to the disk
  std::atomic<bool> tail_lost{false};     // a store that is opened says that it lost its tail
  std::atomic<int> losses_acknowledged{0};
  std::atomic<int> applies{0};
  std::atomic<int> flushes{0};
  // Called inside, where time goes; set while nothing is under way.
  std::function<void()> during_apply;
  std::function<void()> during_read;
  std::function<void()> during_flush;
};

class FaultyStore final : public chunk::Store {
 public:
  FaultyStore(std::unique_ptr<chunk::Store> inner, StoreFaults* faults)
      : inner_(std::move(inner)), faults_(faults), report_(inner_->open_report()) {
    if (faults_->tail_lost) report_.volatile_state_lost = true;
  }

  const chunk::OpenReport& open_report() const override { return report_; }
  absl::Status AcknowledgeLoss() override {
    ++faults_->losses_acknowledged;
    return inner_->AcknowledgeLoss();
  }
  uint32_t chunk_bytes() const override { return inner_->chunk_bytes(); }
  void Apply(std::span<const chunk::Change> changes, std::span<absl::Status> results) override {
    ++faults_->applies;
    if (faults_->during_apply) faults_->during_apply();
    if (faults_->apply_fails) {
      std::fill(results.begin(), results.end(), absl::FailedPreconditionError("write error"));
      return;
    }
    if (faults_->merge_corrupt && changes[0].kind == chunk::ChangeKind::kWrite) {
      std::fill(results.begin(), results.end(), absl::DataLossError("a cut block is lost"));
      return;
    }
    if (!faults_->full) {
      inner_->Apply(changes, results);
      return;
    }
    // Trims fit, writes do not; what follows a refused one in its stream is not applied.
    std::vector<chunk::StreamId> refused;
    for (size_t i = 0; i < changes.size(); ++i) {
      const auto same = [&](const chunk::StreamId& stream) { return stream == changes[i].stream; };
      if (std::any_of(refused.begin(), refused.end(), same)) {
        results[i] = absl::AbortedError("an earlier one was not applied");
      } else if (changes[i].kind == chunk::ChangeKind::kWrite) {
        results[i] = absl::ResourceExhaustedError("full");
        refused.push_back(changes[i].stream);
      } else {
        inner_->Apply(changes.subspan(i, 1), results.subspan(i, 1));
      }
    }
  }
  absl::Status Read(const chunk::ChunkKey& key, const chunk::LayerPath* path, uint32_t offset,
                    std::span<std::byte> out) override {
    if (faults_->during_read) faults_->during_read();
    if (faults_->read_corrupt) return absl::DataLossError("checksum of block 0 is wrong");
    return inner_->Read(key, path, offset, out);
  }
  absl::Status ReadCached(const chunk::ChunkKey& key, const chunk::LayerPath* path, uint32_t offset,
                          std::span<std::byte> out) override {
    if (faults_->never_cached || faults_->read_corrupt) return absl::UnavailableError("cold");
    if (faults_->during_read) faults_->during_read();
    return inner_->ReadCached(key, path, offset, out);
  }
  absl::StatusOr<std::vector<chunk::Extent>> Map(const chunk::ChunkKey& key,
                                                 const chunk::LayerPath* path, uint32_t offset,
                                                 uint32_t length) override {
    return inner_->Map(key, path, offset, length);
  }
  absl::StatusOr<std::vector<chunk::ChangedExtent>> Changes(const chunk::ChunkKey& key,
                                                            const chunk::LayerPath* base_path,
                                                            const chunk::LayerPath& path,
                                                            uint32_t offset,
                                                            uint32_t length) override {
    return inner_->Changes(key, base_path, path, offset, length);
  }
  absl::Status Flush() override {
    ++faults_->flushes;
    return faults_->flush_fails ? absl::FailedPreconditionError("fsync error") : inner_->Flush();
  }
  void FlushAsync(std::function<void(absl::Status)> done) override {
    ++faults_->flushes;
    if (faults_->flush_fails) {
      done(absl::FailedPreconditionError("fsync error"));
    } else {
      if (faults_->during_flush) faults_->during_flush();
      inner_->FlushAsync(std::move(done));
    }
  }
  absl::StatusOr<std::vector<chunk::ChunkInfo>> ListChunks(uint64_t group,
                                                           std::optional<chunk::ChunkKey> after,
                                                           size_t limit) override {
    return inner_->ListChunks(group, after, limit);
  }
  absl::StatusOr<std::optional<chunk::ChunkInfo>> GetChunk(const chunk::ChunkKey& key) override {
    return inner_->GetChunk(key);
  }
  absl::StatusOr<chunk::ChunkImage> ReadImage(const chunk::ChunkKey& key,
                                              chunk::ImageContent content) override {
    return inner_->ReadImage(key, content);
  }
  absl::StatusOr<chunk::ChunkBlocks> ReadBlocks(const chunk::ChunkKey& key, uint32_t first_block,
                                                uint32_t count, chunk::BlockRead what) override {
    return inner_->ReadBlocks(key, first_block, count, what);
  }
  absl::Status RepairBlock(const chunk::ChunkKey& key, const chunk::Version& version,
                           uint32_t block, std::span<const std::byte> content) override {
    return inner_->RepairBlock(key, version, block, content);
  }
  absl::StatusOr<std::unique_ptr<chunk::StagedImage>> StageImage(
      chunk::ChunkImage image, const std::function<void(uint64_t bytes)>& pace) override {
    return inner_->StageImage(std::move(image), pace);
  }
  absl::Status ApplyStaged(std::unique_ptr<chunk::StagedImage> staged,
                           const chunk::ImageMerge& merge) override {
    return inner_->ApplyStaged(std::move(staged), merge);
  }
  absl::Status DeleteChunk(const chunk::ChunkKey& key) override { return inner_->DeleteChunk(key); }
  absl::StatusOr<std::vector<chunk::ChunkInfo>> ListLayers(uint64_t vtree_id,
                                                           uint64_t chunk_index) override {
    return inner_->ListLayers(vtree_id, chunk_index);
  }
  absl::StatusOr<std::vector<chunk::ChunkLayers>> ListVtreeLayers(uint64_t vtree_id,
                                                                  std::optional<uint64_t> after,
                                                                  size_t limit) override {
    return inner_->ListVtreeLayers(vtree_id, after, limit);
  }
  absl::StatusOr<uint64_t> ExclusiveBytes(const chunk::ChunkKey& key) override {
    return inner_->ExclusiveBytes(key);
  }
  void DropLayers(std::span<const chunk::ChunkKey> keys, std::span<absl::Status> results) override {
    inner_->DropLayers(keys, results);
  }
  absl::Status DeleteVtree(uint64_t vtree_id, uint64_t group) override {
    return inner_->DeleteVtree(vtree_id, group);
  }
  chunk::Version Cursor(const chunk::StreamId& stream) override { return inner_->Cursor(stream); }
  std::vector<chunk::StreamCursor> Cursors(uint64_t group) override {
    return inner_->Cursors(group);
  }
  absl::Status SetCursor(const chunk::StreamId& stream, const chunk::Version& version) override {
    return inner_->SetCursor(stream, version);
  }
  absl::Status DropPlacementGroup(uint64_t group) override {
    return inner_->DropPlacementGroup(group);
  }
  chunk::StoreStats stats() override { return inner_->stats(); }
  absl::Status failed() override {
    return faults_->failed ? absl::FailedPreconditionError("checkpoint error") : inner_->failed();
  }
  absl::Status RunBackgroundWork(bool force) override { return inner_->RunBackgroundWork(force); }
  absl::Status VerifyAll(const std::function<void(const chunk::ChunkKey&, uint32_t,
                                                  const absl::Status&)>& bad) override {
    return inner_->VerifyAll(bad);
  }
  absl::Status Close() override { return inner_->Close(); }

 private:
  const std::unique_ptr<chunk::Store> inner_;
  StoreFaults* const faults_;
  chunk::OpenReport report_;
};

// Opens real stores with these faults, which must outlive them.
[[nodiscard]] StoreOpener FaultyStores(StoreFaults* faults);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_TESTING_TEST_STORE_H_
