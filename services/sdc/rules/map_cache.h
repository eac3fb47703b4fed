// What the client knows of placement: pools' layouts, placement groups' entries, servers'
// addresses. Fed by the MDM's watch and by its answers to failure reports; survives the MDM's
// absence.
//
// An entry is replaced by a newer epoch only, whatever the source: a snapshot of the watch too.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_RULES_MAP_CACHE_H_
#define TESSERA_SERVICES_SDC_RULES_MAP_CACHE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/node_hash_map.h"
#include "absl/status/statusor.h"
#include "services/sdc/rules/placement_group_writer.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::sdc {

class MapCache {
 public:
  struct Group {
    MapEntry entry;
    // As it is shown to servers.
    std::shared_ptr<const v1::SignedPlacementGroup>
        signed_entry;  // shared with messages being made
  };

  // What a message changed.
  struct Changes {
    std::vector<uint64_t> placement_group_ids;
    std::vector<uint64_t> sds_ids;
    std::vector<uint64_t> pool_ids;  // whose layout changed
  };
  // INVALID_ARGUMENT for an entry that can't be read; others of the message are taken.
  [[nodiscard]] absl::StatusOr<Changes> Apply(const v1::WatchPlacementGroupsResponse& message);
  // True when the entry was newer than the one known. INVALID_ARGUMENT as above.
  [[nodiscard]] absl::StatusOr<bool> Adopt(const v1::SignedPlacementGroup& signed_entry);

  // Stays valid, and shows what is current.
  [[nodiscard]] const Group* FindGroup(uint64_t placement_group_id) const;
  [[nodiscard]] const v1::PoolLayout* FindPool(uint64_t pool_id) const;
  [[nodiscard]] const v1::SdsAddress* FindSds(uint64_t sds_id) const;
  // By pool, the epochs of all its groups added up: how the MDM is told what is known here.
  [[nodiscard]] absl::flat_hash_map<uint64_t, uint64_t> EpochSums() const;
  [[nodiscard]] size_t group_count() const { return groups_.size(); }

 private:
  absl::node_hash_map<uint64_t, Group> groups_;  // whose addresses stay
  absl::flat_hash_map<uint64_t, v1::PoolLayout> pools_;
  absl::flat_hash_map<uint64_t, v1::SdsAddress> addresses_;
};

// The id inside a signed entry. INVALID_ARGUMENT when it can't be read.
[[nodiscard]] absl::StatusOr<v1::PlacementGroup> ReadEntry(
    const v1::SignedPlacementGroup& signed_entry);

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RULES_MAP_CACHE_H_
