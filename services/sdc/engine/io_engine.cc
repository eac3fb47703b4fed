#include "services/sdc/engine/io_engine.h"

#include <algorithm>
#include <utility>

#include "services/common/logging.h"

namespace tessera::sdc {
namespace {

constexpr auto kTick = std::chrono::milliseconds(100);
constexpr uint64_t kTrimNanos = 60'000'000'000;
// The proto's limit of one report.
constexpr size_t kReportsInOneCall = 4096;

}  // namespace

IoEngine::IoEngine(EventLoop& loop, EngineOptions options,
                   std::shared_ptr<grpc::ChannelCredentials> credentials)
    : loop_(loop),
      options_(std::move(options)),
      credentials_(std::move(credentials)),
      queue_(loop),
      hook_(loop.AddTurnEndHook([this] { SendReports(); })) {}

IoEngine::~IoEngine() {
  loop_.RemoveTurnEndHook(hook_);
  if (tick_set_) loop_.Cancel(tick_);
  for (const auto& [id, volume] : volumes_) {
    for (const auto& [sds_id, stream] : streams_) stream->Abandon(volume.get());
  }
  volumes_.clear();
  streams_.clear();
}

void IoEngine::SetGrant(const std::string& name, VolumeGrant grant, bool cached) {
  const uint64_t volume_id = grant.fields.volume_id;
  const auto found = volumes_.find(volume_id);
  if (found != volumes_.end()) {
    found->second->SetGrant(std::move(grant));
    return;
  }
  LogInfo("volume attached",
          {{"volume", volume_id}, {"name", name}, {"generation", grant.fields.generation}});
  // Streams are opened now, so that the first request finds them.
  for (const auto& [sds_id, key] : grant.keys) StreamTo(sds_id);
  volumes_[volume_id] =
      std::make_shared<VolumeEngine>(static_cast<EngineContext&>(*this), name, std::move(grant));
  volumes_[volume_id]->RecordNew();
  if (cached) volumes_[volume_id]->OpenCache(false);
  RecordTrouble();
  ArmTick();
}

void IoEngine::Detach(uint64_t volume_id, bool drop, absl::AnyInvocable<void()> done) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) {
    loop_.Post(std::move(done));
    return;
  }
  VolumeEngine* volume = found->second.get();
  volume->Detach(drop, [this, volume, volume_id, done = std::move(done)]() mutable {
    const auto again = volumes_.find(volume_id);
    if (again != volumes_.end() && again->second.get() == volume) {
      for (const auto& [sds_id, stream] : streams_) stream->Abandon(volume);
      volume->Retire(!keep_records_);
      LogInfo("volume detached", {{"volume", volume_id}});
      volumes_.erase(again);
    }
    done();
  });
}

