// The lowest generation of each volume that this server still accepts.
//
// It only grows; a new one is durable before anybody can see it here, so that no restart lets an
// old writer back in.
//
// Threads: any. VolumeState pointers stay valid for the table's life.
#ifndef TESSERA_SERVICES_SDS_VOLUME_TABLE_H_
#define TESSERA_SERVICES_SDS_VOLUME_TABLE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace tessera::sds {

// A volume and a generation of it.
using VolumeGeneration = std::pair<uint64_t, uint64_t>;

struct VolumeState {
  std::atomic<uint64_t> lowest_generation{0};
};

class VolumeTable {
 public:
  // Makes lowest generations durable, all or none.
  using Persist = std::function<absl::Status(std::span<const VolumeGeneration>)>;
  VolumeTable(std::vector<VolumeGeneration> persisted, Persist persist);

  // Null for a volume that was never raised.
  [[nodiscard]] VolumeState* Find(uint64_t volume_id) const;
  // The lowest generation accepted; 0: any.
  [[nodiscard]] uint64_t LowestGeneration(uint64_t volume_id) const;
  // The lowest generation accepted afterwards: the greater of `generation` and what was known.
  // An error: it could not be made durable, and nothing has changed.
  [[nodiscard]] absl::StatusOr<uint64_t> Raise(uint64_t volume_id, uint64_t generation);
  // Several at once. What rose by it.
  [[nodiscard]] absl::StatusOr<std::vector<VolumeGeneration>> RaiseAll(
      std::span<const VolumeGeneration> generations);
  // All volumes that were ever raised.
  [[nodiscard]] std::vector<VolumeGeneration> All() const;

 private:
  const Persist persist_;
  absl::Mutex raise_mutex_;  // one Raise at a time; held while persisting
  mutable absl::Mutex mutex_ ABSL_ACQUIRED_AFTER(raise_mutex_);
  absl::flat_hash_map<uint64_t, std::unique_ptr<VolumeState>> volumes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_VOLUME_TABLE_H_
