// An MDM for tests, in the test's process: registers servers, beats, keeps a map that the test
// changes, and judges learners by the rules of docs/REPLICATION.md. It is served over real gRPC on
// a free port.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_TESTING_FAKE_MDM_H_
#define TESSERA_SERVICES_SDS_TESTING_FAKE_MDM_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libtoken/token.h"
#include "tessera/v1/discovery.grpc.pb.h"
#include "tessera/v1/health.grpc.pb.h"
#include "tessera/v1/placement.grpc.pb.h"
#include "tessera/v1/token.grpc.pb.h"

namespace tessera::sds {

class FakeMdm {
 public:
  FakeMdm();
  ~FakeMdm();

  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] uint64_t NowMillis() const;

  // ---- Keys.
  void AddKey(uint32_t key_id);
  void RemoveKey(uint32_t key_id);
  [[nodiscard]] token::Key SdsKeyOf(uint32_t key_id, uint64_t sds_id) const;
  [[nodiscard]] std::string ControlBearer(uint32_t key_id, uint64_t sds_id) const;
  // The same under the node's secret, as an MDM that has lost its database comes.
  [[nodiscard]] static std::string NodeBearer(uint64_t sds_id);

  // ---- Servers, in the order of their first registration: ids 1, 2, …; device ids 100 * sds id +
  // index.
  struct Node {
    v1::RegisterSdsRequest registration;
    uint64_t registrations = 0;
    uint64_t heartbeats = 0;  // since the last registration
    uint64_t ack_reports = 0;
    std::vector<v1::TokenAck> acks;
  };
  [[nodiscard]] Node NodeOf(uint64_t sds_id) const;
  // Waits until the server of that name has registered that many times, and has sent a heartbeat
  // since; false after 20 s.
  [[nodiscard]] bool AwaitRegistration(const std::string& name, uint64_t times) const;
  // Waits for a heartbeat that began after the call.
  void AwaitHeartbeat(uint64_t sds_id) const;
  // Calls are answered UNAVAILABLE from now on, or again.
  void SetReachable(bool reachable) { reachable_ = reachable; }
  // While held no map is sent.
  void HoldMap(bool held) { map_held_ = held; }

  // ---- The map.
  // Commits the group with the epoch after its present one, and sends it to the watchers.
  v1::SignedPlacementGroup Commit(v1::PlacementGroup group);
  // The same without telling anybody.
  v1::SignedPlacementGroup CommitSilently(v1::PlacementGroup group);
  [[nodiscard]] v1::PlacementGroup Group(uint64_t placement_group_id) const;
  [[nodiscard]] v1::SignedPlacementGroup Sign(const v1::PlacementGroup& group) const;
  // Changes the role of one device's replica.
  void SetRole(uint64_t placement_group_id, uint64_t device_id, v1::ReplicaRole role);
  [[nodiscard]] v1::ReplicaRole RoleOf(uint64_t placement_group_id, uint64_t device_id) const;
  // Waits until the device has the role; false after 20 s.
  [[nodiscard]] bool AwaitRole(uint64_t placement_group_id, uint64_t device_id,
                               v1::ReplicaRole role) const;
  void SetPools(std::vector<v1::PoolLayout> pools);
  // Sends records with the map, once to each watch and at once to those that are open.
  void SendRecords(const v1::ClusterRecords& records);
  // From which revision on the last watch wanted records.
  [[nodiscard]] uint64_t records_wanted_after() const { return records_wanted_after_; }
  [[nodiscard]] std::vector<v1::CompleteLearningRequest> Completions() const;
  [[nodiscard]] std::vector<v1::ReplicaFailure> Failures() const;

  // ---- Bad blocks and scrub, by heartbeats.
  // All changes told of so far, each list once.
  [[nodiscard]] std::vector<v1::CorruptBlocks> CorruptChanges() const;
  // Waits until so many blocks had the change; false after 20 s.
  [[nodiscard]] bool AwaitChange(v1::CorruptBlockChange change, uint32_t blocks) const;
  // What the next answers to heartbeats order.
  void SetScrubOrders(std::vector<v1::ScrubOrder> orders);
  void SetClientCaps(std::vector<v1::ClientCap> caps);
  // Waits until the device's status fits; false after 20 s.
  [[nodiscard]] bool AwaitScrub(uint64_t device_id,
                                const std::function<bool(const v1::ScrubStatus&)>& fits) const;
  [[nodiscard]] v1::ScrubStatus ScrubOf(uint64_t device_id) const;

 private:
  class Discovery;
  class Health;
  class Placement;
  class Tokens;
  void SendToWatchers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { ++map_version_; }

  mutable absl::Mutex mutex_;
  std::map<uint32_t, token::Key> secrets_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, uint64_t> ids_ ABSL_GUARDED_BY(mutex_);  // by node UUID
  std::map<uint64_t, Node> nodes_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, v1::PlacementGroup> groups_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, bool> silent_ ABSL_GUARDED_BY(mutex_);  // groups not to be sent
  std::vector<v1::PoolLayout> pools_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::CompleteLearningRequest> completions_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::ReplicaFailure> failures_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::CorruptBlocks> changes_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint64_t> reports_ ABSL_GUARDED_BY(mutex_);  // by server: the last list
  std::vector<v1::ScrubOrder> scrub_orders_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::ClientCap> client_caps_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, v1::ScrubStatus> scrubs_ ABSL_GUARDED_BY(mutex_);  // by device
  uint64_t map_version_ ABSL_GUARDED_BY(mutex_) = 1;
  v1::ClusterRecords records_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> records_wanted_after_{0};
  std::atomic<bool> reachable_{true};
  std::atomic<bool> map_held_{false};
  std::unique_ptr<grpc::Service> discovery_;
  std::unique_ptr<grpc::Service> health_;
  std::unique_ptr<grpc::Service> placement_;
  std::unique_ptr<grpc::Service> tokens_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_TESTING_FAKE_MDM_H_
