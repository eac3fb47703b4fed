#include "integration/sim/sdc_node.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "integration/sim/addresses.h"
#include "integration/sim/mdm_node.h"
#include "integration/sim/oracle.h"
#include "services/common/status_macros.h"
#include "services/sdc/engine/cache_leases.h"

namespace tessera::sim {
namespace {

constexpr Nanos kShortTimeout = 5 * kSecond;
constexpr Nanos kLongTimeout = 90 * kSecond;
constexpr Nanos kSdcRetryMin = 200 * kMillisecond;
constexpr Nanos kAcquisitionPause = 500 * kMillisecond;

// More than applications write between two flushes of their own.
constexpr uint64_t kMuch = 32u << 20;

// Nothing is kept, too little, or all of it; and there is room for it, or little.
void Furnish(SdcNode::Identity* identity) {
  if (identity->resume_memory != nullptr) return;
  chunk::SeededRandom& random = World::Get().random();
  constexpr std::array<uint64_t, 4> kUnflushedBytes = {0, 16u << 10, 2 * kMuch, 2 * kMuch};
  identity->unflushed_bytes = kUnflushedBytes[random.Below(kUnflushedBytes.size())];
  const bool little = random.Chance(1, 5);
  identity->resume_geometry = {4096, little ? 32u << 10 : 4u << 20};
  identity->resume_memory =
      std::make_shared<sdc::TestMemory>(identity->resume_geometry.TotalBytes());
  if (Cluster::Get().options().read_caches) {
    constexpr std::array<uint32_t, 4> kCacheLines = {0, 1, 3, 64};
    identity->cache_lines = kCacheLines[random.Below(kCacheLines.size())];
  }
}

sdc::EngineOptions EngineOptionsOf(NodeId node, SdcNode::Identity* identity) {
  Furnish(identity);
  sdc::EngineOptions options;
  options.own_host_id = AddressOf(node);
  options.flush_timeout = std::chrono::seconds(4);
  options.unflushed_bytes = identity->unflushed_bytes;
  return options;
}

}  // namespace

SdcNode::SdcNode(Cluster* cluster, NodeId node, Identity* identity)
    : cluster_(cluster),
      node_(node),
      identity_(identity),
      life_(World::Get().current()),
      options_(EngineOptionsOf(node, identity)),
      engine_(loop_, options_, nullptr) {
  ++identity_->incarnation;
  engine_.SetLink(this);
  OpenCache();
  Resume();
  identity_->last_life = life_;
}

// Only what a life that ended in order has left is ever kept, and here none does.
void SdcNode::OpenCache() {
  if (identity_->cache_lines == 0) return;
  cache_medium_ =
      std::make_unique<CacheMedium>(uint64_t{identity_->cache_lines} * sdc::kCacheLineBytes);
  sdc::ReadCacheOptions options;
  options.slots = identity_->cache_lines;
  options.rest_nanos = 500 * kMillisecond;
  cache_ = std::make_unique<sdc::ReadCache>(
      options, *cache_medium_, [this] { return static_cast<uint64_t>(loop_.Now().count()); });
  engine_.SetReadCache(cache_.get());
}

void SdcNode::Resume() {
  const sdc::ResumeOwner owner{absl::StrCat("boot ", identity_->boots), identity_->uuid,
                               identity_->incarnation};
  sdc::ResumedState left;
  auto taken = sdc::ResumeTable::TakeOver(identity_->resume_memory, owner, &left);
  if (!taken.ok()) {
    World::Get().Trace(absl::StrCat("nothing is resumed: ", taken.status().ToString()));
    left = sdc::ResumedState();
    identity_->resume_memory =
        std::make_shared<sdc::TestMemory>(identity_->resume_geometry.TotalBytes());
    table_ = sdc::ResumeTable::Create(identity_->resume_memory, owner, identity_->resume_geometry);
  } else {
    table_ = *std::move(taken);
  }
  engine_.SetResumeTable(table_.get());
  Hit(Coverage::kNotResumed, left.refused.size());
  for (const sdc::IoEngine::Resumed& resumed : engine_.Resume(left, identity_->sdc_id)) {
    Attached& volume = volumes_[resumed.volume_id];
    volume.grant_id = engine_.FindVolume(resumed.volume_id)->grant().fields.grant_id;
    volume.mapping_id = resumed.grant.mapping_id();
    volume.since = World::Get().now();
    volume.attached = resumed_ = true;
    World::Get().Trace(absl::StrCat("volume ", resumed.volume_id, " resumed"));
    cluster_->oracle().Resumed(identity_->last_life, life_, resumed.volume_id);
    After(resumed.volume_id, 0, false);
    Hit(Coverage::kResumed);
  }
  if (identity_->last_life != nullptr) cluster_->oracle().Forgotten(identity_->last_life);
  Hit(Coverage::kWriteResumed, engine_.metrics().writes_resumed.Get());
}

void SdcNode::Start() {
  World::Get().Spawn(life_, [this] { Beat(); });
}

std::shared_ptr<sdc::VolumeEngine> SdcNode::Volume(uint64_t volume_id) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end() || found->second.detaching) return nullptr;
  return engine_.FindVolume(volume_id);
}

