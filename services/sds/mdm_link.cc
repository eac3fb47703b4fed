#include "services/sds/mdm_link.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/auth.h"
#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/placement_hash.h"
#include "services/common/status_macros.h"
#include "services/common/version.h"

namespace tessera::sds {
namespace {

constexpr int kCallTimeoutMillis = 5'000;
// Completing may commit several entries and tell their members.
constexpr int kLearningTimeoutMillis = 15'000;
constexpr int kWatchLifeMillis = 24 * 3600 * 1000;
constexpr uint64_t kRetryMinMillis = 100;
constexpr uint64_t kRetryMaxMillis = 2'000;
// The older the saved sample, the wider the bounds of MDM time after a restart: 500 ppm of this.
constexpr uint64_t kContactSaveIntervalMillis = 60'000;

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total_pages = 0;
  uint64_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t CpuMillis() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto millis = [](const timeval& time) {
    return static_cast<uint64_t>(time.tv_sec) * 1000 + static_cast<uint64_t>(time.tv_usec) / 1000;
  };
  return millis(usage.ru_utime) + millis(usage.ru_stime);
}

}  // namespace

MdmLink::MdmLink(MdmLinkOptions options, MdmLinkParts parts, std::shared_ptr<grpc::Channel> channel,
                 std::function<void()> on_superseded)
    : options_(std::move(options)),
      parts_(std::move(parts)),
      channel_(std::move(channel)),
      on_superseded_(std::move(on_superseded)),
      discovery_(v1::DiscoveryService::NewStub(channel_)),
      health_(v1::HealthService::NewStub(channel_)),
      placement_(v1::PlacementService::NewStub(channel_)),
      tokens_(v1::TokenService::NewStub(channel_)) {}

void MdmLink::Start() {
  beat_thread_ = std::thread([this] { Beat(); });
  watch_thread_ = std::thread([this] { Watch(); });
}

void MdmLink::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    stopping_ = true;
    if (watch_call_ != nullptr) watch_call_->TryCancel();
  }
  if (beat_thread_.joinable()) beat_thread_.join();
  if (watch_thread_.joinable()) watch_thread_.join();
  if (!registered()) return;
  (void)ReportUse();
  if (const absl::Status left = Heartbeat(true); !left.ok()) {
    LogInfo("the MDM did not hear the goodbye", {{"error", left}});
  }
}

bool MdmLink::Pause(uint64_t milliseconds) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&stopping_),
                                 absl::Milliseconds(static_cast<int64_t>(milliseconds)));
}

std::string MdmLink::Bearer() const {
  absl::MutexLock lock(&mutex_);
  return bearer_;
}

void MdmLink::Beat() {
  uint64_t delay = kRetryMinMillis;
  while (true) {
    const bool beats = registered();
    absl::Status status = beats ? Heartbeat(false) : Register();
    if (status.ok() && registered()) status = ReportUse();
    if (parts_.mdm_clock->reachable()) {
      parts_.health->Resolve("mdm_unreachable", "mdm");
    } else if (beats && registered()) {
      parts_.health->Raise(
          "mdm_unreachable", "mdm", v1::EVENT_SEVERITY_WARNING,
          "the MDM does not answer: grants are honoured until their outage expiry");
    }
    if (!status.ok()) {
      LogWarning("the MDM does not answer as it should", {{"error", status}});
      if (absl::IsUnauthenticated(status)) registered_ = false;
      if (absl::IsFailedPrecondition(status) && registered()) {
        parts_.health->Note(v1::EVENT_SEVERITY_ERROR, "superseded", std::string(status.message()));
        on_superseded_();
        return;
      }
    }
    delay = status.ok() ? kRetryMinMillis : std::min(delay * 2, kRetryMaxMillis);
    if (Pause(status.ok() ? heartbeat_interval_ms_.load() : delay)) return;
  }
}

