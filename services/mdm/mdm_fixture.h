// For tests: an MDM in this process on a free port, fake servers and clients that do as they are
// told, and stubs with their credentials.
#ifndef TESSERA_SERVICES_MDM_MDM_FIXTURE_H_
#define TESSERA_SERVICES_MDM_MDM_FIXTURE_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/mdm/mdm_server.h"
#include "tessera/v1/discovery.grpc.pb.h"
#include "tessera/v1/health.grpc.pb.h"
#include "tessera/v1/latency.grpc.pb.h"
#include "tessera/v1/monitoring.grpc.pb.h"
#include "tessera/v1/placement.grpc.pb.h"
#include "tessera/v1/sdc_control.grpc.pb.h"
#include "tessera/v1/sds_control.grpc.pb.h"
#include "tessera/v1/token.grpc.pb.h"
#include "tessera/v1/topology.grpc.pb.h"
#include "tessera/v1/usage.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::mdm {

// A storage data server's control plane.
class FakeSds final : public v1::SdsControlService::Service {
 public:
  explicit FakeSds(const std::string& name);
  ~FakeSds() override;

  // Connection refused from now on; Start comes back under the same port.
  void Stop();
  void Start();

  // What the servers' calls are answered with.
  void SetCursor(uint64_t volume_id, uint64_t placement_group_id, uint64_t generation,
                 uint64_t sequence);
  void ForgetCursors();
  void AnswerVtreeDeletion(bool done);
  void KnowGeneration(uint64_t volume_id, uint64_t generation);
  void AnswerLayerDrops(bool done, uint64_t layers = 0);

  // How MeasureVtrees is answered: `figures` fills what it says of a vtree. Until then it says
  // nothing of vtrees, and of its device what the heartbeats say.
  void AnswerMeasures(std::function<void(v1::VtreeMeasure*)> figures);
  [[nodiscard]] std::vector<v1::MeasureVtreesRequest> measures();

  // Called from now on by each RaiseGeneration, with how many came since, when its answer is made
  // and not yet sent.
  void OnRaise(std::function<void(int count)> then);

  [[nodiscard]] uint64_t GenerationOf(uint64_t volume_id);
  [[nodiscard]] uint64_t EpochOf(uint64_t placement_group_id);
  [[nodiscard]] std::set<uint64_t> deleted_vtrees();
  // Of each DropLayers, the latest last.
  [[nodiscard]] std::vector<v1::VtreeCatalog> catalogs();
  [[nodiscard]] std::string last_authorization();
  // Waits until the epoch arrived by a push, at most ten seconds.
  [[nodiscard]] bool AwaitEpoch(uint64_t placement_group_id, uint64_t epoch);
  [[nodiscard]] bool AwaitDeletion(uint64_t vtree_id);
  [[nodiscard]] const std::string& address() const { return address_; }

  std::string name;
  std::string fault_set;  // that it asks for
  std::string uuid;
  std::string device_uuid;
  uint64_t incarnation = 1;
  uint64_t capacity_bytes = 1ull << 40;
  uint64_t used_bytes = 0;
  uint64_t data_bytes = 0;  // what MeasureVtrees says
  bool volatile_state_lost = false;
  std::string failure;
  // From the registration.
  uint64_t sds_id = 0;
  uint64_t device_id = 0;
  std::string secret;
  std::map<uint32_t, std::string> keys;

 private:
  grpc::Status RaiseGeneration(grpc::ServerContext* context,
                               const v1::RaiseGenerationRequest* request,
                               v1::RaiseGenerationResponse* response) override;
  grpc::Status ApplyPlacementGroups(grpc::ServerContext* context,
                                    const v1::ApplyPlacementGroupsRequest* request,
                                    v1::ApplyPlacementGroupsResponse* response) override;
  grpc::Status DeleteVtree(grpc::ServerContext* context, const v1::DeleteVtreeRequest* request,
                           v1::DeleteVtreeResponse* response) override;
  grpc::Status DropLayers(grpc::ServerContext* context, const v1::DropLayersRequest* request,
                          v1::DropLayersResponse* response) override;
  grpc::Status MeasureVtrees(grpc::ServerContext* context, const v1::MeasureVtreesRequest* request,
                             grpc::ServerWriter<v1::MeasureVtreesResponse>* writer) override;
  grpc::Status ConfigureDevice(grpc::ServerContext* context,
                               const v1::ConfigureDeviceRequest* request,
                               v1::ConfigureDeviceResponse* response) override;
  void NoteCaller(const grpc::ServerContext& context);
  void Raise(const v1::RaiseGenerationRequest& request, v1::RaiseGenerationResponse* response)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  absl::Mutex mutex_;
  std::map<uint64_t, uint64_t> generations_ ABSL_GUARDED_BY(mutex_);
  std::deque<v1::StreamCursor> cursors_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint64_t> epochs_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> deleted_vtrees_ ABSL_GUARDED_BY(mutex_);
  bool deletion_done_ ABSL_GUARDED_BY(mutex_) = true;
  std::vector<v1::VtreeCatalog> catalogs_ ABSL_GUARDED_BY(mutex_);
  v1::DropLayersResponse drop_answer_ ABSL_GUARDED_BY(mutex_);
  std::function<void(v1::VtreeMeasure*)> measure_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::MeasureVtreesRequest> measures_ ABSL_GUARDED_BY(mutex_);
  std::string last_authorization_ ABSL_GUARDED_BY(mutex_);
  std::function<void(int)> on_raise_ ABSL_GUARDED_BY(mutex_);
  int raises_ ABSL_GUARDED_BY(mutex_) = 0;
};

