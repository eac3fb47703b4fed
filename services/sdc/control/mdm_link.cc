#include "services/sdc/control/mdm_link.h"

#include <utility>

#include "services/common/auth.h"
#include "services/common/logging.h"
#include "services/common/version.h"
#include "services/sdc/engine/cache_leases.h"

namespace tessera::sdc {
namespace {

constexpr uint32_t kDefaultHeartbeatMillis = 1000;
constexpr char kCapability[] = "io-stream-1";

EventLoop::Duration HeartbeatInterval(uint32_t interval_ms) {
  return std::chrono::milliseconds(interval_ms == 0 ? kDefaultHeartbeatMillis : interval_ms);
}

}  // namespace

MdmLink::MdmLink(EventLoop& loop, const Clock& clock, IoEngine& engine, MdmClient& mdm,
                 Attachments& attachments, LocalState& state, HealthLog& health_log,
                 Options options)
    : loop_(loop),
      clock_(clock),
      engine_(engine),
      mdm_(mdm),
      attachments_(attachments),
      state_(state),
      health_log_(health_log),
      options_(std::move(options)),
      mdm_time_(&clock) {}

MdmLink::~MdmLink() {
  if (timer_set_) loop_.Cancel(timer_);
}

void MdmLink::Start() {
  // What a restart goes on with needs the MDM's decisions, not a registration.
  const LocalIdentity& identity = state_.identity();
  if (identity.sdc_id != 0) {
    mdm_.SetBearer(FormatBearer({"sdc", identity.sdc_id, identity.node_secret}));
  }
  Register();
}

void MdmLink::After(EventLoop::Duration delay, void (MdmLink::*step)()) {
  if (leaving_) return;
  if (timer_set_) loop_.Cancel(timer_);
  timer_set_ = true;
  timer_ = loop_.After(delay, [this, step] {
    timer_set_ = false;
    (this->*step)();
  });
}

void MdmLink::Register() {
  const LocalIdentity& identity = state_.identity();
  v1::RegisterSdcRequest request;
  v1::NodeIdentity* node = request.mutable_identity();
  node->set_node_uuid(identity.node_uuid);
  node->set_name(identity.name);
  node->set_incarnation(identity.incarnation);
  node->set_software_version(kVersion);
  node->set_node_secret(identity.node_secret);
  if (identity.node_secret.empty()) node->set_join_token(options_.join_token);
  node->add_capabilities(kCapability);
  *request.mutable_endpoints() = options_.endpoints;
  for (const std::string& uri : options_.nbd_uris) request.add_nbd_uris(uri);
  const uint64_t sent = clock_.BootNanos();
  mdm_.Register(request, [this, sent](absl::StatusOr<v1::RegisterSdcResponse> response) {
    if (!response.ok()) {
      if (failures_ == 0) LogWarning("cannot register", {{"why", response.status()}});
      SetReachable(false);
      After(RetryDelay(failures_++), &MdmLink::Register);
      return;
    }
    mdm_time_.AddSample(response->mdm_time_ms(), sent, clock_.BootNanos());
    Registered(*response, sent);
  });
}

void MdmLink::Registered(const v1::RegisterSdcResponse& response, uint64_t sent_nanos) {
  const std::string& known_cluster = state_.identity().cluster_uuid;
  if (!known_cluster.empty() && known_cluster != response.cluster_uuid()) {
    LogError("the MDM belongs to another cluster than the one this client joined",
             {{"joined", known_cluster}, {"found", response.cluster_uuid()}});
    options_.superseded();
    return;
  }
  const absl::Status saved =
      state_.SaveRegistration(response.sdc_id(), response.node_secret(), response.cluster_uuid());
  if (!saved.ok()) {
    // Without its secret the node could never come back.
    LogError("cannot save the registration", {{"why", saved}});
    After(RetryDelay(failures_++), &MdmLink::Register);
    return;
  }
  LogInfo("registered", {{"sdc", response.sdc_id()}, {"cluster", response.cluster_uuid()}});
  failures_ = 0;
  mdm_.SetBearer(FormatBearer({"sdc", response.sdc_id(), state_.identity().node_secret}));
  registered_ = true;
  options_.registered(state_.identity());
  SetReachable(true);
  if (!std::exchange(watching_, true)) {
    mdm_.WatchMap([this](const v1::WatchPlacementGroupsResponse& message) {
      const absl::Status applied = engine_.ApplyMap(message);
      if (!applied.ok()) LogError("a message of the map watch is no good", {{"why", applied}});
    });
  }
  Mapped(response.mapped_volume_ids(), sent_nanos);
  After(HeartbeatInterval(response.heartbeat_interval_ms()), &MdmLink::Heartbeat);
}

v1::HeartbeatRequest MdmLink::MakeHeartbeat() const {
  v1::HeartbeatRequest request;
  request.set_incarnation(state_.identity().incarnation);
  for (const uint64_t volume_id : attachments_.AttachedIds()) {
    request.add_attached_volume_ids(volume_id);
  }
  v1::NodeMetrics* metrics = request.mutable_metrics();
  const auto& commands = engine_.metrics().commands;
  const CommandCounters& reads = commands[static_cast<size_t>(Command::kRead)];
  const CommandCounters& writes = commands[static_cast<size_t>(Command::kWrite)];
  metrics->set_reads(reads.requests.Get());
  metrics->set_writes(writes.requests.Get());
  metrics->set_read_bytes(reads.bytes.Get());
  metrics->set_write_bytes(writes.bytes.Get());
  uint64_t errors = 0;
  for (const CommandCounters& command : commands) errors += command.errors.Get();
  metrics->set_errors(errors);
  for (const auto& volume : engine_.Volumes()) {
    const std::string why = volume->WaitingFor();
    if (why.empty() || volume->idle()) continue;
    v1::HealthProblem* problem = request.add_problems();
    problem->set_code("io_waits");
    problem->set_message(volume->name() + ": IO waits for " + why);
  }
  return request;
}

void MdmLink::Heartbeat() {
  const uint64_t sent = clock_.BootNanos();
  v1::HeartbeatRequest request = MakeHeartbeat();
  const auto wishes = std::make_shared<const CacheLeases>(engine_, &request);
  mdm_.Heartbeat(request, [this, sent, wishes](absl::StatusOr<v1::HeartbeatResponse> response) {
    if (response.ok()) wishes->Answered(engine_, *response, sent);
    HeartbeatAnswered(response, sent);
  });
}

void MdmLink::HeartbeatAnswered(const absl::StatusOr<v1::HeartbeatResponse>& response,
                                uint64_t sent_nanos) {
  if (response.ok()) {
    SetReachable(true);
    failures_ = 0;
    mdm_time_.AddSample(response->mdm_time_ms(), sent_nanos, clock_.BootNanos());
    Mapped(response->mapped_volume_ids(), sent_nanos);
    After(HeartbeatInterval(response->heartbeat_interval_ms()), &MdmLink::Heartbeat);
    return;
  }
  LogDebug("heartbeat failed", {{"why", response.status()}});
  SetReachable(false);
  if (absl::IsFailedPrecondition(response.status())) {
    LogError("a newer life of this client has registered", {{"why", response.status()}});
    options_.superseded();
    return;
  }
  // An MDM that was restarted may have forgotten us; registering does what a heartbeat does.
  After(RetryDelay(failures_++),
        absl::IsUnauthenticated(response.status()) ? &MdmLink::Register : &MdmLink::Heartbeat);
}

void MdmLink::SetReachable(bool reachable) {
  if (reachable_.exchange(reachable) == reachable) return;
  LogInfo(reachable ? "the MDM answers" : "the MDM does not answer");
  health_log_.Add(reachable ? v1::EVENT_SEVERITY_INFO : v1::EVENT_SEVERITY_WARNING,
                  reachable ? "mdm_reachable" : "mdm_unreachable",
                  reachable ? "the MDM answers" : "the MDM does not answer: IO goes on without it");
}

void MdmLink::Mapped(const google::protobuf::RepeatedField<uint64_t>& volume_ids,
                     uint64_t sent_nanos) {
  if (leaving_) return;
  attachments_.SetMapped(std::vector<uint64_t>(volume_ids.begin(), volume_ids.end()), sent_nanos);
}

void MdmLink::Leave(absl::AnyInvocable<void()> done) {
  leaving_ = true;
  if (timer_set_) loop_.Cancel(timer_);
  timer_set_ = false;
  if (!registered()) {
    done();
    return;
  }
  v1::HeartbeatRequest request = MakeHeartbeat();
  request.set_leaving(true);
  mdm_.Heartbeat(request, [done = std::move(done)](
                              const absl::StatusOr<v1::HeartbeatResponse>&) mutable { done(); });
}

void MdmLink::ReportReplicas(std::vector<ReplicaReport> reports) {
  v1::ReportReplicaFailuresRequest request;
  for (const ReplicaReport& report : reports) {
    v1::ReplicaFailure* failure = request.add_failures();
    failure->set_placement_group_id(report.placement_group_id);
    failure->set_epoch(report.epoch);
    failure->set_device_id(report.device_id);
    failure->set_reason(report.reason);
  }
  mdm_.ReportReplicaFailures(
      request, [this, reports = std::move(reports)](
                   const absl::StatusOr<v1::ReportReplicaFailuresResponse>& response) {
        if (response.ok()) {
          engine_.ReportsAnswered(reports, *response);
        } else {
          LogWarning("the MDM did not take a report", {{"why", response.status()}});
          engine_.ReportsFailed(reports);
        }
      });
}

void MdmLink::GrantNeeded(uint64_t volume_id, GrantTrouble trouble) {
  attachments_.GrantNeeded(volume_id, trouble);
}

}  // namespace tessera::sdc