absl::Status MdmLink::Register() {
  const NodeState node = parts_.state->node();
  v1::RegisterSdsRequest request;
  v1::NodeIdentity* identity = request.mutable_identity();
  identity->set_node_uuid(node.node_uuid);
  identity->set_name(options_.name);
  identity->set_incarnation(node.incarnation);
  identity->set_software_version(std::string(kVersion));
  identity->set_join_token(node.node_secret.empty() ? options_.join_token : "");
  identity->set_node_secret(node.node_secret);
  identity->add_capabilities("io-stream-1");
  *request.mutable_endpoints() = options_.endpoints;
  request.set_protection_domain_name(options_.protection_domain);
  request.set_fault_set_name(options_.fault_set);
  for (const Device* device : parts_.devices) *request.add_devices() = device->Describe();
  v1::RegisterSdsResponse response;
  grpc::ClientContext call;
  PrepareCall(&call, kCallTimeoutMillis, "");
  const uint64_t sent = parts_.clock->BootNanos();
  TESSERA_RETURN_IF_ERROR(FromGrpcStatus(discovery_->RegisterSds(&call, request, &response)));
  parts_.mdm_clock->OnAnswer(response.mdm_time_ms(), sent, parts_.clock->BootNanos());
  return TakeRegistration(response, sent);
}

absl::Status MdmLink::SaveContact(const MdmTimeSample& sample) {
  saved_keys_version_ = parts_.keys->version();
  saved_contact_boot_ms_ = parts_.clock->BootMillis();
  return parts_.state->SaveMdmContact({.keys = parts_.keys->All(),
                                       .boot_id = BootId(),
                                       .sample = sample,
                                       .heartbeat_interval_ms = heartbeat_interval_ms_});
}

absl::Status MdmLink::TakeRegistration(const v1::RegisterSdsResponse& response,
                                       uint64_t sent_boot_nanos) {
  const NodeState node = parts_.state->node();
  if (!node.cluster_uuid.empty() && node.cluster_uuid != response.cluster_uuid()) {
    return absl::InternalError(absl::StrCat("this server belongs to cluster ", node.cluster_uuid,
                                            ", the MDM to ", response.cluster_uuid()));
  }
  const std::string& secret =
      response.node_secret().empty() ? node.node_secret : response.node_secret();
  TESSERA_RETURN_IF_ERROR(
      parts_.state->SaveRegistration(response.sds_id(), secret, response.cluster_uuid()));
  for (int i = 0; i < response.device_ids_size(); ++i) {
    if (static_cast<size_t>(i) >= parts_.devices.size()) break;
    Device* device = parts_.devices[static_cast<size_t>(i)];
    TESSERA_RETURN_IF_ERROR(device->SetDeviceId(response.device_ids(i)));
  }
  parts_.placements->SetSdsId(response.sds_id());
  parts_.sds_id->store(response.sds_id());
  parts_.keys->Replace(response.keys());
  if (response.heartbeat_interval_ms() > 0) {
    heartbeat_interval_ms_ = response.heartbeat_interval_ms();
    parts_.mdm_clock->SetHeartbeatInterval(response.heartbeat_interval_ms());
  }
  TESSERA_RETURN_IF_ERROR(
      SaveContact({response.mdm_time_ms(), sent_boot_nanos, parts_.clock->BootNanos()}));
  {
    absl::MutexLock lock(&mutex_);
    bearer_ = FormatBearer({.kind = "sds", .id = response.sds_id(), .secret = secret});
  }
  const std::vector<uint64_t> deleted(response.deleted_vtree_ids().begin(),
                                      response.deleted_vtree_ids().end());
  TESSERA_RETURN_IF_ERROR(parts_.janitor->OnVtreesDeleted(deleted));
  registered_.store(true, std::memory_order_release);
  LogInfo("registered", {{"sds_id", response.sds_id()},
                         {"incarnation", node.incarnation},
                         {"cluster", response.cluster_uuid()}});
  return absl::OkStatus();
}