// A storage data client's control plane.
class FakeSdc final : public v1::SdcControlService::Service {
 public:
  explicit FakeSdc(const std::string& name);
  ~FakeSdc() override;
  void Stop();
  [[nodiscard]] std::set<uint64_t> attached();
  // Calls to attach, also of what is attached.
  [[nodiscard]] int attach_calls();

  // Snapshots, shrinking and flattening: what it was asked, in order. It answers OK, for
  // `held_micros`, unless told otherwise.
  struct SnapshotCall {
    enum What { kHold, kCut, kRelease, kShrink, kAdopt, kYield } what = kHold;
    uint64_t volume_id = 0;
    uint64_t hold_id = 0;
    uint32_t deadline_ms = 0;
    v1::IssuedGrant grant;    // of a cut
    uint64_t size_bytes = 0;  // kShrink
    uint64_t generation = 0;  // kAdopt, kYield
  };
  [[nodiscard]] std::vector<SnapshotCall> snapshot_calls();
  // Called for each from now on, before it is answered, with no lock held; its status is the
  // answer.
  void OnSnapshotCall(std::function<grpc::Status(const SnapshotCall& call)> then);
  // Called for each AttachVolume from now on, before it is answered, with no lock held.
  void OnAttach(std::function<grpc::Status(uint64_t volume_id)> then);
  // How ExplainVolumeLatency is answered from now on; until then it has nothing attached.
  using LatencyAnswer = std::function<grpc::Status(const v1::ExplainVolumeLatencyRequest&,
                                                   v1::ExplainVolumeLatencyResponse*)>;
  void AnswerLatency(LatencyAnswer answer);
  // The generation of its grant of the volume: what a hold is answered with.
  void SetGeneration(uint64_t volume_id, uint64_t generation);
  uint64_t held_micros = 1'500;
  [[nodiscard]] const std::string& address() const { return address_; }

  std::string name;
  std::string uuid;
  uint64_t incarnation = 1;
  // Which life says that it has detached a volume; 0: this one.
  std::atomic<uint64_t> detached_by{0};
  uint64_t sdc_id = 0;
  std::string secret;

 private:
  grpc::Status AttachVolume(grpc::ServerContext* context, const v1::AttachVolumeRequest* request,
                            v1::AttachVolumeResponse* response) override;
  grpc::Status DetachVolume(grpc::ServerContext* context, const v1::DetachVolumeRequest* request,
                            v1::DetachVolumeResponse* response) override;
  grpc::Status HoldWrites(grpc::ServerContext* context, const v1::HoldWritesRequest* request,
                          v1::HoldWritesResponse* response) override;
  grpc::Status CutSnapshot(grpc::ServerContext* context, const v1::CutSnapshotRequest* request,
                           v1::CutSnapshotResponse* response) override;
  grpc::Status ReleaseHold(grpc::ServerContext* context, const v1::ReleaseHoldRequest* request,
                           v1::ReleaseHoldResponse* response) override;
  grpc::Status ShrinkVolume(grpc::ServerContext* context, const v1::ShrinkVolumeRequest* request,
                            v1::ShrinkVolumeResponse* response) override;
  grpc::Status YieldWriter(grpc::ServerContext* context, const v1::YieldWriterRequest* request,
                           v1::YieldWriterResponse* response) override;
  grpc::Status ListAttachments(grpc::ServerContext* context,
                               const v1::ListAttachmentsRequest* request,
                               v1::ListAttachmentsResponse* response) override;
  grpc::Status ExplainVolumeLatency(grpc::ServerContext* context,
                                    const v1::ExplainVolumeLatencyRequest* request,
                                    v1::ExplainVolumeLatencyResponse* response) override;
  grpc::Status AdoptLayers(grpc::ServerContext* context, const v1::AdoptLayersRequest* request,
                           v1::AdoptLayersResponse* response) override;
  grpc::Status Note(SnapshotCall call);

  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  absl::Mutex mutex_;
  std::set<uint64_t> attached_ ABSL_GUARDED_BY(mutex_);
  std::vector<SnapshotCall> snapshot_calls_ ABSL_GUARDED_BY(mutex_);
  std::function<grpc::Status(const SnapshotCall&)> on_snapshot_call_ ABSL_GUARDED_BY(mutex_);
  LatencyAnswer latency_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint64_t> generations_ ABSL_GUARDED_BY(mutex_);
  int attach_calls_ ABSL_GUARDED_BY(mutex_) = 0;
  std::function<grpc::Status(uint64_t)> on_attach_ ABSL_GUARDED_BY(mutex_);
};

