#include "integration/sim/oracle.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "integration/sim/addresses.h"
#include "integration/sim/mdm_node.h"
#include "integration/sim/sds_node.h"
#include "services/mdm/membership_rules.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/snapshot_table.h"
#include "services/mdm/volume_table.h"
#include "services/sds/layer_drop.h"
#include "services/sds/replica_messages.h"

namespace tessera::sim {
namespace {

const char* RoleName(v1::ReplicaRole role) {
  switch (role) {
    case v1::REPLICA_ROLE_IN_SYNC:
      return "in sync";
    case v1::REPLICA_ROLE_LEARNER:
      return "learner";
    default:
      return "out";
  }
}

std::string DescribeGroup(const v1::PlacementGroup& group) {
  std::string text = absl::StrCat("group ", group.placement_group_id(), " epoch ", group.epoch());
  for (const v1::Replica& replica : group.replicas()) {
    absl::StrAppend(&text, ", s", replica.sds_id(), " ", RoleName(replica.role()));
  }
  return text;
}

}  // namespace

void Oracle::Committed(const mdm::ChangeSet& changes) {
  if (cluster_->mdm() == nullptr) return;
  cluster_->mdm()
      ->store()
      ->Read([&](SQLite::Database& db) {
        bool took_out = false;
        for (const uint64_t id : changes.placement_group_ids) {
          if (const auto group = mdm::FindPlacementGroup(db, id)) took_out |= TakeGroup(*group);
        }
        if (changes.sds_addresses) SettleLosses(db);
        for (auto& [id, volume] : volumes_) {
          const auto row = mdm::FindVolume(db, id);
          if (!row.has_value()) continue;
          if (row->generation < volume.generation) {
            World::Get().Violation(absl::StrCat("volume ", id, ": its generation went back"));
          }
          volume.generation = row->generation;
          if (row->fenced_generation > volume.fenced_generation) {
            volume.fenced_generation = row->fenced_generation;
            Hit(Coverage::kFenceDone);
            if (took_out) Hit(Coverage::kFenceTookOut);
            World::Get().Trace(
                absl::StrCat("volume ", id, " fenced at generation ", row->fenced_generation));
          }
        }
        return absl::OkStatus();
      })
      .IgnoreError();
}

bool Oracle::TakeGroup(const v1::PlacementGroup& group) {
  bool took_out = false;
  World::Get().Trace(DescribeGroup(group));
  v1::PlacementGroup& before = groups_[group.placement_group_id()];
  if (before.epoch() != 0) {
    Hit(Coverage::kEpochChanged);
    if (group.epoch() != before.epoch() + 1) {
      World::Get().Violation(absl::StrCat(DescribeGroup(before), ", then ", DescribeGroup(group)));
    }
    for (const v1::Replica& replica : group.replicas()) {
      const v1::Replica* old = mdm::FindReplica(before, replica.device_id());
      const v1::ReplicaRole was = old == nullptr ? v1::REPLICA_ROLE_UNSPECIFIED : old->role();
      if (was == replica.role()) continue;
      const std::pair place(group.placement_group_id(), replica.sds_id());
      if (replica.role() == v1::REPLICA_ROLE_LEARNER) {
        Hit(Coverage::kLearnerMade);
        joined_[place] = World::Get().now();
      }
      if (replica.role() == v1::REPLICA_ROLE_IN_SYNC) {
        Hit(Coverage::kLearnerPromoted);
        settled_[place] = std::max(settled_[place], joined_[place]);
      }
      if (was == v1::REPLICA_ROLE_IN_SYNC) {
        Hit(Coverage::kReplicaTakenOut);
        took_out = true;
      }
      if (old == nullptr) Hit(Coverage::kMemberReplaced);
    }
  }
  if (mdm::InSyncCount(group) == 0) {
    World::Get().Violation(absl::StrCat(DescribeGroup(group), ": nobody is in sync"));
  }
  before = group;
  JudgeLoss(group);
  return took_out;
}

void Oracle::JudgeLoss(const v1::PlacementGroup& group) {
  Nanos since = UINT64_MAX;
  for (const v1::Replica& replica : group.replicas()) {
    if (replica.role() != v1::REPLICA_ROLE_IN_SYNC) continue;
    if (failing_.contains(replica.sds_id())) continue;
    const auto lost = losses_.find(replica.sds_id());
    if (lost == losses_.end()) return;
    const auto settled = settled_.find({group.placement_group_id(), replica.sds_id()});
    if (settled != settled_.end() && lost->second.at <= settled->second) return;
    since = std::min(since, lost->second.at);
  }
  since = std::min(since, World::Get().now());
  for (auto& [id, volume] : volumes_) {
    volume.history->AllowLoss(group.placement_group_id(), since, World::Get().now());
  }
}

void Oracle::JudgeAllLosses() {
  for (const auto& [id, group] : groups_) JudgeLoss(group);
}

void Oracle::SettleLosses(SQLite::Database& db) {
  for (auto& [sds_id, loss] : losses_) {
    if (loss.told_after == UINT64_MAX) continue;
    const auto row = mdm::FindSds(db, sds_id);
    if (!row.has_value() || row->incarnation <= loss.told_after) continue;
    loss.told_after = UINT64_MAX;
    for (const auto& [id, group] : groups_) settled_[{id, sds_id}] = loss.at;
  }
}

void Oracle::PowerLost(uint64_t sds_id) {
  losses_[sds_id] = {World::Get().now(), incarnations_[sds_id]};
  JudgeAllLosses();
}

void Oracle::DiskFailing(uint64_t sds_id) { failing_.insert(sds_id); }

void Oracle::StoreOpened(uint64_t sds_id, bool fault_struck) {
  if (!fault_struck || failing_.erase(sds_id) == 0) return;
  losses_[sds_id] = {.at = World::Get().now()};
  JudgeAllLosses();
}

void Oracle::Changed(uint64_t sds_id, const chunk::Change& change, const absl::Status& status) {
  if (!status.ok()) return;
  const auto volume = volumes_.find(change.stream.volume_id);
  if (volume == volumes_.end()) return;
  if (change.version.generation >= volume->second.fenced_generation) return;
  const auto group = groups_.find(change.stream.placement_group_id);
  if (group == groups_.end()) return;
  for (const v1::Replica& replica : group->second.replicas()) {
    if (replica.sds_id() != sds_id || replica.role() != v1::REPLICA_ROLE_IN_SYNC) continue;
    World::Get().Violation(absl::StrCat("IO after the fence: server ", sds_id,
                                        ", in sync in group ", change.stream.placement_group_id,
                                        ", takes a write of generation ", change.version.generation,
                                        " of volume ", change.stream.volume_id, ", fenced at ",
                                        volume->second.fenced_generation));
  }
}

void Oracle::Resizing(uint64_t volume_id) {
  KnownEnd& end = volumes_.at(volume_id).end;
  end = {.revision = end.revision + 1};
}

void Oracle::Resized(uint64_t volume_id, uint64_t cells) {
  KnownEnd& end = volumes_.at(volume_id).end;
  end = {.cell = cells, .revision = end.revision + 1};
}

uint64_t Oracle::LifeNumber(const Life* life) {
  const auto [found, added] = lives_.try_emplace(life, last_life_ + 1);
  if (added) ++last_life_;
  return found->second;
}

void Oracle::Granted(const Life* life, uint64_t volume_id, uint64_t generation, bool keeps) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) return;
  Volume& volume = found->second;
  TakeHolder(volume, life);
  // What was answered under an earlier generation has no place in the new order.
  if (std::exchange(volume.granted_generation, generation) == generation) return;
  if (keeps) {
    volume.history->BeginKeeping(LifeNumber(life), World::Get().now());
  } else {
    volume.history->EndKeeping(World::Get().now());
  }
}