v1::NodeMetrics MdmLink::Figures() const {
  const auto value = [](const prometheus::Counter* counter) {
    return static_cast<uint64_t>(counter->Value());
  };
  const SdsMetrics& metrics = *parts_.metrics;
  v1::NodeMetrics figures;
  figures.set_reads(value(metrics.requests[v1::IO_OPERATION_TYPE_READ]));
  figures.set_writes(value(metrics.requests[v1::IO_OPERATION_TYPE_WRITE]) +
                     value(metrics.requests[v1::IO_OPERATION_TYPE_WRITE_ZEROES]) +
                     value(metrics.requests[v1::IO_OPERATION_TYPE_TRIM]));
  figures.set_read_bytes(value(metrics.read_bytes));
  figures.set_write_bytes(value(metrics.write_bytes));
  figures.set_errors(value(metrics.results[v1::IO_STATUS_CHECKSUM_ERROR]) +
                     value(metrics.results[v1::IO_STATUS_DEVICE_FAILED]) +
                     value(metrics.results[v1::IO_STATUS_NO_SPACE]) +
                     value(metrics.results[v1::IO_STATUS_INTERNAL]));
  figures.set_refusals(metrics.TotalRefused());
  figures.set_resident_bytes(ResidentBytes());
  figures.set_cpu_ms(CpuMillis());
  return figures;
}

absl::Status MdmLink::Heartbeat(bool leaving) {
  v1::HeartbeatRequest request;
  request.set_incarnation(parts_.state->node().incarnation);
  *request.mutable_metrics() = Figures();
  parts_.engine->NoticeFailedDevices();
  for (const Device* device : parts_.devices) *request.add_devices() = device->Describe();
  for (const v1::HealthProblem& problem : parts_.health->Problems()) {
    *request.add_problems() = problem;
  }
  request.set_leaving(leaving);
  LearnerObserver* const learners = learners_.load(std::memory_order_acquire);
  if (learners != nullptr) {
    for (v1::LearnerStatus& status : learners->Status())
      *request.add_learners() = std::move(status);
  }
  IntegrityObserver* const integrity = integrity_.load(std::memory_order_acquire);
  if (integrity != nullptr) integrity->FillHeartbeat(&request);
  v1::HeartbeatResponse response;
  grpc::ClientContext call;
  PrepareCall(&call, leaving ? 1'000 : kCallTimeoutMillis, Bearer());
  const uint64_t sent = parts_.clock->BootNanos();
  TESSERA_RETURN_IF_ERROR(FromGrpcStatus(health_->Heartbeat(&call, request, &response)));
  parts_.mdm_clock->OnAnswer(response.mdm_time_ms(), sent, parts_.clock->BootNanos());
  parts_.keys->Replace(response.keys());
  const std::vector<v1::ClientCap> caps(response.client_caps().begin(),
                                        response.client_caps().end());
  parts_.limits->SetCaps(caps, parts_.clock->BootNanos());
  if (learners != nullptr) learners->SetBytesPerSecond(response.learner_bytes_per_second());
  if (integrity != nullptr) integrity->OnHeartbeatAnswered(request, response);
  if (response.heartbeat_interval_ms() > 0) {
    heartbeat_interval_ms_ = response.heartbeat_interval_ms();
    parts_.mdm_clock->SetHeartbeatInterval(response.heartbeat_interval_ms());
  }
  const bool due =
      parts_.clock->BootMillis() - saved_contact_boot_ms_ >= kContactSaveIntervalMillis;
  if (due || parts_.keys->version() != saved_keys_version_) {
    return SaveContact({response.mdm_time_ms(), sent, parts_.clock->BootNanos()});
  }
  return absl::OkStatus();
}

// What is used while a report is under way waits for the next beat: under load there is always
// something, and heartbeats must go on.
absl::Status MdmLink::ReportUse() {
  for (size_t round = 0; round < TokenAckBook::kReportsOfARound; ++round) {
    const std::optional<v1::AckTokensRequest> report =
        parts_.accounting->NextReport(parts_.clock->BootMillis());
    if (!report.has_value()) return absl::OkStatus();
    v1::AckTokensResponse response;
    grpc::ClientContext call;
    PrepareCall(&call, kCallTimeoutMillis, Bearer());
    TESSERA_RETURN_IF_ERROR(FromGrpcStatus(tokens_->AckTokens(&call, *report, &response)));
    parts_.accounting->Confirm(report->report_sequence());
    if (static_cast<size_t>(report->acks_size()) < TokenAckBook::kAcksPerReport) break;
  }
  return absl::OkStatus();
}

void MdmLink::Watch() {
  uint64_t delay = kRetryMinMillis;
  while (true) {
    if (registered()) {
      const uint64_t began = parts_.clock->BootMillis();
      const absl::Status status = WatchOnce();
      const bool lasted = parts_.clock->BootMillis() - began > kRetryMaxMillis;
      delay = lasted ? kRetryMinMillis : std::min(delay * 2, kRetryMaxMillis);
      LogInfo("the map's stream ended", {{"error", status}});
    }
    if (Pause(delay)) return;
  }
}

absl::Status MdmLink::WatchOnce() {
  v1::WatchPlacementGroupsRequest request;
  TESSERA_ASSIGN_OR_RETURN(const uint64_t records_revision, parts_.records->Begin());
  request.set_with_records(true);
  request.set_records_after_revision(records_revision);
  grpc::ClientContext call;
  PrepareCall(&call, kWatchLifeMillis, Bearer());
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return absl::CancelledError("stopping");
    watch_call_ = &call;
  }
  const auto reader = placement_->WatchPlacementGroups(&call, request);
  v1::WatchPlacementGroupsResponse map;
  absl::Status taken;
  while (taken.ok() && reader->Read(&map)) taken = TakeMap(map);
  if (!taken.ok()) call.TryCancel();
  const grpc::Status ended = reader->Finish();
  absl::MutexLock lock(&mutex_);
  watch_call_ = nullptr;
  return taken.ok() ? FromGrpcStatus(ended) : taken;
}

