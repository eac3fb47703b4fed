#include "services/mgmt/monitor/monitor.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <set>
#include <thread>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/mgmt/monitor/cluster_figures.h"
#include "services/mgmt/monitor/console_hub.h"
#include "services/mgmt/monitor/console_service.h"
#include "services/mgmt/monitor/history_store.h"
#include "services/mgmt/monitor/mgmt_health.h"
#include "services/mgmt/monitor/monitoring_service.h"
#include "services/mgmt/monitor/overview.h"
#include "services/mgmt/monitor/part_table.h"
#include "services/mgmt/monitor/poller.h"

namespace tessera::mgmt {
namespace {

constexpr uint64_t kPollIntervalMinMs = 100;
constexpr uint64_t kDatabaseLimitMinBytes = 16 << 20;
constexpr uint64_t kPartTimeoutMs = 3'000;
// Alerts and operations that a new watcher is told of, each.
constexpr size_t kFirstMax = 100;

// Of the bytes, with maps in one order.
uint64_t Fingerprint(const google::protobuf::Message& message, uint64_t seed,
                     std::string* scratch) {
  scratch->clear();
  {
    google::protobuf::io::StringOutputStream bytes(scratch);
    google::protobuf::io::CodedOutputStream coded(&bytes);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return absl::HashOf(seed, *scratch);
}

uint64_t FingerprintOf(const std::vector<v1::Volume>& volumes) {
  uint64_t fingerprint = volumes.size();
  std::string scratch;
  for (const v1::Volume& volume : volumes) fingerprint = Fingerprint(volume, fingerprint, &scratch);
  return fingerprint;
}

}  // namespace

struct Monitor::Parts {
  Parts(MonitorOptions given_options, MonitorHooks given_hooks, MgmtDb* given_db,
        const Clock* given_clock, MetricRegistry* metrics)
      : options(std::move(given_options)),
        hooks(std::move(given_hooks)),
        db(given_db),
        clock(given_clock),
        health(clock),
        self(options.name, &health, clock, metrics),
        hub(clock, metrics, hooks.credential_good),
        database_bytes(&metrics->Gauge("tessera_mgmt_database_bytes", "Size of mgmt.db.")),
        series(&metrics->Gauge("tessera_mgmt_history_series", "Series with a history.")),
        history_failures(&metrics->Counter("tessera_mgmt_history_write_failures_total",
                                           "Times that history could not be written.")) {}

  [[nodiscard]] PollerEvents Events();
  void TakeSnapshot(std::shared_ptr<const ClusterSnapshot> snapshot);
  void TellObjects(const ClusterSnapshot& before, const ClusterSnapshot& now);
  void TellOperation(const v1::Operation& operation);
  [[nodiscard]] std::vector<v1::Alert> Alerts() const {
    return hooks.active_alerts ? hooks.active_alerts() : std::vector<v1::Alert>();
  }
  [[nodiscard]] std::shared_ptr<const ClusterSnapshot> Latest() const {
    absl::MutexLock lock(&mutex);
    return latest;
  }
  [[nodiscard]] v1::GetOverviewResponse Overview() const {
    return MakeOverview(*Latest(), Alerts(), clock->WallMillis());
  }
  [[nodiscard]] std::vector<v1::WatchConsoleResponse> FirstState(
      const std::set<v1::ConsoleTopic>& topics) const;
  [[nodiscard]] v1::WatchConsoleResponse NewMessage() const {
    v1::WatchConsoleResponse message;
    message.set_time_ms(clock->WallMillis());
    return message;
  }

  const MonitorOptions options;
  const MonitorHooks hooks;
  MgmtDb* const db;
  const Clock* const clock;
  MgmtHealth health;
  SelfDescription self;
  ConsoleHub hub;
  prometheus::Gauge* const database_bytes;
  prometheus::Gauge* const series;
  prometheus::Counter* const history_failures;
  std::unique_ptr<HistoryStore> history;
  std::unique_ptr<Poller> poller;
  std::unique_ptr<ConsoleService> console;
  std::unique_ptr<MonitoringService> monitoring;
  std::vector<Listener> listeners;
  std::thread thread;
  bool stopped = false;

