// What admission and the devices' workers share, and whom they tell of what they find.
//
// Threads: set up before the first operation, const afterwards; every member is safe for any
// thread.
#ifndef TESSERA_SERVICES_SDS_ENGINE_CONTEXT_H_
#define TESSERA_SERVICES_SDS_ENGINE_CONTEXT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/sds/grant_cache.h"
#include "services/sds/key_store.h"
#include "services/sds/mdm_clock.h"
#include "services/sds/placement_table.h"
#include "services/sds/recovery_pacer.h"
#include "services/sds/sds_metrics.h"
#include "services/sds/token_ack_book.h"
#include "services/sds/unserved_writes.h"
#include "services/sds/volume_table.h"
#include "tessera/v1/health.pb.h"

namespace tessera::sds {

class Device;

// The ack book, shared.
class TokenAccounting {
 public:
  TokenAccounting(uint64_t incarnation, uint64_t now_ms) : book_(incarnation, now_ms) {}
  void Add(std::span<const std::pair<uint64_t, GrantUse>> uses) {
    absl::MutexLock lock(&mutex_);
    for (const auto& [grant_id, use] : uses) book_.Add(grant_id, use);
  }
  [[nodiscard]] std::optional<v1::AckTokensRequest> NextReport(uint64_t now_ms) {
    absl::MutexLock lock(&mutex_);
    return book_.NextReport(now_ms);
  }
  void Confirm(uint64_t report_sequence) {
    absl::MutexLock lock(&mutex_);
    book_.Confirm(report_sequence);
  }

 private:
  absl::Mutex mutex_;
  TokenAckBook book_ ABSL_GUARDED_BY(mutex_);
};

// Vtrees whose ids will never mean anything again: nothing of them is written or copied any more.
class DeletedVtrees {
 public:
  // True when it is news.
  bool Add(uint64_t vtree_id) {
    absl::MutexLock lock(&mutex_);
    return vtree_ids_.insert(vtree_id).second;
  }
  [[nodiscard]] bool Contains(uint64_t vtree_id) const {
    absl::MutexLock lock(&mutex_);
    return vtree_ids_.contains(vtree_id);
  }

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_set<uint64_t> vtree_ids_ ABSL_GUARDED_BY(mutex_);
};

// Blocks of a chunk, some of which can't be read.
struct BadRange {
  uint64_t device_id = 0;
  uint64_t placement_group_id = 0;
  chunk::ChunkKey key;
  // The layer is the newest on this path; nullopt: that of the key.
  std::optional<chunk::LayerPath> path;
  uint32_t first_block = 0;
  uint32_t block_count = 0;
  v1::CorruptBlockFinder finder = v1::CORRUPT_BLOCK_FINDER_UNSPECIFIED;
  friend bool operator==(const BadRange&, const BadRange&) = default;
};

struct EngineContext {
  const Clock* clock = nullptr;
  const MdmClock* mdm_clock = nullptr;
  const KeyStore* keys = nullptr;
  VolumeTable* volumes = nullptr;
  PlacementTable* placements = nullptr;
  ReplayWindows* windows = nullptr;
  ClientLimits* limits = nullptr;
  SdsMetrics* metrics = nullptr;
  TokenAccounting* accounting = nullptr;
  const DeletedVtrees* deleted_vtrees = nullptr;
  UnservedWrites* unserved = nullptr;
  RecoveryPacer* pacer = nullptr;
  const std::atomic<uint64_t>* sds_id = nullptr;  // 0 until registered; no key is known before
  uint64_t incarnation = 0;

  // The device failed just now. Called once per device, on its worker.
  std::function<void(Device*, const absl::Status&)> on_device_failed;
  // This server is a learner of the group in this epoch. Called on the device's worker.
  std::function<void(uint64_t placement_group_id, uint64_t epoch, Device*)> on_learner;
  // This server is no member of the group any more. Called on the device's worker.
  std::function<void(uint64_t placement_group_id, Device*)> on_retired;
  // Blocks can't be read. Called on any thread; does not block.
  std::function<void(const BadRange&)> on_bad_blocks;
  // The same, and waits a while until each is repaired or known as lost; whether that is so. Not on
  // a worker.
  std::function<bool(const BadRange&)> settle_bad_blocks;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_ENGINE_CONTEXT_H_
