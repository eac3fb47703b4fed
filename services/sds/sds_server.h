// A whole storage data server: the composition root, used by main and by tests.
//
// Start order: local state, devices, engine, listeners, then the MDM; nothing is served before a
// key is known, and keys come with the registration.
//
// Threads: Start and Stop from one.
#ifndef TESSERA_SERVICES_SDS_SDS_SERVER_H_
#define TESSERA_SERVICES_SDS_SDS_SERVER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/common/grpc_server.h"
#include "services/common/http_server.h"
#include "services/common/metrics.h"
#include "services/common/rpc.h"
#include "services/sds/block_repairer.h"
#include "services/sds/chunk_service.h"
#include "services/sds/cluster_copy.h"
#include "services/sds/device.h"
#include "services/sds/engine_context.h"
#include "services/sds/health_board.h"
#include "services/sds/io_budget.h"
#include "services/sds/io_engine.h"
#include "services/sds/janitor.h"
#include "services/sds/learner.h"
#include "services/sds/local_state.h"
#include "services/sds/mdm_link.h"
#include "services/sds/monitoring_service.h"
#include "services/sds/record_keeper.h"
#include "services/sds/replica_peers.h"
#include "services/sds/replica_service.h"
#include "services/sds/scrubber.h"
#include "services/sds/sds_control_service.h"
#include "services/sds/sds_options.h"

namespace tessera::sds {

class SdsServer final : public IntegrityObserver {
 public:
  // `opener` makes the devices' stores. `clock` must outlive the server. `on_superseded`: see
  // MdmLink.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<SdsServer>> Start(
      const SdsOptions& options, const Clock* clock, StoreOpener opener,
      std::function<void()> on_superseded);
  ~SdsServer() override { Stop(); }

  // Ends streams, says goodbye, closes the stores cleanly. Idempotent.
  void Stop();

  [[nodiscard]] const v1::Endpoints& endpoints() const { return endpoints_; }
  [[nodiscard]] bool registered() const { return link_->registered(); }
  // Empty: it serves, and what it holds is up to date (see PlacementTable::BehindCount), so that
  // another server may be stopped.
  [[nodiscard]] std::string NotReadyReason() const;
  [[nodiscard]] uint64_t sds_id() const { return sds_id_; }
  [[nodiscard]] IoEngine* engine() { return engine_.get(); }
  [[nodiscard]] MetricRegistry* registry() { return &registry_; }
  [[nodiscard]] SdsMetrics* metrics() { return &metrics_; }
  [[nodiscard]] const EngineContext& context() const { return context_; }
  // IntegrityObserver.
  void FillHeartbeat(v1::HeartbeatRequest* request) override;
  void OnHeartbeatAnswered(const v1::HeartbeatRequest& request,
                           const v1::HeartbeatResponse& response) override;

 private:
  SdsServer(SdsOptions options, const Clock* clock);
  [[nodiscard]] absl::Status OpenState(StoreOpener opener);
  [[nodiscard]] absl::Status StartEngine();
  [[nodiscard]] absl::Status StartListeners();
  [[nodiscard]] absl::Status StartLink(std::function<void()> on_superseded);
  [[nodiscard]] absl::Status RestoreMap();
  [[nodiscard]] absl::Status RestoreMdmContact();
  void StartIntegrity();
  void CollectGauges();
  void CollectClock();
  void CollectDevice(const DeviceWorker& worker);
  [[nodiscard]] v1::SdsHello Hello() const;
  [[nodiscard]] std::shared_ptr<v1::ReplicaService::StubInterface> ConnectToSource(
      const v1::SdsAddress& source);

  const SdsOptions options_;
  const Clock* const clock_;
  MetricRegistry registry_{"sds"};
  SdsMetrics metrics_{&registry_};
  std::atomic<uint64_t> sds_id_{0};
  KeyStore keys_;
  MdmClock mdm_clock_;
  ReplayWindows windows_;
  ClientLimits limits_;
  DeletedVtrees deleted_vtrees_;
  IoBudget budget_;
  std::unique_ptr<LocalState> state_;
  std::unique_ptr<VolumeTable> volumes_;
  std::unique_ptr<PlacementTable> placements_;
  std::unique_ptr<UnservedWrites> unserved_;
  RecoveryPacer pacer_;
  std::unique_ptr<TokenAccounting> accounting_;
  std::unique_ptr<HealthBoard> health_;
  std::vector<std::unique_ptr<Device>> devices_;
  EngineContext context_;
  std::unique_ptr<IoEngine> engine_;
  std::unique_ptr<Janitor> janitor_;
  std::unique_ptr<RecordKeeper> records_;
  std::unique_ptr<ClusterCopy> copy_;
  std::unique_ptr<RpcDispatcher> rpc_;
  std::unique_ptr<ChunkServiceImpl> chunk_service_;
  std::unique_ptr<ReplicaServiceImpl> replica_service_;
  std::unique_ptr<SdsControlServiceImpl> control_service_;
  std::unique_ptr<MonitoringServiceImpl> monitoring_service_;
  std::unique_ptr<GrpcServer> data_server_;
  std::unique_ptr<GrpcServer> control_server_;
  std::unique_ptr<GrpcServer> management_server_;
  std::unique_ptr<HttpServer> http_server_;
  v1::Endpoints endpoints_;
  std::unique_ptr<MdmLink> link_;
  std::unique_ptr<Learner> learner_;
  std::atomic<Learner*> learner_ready_{nullptr};
  std::unique_ptr<ReplicaPeers> peers_;
  std::unique_ptr<BlockRepairer> repairer_;
  std::atomic<BlockRepairer*> repairer_ready_{nullptr};
  std::unique_ptr<Scrubber> scrubber_;
  std::shared_ptr<grpc::ChannelCredentials> to_servers_;  // set before the link; shared by channels
  absl::Mutex sources_mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<v1::ReplicaService::StubInterface>> sources_
      ABSL_GUARDED_BY(sources_mutex_);  // by address
  bool stopped_ = false;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_SDS_SERVER_H_