std::shared_ptr<VolumeEngine> IoEngine::FindVolume(uint64_t volume_id) const {
  const auto found = volumes_.find(volume_id);
  return found == volumes_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<VolumeEngine>> IoEngine::Volumes() const {
  std::vector<std::shared_ptr<VolumeEngine>> volumes;
  for (const auto& [id, volume] : volumes_) volumes.push_back(volume);
  return volumes;
}

std::vector<std::string> IoEngine::Names() const {
  std::vector<std::string> names;
  for (const auto& [id, volume] : volumes_) names.push_back(volume->name());
  std::sort(names.begin(), names.end());
  return names;
}

std::shared_ptr<BlockDevice> IoEngine::Find(const std::string& name) const {
  if (name.empty()) return volumes_.size() == 1 ? volumes_.begin()->second : nullptr;
  for (const auto& [id, volume] : volumes_) {
    if (volume->name() == name) return volume;
  }
  return nullptr;
}

absl::Status IoEngine::ApplyMap(const v1::WatchPlacementGroupsResponse& message) {
  const absl::StatusOr<MapCache::Changes> changes = map_.Apply(message);
  if (!changes.ok()) return changes.status();
  // Before anybody acts on it.
  for (const uint64_t group : changes->placement_group_ids) RecordEntry(group);
  if (table_ != nullptr) {
    for (const uint64_t pool_id : changes->pool_ids) {
      table_->PutLayout(pool_id, map_.FindPool(pool_id)->SerializeAsString());
    }
    for (const uint64_t sds_id : changes->sds_ids) {
      table_->PutAddress(sds_id, map_.FindSds(sds_id)->SerializeAsString());
    }
  }
  RecordTrouble();
  for (const uint64_t sds_id : changes->sds_ids) {
    const auto found = streams_.find(sds_id);
    if (found != streams_.end()) found->second->SetAddress(*map_.FindSds(sds_id));
  }
  for (const uint64_t group : changes->placement_group_ids) EntryChanged(group);
  return absl::OkStatus();
}

std::vector<v1::KnownPool> IoEngine::KnownPools() const {
  std::vector<v1::KnownPool> pools;
  for (const auto& [pool_id, epoch_sum] : map_.EpochSums()) {
    v1::KnownPool& pool = pools.emplace_back();
    pool.set_pool_id(pool_id);
    pool.set_epoch_sum(epoch_sum);
  }
  return pools;
}

void IoEngine::AdoptEntries(
    const google::protobuf::RepeatedPtrField<v1::SignedPlacementGroup>& entries) {
  for (const v1::SignedPlacementGroup& signed_entry : entries) {
    const absl::StatusOr<v1::PlacementGroup> entry = ReadEntry(signed_entry);
    if (!entry.ok()) continue;
    const absl::StatusOr<bool> newer = map_.Adopt(signed_entry);
    if (!newer.ok() || !*newer) continue;
    RecordEntry(entry->placement_group_id());
    EntryChanged(entry->placement_group_id());
  }
}

void IoEngine::EntryChanged(uint64_t placement_group_id) {
  for (const auto& volume : Volumes()) volume->EntryChanged(placement_group_id);
}

SdsStream* IoEngine::StreamTo(uint64_t sds_id) {
  const auto found = streams_.find(sds_id);
  if (found != streams_.end()) return found->second.get();
  const v1::SdsAddress* address = map_.FindSds(sds_id);
  if (address == nullptr) return nullptr;
  SdsStream::Options options;
  options.sds_id = sds_id;
  options.own_host_id = options_.own_host_id;
  options.credentials = credentials_;
  auto& stream = streams_[sds_id];
  stream = std::make_unique<SdsStream>(loop_, queue_, static_cast<SdsStream::Observer&>(*this),
                                       std::move(options));
  SdsStream* made = stream.get();
  made->SetAddress(*address);
  return made;
}

void IoEngine::GrantNeeded(uint64_t volume_id, GrantTrouble trouble) {
  if (link_ != nullptr) link_->GrantNeeded(volume_id, trouble);
}

void IoEngine::ReportReplica(ReplicaReport report) {
  const ReportName name{report.placement_group_id, report.device_id, report.epoch};
  if (!reported_.insert(name).second) return;
  LogWarning("replica reported to the MDM", {{"placement_group", report.placement_group_id},
                                             {"epoch", report.epoch},
                                             {"device", report.device_id},
                                             {"why", report.reason}});
  counters_.replicas_reported.Add();
  reports_.push_back(std::move(report));
}

void IoEngine::SendReports() {
  while (!reports_.empty() && link_ != nullptr) {
    std::vector<ReplicaReport> batch;
    if (reports_.size() <= kReportsInOneCall) {
      batch.swap(reports_);
    } else {
      batch.assign(std::make_move_iterator(reports_.end() - kReportsInOneCall),
                   std::make_move_iterator(reports_.end()));
      reports_.resize(reports_.size() - kReportsInOneCall);
    }
    link_->ReportReplicas(std::move(batch));
  }
}

void IoEngine::ReportsAnswered(const std::vector<ReplicaReport>& reports,
                               const v1::ReportReplicaFailuresResponse& response) {
  for (const ReplicaReport& report : reports) {
    reported_.erase({report.placement_group_id, report.device_id, report.epoch});
  }
  AdoptEntries(response.placement_groups());
  // A reported replica that is a member still, in the epoch of the report, was the last one.
  for (const ReplicaReport& report : reports) {
    const MapCache::Group* group = map_.FindGroup(report.placement_group_id);
    if (group == nullptr || group->entry.epoch != report.epoch) continue;
    for (const auto& volume : Volumes()) {
      volume->ReportRejected({report.device_id, report.placement_group_id});
    }
  }
}

void IoEngine::ReportsFailed(const std::vector<ReplicaReport>& reports) {
  for (const ReplicaReport& report : reports) {
    reported_.erase({report.placement_group_id, report.device_id, report.epoch});
    for (const auto& volume : Volumes()) {
      volume->ReportUnanswered({report.device_id, report.placement_group_id});
    }
  }
}

void IoEngine::StreamOpened(SdsStream& stream) {
  for (const auto& volume : Volumes()) volume->StreamOpened(stream);
}

void IoEngine::StreamBroke(SdsStream&, std::vector<InFlightOperation> lost) {
  reconnects_.Add();
  for (const InFlightOperation& operation : lost) operation.volume->Unanswered(operation);
}

void IoEngine::StreamUnreachable(SdsStream& stream, const std::string& why) {
  for (const auto& volume : Volumes()) volume->StreamUnreachable(stream.sds_id(), why);
}

void IoEngine::StreamAnswered(SdsStream& stream, const InFlightOperation& operation,
                              const v1::IoResult& result, PayloadCursor& payload) {
  operation.volume->Answered(stream, operation, result, payload);
}

void IoEngine::StreamBatchEnded(SdsStream&) {
  messages_.Add();
  for (const auto& [id, volume] : volumes_) volume->RoomInWindow();
}

void IoEngine::ArmTick() {
  if (std::exchange(tick_set_, true)) return;
  tick_ = loop_.After(kTick, [this] {
    tick_set_ = false;
    Tick();
  });
}

void IoEngine::Tick() {
  const uint64_t now = NowNanos();
  for (const auto& [sds_id, stream] : streams_) {
    if (stream->in_flight() > 0) TakeOverdue(*stream, now);
  }
  for (const auto& volume : Volumes()) {
    if (!volume->idle()) volume->Tick(now);
  }
  const auto timeout = static_cast<uint64_t>(options_.replica_timeout.count());
  for (const uint64_t sds_id : std::exchange(suspects_, {})) {
    const auto found = streams_.find(sds_id);
    if (found == streams_.end() || !found->second->SilentSince(now - std::min(now, timeout)))
      continue;
    found->second->BreakSilent();
  }
  if (table_ != nullptr && now - trimmed_nanos_ > kTrimNanos) {
    trimmed_nanos_ = now;
    table_->TrimIfIdle();
  }
  if (cache_ != nullptr) cache_->Tick();
  if (!volumes_.empty()) ArmTick();
}

// Reads move on to another replica after a quarter of the time after which a replica counts as
// failed.
void IoEngine::TakeOverdue(SdsStream& stream, uint64_t now_nanos) {
  using Kind = InFlightOperation::Kind;
  const auto timeout = static_cast<uint64_t>(options_.replica_timeout.count());
  const auto flush_timeout = static_cast<uint64_t>(options_.flush_timeout.count());
  const auto take = [&](Kind kind, uint64_t limit, Kind becomes) {
    return stream.TakeOlder(kind, now_nanos - std::min(now_nanos, limit), becomes);
  };
  const auto report = [](const InFlightOperation& operation, const char* what) {
    operation.volume->ReplicaOverdue({operation.device_id, operation.placement_group_id}, what);
  };
  for (const InFlightOperation& read : take(Kind::kLateRead, timeout, Kind::kAbandoned)) {
    SuspectServer(stream.sds_id());
    report(read, "no answer to a read in time");
  }
  for (const InFlightOperation& read : take(Kind::kRead, timeout / 4, Kind::kLateRead)) {
    read.volume->Unanswered(read);
  }
  for (const InFlightOperation& probe : take(Kind::kProbe, flush_timeout, Kind::kAbandoned)) {
    report(probe, "no answer to a question about its order in time");
    probe.volume->Unanswered(probe);
  }
  for (const InFlightOperation& flush : take(Kind::kFlush, flush_timeout, Kind::kAbandoned)) {
    report(flush, "no answer to a flush in time");
    flush.volume->Unanswered(flush);
  }
}

}  // namespace tessera::sdc