void Oracle::Forgotten(const Life* life) {
  for (auto& [id, volume] : volumes_) {
    if (volume.holder == life) volume.history->EndKeeping(World::Get().now());
  }
}

void Oracle::TakeHolder(Volume& volume, const Life* life) {
  if (volume.holder == life) return;
  if (volume.holder != nullptr) volume.gone[volume.holder] = true;
  volume.holder = life;
  // A volume that comes back to a process is another attachment.
  volume.gone.erase(life);
  lives_.erase(life);
  volume.history->EndLivesBefore(LifeNumber(life), World::Get().now());
}

void Oracle::Resumed(const Life* before, const Life* life, uint64_t volume_id) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) return;
  Volume& volume = found->second;
  if (volume.holder != before || volume.gone.contains(before)) {
    volume.gone[life] = true;
    return;
  }
  volume.gone[before] = true;
  volume.holder = life;
  const uint64_t number_before = LifeNumber(before);
  volume.history->EndLivesBefore(LifeNumber(life), World::Get().now());
  volume.history->GoOn(number_before, LifeNumber(life));
}

void Oracle::Detaching(const Life* life, uint64_t volume_id) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) return;
  found->second.gone[life] = true;
  if (found->second.holder == life) found->second.history->EndKeeping(World::Get().now());
}

