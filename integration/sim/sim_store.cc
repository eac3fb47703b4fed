#include "integration/sim/sim_store.h"

#include "integration/sim/coverage.h"

namespace tessera::sim {

SimStore::SimStore(std::unique_ptr<chunk::Store> store, Disk* disk, ChangeObserver observer)
    : store_(std::move(store)),
      disk_(disk),
      observer_(std::move(observer)),
      life_(World::Get().current()) {
  Checkpoints();
}

void SimStore::Checkpoints() {
  const Nanos pause = World::Get().random().Between(500, 4'000) * kMillisecond;
  World::Get().After(pause, life_, [this] {
    store_->RunBackgroundWork(World::Get().random().Chance(1, 2)).IgnoreError();
    Checkpoints();
  });
}

void SimStore::Apply(std::span<const chunk::Change> changes, std::span<absl::Status> results) {
  store_->Apply(changes, results);
  for (size_t i = 0; i < changes.size(); ++i) observer_(changes[i], results[i]);
}

// Durable is what was there when the sync began.
void SimStore::FlushAsync(std::function<void(absl::Status)> done) {
  const Nanos takes = disk_->flush / 2 + World::Get().random().Below(disk_->flush + 1);
  World::Get().After(takes, life_, [this, done = std::move(done)] { done(store_->Flush()); });
}

absl::Status SimStore::ApplyStaged(std::unique_ptr<chunk::StagedImage> staged,
                                   const chunk::ImageMerge& merge) {
  Hit(Coverage::kChunkCopied);
  return store_->ApplyStaged(std::move(staged), merge);
}

// Measuring asks the disk a dozen questions, and a heartbeat asks for it.
chunk::StoreStats SimStore::stats() {
  chunk::StoreStats stats;
  stats.capacity_bytes = uint64_t{1} << 30;
  stats.used_bytes = uint64_t{1} << 20;
  return stats;
}

}  // namespace tessera::sim
