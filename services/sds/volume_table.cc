#include "services/sds/volume_table.h"

#include "services/common/status_macros.h"

namespace tessera::sds {

VolumeTable::VolumeTable(std::vector<std::pair<uint64_t, uint64_t>> persisted, Persist persist)
    : persist_(std::move(persist)) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [volume_id, generation] : persisted) {
    auto state = std::make_unique<VolumeState>();
    state->lowest_generation = generation;
    volumes_[volume_id] = std::move(state);
  }
}

VolumeState* VolumeTable::Find(uint64_t volume_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = volumes_.find(volume_id);
  return found == volumes_.end() ? nullptr : found->second.get();
}

uint64_t VolumeTable::LowestGeneration(uint64_t volume_id) const {
  const VolumeState* state = Find(volume_id);
  return state == nullptr ? 0 : state->lowest_generation.load(std::memory_order_acquire);
}

absl::StatusOr<uint64_t> VolumeTable::Raise(uint64_t volume_id, uint64_t generation) {
  absl::MutexLock one_at_a_time(&raise_mutex_);
  const uint64_t known = LowestGeneration(volume_id);
  if (generation <= known) return known;
  TESSERA_RETURN_IF_ERROR(persist_(volume_id, generation));
  absl::MutexLock lock(&mutex_);
  std::unique_ptr<VolumeState>& state = volumes_[volume_id];
  if (state == nullptr) state = std::make_unique<VolumeState>();
  state->lowest_generation.store(generation, std::memory_order_release);
  return generation;
}

std::vector<std::pair<uint64_t, uint64_t>> VolumeTable::All() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::pair<uint64_t, uint64_t>> all;
  for (const auto& [volume_id, state] : volumes_) {
    all.emplace_back(volume_id, state->lowest_generation);
  }
  return all;
}

}  // namespace tessera::sds