void Oracle::Unmapped(uint64_t volume_id) {
  Volume& volume = volumes_.at(volume_id);
  if (volume.holder != nullptr) volume.gone[volume.holder] = true;
  volume.holder = nullptr;
  volume.history->EndKeeping(World::Get().now());
  volume.history->EndLivesBefore(UINT64_MAX, World::Get().now());
}

bool Oracle::Counts(const Life* life, uint64_t volume_id) const {
  const Volume& volume = volumes_.at(volume_id);
  return !volume.gone.contains(life);
}

void Oracle::AddVolume(uint64_t volume_id, uint64_t vtree_id, uint64_t base,
                       std::vector<uint64_t> initial) {
  std::vector<uint64_t> groups;
  for (uint64_t cell = 0; cell < kCells; ++cell) {
    groups.push_back(GroupOfCell(vtree_id, cell, cluster_->options().groups));
  }
  Volume& volume = volumes_[volume_id];
  volume.vtree_id = vtree_id;
  volume.history = std::make_shared<History>(std::move(groups), base, std::move(initial));
}

void Oracle::RolledBack(uint64_t volume_id, const std::vector<uint64_t>& content) {
  const Volume& volume = volumes_.at(volume_id);
  AddVolume(volume_id, volume.vtree_id, volume.history->last_number(), content);
}

void Oracle::CheckHistories() {
  for (const auto& [id, volume] : volumes_) {
    Hit(Coverage::kLossObserved, volume.history->losses_seen());
    if (volume.history->violation().empty()) continue;
    World::Get().Violation(absl::StrCat("volume ", id, ": ", volume.history->violation()));
  }
}

std::string Oracle::Unrest() const {
  for (const auto& [id, group] : groups_) {
    if (mdm::InSyncCount(group) < std::min(cluster_->options().replicas, uint32_t(7))) {
      return DescribeGroup(group);
    }
    for (const v1::Replica& replica : group.replicas()) {
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC) return DescribeGroup(group);
    }
  }
  return groups_.empty() ? "there is no map" : "";
}

std::string Oracle::HeldBy(uint64_t sds_id) const {
  for (const auto& [id, group] : groups_) {
    for (const v1::Replica& replica : group.replicas()) {
      if (replica.sds_id() == sds_id) return DescribeGroup(group);
    }
  }
  return "";
}

void Oracle::Compare() {
  for (const auto& [id, group] : groups_) {
    CompareGroup(group);
    for (const v1::Replica& replica : group.replicas()) {
      SdsNode* sds = cluster_->FindSds(replica.sds_id());
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC || sds == nullptr) continue;
      if (sds->device()->store() != nullptr) ReadAll(id, *sds->device()->store());
    }
  }
  CheckHistories();
}