void SdcNode::Submit(uint64_t volume_id, sdc::BlockRequest request) {
  auto shared = std::make_shared<sdc::BlockRequest>(std::move(request));
  loop_.Post([this, volume_id, shared] {
    const auto volume = engine_.FindVolume(volume_id);
    if (volume != nullptr) return volume->Submit(std::move(*shared));
    sdc::BlockReply reply;
    reply.error = ESHUTDOWN;
    shared->done(std::move(reply));
  });
}

void SdcNode::Beat() {
  while (true) {
    const absl::Status status = registered_ ? Heartbeat() : Register();
    if (!status.ok())
      World::Get().Trace(absl::StrCat("the MDM does not answer: ", status.ToString()));
    if (absl::IsUnauthenticated(status)) registered_ = false;
    if (registered_ && !watching_) {
      watching_ = true;
      const auto watched = cluster_->AskMdm<v1::WatchPlacementGroupsRequest>(
          kShortTimeout, [node = node_](MdmNode& mdm, auto*) {
            mdm.Watch(node, 0);
            return absl::OkStatus();
          });
      watching_ = watching_ && watched.ok();
    }
    World::Get().Sleep(status.ok() ? 500 * kMillisecond : kSdcRetryMin);
  }
}

absl::Status SdcNode::Register() {
  v1::RegisterSdcRequest request;
  request.mutable_identity()->set_node_uuid(identity_->uuid);
  request.mutable_identity()->set_name(absl::StrCat("c", node_));
  request.mutable_identity()->set_incarnation(identity_->incarnation);
  request.mutable_identity()->set_node_secret(identity_->secret);
  request.mutable_endpoints()->set_control(AddressOf(node_));
  const Nanos asked = World::Get().now();
  TESSERA_ASSIGN_OR_RETURN(
      const v1::RegisterSdcResponse response,
      cluster_->AskMdm<v1::RegisterSdcResponse>(
          kShortTimeout, [request](MdmNode& mdm, v1::RegisterSdcResponse* answer) mutable {
            if (request.identity().node_secret().empty()) {
              request.mutable_identity()->set_join_token(mdm.join_token());
            }
            return mdm.discovery().Register(request, answer);
          }));
  identity_->sdc_id = response.sdc_id();
  if (!response.node_secret().empty()) identity_->secret = response.node_secret();
  registered_ = true;
  Mapped(response.mapped_volume_ids(), asked);
  return absl::OkStatus();
}