absl::Status MdmLink::TakeMap(const v1::WatchPlacementGroupsResponse& map) {
  if (map.pools_size() > 0) {
    const std::vector<v1::PoolLayout> pools(map.pools().begin(), map.pools().end());
    TESSERA_RETURN_IF_ERROR(parts_.state->SavePools(pools));
    for (const v1::PoolLayout& pool : pools) parts_.placements->SetPool(pool);
  }
  const std::vector<uint64_t> deleted(map.deleted_vtree_ids().begin(),
                                      map.deleted_vtree_ids().end());
  TESSERA_RETURN_IF_ERROR(parts_.janitor->OnVtreesDeleted(deleted));
  const std::vector<v1::SignedPlacementGroup> entries(map.placement_groups().begin(),
                                                      map.placement_groups().end());
  TESSERA_RETURN_IF_ERROR(parts_.engine->AcceptEntries(entries));
  if (map.snapshot()) {
    parts_.engine->AcknowledgeLosses(entries);
    TakeSnapshot(map);
    has_map_.store(true, std::memory_order_release);
  }
  if (map.has_records()) TESSERA_RETURN_IF_ERROR(TakeRecords(map.records()));
  // What was pushed here while the snapshot was on its way follows in the stream; a map that really
  // went back stays behind.
  if (ahead_.empty()) return absl::OkStatus();
  for (const v1::SignedPlacementGroup& entry : entries) {
    v1::PlacementGroup group;
    if (!group.ParseFromString(entry.placement_group())) continue;
    const auto found = ahead_.find(group.placement_group_id());
    if (found != ahead_.end() && found->second <= group.epoch()) ahead_.erase(found);
  }
  if (ahead_.empty()) parts_.health->Resolve("map_went_back", "mdm");
  return absl::OkStatus();
}

