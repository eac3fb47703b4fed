#include "integration/sim/snapshots.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "integration/sim/addresses.h"
#include "integration/sim/coverage.h"
#include "integration/sim/faults.h"
#include "integration/sim/mdm_node.h"
#include "integration/sim/oracle.h"
#include "integration/sim/sdc_node.h"
#include "integration/sim/sds_node.h"

namespace tessera::sim {
namespace {

constexpr Nanos kSnapshotCallTimeout = 60 * kSecond;
constexpr Nanos kReadTimeout = 20 * kSecond;

CallContext Admin() { return MdmNode::CallOf(v1::ROLE_ADMIN, 0); }

}  // namespace

void Snapshots::Run() {
  while (!stopped_) {
    World::Get().Sleep(World::Get().random().Between(100, 2'000) * kMillisecond);
    if (stopped_) return;
    busy_ = true;
    Act();
    busy_ = false;
  }
}

void Snapshots::Act() {
  const uint64_t dice = World::Get().random().Below(100);
  if (snapshots_.empty() || (dice < 40 && snapshots_.size() < kMost)) return Create();
  const size_t index = World::Get().random().Below(snapshots_.size());
  Snapshot& snapshot = *snapshots_[index];
  if (dice < 65) return Read(snapshot);
  if (dice < 80) return Delete(index);
  if (snapshot.content.empty() || snapshot.maybe_gone) return Read(snapshot);
  if (dice < 87) return Clone(snapshot);
  if (dice < 93) return Flatten();
  Rollback(snapshot);
}

void Snapshots::Create() {
  std::vector<uint64_t> ids = faults_->VolumeIds();
  const size_t count = std::min<size_t>(ids.size(), World::Get().random().Chance(1, 3) ? 2 : 1);
  while (ids.size() > count)
    ids.erase(ids.begin() + static_cast<int64_t>(World::Get().random().Below(ids.size())));
  v1::CreateSnapshotsRequest request;
  for (const uint64_t id : ids) {
    v1::SnapshotSource* source = request.add_sources();
    source->set_volume_id(id);
    source->set_snapshot_name(absl::StrCat("s", names_++));
  }
  request.set_deadline_ms(static_cast<uint32_t>(World::Get().random().Between(100, 6'000)));
  std::vector<std::unique_ptr<Snapshot>> made;
  for (const uint64_t id : ids) {
    auto snapshot = std::make_unique<Snapshot>();
    snapshot->volume_id = id;
    snapshot->began = World::Get().now();
    snapshot->leaving = faults_->IsLeaving(id);
    snapshot->history = cluster_->oracle().SharedHistory(id);
    made.push_back(std::move(snapshot));
  }
  const auto answer = cluster_->AskMdm<v1::CreateSnapshotsResponse>(
      kSnapshotCallTimeout, [request](MdmNode& mdm, v1::CreateSnapshotsResponse* response) {
        return mdm.volume().Do(Admin(), request, response);
      });
  World::Get().Trace(absl::StrCat("snapshot of ", ids.size(), " volumes, the first ", ids.front(),
                                  ": ", answer.status().ToString()));
  if (!answer.ok()) return;
  Hit(Coverage::kSnapshotMade, ids.size());
  if (ids.size() > 1) Hit(Coverage::kSnapshotGroup);
  for (size_t i = 0; i < made.size(); ++i) {
    made[i]->id = answer->snapshots(static_cast<int>(i)).volume_id();
    made[i]->vtree_id = answer->snapshots(static_cast<int>(i)).vtree_id();
    made[i]->ready = World::Get().now();
    made[i]->leaving |= faults_->IsLeaving(made[i]->volume_id);
    snapshots_.push_back(std::move(made[i]));
  }
}

bool Snapshots::Map(NodeId client, uint64_t id) {
  const SdcNode* sdc = cluster_->sdc(client);
  if (sdc == nullptr || sdc->sdc_id() == 0) return false;
  const auto mapped = cluster_->AskMdm<v1::MapVolumeResponse>(
      kSnapshotCallTimeout,
      [id, sdc_id = sdc->sdc_id()](MdmNode& mdm, v1::MapVolumeResponse* response) {
        v1::MapVolumeRequest request;
        request.set_volume_id(id);
        request.set_sdc_id(sdc_id);
        request.set_mode(v1::MAPPING_MODE_READ_ONLY);
        return mdm.volume().Do(Admin(), request, response);
      });
  return mapped.ok();
}

void Snapshots::Unmap(uint64_t id) {
  const auto unmapped = cluster_->AskMdm<v1::UnmapVolumeResponse>(
      kSnapshotCallTimeout, [id](MdmNode& mdm, v1::UnmapVolumeResponse* response) {
        v1::UnmapVolumeRequest request;
        request.set_volume_id(id);
        request.set_force(true);
        return mdm.volume().Do(Admin(), request, response);
      });
  if (!unmapped.ok()) {
    World::Get().Trace(
        absl::StrCat("snapshot ", id, " stays mapped: ", unmapped.status().ToString()));
  }
}

std::optional<std::vector<uint64_t>> Snapshots::ReadAt(NodeId client, uint64_t id) {
  const Nanos end = World::Get().now() + kReadTimeout;
  const auto attached = [&] {
    SdcNode* sdc = cluster_->sdc(client);
    return sdc != nullptr && sdc->Volume(id) != nullptr;
  };
  while (!attached()) {
    if (World::Get().now() > end) return std::nullopt;
    World::Get().Sleep(50 * kMillisecond);
  }
  struct Reading {
    std::vector<uint64_t> cells = std::vector<uint64_t>(kCells);
    uint64_t left = kRegions;
    bool failed = false;
    bool torn = false;
  };
  auto reading = std::make_shared<Reading>();  // shared with the requests
  for (uint64_t region = 0; region < kRegions; ++region) {
    sdc::BlockRequest request;
    request.command = sdc::Command::kRead;
    request.offset_bytes = OffsetOfCell(region * kCellsOfRegion);
    request.length_bytes = kRegionBytes;
    request.done = [reading, region](const sdc::BlockReply& reply) {
      --reading->left;
      reading->failed |= reply.error != 0;
      if (reply.error != 0) return;
      std::vector<std::byte> data;
      for (const auto& piece : reply.data.pieces)
        data.insert(data.end(), piece.begin(), piece.end());
      for (uint64_t cell = 0; cell < kCellsOfRegion; ++cell) {
        uint64_t words[kCellBytes / 8];
        std::memcpy(words, data.data() + cell * kCellBytes, kCellBytes);
        reading->torn |= std::any_of(std::begin(words), std::end(words),
                                     [&](uint64_t word) { return word != words[0]; });
        reading->cells[region * kCellsOfRegion + cell] = words[0];
      }
    };
    cluster_->sdc(client)->Submit(id, std::move(request));
  }
  while (reading->left > 0) {
    // The client may have died with them.
    if (World::Get().now() > end) return std::nullopt;
    World::Get().Sleep(20 * kMillisecond);
  }
  if (reading->torn) World::Get().Violation(absl::StrCat("snapshot ", id, ": a cell is torn"));
  if (reading->failed) return std::nullopt;
  return reading->cells;
}

void Snapshots::Read(Snapshot& snapshot) {
  const NodeId client =
      kFirstSdc + static_cast<NodeId>(World::Get().random().Below(cluster_->client_count()));
  if (Map(client, snapshot.id)) {
    if (auto content = ReadAt(client, snapshot.id)) Judge(snapshot, *std::move(content));
  }
  Unmap(snapshot.id);
}

void Snapshots::Judge(Snapshot& snapshot, std::vector<uint64_t> content) {
  Hit(Coverage::kSnapshotRead);
  World::Get().Trace(absl::StrCat("snapshot ", snapshot.id, " read"));
  if (snapshot.content.empty()) {
    snapshot.history->SnapshotHas(content, snapshot.began, snapshot.ready, !snapshot.leaving);
    if (!snapshot.history->violation().empty()) {
      World::Get().Violation(absl::StrCat("snapshot ", snapshot.id, " of volume ",
                                          snapshot.volume_id, ": ", snapshot.history->violation()));
    }
    snapshot.content = std::move(content);
    return;
  }
  for (uint64_t cell = 0; cell < kCells; ++cell) {
    if (content[cell] == snapshot.content[cell]) continue;
    World::Get().Violation(absl::StrCat("snapshot ", snapshot.id, " of volume ", snapshot.volume_id,
                                        " changed: cell ", cell, " had ", snapshot.content[cell],
                                        ", has ", content[cell]));
    return;
  }
}

void Snapshots::Delete(size_t index) {
  const auto deleted = cluster_->AskMdm<v1::DeleteVolumeResponse>(
      kSnapshotCallTimeout,
      [id = snapshots_[index]->id](MdmNode& mdm, v1::DeleteVolumeResponse* response) {
        v1::DeleteVolumeRequest request;
        request.set_volume_id(id);
        return mdm.volume().Do(Admin(), request, response);
      });
  World::Get().Trace(
      absl::StrCat("snapshot ", snapshots_[index]->id, " deleted: ", deleted.status().ToString()));
  if (!deleted.ok()) {
    // It may be there or not: the answer was lost, or a second copy of the request went on where
    // the first one failed. While it is there it may not change.
    snapshots_[index]->maybe_gone = true;
    return;
  }
  Hit(Coverage::kSnapshotDeleted);
  snapshots_.erase(snapshots_.begin() + static_cast<int64_t>(index));
}

void Snapshots::Clone(const Snapshot& snapshot) {
  if (clones_ == kClonesMost) return;
  const auto made = cluster_->AskMdm<v1::CloneVolumeResponse>(
      kSnapshotCallTimeout, [id = snapshot.id, name = absl::StrCat("c", names_++)](
                                MdmNode& mdm, v1::CloneVolumeResponse* response) {
        v1::CloneVolumeRequest request;
        request.set_snapshot_id(id);
        request.set_name(name);
        return mdm.volume().Do(Admin(), request, response);
      });
  World::Get().Trace(absl::StrCat("clone of ", snapshot.id, ": ", made.status().ToString()));
  if (!made.ok()) return;
  Hit(Coverage::kCloneMade);
  // Its numbers are above all that its origin will ever give.
  cluster_->oracle().AddVolume(made->volume().volume_id(), made->volume().vtree_id(),
                               uint64_t{++clones_} << 40, snapshot.content);
  faults_->AddVolume(made->volume());
}

void Snapshots::Rollback(const Snapshot& snapshot) {
  const uint64_t volume_id = snapshot.volume_id;
  if (!faults_->BeginRollback(volume_id, kRollbacksMost)) return;
  auto before = std::make_unique<Snapshot>();
  before->volume_id = volume_id;
  before->vtree_id = snapshot.vtree_id;
  before->history = cluster_->oracle().SharedHistory(volume_id);
  while (true) {
    before->began = World::Get().now();
    const auto rolled = cluster_->AskMdm<v1::RollbackVolumeResponse>(
        kSnapshotCallTimeout,
        [volume_id, id = snapshot.id](MdmNode& mdm, v1::RollbackVolumeResponse* response) {
          v1::RollbackVolumeRequest request;
          request.set_volume_id(volume_id);
          request.set_snapshot_id(id);
          return mdm.volume().Do(Admin(), request, response);
        });
    World::Get().Trace(
        absl::StrCat("volume ", volume_id, " rolled back: ", rolled.status().ToString()));
    if (rolled.ok()) {
      before->id = rolled->safety_snapshot().volume_id();
      before->ready = World::Get().now();
      break;
    }
    // What it is now nobody knows until it is done: it can be done again.
    if (absl::IsNotFound(rolled.status()) || absl::IsInvalidArgument(rolled.status())) {
      World::Get().Violation(absl::StrCat("rollback: ", rolled.status().ToString()));
    }
    World::Get().Sleep(200 * kMillisecond);
  }
  Hit(Coverage::kRolledBack);
  cluster_->oracle().RolledBack(volume_id, snapshot.content);
  faults_->EndRollback(volume_id);
  snapshots_.push_back(std::move(before));
}

void Snapshots::Flatten() {
  const std::vector<uint64_t> ids = faults_->VolumeIds();
  const uint64_t id = ids[World::Get().random().Below(ids.size())];
  const auto flattened = cluster_->AskMdm<v1::FlattenVolumeResponse>(
      kSnapshotCallTimeout, [id](MdmNode& mdm, v1::FlattenVolumeResponse* response) {
        v1::FlattenVolumeRequest request;
        request.set_volume_id(id);
        return mdm.volume().Do(Admin(), request, response);
      });
  World::Get().Trace(absl::StrCat("volume ", id, " flattened: ", flattened.status().ToString()));
}

void Snapshots::Compare() {
  for (const auto& snapshot : snapshots_) {
    if (snapshot->content.empty()) continue;
    if (snapshot->maybe_gone && !cluster_->oracle().IsThere(snapshot->id)) continue;
    cluster_->oracle().CompareSnapshot(snapshot->id, snapshot->vtree_id, snapshot->content);
  }
}

}  // namespace tessera::sim