absl::Status SdcNode::Heartbeat() {
  v1::HeartbeatRequest request;
  request.set_incarnation(identity_->incarnation);
  for (const auto& [id, volume] : volumes_) {
    if (volume.attached && !volume.detaching) request.add_attached_volume_ids(id);
  }
  const auto sent = static_cast<uint64_t>(loop_.Now().count());
  const sdc::CacheLeases wishes(engine_, &request);
  const Nanos asked = World::Get().now();
  TESSERA_ASSIGN_OR_RETURN(
      const v1::HeartbeatResponse response,
      cluster_->AskMdm<v1::HeartbeatResponse>(
          kShortTimeout, [request, id = sdc_id()](MdmNode& mdm, v1::HeartbeatResponse* answer) {
            return mdm.health().Do(MdmNode::CallOf(v1::ROLE_SDC, id), request, answer);
          }));
  wishes.Answered(engine_, response, sent);
  Hit(Coverage::kCacheLease, static_cast<uint64_t>(response.cache_leases_size()));
  if (cache_ != nullptr) {
    const uint64_t hits = cache_->figures().hits;
    Hit(Coverage::kCacheHit, hits - std::exchange(cache_hits_, hits));
  }
  Mapped(response.mapped_volume_ids(), asked);
  return absl::OkStatus();
}

void SdcNode::MapArrived(const v1::WatchPlacementGroupsResponse& map) {
  loop_.Post([this, map] { engine_.ApplyMap(map).IgnoreError(); });
}

void SdcNode::Mapped(const google::protobuf::RepeatedField<uint64_t>& volume_ids, Nanos asked) {
  for (const uint64_t id : volume_ids) {
    if (!volumes_.contains(id)) Attach(id, [](const absl::Status&) {});
  }
  std::vector<uint64_t> gone;
  for (const auto& [id, volume] : volumes_) {
    const bool mapped = std::find(volume_ids.begin(), volume_ids.end(), id) != volume_ids.end();
    if (!mapped && !volume.dropping && volume.since < asked) gone.push_back(id);
  }
  for (const uint64_t id : gone) Detach(id, true, [](const absl::Status&) {});
}

void SdcNode::Attach(uint64_t volume_id, std::function<void(absl::Status)> done) {
  const auto [place, made] = volumes_.try_emplace(volume_id);
  Attached& volume = place->second;
  if (made) volume.since = World::Get().now();
  if (volume.detaching) return done(absl::UnavailableError("the volume is being detached"));
  volume.waiting.push_back(std::move(done));
  // A renewal that begins after this tells of another size (Attachments::Attach).
  if (volume.calling) {
    volume.renew_next = true;
    return;
  }
  if (volume.attached) {
    volume.timer_set = false;
    return Renew(volume_id);
  }
  if (!volume.timer_set) Acquire(volume_id);
}

void SdcNode::Acquire(uint64_t volume_id) {
  Attached& volume = volumes_[volume_id];
  volume.calling = true;
  volume.acquire_next = volume.renew_next = false;
  v1::AcquireGrantRequest request;
  request.set_volume_id(volume_id);
  for (const v1::KnownPool& pool : engine_.KnownPools()) *request.add_known_pools() = pool;
  request.set_incarnation(identity_->incarnation);
  const std::shared_ptr<sdc::VolumeEngine> device = engine_.FindVolume(volume_id);
  if (device != nullptr && device->cache() != nullptr && !device->read_only()) {
    request.set_given_up_generation(device->cache()->GiveUpLease());
  }
  cluster_->AskMdmSoon<v1::AcquireGrantResponse>(
      kLongTimeout,
      [request, id = sdc_id()](MdmNode& mdm, v1::AcquireGrantResponse* answer) {
        return mdm.token().Do(MdmNode::CallOf(v1::ROLE_SDC, id), request, answer);
      },
      [this, volume_id](absl::StatusOr<v1::AcquireGrantResponse> response) {
        const auto found = volumes_.find(volume_id);
        if (found == volumes_.end()) return;
        found->second.calling = false;
        if (!response.ok()) return Failed(volume_id, response.status());
        engine_.AdoptEntries(response->placement_groups());
        found->second.acquired = World::Get().now();
        Granted(volume_id, response->grant());
      });
}