// As an application would whose reads all go to this replica.
void Oracle::ReadAll(uint64_t group, chunk::Store& store) {
  for (const auto& [volume_id, volume] : volumes_) {
    const chunk::LayerPath path = PathOf(volume_id);
    for (uint64_t cell = 0; cell < kCells; ++cell) {
      if (GroupOfCell(volume.vtree_id, cell, cluster_->options().groups) != group) continue;
      const uint64_t offset = OffsetOfCell(cell);
      const chunk::ChunkKey key{.vtree_id = volume.vtree_id, .chunk_index = offset / kChunkBytes};
      uint64_t word = 0;
      const absl::Status read = store.Read(key, &path, static_cast<uint32_t>(offset % kChunkBytes),
                                           std::as_writable_bytes(std::span(&word, 1)));
      if (!read.ok() && !absl::IsNotFound(read)) continue;  // its bits flipped
      const Nanos now = World::Get().now();
      volume.history->Read(cell, word, now, now);
    }
  }
}

chunk::LayerPath Oracle::PathOf(uint64_t volume_id) const {
  chunk::LayerPath path;
  const absl::Status read = cluster_->mdm()->store()->Read([&](SQLite::Database& db) {
    const auto row = mdm::FindVolume(db, volume_id);
    if (!row.has_value()) return absl::NotFoundError("no such volume");
    std::vector<chunk::LayerPath::Part> parts;
    for (const token::PathPart& part : row->path) parts.push_back({part.branch, part.ordinal_max});
    if (!parts.empty()) path = *chunk::LayerPath::Make(parts);
    return absl::OkStatus();
  });
  if (!read.ok()) {
    World::Get().Violation(absl::StrCat("volume ", volume_id, " is gone: ", read.ToString()));
  }
  return path;
}

bool Oracle::IsThere(uint64_t volume_id) const {
  bool there = false;
  const absl::Status read = cluster_->mdm()->store()->Read([&](SQLite::Database& db) {
    there = mdm::FindVolume(db, volume_id).has_value();
    return absl::OkStatus();
  });
  if (!read.ok()) World::Get().Violation(absl::StrCat("mdm.db: ", read.ToString()));
  return there;
}

void Oracle::CompareSnapshot(uint64_t id, uint64_t vtree_id, const std::vector<uint64_t>& content) {
  const chunk::LayerPath path = PathOf(id);
  for (uint64_t cell = 0; cell < kCells; ++cell) {
    const uint64_t offset = OffsetOfCell(cell);
    const auto group = groups_.find(GroupOfCell(vtree_id, cell, cluster_->options().groups));
    if (group == groups_.end()) continue;
    for (const v1::Replica& replica : group->second.replicas()) {
      SdsNode* sds = cluster_->FindSds(replica.sds_id());
      if (replica.role() != v1::REPLICA_ROLE_IN_SYNC || sds == nullptr) continue;
      chunk::Store* store = sds->device()->store();
      if (store == nullptr || sds->device()->failed()) continue;
      uint64_t word = 0;
      const absl::Status read = store->Read(
          {.vtree_id = vtree_id, .chunk_index = offset / kChunkBytes}, &path,
          static_cast<uint32_t>(offset % kChunkBytes), std::as_writable_bytes(std::span(&word, 1)));
      if (!read.ok() && !absl::IsNotFound(read)) continue;  // its bits flipped
      if (word == content[cell]) continue;
      World::Get().Violation(absl::StrCat("at rest, server ", replica.sds_id(), " has ", word,
                                          " in cell ", cell, " of snapshot ", id, ", which had ",
                                          content[cell]));
    }
  }
}