// Time stands still unless `clock` is moved.
class MdmFixture {
 public:
  MdmFixture();
  ~MdmFixture();

  void StartMdm();
  void StopMdm();

  // All return gRPC's status code. Without credentials the caller is an administrator (--insecure).
  grpc::Status Register(FakeSds* sds);
  grpc::Status Register(FakeSdc* sdc);
  grpc::Status Beat(FakeSds* sds);
  // A domain "pd" and a pool "pool" of 4 groups, and servers that ask for it, laid out.
  void MakePool(std::vector<FakeSds*> servers, uint32_t replicas);
  [[nodiscard]] v1::Volume MakeVolume(const std::string& name, uint64_t size_bytes = 64 << 20);
  grpc::Status Map(const v1::Volume& volume, const FakeSdc& sdc,
                   v1::MappingMode mode = v1::MAPPING_MODE_READ_WRITE);
  grpc::Status Renew(const FakeSdc& sdc, v1::IssuedGrant* grant);
  grpc::Status Acquire(const v1::Volume& volume, const FakeSdc& sdc, v1::IssuedGrant* grant,
                       int timeout_ms = 20'000);
  grpc::Status Report(const FakeSdc& sdc, uint64_t placement_group_id, uint64_t epoch,
                      uint64_t device_id, v1::PlacementGroup* entry);
  [[nodiscard]] std::vector<v1::PlacementGroup> Groups();
  [[nodiscard]] v1::Volume GetVolume(uint64_t volume_id);
  // Waits until `condition` holds, at most ten seconds of real time, waking the MDM's threads.
  [[nodiscard]] bool Await(const std::function<bool()>& condition);

  template <typename Service>
  [[nodiscard]] auto Stub() {
    return Service::NewStub(channel_);
  }
  // A deadline, and credentials when there is a secret.
  static void Prepare(grpc::ClientContext* context, const std::string& kind = "", uint64_t id = 0,
                      const std::string& secret = "", int timeout_ms = 20'000);

  ManualClock clock;
  MdmOptions options;
  std::string folder;
  std::unique_ptr<MdmServer> mdm;

 private:
  std::shared_ptr<grpc::Channel> channel_;
};

// The reason of an error's details; empty: none.
[[nodiscard]] std::string Reason(const grpc::Status& status);
[[nodiscard]] uint32_t CountRole(const v1::PlacementGroup& group, v1::ReplicaRole role);

template <typename Response, typename Method, typename Request>
grpc::Status Call(Method method, const Request& request, Response* response,
                  const std::string& kind = "", uint64_t id = 0, const std::string& secret = "",
                  int timeout_ms = 20'000) {
  grpc::ClientContext context;
  MdmFixture::Prepare(&context, kind, id, secret, timeout_ms);
  return method(&context, request, response);
}

// A stub's method as something to call.
#define TESSERA_CALL(Service, Method)                                      \
  [stub = std::shared_ptr<v1::Service::Stub>(Stub<v1::Service>())](        \
      grpc::ClientContext* context, const auto& request, auto* response) { \
    return stub->Method(context, request, response);                       \
  }

// Two servers, one client, a laid out pool.
struct ClusterFixture : MdmFixture {
  ClusterFixture();
  FakeSds a{"sds-a"};
  FakeSds b{"sds-b"};
  FakeSdc client{"client"};
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MDM_FIXTURE_H_