void SdcNode::Renew(uint64_t volume_id) {
  Attached& volume = volumes_[volume_id];
  if (volume.grant_id == 0) return Acquire(volume_id);
  volume.calling = true;
  volume.renew_next = false;
  v1::RenewGrantRequest request;
  request.set_token_id(volume.grant_id);
  cluster_->AskMdmSoon<v1::RenewGrantResponse>(
      kShortTimeout,
      [request, id = sdc_id()](MdmNode& mdm, v1::RenewGrantResponse* answer) {
        return mdm.token().Do(MdmNode::CallOf(v1::ROLE_SDC, id), request, answer);
      },
      [this, volume_id,
       grant_id = volume.grant_id](absl::StatusOr<v1::RenewGrantResponse> response) {
        const auto found = volumes_.find(volume_id);
        if (found == volumes_.end()) return;
        found->second.calling = false;
        if (found->second.grant_id != grant_id && !found->second.ending()) return Renew(volume_id);
        if (absl::IsFailedPrecondition(response.status()) && !found->second.ending()) {
          return Acquire(volume_id);
        }
        if (!response.ok()) return Failed(volume_id, response.status());
        Granted(volume_id, response->grant());
      });
}

void SdcNode::AnswerAll(Attached& volume, const absl::Status& status) {
  for (auto& done : std::exchange(volume.waiting, {})) done(status);
}

void SdcNode::Granted(uint64_t volume_id, const v1::IssuedGrant& issued) {
  Attached& volume = volumes_[volume_id];
  if (volume.ending()) return;
  absl::StatusOr<sdc::VolumeGrant> grant = sdc::VolumeGrant::FromIssued(issued, ++revision_);
  if (!grant.ok()) return Failed(volume_id, grant.status());
  volume.failures = 0;
  if (volume.attached && volume.mapping_id != issued.mapping_id()) {
    const bool again = !volume.detaching;
    return Detach(volume_id, true, [this, volume_id, again](const absl::Status&) {
      if (again) Attach(volume_id, [](const absl::Status&) {});
    });
  }
  volume.mapping_id = issued.mapping_id();
  volume.grant_id = grant->fields.grant_id;
  const uint64_t life_ms = grant->fields.expiry_ms - issued.mdm_time_ms();
  World::Get().Trace(absl::StrCat("grant ", volume.grant_id, " of volume ", volume_id,
                                  ", generation ", grant->fields.generation));
  cluster_->oracle().Granted(life_, volume_id, grant->fields.generation,
                             options_.unflushed_bytes > kMuch);
  engine_.SetGrant(absl::StrCat("v", volume_id), *std::move(grant));
  loop_.Post([] {});  // a turn, which sends what has waited for the grant
  volume.attached = true;
  if (volume.renew_next && !volume.acquire_next && !volume.detaching) return Renew(volume_id);
  After(volume_id, std::max<Nanos>(life_ms / 2 * kMillisecond, kSecond), volume.acquire_next);
  if (!volume.detaching) AnswerAll(volume, absl::OkStatus());
}

void SdcNode::Failed(uint64_t volume_id, const absl::Status& status) {
  Attached& volume = volumes_[volume_id];
  if (volume.ending()) return;
  if (absl::IsPermissionDenied(status) || absl::IsNotFound(status)) {
    if (!volume.detaching) AnswerAll(volume, status);
    return Detach(volume_id, true, [](const absl::Status&) {});
  }
  const bool acquire =
      volume.acquire_next || absl::IsFailedPrecondition(status) || volume.grant_id == 0;
  After(volume_id, kSdcRetryMin << std::min<uint32_t>(volume.failures++, 4), acquire);
  if (!volume.detaching) AnswerAll(volume, status);
}

void SdcNode::After(uint64_t volume_id, Nanos delay, bool acquire) {
  Attached& volume = volumes_[volume_id];
  volume.timer_set = true;
  volume.timer = ++timers_;
  World::Get().After(delay, life_, [this, volume_id, acquire, timer = volume.timer] {
    const auto found = volumes_.find(volume_id);
    if (found == volumes_.end() || !found->second.timer_set || found->second.timer != timer) return;
    found->second.timer_set = false;
    if (acquire) return Acquire(volume_id);
    Renew(volume_id);
  });
}

