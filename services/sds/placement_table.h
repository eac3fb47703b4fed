// The map entries that this server acts on: checked, durable, and only ever newer.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_PLACEMENT_TABLE_H_
#define TESSERA_SERVICES_SDS_PLACEMENT_TABLE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/sds/replica_rules.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::sds {

// What an entry says of this server.
struct LocalMembership {
  uint64_t placement_group_id = 0;
  Membership membership;
  uint64_t device_id = 0;  // of this server's replica; 0: it has none
};

// An entry, and what this server's replica was before.
struct PlacementRecord {
  v1::SignedPlacementGroup entry;
  // The last epoch in which this server knew its replica to be in sync, and on which device; 0:
  // none. Cleared when the replica is on another device.
  uint64_t in_sync_epoch = 0;
  uint64_t in_sync_device_id = 0;
};

class PlacementTable {
 public:
  // Makes entries durable.
  using Persist = std::function<absl::Status(std::span<const PlacementRecord>)>;
  explicit PlacementTable(Persist persist) : persist_(std::move(persist)) {}

  // Whose replicas are looked for in entries. Before any other call.
  void SetSdsId(uint64_t sds_id) { sds_id_ = sds_id; }

  // Takes entries that were persisted by an earlier life.
  std::vector<LocalMembership> Restore(std::span<const PlacementRecord> records);

  // True when the entry is newer than the one known: worth a signature check.
  [[nodiscard]] bool IsNewer(const v1::SignedPlacementGroup& entry) const;
  // Takes those of the (verified) entries that are newer, persisting them first, and returns what
  // they say of this server. An error: nothing was taken.
  [[nodiscard]] absl::StatusOr<std::vector<LocalMembership>> Accept(
      std::span<const v1::SignedPlacementGroup> entries);
  void Forget(uint64_t placement_group_id);

  [[nodiscard]] LocalMembership Find(uint64_t placement_group_id) const;
  [[nodiscard]] std::vector<LocalMembership> All() const;
  // Waits until the epoch is known to be at least `epoch`, or for `timeout`; what is known then.
  [[nodiscard]] LocalMembership WaitForEpoch(uint64_t placement_group_id, uint64_t epoch,
                                             absl::Duration timeout) const;

  // Groups of which this server has a replica that was in sync on its device and no more is: it was
  // away, and has to catch up. Replicas that were never in sync there (new members) don't count.
  [[nodiscard]] size_t BehindCount() const;

  void SetPool(const v1::PoolLayout& layout);
  // Placement groups of the pool; 0: not known.
  [[nodiscard]] uint32_t PlacementGroupCount(uint64_t pool_id) const;

 private:
  struct Known {
    LocalMembership local;
    uint64_t in_sync_epoch = 0;  // PlacementRecord
    uint64_t in_sync_device_id = 0;
  };
  // `before`: what was known, in_sync_*.
  [[nodiscard]] Known Interpret(const v1::PlacementGroup& group, const Known& before) const;

  const Persist persist_;
  std::atomic<uint64_t> sds_id_{0};
  absl::Mutex accept_mutex_;  // one Accept at a time; held while persisting
  mutable absl::Mutex mutex_ ABSL_ACQUIRED_AFTER(accept_mutex_);
  absl::flat_hash_map<uint64_t, Known> groups_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, uint32_t> pools_ ABSL_GUARDED_BY(mutex_);  // groups, by pool
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_PLACEMENT_TABLE_H_
