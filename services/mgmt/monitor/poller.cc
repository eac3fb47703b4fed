#include "services/mgmt/monitor/poller.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/mgmt/monitor/cluster_figures.h"

namespace tessera::mgmt {
namespace {

constexpr uint64_t kMdmId = 1;
constexpr size_t kErrorBytesMax = 200;

std::string KindName(v1::ComponentKind kind) {
  switch (kind) {
    case v1::COMPONENT_KIND_MDM:
      return "mdm";
    case v1::COMPONENT_KIND_SDS:
      return "sds";
    case v1::COMPONENT_KIND_SDC:
      return "sdc";
    default:
      return "mgmt";
  }
}

// Why a call failed, for people.
std::string Why(const absl::Status& status, uint64_t timeout_ms) {
  if (absl::IsDeadlineExceeded(status)) {
    return absl::StrCat("no answer within ", timeout_ms, " ms");
  }
  std::string text(status.message());
  if (text.size() > kErrorBytesMax) text.resize(kErrorBytesMax);
  return text.empty() ? absl::StatusCodeToString(status.code()) : text;
}

std::chrono::milliseconds Millis(uint64_t ms) {
  return std::chrono::milliseconds(static_cast<int64_t>(ms));
}

bool HasEnded(const v1::Operation& operation) {
  return operation.state() == v1::OPERATION_STATE_SUCCEEDED ||
         operation.state() == v1::OPERATION_STATE_CANCELLED;
}

}  // namespace

Poller::Poller(PollerOptions options, const std::vector<KnownPart>& known, ChannelFactory channels,
               const Clock* clock, MetricRegistry* metrics, PollerEvents events)
    : options_(std::move(options)),
      channels_(std::move(channels)),
      clock_(clock),
      metrics_(metrics),
      events_(std::move(events)),
      round_seconds_(&metrics->Histogram("tessera_mgmt_poll_round_duration_seconds",
                                         "From a round's begin until its snapshot was told.")),
      schedule_(options_.interval_ms, options_.settle_ms, options_.early_gap_ms) {
  mdm_channel_ = channels_(options_.mdm);
  topology_stub_ = v1::TopologyService::NewStub(mdm_channel_);
  operation_stub_ = v1::OperationService::NewStub(mdm_channel_);
  reader_ = std::make_unique<MdmReader>(&calls_, mdm_channel_, Millis(options_.mdm_timeout_ms));
  Part& mdm = parts_[{v1::COMPONENT_KIND_MDM, kMdmId}];
  mdm.known = {v1::COMPONENT_KIND_MDM, kMdmId, "mdm", options_.mdm};
  mdm.channel = mdm_channel_;
  mdm.stub = v1::MonitoringService::NewStub(mdm_channel_);
  for (const KnownPart& part : known) Connect(&parts_[{part.kind, part.component_id}], part);
}

Poller::~Poller() = default;

void Poller::Run() {
  while (!stopped_.load()) {
    const uint64_t now_ms = clock_->BootMillis();
    Step(now_ms);
    const uint64_t next_ms = std::min(schedule_.NextMs(), tick_boot_ms_ + kTickMs);
    // At least a millisecond: with a wait of none, a clock that stands would make this spin.
    calls_.Next(Millis(next_ms > now_ms ? next_ms - now_ms : 1));
  }
}

void Poller::Stop() {
  if (!stopped_.exchange(true)) calls_.Wake();
}

void Poller::Step(uint64_t now_ms) {
  if (now_ms >= tick_boot_ms_ + kTickMs || tick_boot_ms_ == 0) {
    tick_boot_ms_ = now_ms;
    LookAtConnections();
    OpenWatches(now_ms);
    events_.on_tick();
  }
  if (schedule_.BeginDue(now_ms)) BeginRound(now_ms);
  if (schedule_.TellDue(now_ms, unanswered_)) Tell(now_ms);
}

void Poller::BeginRound(uint64_t now_ms) {
  schedule_.Begin(now_ms);
  for (auto& [key, part] : parts_) {
    if (!part.asked) Ask(key, &part);
  }
  if (!mdm_asked_) ReadMdm();
}

void Poller::Ask(const PartKey& key, Part* part) {
  if (part->stub == nullptr) {
    part->component.set_poll_error("the part has not said where its management plane listens");
    return;
  }
  part->asked = true;
  ++unanswered_;
  const uint64_t sent = clock_->BootNanos();
  calls_.Call<v1::GetStatusResponse>(
      Millis(options_.part_timeout_ms),
      [part](grpc::ClientContext* context, grpc::CompletionQueue* queue) {
        return part->stub->PrepareAsyncGetStatus(context, {}, queue);
      },
      [this, key, sent](const absl::Status& status, const v1::GetStatusResponse& answer) {
        Answered(key, sent, status, answer);
      });
}

void Poller::Answered(const PartKey& key, uint64_t sent_boot_nanos, const absl::Status& status,
                      const v1::GetStatusResponse& answer) {
  --unanswered_;
  const uint64_t nanos = clock_->BootNanos() - sent_boot_nanos;
  const std::string kind = KindName(key.first);
  metrics_
      ->Counter("tessera_mgmt_polls_total", "Calls of GetStatus that ended, by the part's kind.",
                {{"kind", kind}, {"result", status.ok() ? "answered" : "failed"}})
      .Increment();
  const auto found = parts_.find(key);
  if (found == parts_.end()) return;
  Part& part = found->second;
  part.asked = false;
  v1::MonitoredComponent& component = part.component;
  const bool answered_before = component.answers();
  component.set_answers(status.ok());
  // Known now, before the next look: what breaks in between is noticed.
  if (status.ok() || absl::IsUnavailable(status)) part.connected = status.ok();
  if (status.ok()) {
    metrics_
        ->Histogram("tessera_mgmt_poll_duration_seconds", "Time of answered calls of GetStatus.",
                    {{"kind", kind}})
        .Observe(static_cast<double>(nanos) / 1e9);
    part.meter.Take(answer, clock_->BootMillis());
    component.set_state(answer.state());
    component.set_last_answer_ms(clock_->WallMillis());
    component.clear_poll_error();
    component.set_poll_micros(nanos / 1'000);
    component.clear_problems();
    for (const v1::HealthProblem& problem : answer.problems()) {
      component.add_problems(problem.message());
    }
    component.set_software_version(answer.software_version());
    component.set_uptime_ms(answer.uptime_ms());
    part.mdm_time_error_ms = answer.mdm_time_error_ms();
  } else {
    component.set_poll_error(Why(status, options_.part_timeout_ms));
  }
  if (answered_before != status.ok()) {
    LogInfo(status.ok() ? "a part answers" : "a part does not answer",
            {{"kind", kind},
             {"id", key.second},
             {"name", part.known.name},
             {"error", component.poll_error()}});
  }
  LateUnlessOpen();
}

void Poller::LateUnlessOpen() {
  if (!schedule_.open()) schedule_.LateAnswer();
}

void Poller::ReadMdm() {
  mdm_asked_ = true;
  ++unanswered_;
  reader_->Read([this](const absl::Status& status, MdmView* view) { MdmAnswered(status, view); });
}

void Poller::MdmAnswered(const absl::Status& status, MdmView* view) {
  --unanswered_;
  mdm_asked_ = false;
  if (mdm_answers_ != status.ok()) {
    LogInfo(status.ok() ? "the MDM answers" : "the MDM does not answer",
            {{"address", options_.mdm}, {"error", status}});
  }
  mdm_answers_ = status.ok();
  mdm_error_ = status.ok() ? "" : Why(status, options_.mdm_timeout_ms);
  if (status.ok()) {
    view_ = std::move(*view);
    mdm_answered_ms_ = clock_->WallMillis();
    TakeParts(view_.topology.topology());
  }
  LateUnlessOpen();
}

void Poller::TakeParts(const v1::Topology& topology) {
  const std::vector<KnownPart> before = KnownParts();
  std::set<PartKey> present = {{v1::COMPONENT_KIND_MDM, kMdmId}};
  const auto take = [&](v1::ComponentKind kind, uint64_t id, const auto& from) {
    present.insert({kind, id});
    Part& part = parts_[{kind, id}];
    part.mdm_state = from.state();
    const KnownPart known{kind, id, from.name(), from.endpoints().management()};
    if (part.known == known) return;
    Connect(&part, known);
    if (!schedule_.open()) {
      schedule_.WantEarly();
    } else if (!part.asked) {
      Ask({kind, id}, &part);  // still in this round
    }
  };
  const auto take_servers = [&](const auto& servers) {
    for (const v1::Sds& sds : servers) take(v1::COMPONENT_KIND_SDS, sds.sds_id(), sds);
  };
  for (const auto& domain : topology.protection_domains()) take_servers(domain.sdss());
  take_servers(topology.unassigned_sdss());
  for (const v1::Sdc& sdc : topology.sdcs()) take(v1::COMPONENT_KIND_SDC, sdc.sdc_id(), sdc);
  std::erase_if(parts_, [&](const auto& part) { return !present.contains(part.first); });
  const std::vector<KnownPart> after = KnownParts();
  if (before != after) events_.on_parts(after);
}

void Poller::Connect(Part* part, const KnownPart& known) {
  if (part->known.address != known.address) {
    part->stub.reset();
    part->channel.reset();
    part->connected = false;
    if (!known.address.empty()) {
      part->channel = channels_(known.address);
      part->stub = v1::MonitoringService::NewStub(part->channel);
    }
  }
  part->known = known;
}

std::vector<KnownPart> Poller::KnownParts() const {
  std::vector<KnownPart> known;
  for (const auto& [key, part] : parts_) {
    if (key.first != v1::COMPONENT_KIND_MDM) known.push_back(part.known);
  }
  return known;
}

void Poller::LookAtConnections() {
  for (auto& [key, part] : parts_) {
    if (part.channel == nullptr) continue;
    // One that is silent is connected to again, so that its return is noticed.
    const bool connected = part.channel->GetState(!part.component.answers()) == GRPC_CHANNEL_READY;
    if (connected != part.connected && connected != part.component.answers()) {
      schedule_.WantEarly();
    }
    part.connected = connected;
  }
}

void Poller::OpenWatches(uint64_t now_ms) {
  if (!topology_watch_.open && now_ms >= topology_watch_.again_boot_ms) {
    topology_watch_.open = true;
    calls_.Watch<v1::WatchTopologyResponse>(
        [this](grpc::ClientContext* context, grpc::CompletionQueue* queue) {
          return topology_stub_->PrepareAsyncWatchTopology(context, {}, queue);
        },
        [this](v1::WatchTopologyResponse& message) { TopologyChanged(&message); },
        [this](const absl::Status& status) { WatchEnded(&topology_watch_, status); });
  }
  if (!operation_watch_.open && now_ms >= operation_watch_.again_boot_ms) {
    operation_watch_.open = true;
    calls_.Watch<v1::WatchOperationsResponse>(
        [this](grpc::ClientContext* context, grpc::CompletionQueue* queue) {
          return operation_stub_->PrepareAsyncWatchOperations(context, {}, queue);
        },
        [this](const v1::WatchOperationsResponse& message) { OperationsChanged(message); },
        [this](const absl::Status& status) { WatchEnded(&operation_watch_, status); });
  }
}

void Poller::WatchEnded(Watch* watch, const absl::Status& status) {
  const bool refused = absl::IsUnimplemented(status) || absl::IsPermissionDenied(status) ||
                       absl::IsUnauthenticated(status);
  watch->open = false;
  watch->again_boot_ms = clock_->BootMillis() + (refused ? kWatchRefusedMs : kWatchAgainMs);
  if (mdm_answers_) schedule_.WantEarly();
}

void Poller::TopologyChanged(v1::WatchTopologyResponse* message) {
  // One that was sent before the last reading says nothing new.
  if (message->topology().version() <= view_.topology.topology().version()) return;
  DropVolumes(message->mutable_topology());
  *view_.topology.mutable_topology() = std::move(*message->mutable_topology());
  TakeParts(view_.topology.topology());
  schedule_.WantEarly();
}

void Poller::OperationsChanged(const v1::WatchOperationsResponse& message) {
  for (const v1::Operation& operation : message.operations()) {
    const auto same = [&](const v1::Operation& other) {
      return other.operation_id() == operation.operation_id();
    };
    const auto found = std::find_if(view_.operations.begin(), view_.operations.end(), same);
    const bool known = found != view_.operations.end();
    if (known == HasEnded(operation)) schedule_.WantEarly();  // one that begins, or ends
    if (HasEnded(operation)) {
      if (known) view_.operations.erase(found);
    } else if (known) {
      *found = operation;
    } else {
      view_.operations.push_back(operation);
    }
    events_.on_operation(operation);
  }
}

v1::ComponentState Poller::StateOf(const Part& part) {
  if (part.component.answers()) return part.component.state();
  if (part.component.last_answer_ms() == 0 && part.component.poll_error().empty()) {
    return part.mdm_state;  // not asked yet
  }
  const bool worse =
      part.mdm_state == v1::COMPONENT_STATE_OFFLINE || part.mdm_state == v1::COMPONENT_STATE_FAILED;
  return worse ? part.mdm_state : v1::COMPONENT_STATE_STALE;
}

void Poller::AddParts(ClusterSnapshot* snapshot) {
  for (const auto& [key, part] : parts_) {
    PolledPart polled;
    polled.component = part.component;
    polled.component.set_kind(part.known.kind);
    polled.component.set_component_id(part.known.component_id);
    polled.component.set_name(part.known.name);
    polled.component.set_address(part.known.address);
    polled.component.set_state(StateOf(part));
    polled.figures = part.meter.figures();
    polled.mdm_time_error_ms = part.mdm_time_error_ms;
    snapshot->parts.push_back(std::move(polled));
    if (!part.component.answers()) continue;
    for (const auto& [volume_id, rates] : part.meter.volumes()) {
      std::array<double, kVolumeSeries>& sums = snapshot->volume_rates[volume_id];
      for (size_t i = 0; i < kVolumeSeries; ++i) sums[i] += rates[i];
    }
  }
  v1::GetStatusResponse answer;
  events_.describe_self(&answer);
  self_.meter.Take(answer, clock_->BootMillis());
  PolledPart polled;
  polled.component.set_kind(v1::COMPONENT_KIND_MGMT);
  polled.component.set_component_id(answer.component_id());
  polled.component.set_name(answer.name());
  polled.component.set_address(options_.self_address);
  polled.component.set_state(answer.state());
  polled.component.set_answers(true);
  polled.component.set_last_answer_ms(clock_->WallMillis());
  polled.component.set_software_version(answer.software_version());
  polled.component.set_uptime_ms(answer.uptime_ms());
  polled.figures = self_.meter.figures();
  snapshot->parts.push_back(std::move(polled));
}

void Poller::Tell(uint64_t now_ms) {
  if (schedule_.open()) {
    round_seconds_->Observe(static_cast<double>(now_ms - schedule_.begun_ms()) / 1e3);
  }
  schedule_.Told(now_ms);
  auto snapshot = std::make_shared<ClusterSnapshot>();
  snapshot->time_ms = clock_->WallMillis();
  snapshot->mdm_answers = mdm_answers_;
  snapshot->mdm_answered_ms = mdm_answered_ms_;
  snapshot->mdm_error = mdm_error_;
  snapshot->topology = view_.topology;
  snapshot->health = view_.health;
  snapshot->volume_health = view_.volume_health;
  snapshot->volumes = view_.volumes;
  snapshot->operations = view_.operations;
  snapshot->schedules = view_.schedules;
  snapshot->certificate_expiry_ms = events_.certificate_expiry_ms();
  AddParts(snapshot.get());
  Distribution reads;
  Distribution writes;
  for (const auto& [key, part] : parts_) {
    if (key.first != v1::COMPONENT_KIND_SDC || !part.component.answers()) continue;
    if (const Distribution* of_part = part.meter.observed(kClientReads)) reads.Add(*of_part);
    if (const Distribution* of_part = part.meter.observed(kClientWrites)) writes.Add(*of_part);
  }
  snapshot->figures = SumUp(*snapshot, reads, writes);
  events_.on_snapshot(std::move(snapshot));
}

}  // namespace tessera::mgmt