  // The poller's thread alone.
  uint64_t volumes_fingerprint = 0;
  std::map<uint64_t, v1::Operation> operations_told;

  mutable absl::Mutex mutex;
  // Shared with those who read it while the next one comes.
  std::shared_ptr<const ClusterSnapshot> latest ABSL_GUARDED_BY(mutex) =
      std::make_shared<ClusterSnapshot>();
};

PollerEvents Monitor::Parts::Events() {
  PollerEvents events;
  events.on_snapshot = [this](std::shared_ptr<const ClusterSnapshot> snapshot) {
    TakeSnapshot(std::move(snapshot));
  };
  events.on_operation = [this](const v1::Operation& operation) { TellOperation(operation); };
  events.on_parts = [this](const std::vector<KnownPart>& known) {
    const absl::Status status = SaveParts(db, known);
    if (!status.ok()) LogWarning("the known parts could not be saved", {{"error", status}});
  };
  events.on_tick = [this] { hub.Tick(); };
  events.describe_self = [this](v1::GetStatusResponse* answer) { self.Describe(answer); };
  events.certificate_expiry_ms = [this] {
    return hooks.certificate_expiry_ms ? hooks.certificate_expiry_ms()
                                       : std::map<std::string, uint64_t>();
  };
  return events;
}

void Monitor::Parts::TakeSnapshot(std::shared_ptr<const ClusterSnapshot> snapshot) {
  const std::shared_ptr<const ClusterSnapshot> before = Latest();
  health.Set("mdm_unreachable", snapshot->mdm_answers
                                    ? ""
                                    : absl::StrCat("the MDM at ", options.mdm,
                                                   " does not answer: ", snapshot->mdm_error));
  {
    absl::MutexLock lock(&mutex);
    latest = snapshot;
  }
  const absl::Status written = history->Record(SamplesOf(*snapshot));
  health.Set("history_not_written", written.ok() ? "" : std::string(written.message()));
  if (!written.ok()) {
    history_failures->Increment();
    LogWarning("history could not be written", {{"error", written}});
  }
  database_bytes->Set(static_cast<double>(history->database_bytes()));
  series->Set(static_cast<double>(history->series()));
  // Rules first: what they raise is in the overview that is told.
  for (const Listener& listener : listeners) listener(*snapshot);
  TellObjects(*before, *snapshot);
  std::set<uint64_t> running;
  for (const v1::Operation& operation : snapshot->operations) {
    running.insert(operation.operation_id());
    TellOperation(operation);
  }
  std::erase_if(operations_told, [&](const auto& told) { return !running.contains(told.first); });
  v1::WatchConsoleResponse message = NewMessage();
  *message.mutable_overview() = Overview();
  hub.Publish(message);
}

void Monitor::Parts::TellObjects(const ClusterSnapshot& before, const ClusterSnapshot& now) {
  const uint64_t fingerprint = FingerprintOf(now.volumes);
  const bool volumes = fingerprint != volumes_fingerprint;
  volumes_fingerprint = fingerprint;
  // The tree's version counts changes of volumes, too: it can't say which of both.
  const bool topology = before.topology.topology().version() != now.topology.topology().version();
  if (!volumes && !topology) return;
  v1::WatchConsoleResponse message = NewMessage();
  message.mutable_objects()->set_topology(topology);
  message.mutable_objects()->set_volumes(volumes || topology);
  hub.Publish(message);
}

void Monitor::Parts::TellOperation(const v1::Operation& operation) {
  v1::Operation& told = operations_told[operation.operation_id()];
  if (told.SerializeAsString() == operation.SerializeAsString()) return;
  told = operation;
  v1::WatchConsoleResponse message = NewMessage();
  *message.mutable_operation() = operation;
  hub.Publish(message);
}

std::vector<v1::WatchConsoleResponse> Monitor::Parts::FirstState(
    const std::set<v1::ConsoleTopic>& topics) const {
  std::vector<v1::WatchConsoleResponse> messages;
  if (topics.contains(v1::CONSOLE_TOPIC_OVERVIEW)) {
    *messages.emplace_back(NewMessage()).mutable_overview() = Overview();
  }
  if (topics.contains(v1::CONSOLE_TOPIC_ALERTS)) {
    std::vector<v1::Alert> alerts = Alerts();
    if (alerts.size() > kFirstMax) alerts.resize(kFirstMax);
    for (v1::Alert& alert : alerts) {
      *messages.emplace_back(NewMessage()).mutable_alert() = std::move(alert);
    }
  }
  if (topics.contains(v1::CONSOLE_TOPIC_OPERATIONS)) {
    size_t count = 0;
    for (const v1::Operation& operation : Latest()->operations) {
      if (++count > kFirstMax) break;
      *messages.emplace_back(NewMessage()).mutable_operation() = operation;
    }
  }
  return messages;
}

Monitor::Monitor(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Monitor::~Monitor() { Stop(); }

absl::StatusOr<std::unique_ptr<Monitor>> Monitor::Create(
    MonitorOptions options, MonitorHooks hooks, MgmtDb* db, const Clock* clock,
    MetricRegistry* metrics, std::shared_ptr<grpc::ChannelCredentials> credentials) {
  const auto interval_ms = static_cast<uint64_t>(options.poll_interval.count());
  if (options.poll_interval.count() < static_cast<int64_t>(kPollIntervalMinMs)) {
    return InvalidField("poll_interval", absl::StrCat("is ", options.poll_interval.count(),
                                                      " ms: ", kPollIntervalMinMs, " or more"));
  }
  if (options.database_limit_bytes < kDatabaseLimitMinBytes) {
    return InvalidField("database_limit",
                        absl::StrCat("is ", options.database_limit_bytes,
                                     " bytes: ", kDatabaseLimitMinBytes, " or more"));
  }
  auto parts = std::make_unique<Parts>(std::move(options), std::move(hooks), db, clock, metrics);
  HistoryOptions history;
  history.limit_bytes = parts->options.database_limit_bytes;
  TESSERA_ASSIGN_OR_RETURN(parts->history, HistoryStore::Open(db, clock, history));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<KnownPart> known, LoadParts(db));
  PollerOptions polls;
  polls.mdm = parts->options.mdm;
  polls.self_address = parts->options.address;
  polls.interval_ms = interval_ms;
  polls.part_timeout_ms = kPartTimeoutMs;
  parts->poller = std::make_unique<Poller>(
      polls, known,
      [credentials](const std::string& address) { return NewChannel(address, credentials); }, clock,
      metrics, parts->Events());
  return std::unique_ptr<Monitor>(new Monitor(std::move(parts)));
}

void Monitor::AddListener(Listener listener) { parts_->listeners.push_back(std::move(listener)); }

void Monitor::OnAlert(const v1::Alert& alert) {
  v1::WatchConsoleResponse message = parts_->NewMessage();
  *message.mutable_alert() = alert;
  parts_->hub.Publish(message);
}

std::vector<grpc::Service*> Monitor::MakeServices(RpcDispatcher* rpc) {
  ConsoleService::Sources sources;
  sources.overview = [parts = parts_.get()] { return parts->Overview(); };
  sources.first_state = [parts = parts_.get()](const std::set<v1::ConsoleTopic>& topics) {
    return parts->FirstState(topics);
  };
  sources.settings = parts_->options.settings;
  parts_->console = std::make_unique<ConsoleService>(std::move(sources), &parts_->hub,
                                                     parts_->history.get(), rpc);
  parts_->monitoring = std::make_unique<MonitoringService>(&parts_->self, rpc);
  return {parts_->console.get(), parts_->monitoring.get()};
}

void Monitor::Start() {
  parts_->thread = std::thread([parts = parts_.get()] { parts->poller->Run(); });
}

void Monitor::Stop() {
  if (parts_->stopped) return;
  parts_->stopped = true;
  parts_->poller->Stop();
  if (parts_->thread.joinable()) parts_->thread.join();
  parts_->hub.Close();
  const absl::Status status = parts_->history->Flush();
  if (!status.ok()) LogWarning("history could not be written at the end", {{"error", status}});
}

}  // namespace tessera::mgmt