absl::Status MdmLink::TakeRecords(const v1::ClusterRecords& records) {
  TESSERA_ASSIGN_OR_RETURN(const RecordKeeper::Outcome outcome, parts_.records->Take(records));
  if (outcome == RecordKeeper::Outcome::kOlder) {
    parts_.health->Raise(
        "records_went_back", "mdm", v1::EVENT_SEVERITY_ERROR,
        "the MDM's database is older than the records here, which are kept: was it restored "
        "from a backup? `tessera mdm rebuild --from-sds` makes it anew from the servers");
  } else if (outcome == RecordKeeper::Outcome::kTaken) {
    parts_.health->Resolve("records_went_back", "mdm");
  }
  return absl::OkStatus();
}

void MdmLink::TakeSnapshot(const v1::WatchPlacementGroupsResponse& map) {
  std::set<uint64_t> listed;
  std::set<uint64_t> pools;
  ahead_.clear();
  for (const v1::PoolLayout& pool : map.pools()) pools.insert(pool.pool_id());
  for (const v1::SignedPlacementGroup& entry : map.placement_groups()) {
    v1::PlacementGroup group;
    if (!group.ParseFromString(entry.placement_group())) continue;
    listed.insert(group.placement_group_id());
    const uint64_t here = parts_.placements->Find(group.placement_group_id()).membership.epoch;
    if (here > group.epoch()) ahead_[group.placement_group_id()] = here;
  }
  if (!ahead_.empty()) {
    parts_.health->Raise("map_went_back", "mdm", v1::EVENT_SEVERITY_ERROR,
                         "the MDM's map is older than the one here: was it restored from a backup "
                         "without raising the epochs?");
  } else {
    parts_.health->Resolve("map_went_back", "mdm");
  }
  for (const LocalMembership& local : parts_.placements->All()) {
    const uint64_t pool_id = PoolOfPlacementGroup(local.placement_group_id);
    if (listed.contains(local.placement_group_id) || pools.contains(pool_id) || pools.empty()) {
      continue;
    }
    // The pool is gone, and pools go only when they are empty.
    parts_.engine->ForgetPlacementGroup(local.placement_group_id);
    if (const absl::Status forgotten = parts_.state->ForgetPlacementGroup(local.placement_group_id);
        !forgotten.ok()) {
      LogError("a map entry can't be forgotten", {{"error", forgotten}});
    }
  }
}

absl::StatusOr<v1::BeginLearningResponse> MdmLink::BeginLearning(
    const v1::BeginLearningRequest& request) {
  v1::BeginLearningResponse response;
  grpc::ClientContext call;
  PrepareCall(&call, kLearningTimeoutMillis, Bearer());
  TESSERA_RETURN_IF_ERROR(FromGrpcStatus(placement_->BeginLearning(&call, request, &response)));
  return response;
}

absl::StatusOr<v1::CompleteLearningResponse> MdmLink::CompleteLearning(
    const v1::CompleteLearningRequest& request) {
  v1::CompleteLearningResponse response;
  grpc::ClientContext call;
  PrepareCall(&call, kLearningTimeoutMillis, Bearer());
  TESSERA_RETURN_IF_ERROR(FromGrpcStatus(placement_->CompleteLearning(&call, request, &response)));
  return response;
}

absl::StatusOr<v1::BeginRepairResponse> MdmLink::BeginRepair(
    const v1::BeginRepairRequest& request) {
  v1::BeginRepairResponse response;
  grpc::ClientContext call;
  PrepareCall(&call, kCallTimeoutMillis, Bearer());
  TESSERA_RETURN_IF_ERROR(FromGrpcStatus(placement_->BeginRepair(&call, request, &response)));
  return response;
}

absl::StatusOr<v1::ReportReplicaFailuresResponse> MdmLink::ReportReplicaFailures(
    const v1::ReportReplicaFailuresRequest& request) {
  v1::ReportReplicaFailuresResponse response;
  grpc::ClientContext call;
  PrepareCall(&call, kLearningTimeoutMillis, Bearer());
  TESSERA_RETURN_IF_ERROR(
      FromGrpcStatus(placement_->ReportReplicaFailures(&call, request, &response)));
  return response;
}

}  // namespace tessera::sds
