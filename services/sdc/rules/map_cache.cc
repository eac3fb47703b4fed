#include "services/sdc/rules/map_cache.h"

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/message_differencer.h"
#include "services/common/placement_hash.h"

namespace tessera::sdc {
namespace {

// A pool has at most three replicas, and a few more while one moves; more than this is no map
// entry.
constexpr int kMaximumReplicas = 31;

absl::Status CheckEntry(const v1::PlacementGroup& entry) {
  if (entry.placement_group_id() == 0 || entry.epoch() == 0 ||
      entry.replicas_size() > kMaximumReplicas) {
    return absl::InvalidArgumentError(
        absl::StrCat("map entry of placement group ", entry.placement_group_id(), " with epoch ",
                     entry.epoch(), " and ", entry.replicas_size(), " replicas makes no sense"));
  }
  return absl::OkStatus();
}

MapEntry FromProto(const v1::PlacementGroup& entry) {
  MapEntry result;
  result.placement_group_id = entry.placement_group_id();
  result.epoch = entry.epoch();
  result.loss_epoch = entry.loss_epoch();
  for (const v1::Replica& replica : entry.replicas()) {
    if (replica.role() != v1::REPLICA_ROLE_IN_SYNC && replica.role() != v1::REPLICA_ROLE_LEARNER) {
      continue;
    }
    result.members.push_back(
        {replica.device_id(), replica.sds_id(), replica.role() == v1::REPLICA_ROLE_IN_SYNC});
  }
  return result;
}

}  // namespace

absl::StatusOr<v1::PlacementGroup> ReadEntry(const v1::SignedPlacementGroup& signed_entry) {
  v1::PlacementGroup entry;
  if (!entry.ParseFromString(signed_entry.placement_group())) {
    return absl::InvalidArgumentError("a signed map entry is no PlacementGroup message");
  }
  if (absl::Status status = CheckEntry(entry); !status.ok()) return status;
  return entry;
}

absl::StatusOr<MapCache::Changes> MapCache::Apply(const v1::WatchPlacementGroupsResponse& message) {
  Changes changes;
  absl::Status first_error;
  for (const v1::PoolLayout& pool : message.pools()) {
    v1::PoolLayout& known = pools_[pool.pool_id()];
    if (google::protobuf::util::MessageDifferencer::Equals(known, pool)) continue;
    known = pool;
    changes.pool_ids.push_back(pool.pool_id());
  }
  for (const v1::SdsAddress& address : message.sds_addresses()) {
    v1::SdsAddress& known = addresses_[address.sds_id()];
    if (google::protobuf::util::MessageDifferencer::Equals(known, address)) continue;
    known = address;
    changes.sds_ids.push_back(address.sds_id());
  }
  for (const v1::SignedPlacementGroup& signed_entry : message.placement_groups()) {
    const absl::StatusOr<v1::PlacementGroup> entry = ReadEntry(signed_entry);
    if (!entry.ok()) {
      first_error.Update(entry.status());
      continue;
    }
    const absl::StatusOr<bool> newer = Adopt(signed_entry);
    if (newer.ok() && *newer) changes.placement_group_ids.push_back(entry->placement_group_id());
  }
  if (!first_error.ok() && changes.placement_group_ids.empty() && changes.sds_ids.empty()) {
    return first_error;
  }
  return changes;
}

absl::StatusOr<bool> MapCache::Adopt(const v1::SignedPlacementGroup& signed_entry) {
  const absl::StatusOr<v1::PlacementGroup> entry = ReadEntry(signed_entry);
  if (!entry.ok()) return entry.status();
  Group& group = groups_[entry->placement_group_id()];
  if (entry->epoch() <= group.entry.epoch) return false;
  group.entry = FromProto(*entry);
  group.signed_entry = std::make_shared<const v1::SignedPlacementGroup>(signed_entry);
  return true;
}

absl::flat_hash_map<uint64_t, uint64_t> MapCache::EpochSums() const {
  absl::flat_hash_map<uint64_t, uint64_t> sums;
  for (const auto& [id, group] : groups_) sums[PoolOfPlacementGroup(id)] += group.entry.epoch;
  return sums;
}

const MapCache::Group* MapCache::FindGroup(uint64_t placement_group_id) const {
  const auto found = groups_.find(placement_group_id);
  return found == groups_.end() ? nullptr : &found->second;
}

const v1::PoolLayout* MapCache::FindPool(uint64_t pool_id) const {
  const auto found = pools_.find(pool_id);
  return found == pools_.end() ? nullptr : &found->second;
}

const v1::SdsAddress* MapCache::FindSds(uint64_t sds_id) const {
  const auto found = addresses_.find(sds_id);
  return found == addresses_.end() ? nullptr : &found->second;
}

}  // namespace tessera::sdc