void SdcNode::GrantNeeded(uint64_t volume_id, sdc::GrantTrouble trouble) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end() || found->second.ending()) return;
  Attached& volume = found->second;
  const bool acquire = trouble == sdc::GrantTrouble::kAcquire;
  if (volume.calling || (volume.timer_set && volume.failures > 0)) {
    volume.acquire_next |= acquire;
    return;
  }
  volume.timer_set = false;
  if (!acquire) return Renew(volume_id);
  const Nanos since = World::Get().now() - volume.acquired;
  if (volume.acquired != 0 && since < kAcquisitionPause) {
    return After(volume_id, kAcquisitionPause - since, true);
  }
  Acquire(volume_id);
}

void SdcNode::Detach(uint64_t volume_id, bool drop, std::function<void(absl::Status)> done) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) return done(absl::OkStatus());
  Attached& volume = found->second;
  if (!volume.attached) AnswerAll(volume, absl::CancelledError("the volume was detached"));
  volume.waiting.push_back(std::move(done));
  if (volume.detaching && !drop) return;
  volume.detaching = true;
  volume.dropping |= drop;
  volume.timer_set = false;
  cluster_->oracle().Detaching(life_, volume_id);
  World::Get().Trace(absl::StrCat("volume ", volume_id, " goes"));
  engine_.Detach(volume_id, drop, [this, volume_id] {
    const auto gone = volumes_.find(volume_id);
    if (gone == volumes_.end()) return;
    World::Get().Trace(absl::StrCat("volume ", volume_id, " detached"));
    Attached last = std::move(gone->second);
    volumes_.erase(gone);
    AnswerAll(last, absl::OkStatus());
  });
}

absl::Status SdcNode::AttachAndWait(uint64_t volume_id) {
  const World::Wait wait = World::Get().NewWait();
  absl::Status result;
  Attach(volume_id, [&result, wait](absl::Status status) {
    result = std::move(status);
    World::Get().Unpark(wait);
  });
  World::Get().Park(wait);
  return result;
}

absl::Status SdcNode::DetachAndWait(uint64_t volume_id, bool drop) {
  const World::Wait wait = World::Get().NewWait();
  absl::Status result;
  Detach(volume_id, drop, [&result, wait](absl::Status status) {
    result = std::move(status);
    World::Get().Unpark(wait);
  });
  World::Get().Park(wait);
  return result;
}

absl::Status SdcNode::HoldAndWait(const v1::HoldWritesRequest& request,
                                  v1::HoldWritesResponse* response) {
  const auto device = Volume(request.volume_id());
  if (device == nullptr) return absl::NotFoundError("not attached here");
  const World::Wait wait = World::Get().NewWait();
  absl::Status result;
  loop_.Post([&, device] {
    device->HoldWrites(request.hold_id(), std::chrono::milliseconds(request.deadline_ms()),
                       [&result, wait](absl::Status status) {
                         result = std::move(status);
                         World::Get().Unpark(wait);
                       });
  });
  World::Get().Park(wait);
  response->set_generation(device->grant().fields.generation);
  return result;
}

absl::Status SdcNode::CutAndWait(const v1::CutSnapshotRequest& request,
                                 v1::CutSnapshotResponse* response) {
  const uint64_t volume_id = request.volume_id();
  const auto device = Volume(volume_id);
  const auto found = volumes_.find(volume_id);
  if (device == nullptr) return absl::NotFoundError("not attached here");
  if (found->second.mapping_id != request.grant().mapping_id()) {
    return absl::FailedPreconditionError("the grant is of another mapping");
  }
  TESSERA_ASSIGN_OR_RETURN(sdc::VolumeGrant grant,
                           sdc::VolumeGrant::FromIssued(request.grant(), ++revision_));
  const uint64_t grant_id = grant.fields.grant_id;
  const World::Wait wait = World::Get().NewWait();
  absl::StatusOr<uint64_t> result = 0;
  auto shared = std::make_shared<sdc::VolumeGrant>(std::move(grant));
  loop_.Post([&, device, shared] {
    device->CutSnapshot(request.hold_id(), std::move(*shared),
                        std::chrono::milliseconds(request.deadline_ms()),
                        [&, wait](absl::StatusOr<uint64_t> held) {
                          result = std::move(held);
                          const auto cut = volumes_.find(volume_id);
                          if (result.ok() && cut != volumes_.end()) cut->second.grant_id = grant_id;
                          World::Get().Unpark(wait);
                        });
  });
  World::Get().Park(wait);
  TESSERA_RETURN_IF_ERROR(result.status());
  loop_.Post([] {});  // a turn, which sends what was held
  response->set_held_micros(*result);
  Hit(Coverage::kSnapshotCut);
  return absl::OkStatus();
}

