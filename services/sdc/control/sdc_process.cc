#include "services/sdc/control/sdc_process.h"

#include <sys/stat.h>

#include <charconv>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/common/certificate_gauge.h"
#include "services/common/http_server.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"
#include "services/common/thread_priority.h"
#include "services/common/tls.h"
#include "services/sdc/cache/cache_folder.h"
#include "services/sdc/cache/file_store.h"
#include "services/sdc/control/attachments.h"
#include "services/sdc/control/loop_call.h"
#include "services/sdc/control/mdm_authenticator.h"
#include "services/sdc/control/mdm_link.h"
#include "services/sdc/control/monitoring_service.h"
#include "services/sdc/control/sdc_control_service.h"
#include "services/sdc/control/sdc_metrics.h"
#include "services/sdc/forward/forward_service.h"
#include "services/sdc/forward/shared_volumes.h"
#include "services/sdc/nbd/nbd_server.h"
#include "services/sdc/nbd/tls.h"
#include "services/sdc/resume/resume_file.h"

namespace tessera::sdc {
namespace {

constexpr mode_t kSocketMode = 0660;
constexpr std::chrono::milliseconds kGoodbye{1'000};

struct HostPort {
  std::string host;
  uint16_t port = 0;
};

absl::StatusOr<HostPort> ParseHostPort(const std::string& flag, const std::string& address) {
  const size_t colon = address.rfind(':');
  HostPort parsed;
  if (colon != std::string::npos) {
    parsed.host = address.substr(0, colon);
    const char* begin = address.data() + colon + 1;
    const char* end = address.data() + address.size();
    const auto [last, error] = std::from_chars(begin, end, parsed.port);
    if (error == std::errc() && last == end && begin != end) return parsed;
  }
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is '", address, "': it should be host:port, such as 127.0.0.1:8005"));
}

// `address` as others reach it.
std::string Advertise(const std::string& address, const std::string& advertised_host) {
  if (advertised_host.empty()) return address;
  return absl::StrCat(advertised_host, address.substr(address.rfind(':')));
}

class Process final : public SdcProcess {
 public:
  explicit Process(SdcOptions options) : options_(std::move(options)), health_log_(clock_) {}
  ~Process() override { Stop(); }

  absl::Status Init() {
    TESSERA_RETURN_IF_ERROR(CheckOptions(options_));
    TESSERA_RETURN_IF_ERROR(PrepareStateFolder(options_.state_folder));
    TESSERA_ASSIGN_OR_RETURN(const auto to_mdm, options_.security.ForClient({kRoleMdm}));
    TESSERA_ASSIGN_OR_RETURN(const auto to_sds, options_.security.ForClient({kRoleSds}));
    TESSERA_ASSIGN_OR_RETURN(const auto to_sdc, options_.security.ForClient({kRoleSdc}));
    if (!options_.cache_folder.empty()) {
      TESSERA_ASSIGN_OR_RETURN(cache_folder_,
                               CacheFolder::Lock(options_.cache_folder, options_.cache_bytes));
    }
    // From here to the resume file nothing may fail: only the start after the last one gets it.
    TESSERA_ASSIGN_OR_RETURN(state_, LocalState::Open(options_.state_folder, options_.name));

    EngineOptions engine;
    engine.own_host_id = options_.host_id.empty() ? HostId() : options_.host_id;
    engine.replica_timeout = options_.replica_timeout;
    engine.full_wait = options_.full_wait;
    engine.unflushed_bytes = options_.unflushed_bytes;
    engine.flush_timeout = options_.flush_timeout;
    engine.io_timeout = options_.io_timeout;
    engine.ignore_limits = options_.ignore_limits;
    engine_ =
        std::make_unique<IoEngine>(loop_, engine, options_.security.insecure ? nullptr : to_sds);
    volumes_ = std::make_unique<SharedVolumes>(*engine_);
    streams_ = std::make_unique<ForwardStreams>(loop_, to_sdc);
    ResumedState left = OpenResumeTable();
    if (cache_folder_ != nullptr) OpenReadCache();
    TESSERA_RETURN_IF_ERROR(ListenNbd());

    mdm_ = std::make_unique<MdmClient>(loop_, options_.mdm_address, to_mdm);
    attachments_ = std::make_unique<Attachments>(
        loop_, *engine_, *volumes_, *streams_, *mdm_, *state_, health_log_,
        [this](const BlockDevice& device) { nbd_->CloseExport(device); });
    TESSERA_RETURN_IF_ERROR(StartServers(engine.own_host_id));
    const auto resumed = engine_->Resume(left, state_->identity().sdc_id);
    left = ResumedState();
    if (read_cache_ != nullptr) read_cache_->DropRestored();
    attachments_->Resume(resumed);
    if (!resumed.empty()) ready_ = true;
    TESSERA_RETURN_IF_ERROR(WriteEndpointsFile(options_.state_folder, endpoints_));

    loop_thread_ = std::thread([this] {
      PreferShortSlices();
      loop_.Run();
    });
    loop_.Post([this] { link_->Start(); });
    return absl::OkStatus();
  }

  std::string NotReadyReason() const override {
    return ready_.load() ? "" : "not registered with the MDM yet";
  }

  void Stop() override {
    if (std::exchange(stopped_, true)) return;
    const bool in_order = loop_thread_.joinable();
    if (in_order) {
      StopListening();
      EndConnections();
      // The next start goes on, also with what is dropped below.
      (void)AskLoop<bool>(loop_, kGoodbye, [this](auto answer) {
        engine_->KeepRecords();
        answer(true);
      });
      for (const bool drop : {false, true}) {
        const auto detached = AskLoop<absl::Status>(
            loop_, options_.stop_timeout,
            [this, drop](auto answer) { attachments_->DetachAll(drop, std::move(answer)); });
        if (detached.ok()) break;
        LogWarning("IO in flight is dropped: it did not finish in time");
      }
      (void)AskLoop<bool>(loop_, kGoodbye, [this](auto answer) {
        link_->Leave([answer = std::move(answer)]() mutable { answer(true); });
      });
      loop_.Stop();
      loop_thread_.join();
    }
    metrics_server_.reset();
    if (forward_ != nullptr) forward_->Stop();
    control_server_.reset();
    management_server_.reset();
    if (rpc_ != nullptr) rpc_->Shutdown();
    // In order of use: who uses goes before who is used.
    monitoring_.reset();
    control_.reset();
    forward_.reset();
    nbd_.reset();
    mdm_.reset();
    link_.reset();
    // Volumes first, which may ask it.
    if (attachments_ != nullptr) attachments_->Forget();
    volumes_.reset();
    streams_.reset();
    attachments_.reset();
    engine_.reset();
    if (in_order) SaveReadCache();
    read_cache_.reset();
    cache_file_.reset();
    cache_folder_.reset();
    if (table_ != nullptr) table_->Trim();
    table_.reset();
  }

 private:
  // Without it everything works but a restart while the MDM is away.
  ResumedState OpenResumeTable() {
    ResumedState left;
    if (options_.resume_folder.empty()) return left;
    const std::string& uuid = state_->identity().node_uuid;
    const std::string path = absl::StrCat(options_.resume_folder, "/tessera-sdc-", uuid, ".resume");
    auto table = OpenResumeFile(path, {BootId(), uuid, state_->identity().incarnation},
                                ResumeGeometry::For(options_.unflushed_bytes), &left);
    if (!table.ok()) {
      LogWarning("no resume file: a restart will need the MDM", {{"why", table.status()}});
      return ResumedState();
    }
    endpoints_["resume"] = path;
    table_ = *std::move(table);
    engine_->SetResumeTable(table_.get());
    return left;
  }

  // Without it everything works, only slower.
  void OpenReadCache() {
    const auto slots = static_cast<uint32_t>(options_.cache_bytes / kCacheLineBytes);
    absl::StatusOr<SavedCache> saved =
        cache_folder_->Load({state_->identity().node_uuid, state_->identity().incarnation}, slots);
    absl::Status status = saved.status();
    if (status.ok()) {
      auto file =
          FileStore::Open(loop_, cache_folder_->file_path(), uint64_t{slots} * kCacheLineBytes);
      if (file.ok()) cache_file_ = *std::move(file);
      status = file.status();
    }
    if (!status.ok()) {
      LogError("no read cache", {{"folder", cache_folder_->path()}, {"why", status}});
      health_log_.Add(v1::EVENT_SEVERITY_ERROR, "read_cache_missing",
                      absl::StrCat("no read cache: ", std::string(status.message())));
      return;
    }
    ReadCacheOptions cache;
    cache.folder = cache_folder_->path();
    cache.slots = slots;
    read_cache_ = std::make_unique<ReadCache>(
        cache, *cache_file_, [this] { return static_cast<uint64_t>(loop_.Now().count()); },
        [this](const std::string& why) {
          if (why.empty()) {
            health_log_.Add(v1::EVENT_SEVERITY_INFO, "read_cache_used_again", "after a rest");
          } else {
            health_log_.Add(v1::EVENT_SEVERITY_WARNING, "read_cache_rests", why);
          }
        });
    read_cache_->Restore(*saved);
    engine_->SetReadCache(read_cache_.get());
  }

  // What is in it is good for the next life, if that goes on with the volumes.
  void SaveReadCache() {
    if (read_cache_ == nullptr) return;
    const SavedCache saved = read_cache_->Save();
    cache_file_->Close();
    const absl::Status status = cache_folder_->Save(saved);
    if (!status.ok()) LogWarning("the next start begins with an empty cache", {{"why", status}});
  }

  absl::Status ListenNbd() {
    options_.nbd.log = [](std::string_view event) { LogDebug("nbd", {{"event", event}}); };
    TESSERA_ASSIGN_OR_RETURN(nbd_, NbdServer::Create(loop_, *volumes_, options_.nbd));
    if (!options_.nbd_listen.empty()) {
      TESSERA_ASSIGN_OR_RETURN(const HostPort listen,
                               ParseHostPort("--nbd-listen", options_.nbd_listen));
      TESSERA_ASSIGN_OR_RETURN(const uint16_t port, nbd_->ListenTcp(listen.host, listen.port));
      const std::string address = absl::StrCat(listen.host, ":", port);
      endpoints_["nbd"] = address;
      const bool tls = options_.nbd.tls_mode == TlsMode::kRequired;
      nbd_uris_.push_back(
          absl::StrCat(tls ? "nbds://" : "nbd://", Advertise(address, options_.advertised_host)));
    }
    if (options_.nbd_socket != "none") {
      const std::string path =
          options_.nbd_socket.empty() ? options_.state_folder + "/nbd.sock" : options_.nbd_socket;
      TESSERA_RETURN_IF_ERROR(nbd_->ListenUnix(path, kSocketMode));
      endpoints_["nbd_unix"] = path;
      nbd_uris_.push_back(absl::StrCat("nbd+unix:///?socket=", path));
    }
    return absl::OkStatus();
  }

  absl::Status StartServers(const std::string& host_id) {
    auto mdm_authenticator = std::make_shared<MdmAuthenticator>();
    mdm_authenticator_ = mdm_authenticator;
    mdm_authenticator->SetIdentity(state_->identity().sdc_id, state_->identity().node_secret);
    std::shared_ptr<const Authenticator> authenticator = mdm_authenticator;
    if (options_.security.insecure) {
      authenticator = std::make_shared<InsecureAuthenticator>(mdm_authenticator);
    }
    RpcDispatcherOptions rpc;
    rpc.services = {"tessera.v1.SdcControlService", "tessera.v1.MonitoringService"};
    TESSERA_ASSIGN_OR_RETURN(rpc_, RpcDispatcher::Create(rpc, authenticator, &registry_));

    control_ = std::make_unique<SdcControlServiceImpl>(*rpc_, loop_, *engine_, *volumes_,
                                                       *attachments_, *mdm_, *nbd_, nbd_uris_);
    forward_ = std::make_unique<ForwardService>(
        loop_, *volumes_,
        [this] {
          const LocalIdentity& identity = state_->identity();
          const MdmTimeEstimator::Estimate now = link_->mdm_time().Now();
          return ForwardIdentity{identity.sdc_id, identity.node_secret,
                                 now.known ? now.earliest_ms : 0};
        },
        [this](uint64_t volume_id) { attachments_->MeantToWrite(volume_id); });
    GrpcServerOptions server;
    server.security = options_.security;
    server.listen = {options_.control_listen};
    TESSERA_ASSIGN_OR_RETURN(control_server_,
                             GrpcServer::Start(server, {control_.get(), forward_.get()}));
    endpoints_["control"] = control_server_->addresses()[0];

    // The link needs the addresses, and monitoring the link: its own address is told after it is
    // known.
    AddCertificateGauge(&registry_, "node", options_.security.certificate_file);
    HttpServerOptions http;
    http.listen = options_.metrics_listen;
    TESSERA_ASSIGN_OR_RETURN(
        metrics_server_,
        HttpServer::Start(http, MetricsHandler(&registry_, [this] { return NotReadyReason(); })));
    endpoints_["metrics"] = metrics_server_->address();
    monitoring_ = std::make_unique<MonitoringServiceImpl>(MakeMonitoringParts(host_id));
    server.listen = {options_.management_listen};
    TESSERA_ASSIGN_OR_RETURN(management_server_, GrpcServer::Start(server, {monitoring_.get()}));
    endpoints_["management"] = management_server_->addresses()[0];
    link_->SetManagementAddress(Advertise(endpoints_["management"], options_.advertised_host));
    return absl::OkStatus();
  }

  MonitoringServiceImpl::Parts MakeMonitoringParts(const std::string& host_id) {
    MdmLink::Options link;
    link.join_token = options_.join_token;
    link.endpoints.set_host_id(host_id);
    link.endpoints.set_control(Advertise(endpoints_["control"], options_.advertised_host));
    link.endpoints.set_metrics(Advertise(endpoints_["metrics"], options_.advertised_host));
    link.nbd_uris = nbd_uris_;
    link.superseded = options_.superseded;
    link.registered = [this](const LocalIdentity& identity) {
      mdm_authenticator_->SetIdentity(identity.sdc_id, identity.node_secret);
      ready_ = true;
    };
    link_ = std::make_unique<MdmLink>(loop_, clock_, *engine_, *mdm_, *attachments_, *state_,
                                      health_log_, std::move(link));
    engine_->SetLink(link_.get());
    metrics_ = std::make_unique<SdcMetrics>(registry_, loop_, clock_, *engine_, *attachments_,
                                            *link_, *nbd_);
    MonitoringServiceImpl::Parts parts;
    parts.rpc = rpc_.get();
    parts.loop = &loop_;
    parts.clock = &clock_;
    parts.metrics = &registry_;
    parts.health_log = &health_log_;
    parts.link = link_.get();
    parts.engine = engine_.get();
    parts.state = state_.get();
    return parts;
  }

  // Applications that connect again go on as after a pause: nothing is answered with an error.
  void EndConnections() {
    const auto drained = AskLoop<bool>(loop_, options_.stop_timeout, [this](auto answer) {
      nbd_->Drain([answer = std::move(answer)]() mutable { answer(true); });
    });
    if (drained.ok()) return;
    LogWarning("IO in flight is not answered: it did not finish in time");
    (void)AskLoop<bool>(loop_, kGoodbye, [this](auto answer) {
      nbd_->Drop();
      answer(true);
    });
  }

  void StopListening() {
    (void)AskLoop<bool>(loop_, kGoodbye, [this](auto answer) {
      nbd_->StopListening();
      answer(true);
    });
  }

  SdcOptions options_;
  const SystemClock clock_;
  MetricRegistry registry_{"sdc"};
  HealthLog health_log_;
  std::atomic<bool> ready_{false};
  std::unique_ptr<LocalState> state_;   // loop thread, once it runs
  std::unique_ptr<ResumeTable> table_;  // loop thread, once it runs
  EventLoop loop_;
  std::unique_ptr<CacheFolder> cache_folder_;
  std::unique_ptr<FileStore> cache_file_;
  std::unique_ptr<ReadCache> read_cache_;
  std::unique_ptr<IoEngine> engine_;
  std::unique_ptr<SharedVolumes> volumes_;
  std::unique_ptr<ForwardStreams> streams_;
  std::unique_ptr<NbdServer> nbd_;
  std::unique_ptr<MdmClient> mdm_;
  std::unique_ptr<Attachments> attachments_;
  std::unique_ptr<MdmLink> link_;
  std::shared_ptr<MdmAuthenticator> mdm_authenticator_;  // shared with the dispatcher
  std::unique_ptr<SdcMetrics> metrics_;
  std::unique_ptr<RpcDispatcher> rpc_;
  std::unique_ptr<SdcControlServiceImpl> control_;
  std::unique_ptr<ForwardService> forward_;
  std::unique_ptr<MonitoringServiceImpl> monitoring_;
  std::unique_ptr<GrpcServer> control_server_;
  std::unique_ptr<GrpcServer> management_server_;
  std::unique_ptr<HttpServer> metrics_server_;
  std::vector<std::string> nbd_uris_;
  std::map<std::string, std::string> endpoints_;
  std::thread loop_thread_;
  bool stopped_ = false;
};

}  // namespace

absl::Status CheckOptions(const SdcOptions& options) {
  const bool nbd_is_secret = options.nbd.tls_mode == TlsMode::kRequired;
  TESSERA_RETURN_IF_ERROR(
      options.security.Check({options.control_listen, options.management_listen,
                              options.metrics_listen, nbd_is_secret ? "" : options.nbd_listen}));
  if (options.nbd.tls_mode != TlsMode::kOff) {
    TESSERA_RETURN_IF_ERROR(nbd::TlsContext::Create(options.nbd.tls_files).status());
  }
  return options.security.ForServer().status();
}

absl::StatusOr<std::unique_ptr<SdcProcess>> SdcProcess::Start(SdcOptions options) {
  auto process = std::make_unique<Process>(std::move(options));
  TESSERA_RETURN_IF_ERROR(process->Init());
  return process;
}

}  // namespace tessera::sdc