std::vector<chunk::ChunkKey> Oracle::SeenChunks(uint64_t group, chunk::Store& store,
                                                uint64_t* unseen) const {
  std::vector<chunk::ChunkKey> seen;
  const auto listed = store.ListChunks(group, std::nullopt, 10'000);
  if (!listed.ok()) return seen;
  std::map<uint64_t, sds::LayerCatalog> catalogs;
  const absl::Status read = cluster_->mdm()->store()->Read([&](SQLite::Database& db) {
    for (const chunk::ChunkInfo& info : *listed) {
      if (catalogs.contains(info.key.vtree_id)) continue;
      auto catalog = sds::LayerCatalog::Make(mdm::ReadCatalog(db, info.key.vtree_id));
      if (!catalog.ok()) return catalog.status();
      catalogs.emplace(info.key.vtree_id, *std::move(catalog));
    }
    return absl::OkStatus();
  });
  if (!read.ok()) World::Get().Violation(absl::StrCat("no catalog: ", read.ToString()));
  for (size_t i = 0; i < listed->size();) {
    size_t end = i;
    while (end < listed->size() && (*listed)[end].key.vtree_id == (*listed)[i].key.vtree_id &&
           (*listed)[end].key.chunk_index == (*listed)[i].key.chunk_index) {
      ++end;
    }
    const auto layers = std::span(*listed).subspan(i, end - i);
    const auto dead = sds::LayersToDrop(layers, catalogs.at((*listed)[i].key.vtree_id));
    for (const chunk::ChunkInfo& info : layers) {
      if (std::find(dead.begin(), dead.end(), info.key) == dead.end()) {
        seen.push_back(info.key);
      } else if (!info.pruned) {
        ++*unseen;
      }
    }
    i = end;
  }
  return seen;
}

void Oracle::CompareGroup(const v1::PlacementGroup& group) {
  const uint64_t id = group.placement_group_id();
  chunk::Store* first = nullptr;
  uint64_t first_id = 0;
  for (const v1::Replica& replica : group.replicas()) {
    SdsNode* sds = cluster_->FindSds(replica.sds_id());
    if (replica.role() != v1::REPLICA_ROLE_IN_SYNC || sds == nullptr) continue;
    chunk::Store* store = sds->device()->store();
    if (store == nullptr || sds->device()->failed()) continue;
    if (first == nullptr) {
      first = store;
      first_id = replica.sds_id();
      continue;
    }
    Hit(Coverage::kRestsCompared);
    const auto cursors = [id](chunk::Store* of) {
      std::string text;
      for (const chunk::StreamCursor& cursor : of->Cursors(id)) {
        absl::StrAppend(&text, " v", cursor.stream.volume_id, " at ", cursor.last.generation, ".",
                        cursor.last.sequence);
      }
      return text;
    };
    const auto differs = [&](const std::string& what) {
      World::Get().Violation(absl::StrCat("at rest, servers ", first_id, " and ", replica.sds_id(),
                                          " differ in group ", id, ": ", what, "; cursors",
                                          cursors(first), " and", cursors(store)));
    };
    uint64_t unseen = 0;
    const std::vector<chunk::ChunkKey> a = SeenChunks(id, *first, &unseen);
    const std::vector<chunk::ChunkKey> b = SeenChunks(id, *store, &unseen);
    if (unseen > 0) {
      differs(absl::StrCat("they keep ", unseen, " layers that nobody sees"));
    }
    if (a.size() != b.size()) {
      differs(absl::StrCat(a.size(), " and ", b.size(), " chunks"));
      continue;
    }
    for (size_t i = 0; i < a.size(); ++i) {
      const auto x = first->ReadImage(a[i], chunk::ImageContent::kWhole);
      const auto y = store->ReadImage(b[i], chunk::ImageContent::kWhole);
      if (!x.ok() || !y.ok()) continue;
      const std::string name =
          absl::StrCat("chunk ", x->info.key.chunk_index, " layer ", x->info.key.layer);
      if (x->info.key != y->info.key) differs(name + " is not on both");
      if (x->info.version != y->info.version) {
        differs(absl::StrCat(name, " has versions ", x->info.version.generation, ".",
                             x->info.version.sequence, " and ", y->info.version.generation, ".",
                             y->info.version.sequence));
      }
      // What is mapped may differ where it reads as zeros.
      const std::optional<uint32_t> of_x = sds::ContentCrc32c(*x, kChunkBytes);
      const std::optional<uint32_t> of_y = sds::ContentCrc32c(*y, kChunkBytes);
      if (of_x && of_y && *of_x != *of_y) {
        differs(name + " has other bytes");
      }
      // A last replica that took a write without its change, because it cuts a bad block, says so.
      const bool incomplete = x->info.incomplete || y->info.incomplete;
      if (incomplete && !bits_flipped_) differs(name + " is incomplete");
    }
  }
}

}  // namespace tessera::sim