absl::Status SdcNode::ShrinkAndWait(const v1::ShrinkVolumeRequest& request) {
  const uint64_t volume_id = request.volume_id();
  const auto device = Volume(volume_id);
  if (device == nullptr) return absl::NotFoundError("not attached here");
  if (device->grant().fields.generation != request.generation()) {
    return absl::FailedPreconditionError("attached in another generation");
  }
  // What it discards is a write of its own to the history.
  uint64_t first = 0;
  while (first < kCells && OffsetOfCell(first) < request.size_bytes()) ++first;
  const auto history = cluster_->oracle().SharedHistory(volume_id);
  uint64_t number = 0;
  const World::Wait wait = World::Get().NewWait();
  absl::Status result;
  loop_.Post([&, device] {
    number = history->BeginWrite(History::Kind::kZeroes, first, kCells,
                                 cluster_->oracle().LifeNumber(life_), World::Get().now());
    device->Shrink(request.size_bytes(), [&result, wait](absl::Status status) {
      result = std::move(status);
      World::Get().Unpark(wait);
    });
  });
  World::Get().Park(wait);
  history->EndWrite(number, result.ok(), result.ok(), World::Get().now(), /*prompt=*/false);
  if (result.ok()) Hit(Coverage::kShrunk);
  return result;
}

absl::Status SdcNode::AdoptAndWait(const v1::AdoptLayersRequest& request) {
  const auto device = Volume(request.volume_id());
  if (device == nullptr) return absl::NotFoundError("not attached here");
  const World::Wait wait = World::Get().NewWait();
  absl::Status result;
  loop_.Post([&, device] {
    if (device->grant().fields.generation != request.generation()) {
      result = absl::FailedPreconditionError("attached in another generation");
      return World::Get().Unpark(wait);
    }
    device->AdoptLayers([&result, wait](absl::Status status) {
      result = std::move(status);
      World::Get().Unpark(wait);
    });
  });
  World::Get().Park(wait);
  loop_.Post([] {});  // a turn, which sends what was held
  if (result.ok()) Hit(Coverage::kLayersAdopted);
  return result;
}

void SdcNode::ReleaseHold(const v1::ReleaseHoldRequest& request) {
  loop_.Post([this, request] {
    const auto device = engine_.FindVolume(request.volume_id());
    if (device != nullptr) device->ReleaseHold(request.hold_id());
  });
}

void SdcNode::ReportReplicas(std::vector<sdc::ReplicaReport> reports) {
  v1::ReportReplicaFailuresRequest request;
  for (const sdc::ReplicaReport& report : reports) {
    World::Get().Trace(absl::StrCat("reports group ", report.placement_group_id, " epoch ",
                                    report.epoch, " device ", report.device_id, ": ",
                                    report.reason));
    v1::ReplicaFailure* failure = request.add_failures();
    failure->set_placement_group_id(report.placement_group_id);
    failure->set_epoch(report.epoch);
    failure->set_device_id(report.device_id);
    failure->set_reason(report.reason);
  }
  cluster_->AskMdmSoon<v1::ReportReplicaFailuresResponse>(
      kShortTimeout,
      [request, id = sdc_id()](MdmNode& mdm, v1::ReportReplicaFailuresResponse* answer) {
        return mdm.placement().Do(MdmNode::CallOf(v1::ROLE_SDC, id), request, answer);
      },
      [this, reports](const absl::StatusOr<v1::ReportReplicaFailuresResponse>& response) {
        loop_.Post([this, reports, response] {
          if (response.ok()) {
            engine_.ReportsAnswered(reports, *response);
          } else {
            engine_.ReportsFailed(reports);
          }
        });
      });
}

}  // namespace tessera::sim
