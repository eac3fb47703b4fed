// Tells everybody what the map is: a stream to each watcher, and a push to the servers that are
// members of a changed placement group.
//
// Watchers get the whole map first, then changes in commit order, and an empty message every 10 s.
// A watcher whose queue is full is ended (PushStream); it watches again. Pushes are best effort: a
// server that misses one learns the entry by its watch, or from the writer who shows it.
//
// Threads: OnCommit and Watch from any; they only hand over to the two threads of the publisher.
#ifndef TESSERA_SERVICES_MDM_MAP_PUBLISHER_H_
#define TESSERA_SERVICES_MDM_MAP_PUBLISHER_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/rpc.h"
#include "services/mdm/background_loop.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_control.h"
#include "tessera/v1/cluster_record.pb.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::mdm {

using MapStream = PushStream<v1::WatchPlacementGroupsResponse>;

// Who watches what.
struct MapWatcher {
  std::shared_ptr<MapStream> stream;  // shared with gRPC, which may end it
  std::set<uint64_t> pool_ids;        // empty: all, or those of `sds_id`
  uint64_t sds_id = 0;  // a server: the pools of its devices, whatever they are by then
  bool with_records = false;
  uint64_t records_revision = 0;  // of the records that it has
};

class MapPublisher {
 public:
  static constexpr std::chrono::milliseconds kKeepalive{10'000};
  static constexpr std::chrono::milliseconds kPushTimeout{1'000};
  static constexpr size_t kWatchersMax = 4'096;
  static constexpr size_t kRecordsPerMessage = 4'000;

  MapPublisher(MdmStore* store, const ClusterKeys* keys, NodeControl* control,
               const HealthMonitor* health, MetricRegistry* metrics);
  ~MapPublisher();

  // RESOURCE_EXHAUSTED when there are too many.
  [[nodiscard]] absl::Status Watch(MapWatcher watcher);
  void OnCommit(const ChangeSet& changes);
  // Addresses or states of servers changed without a commit.
  void AddressesChanged();
  // Ends all streams. Idempotent.
  void Stop();

  // Addresses of all servers with their states.
  [[nodiscard]] static std::vector<v1::SdsAddress> ReadAddresses(SQLite::Database& db,
                                                                 const HealthMonitor& health);

 private:
  void Publish();
  void Push();
  [[nodiscard]] absl::Status SendSnapshot(const MapWatcher& watcher);
  [[nodiscard]] absl::Status SendChanges(const ChangeSet& changes);
  // Brings all watchers that want the cluster's records up to date.
  [[nodiscard]] absl::Status SendRecords();
  void SendRecordsTo(const std::vector<v1::ClusterRecord>& records, bool snapshot,
                     uint64_t revision, MapWatcher* watcher) const;

  MdmStore* const store_;
  const ClusterKeys* const keys_;
  NodeControl* const control_;
  const HealthMonitor* const health_;
  prometheus::Gauge& watcher_gauge_;
  prometheus::Counter& push_failures_;

  absl::Mutex mutex_;
  ChangeSet pending_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> to_push_ ABSL_GUARDED_BY(mutex_);
  // Servers that left a group to be pushed.
  std::map<uint64_t, std::set<uint64_t>> push_former_ ABSL_GUARDED_BY(mutex_);
  std::vector<MapWatcher> arriving_ ABSL_GUARDED_BY(mutex_);
  size_t watcher_count_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;

  // Of the publishing thread alone.
  std::vector<MapWatcher> watchers_;
  std::chrono::steady_clock::time_point last_message_;

  BackgroundLoop push_loop_;
  BackgroundLoop publish_loop_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MAP_PUBLISHER_H_
