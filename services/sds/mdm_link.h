// This server's side of the MDM: registration, heartbeats, the map, reports of what was done under
// grants, and the questions of the learner.
//
// Two threads: one registers and beats, one watches the map. Both begin again whatever fails.
//
// Threads: Start and Stop from one; the PlacementAuthority methods from any.
#ifndef TESSERA_SERVICES_SDS_MDM_LINK_H_
#define TESSERA_SERVICES_SDS_MDM_LINK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/sds/device.h"
#include "services/sds/engine_context.h"
#include "services/sds/health_board.h"
#include "services/sds/integrity_observer.h"
#include "services/sds/io_engine.h"
#include "services/sds/janitor.h"
#include "services/sds/learner.h"
#include "services/sds/local_state.h"
#include "services/sds/record_keeper.h"
#include "tessera/v1/discovery.grpc.pb.h"
#include "tessera/v1/health.grpc.pb.h"
#include "tessera/v1/placement.grpc.pb.h"
#include "tessera/v1/token.grpc.pb.h"

namespace tessera::sds {

struct MdmLinkOptions {
  std::string name;
  std::string join_token;  // for the first contact; may be empty later
  std::string protection_domain;
  std::string fault_set;
  v1::Endpoints endpoints;
};

// The parts that the link feeds.
struct MdmLinkParts {
  const Clock* clock = nullptr;
  LocalState* state = nullptr;
  std::atomic<uint64_t>* sds_id = nullptr;
  KeyStore* keys = nullptr;
  MdmClock* mdm_clock = nullptr;
  PlacementTable* placements = nullptr;
  IoEngine* engine = nullptr;
  Janitor* janitor = nullptr;
  RecordKeeper* records = nullptr;
  HealthBoard* health = nullptr;
  SdsMetrics* metrics = nullptr;
  TokenAccounting* accounting = nullptr;
  ClientLimits* limits = nullptr;
  std::vector<Device*> devices;
};

class MdmLink final : public PlacementAuthority {
 public:
  // `on_superseded`: a newer incarnation of this server has registered; this one must stop.
  MdmLink(MdmLinkOptions options, MdmLinkParts parts, std::shared_ptr<grpc::Channel> channel,
          std::function<void()> on_superseded);
  ~MdmLink() override { Stop(); }

  void Start();
  // Says goodbye when the MDM can be reached, then ends the threads.
  void Stop();
  [[nodiscard]] bool registered() const { return registered_.load(std::memory_order_acquire); }
  // In this life the whole map has been taken once.
  [[nodiscard]] bool has_map() const { return has_map_.load(std::memory_order_acquire); }

  // PlacementAuthority. The learners are used until the heartbeats end in Stop.
  void SetLearners(LearnerObserver* learners) override {
    learners_.store(learners, std::memory_order_release);
  }
  absl::StatusOr<v1::BeginLearningResponse> BeginLearning(
      const v1::BeginLearningRequest& request) override;
  absl::StatusOr<v1::CompleteLearningResponse> CompleteLearning(
      const v1::CompleteLearningRequest& request) override;
  absl::StatusOr<v1::ReportReplicaFailuresResponse> ReportReplicaFailures(
      const v1::ReportReplicaFailuresRequest& request) override;
  absl::StatusOr<v1::BeginRepairResponse> BeginRepair(
      const v1::BeginRepairRequest& request) override;

  // Used by heartbeats until null is set or Stop has returned.
  void SetIntegrity(IntegrityObserver* integrity) {
    integrity_.store(integrity, std::memory_order_release);
  }

 private:
  void Beat();
  void Watch();
  [[nodiscard]] absl::Status Register();
  [[nodiscard]] absl::Status TakeRegistration(const v1::RegisterSdsResponse& response,
                                              uint64_t sent_boot_nanos);
  // What a restart needs while the MDM is away.
  [[nodiscard]] absl::Status SaveContact(const MdmTimeSample& sample);
  [[nodiscard]] absl::Status Heartbeat(bool leaving);
  [[nodiscard]] absl::Status ReportUse();
  [[nodiscard]] absl::Status WatchOnce();
  [[nodiscard]] absl::Status TakeMap(const v1::WatchPlacementGroupsResponse& map);
  void TakeSnapshot(const v1::WatchPlacementGroupsResponse& map);
  [[nodiscard]] absl::Status TakeRecords(const v1::ClusterRecords& records);
  [[nodiscard]] v1::NodeMetrics Figures() const;
  [[nodiscard]] std::string Bearer() const;
  // Waits; true when stopping.
  bool Pause(uint64_t milliseconds);

  const MdmLinkOptions options_;
  const MdmLinkParts parts_;
  const std::shared_ptr<grpc::Channel> channel_;  // shared with the stubs
  const std::function<void()> on_superseded_;
  const std::unique_ptr<v1::DiscoveryService::Stub> discovery_;
  const std::unique_ptr<v1::HealthService::Stub> health_;
  const std::unique_ptr<v1::PlacementService::Stub> placement_;
  const std::unique_ptr<v1::TokenService::Stub> tokens_;
  std::atomic<LearnerObserver*> learners_{nullptr};
  std::atomic<IntegrityObserver*> integrity_{nullptr};
  std::atomic<bool> registered_{false};
  std::atomic<bool> has_map_{false};
  std::atomic<uint64_t> heartbeat_interval_ms_{1000};
  mutable absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* watch_call_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the watch in progress
  std::string bearer_ ABSL_GUARDED_BY(mutex_);
  uint64_t saved_keys_version_ = 0;     // the beating thread's
  uint64_t saved_contact_boot_ms_ = 0;  // the beating thread's
  std::map<uint64_t, uint64_t> ahead_;  // groups of which more is known here than the map says; the
                                        // watching thread's
  std::thread beat_thread_;             // Start and Stop only
  std::thread watch_thread_;            // Start and Stop only
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_MDM_LINK_H_
