#include "services/sds/volume_table.h"

#include "services/common/status_macros.h"

namespace tessera::sds {

VolumeTable::VolumeTable(std::vector<VolumeGeneration> persisted, Persist persist)
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
  const VolumeGeneration one{volume_id, generation};
  TESSERA_RETURN_IF_ERROR(RaiseAll(std::span(&one, 1)).status());
  return LowestGeneration(volume_id);
}

absl::StatusOr<std::vector<VolumeGeneration>> VolumeTable::RaiseAll(
    std::span<const VolumeGeneration> generations) {
  absl::MutexLock one_at_a_time(&raise_mutex_);
  std::vector<VolumeGeneration> risen;
  for (const auto& [volume_id, generation] : generations) {
    if (generation > LowestGeneration(volume_id)) risen.emplace_back(volume_id, generation);
  }
  if (risen.empty()) return risen;
  TESSERA_RETURN_IF_ERROR(persist_(risen));
  absl::MutexLock lock(&mutex_);
  for (const auto& [volume_id, generation] : risen) {
    std::unique_ptr<VolumeState>& state = volumes_[volume_id];
    if (state == nullptr) state = std::make_unique<VolumeState>();
    // A volume may be there twice.
    const uint64_t lowest = std::max<uint64_t>(generation, state->lowest_generation);
    state->lowest_generation.store(lowest, std::memory_order_release);
  }
  return risen;
}

std::vector<VolumeGeneration> VolumeTable::All() const {
  absl::MutexLock lock(&mutex_);
  std::vector<VolumeGeneration> all;
  for (const auto& [volume_id, state] : volumes_) {
    all.emplace_back(volume_id, state->lowest_generation);
  }
  return all;
}

}  // namespace tessera::sds
