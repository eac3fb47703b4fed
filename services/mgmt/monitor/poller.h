// Asks every part of the cluster how it is, and tells what it found as snapshots.
//
// Rounds: see round_schedule.h. A part that is silent is asked again when its call has run into its
// deadline; it delays a round by the settle time at most, and nobody else. Noticed in between, and
// a cause for an early round: a change of the topology or of operations as the MDM's watches tell
// it, a connection that broke or came to be, a part that answers after its round was told. With the
// MDM away the parts that are known are asked on.
//
// Threads: Run occupies one; all events are called on it. Stop from any.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_POLLER_H_
#define TESSERA_SERVICES_MGMT_MONITOR_POLLER_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/mgmt/monitor/call_queue.h"
#include "services/mgmt/monitor/cluster_snapshot.h"
#include "services/mgmt/monitor/mdm_reader.h"
#include "services/mgmt/monitor/part_meter.h"
#include "services/mgmt/monitor/round_schedule.h"
#include "tessera/v1/monitoring.grpc.pb.h"

namespace tessera::mgmt {

// A server or client, and where it is asked.
struct KnownPart {
  v1::ComponentKind kind = v1::COMPONENT_KIND_UNSPECIFIED;
  uint64_t component_id = 0;
  std::string name;
  std::string address;  // management; empty: it has not said
  friend bool operator==(const KnownPart&, const KnownPart&) = default;
};

struct PollerOptions {
  std::string mdm;           // "host:port"
  std::string self_address;  // for people
  uint64_t interval_ms = 10'000;
  uint64_t part_timeout_ms = 3'000;
  uint64_t mdm_timeout_ms = 5'000;
  uint64_t settle_ms = 1'000;
  uint64_t early_gap_ms = 1'000;
};

struct PollerEvents {
  std::function<void(std::shared_ptr<const ClusterSnapshot>)> on_snapshot;
  // Each change of an operation that the MDM's watch tells.
  std::function<void(const v1::Operation&)> on_operation;
  // The servers and clients that are known changed.
  std::function<void(const std::vector<KnownPart>&)> on_parts;
  // Twice a second.
  std::function<void()> on_tick;
  // This process's own answer.
  std::function<void(v1::GetStatusResponse*)> describe_self;
  std::function<std::map<std::string, uint64_t>()> certificate_expiry_ms;
};

class Poller {
 public:
  using ChannelFactory = std::function<std::shared_ptr<grpc::Channel>(const std::string& address)>;

  // `known`: the parts of the last life. All events must be set; pointers must outlive it.
  Poller(PollerOptions options, const std::vector<KnownPart>& known, ChannelFactory channels,
         const Clock* clock, MetricRegistry* metrics, PollerEvents events);
  ~Poller();

  // Returns after Stop.
  void Run();
  void Stop();

 private:
  static constexpr uint64_t kTickMs = 500;
  static constexpr uint64_t kWatchAgainMs = 2'000;
  static constexpr uint64_t kWatchRefusedMs = 60'000;

  using PartKey = std::pair<v1::ComponentKind, uint64_t>;
  struct Part {
    KnownPart known;
    std::shared_ptr<grpc::Channel> channel;  // shared with its stub
    std::unique_ptr<v1::MonitoringService::Stub> stub;
    PartMeter meter;
    v1::MonitoredComponent component;
    uint64_t mdm_time_error_ms = 0;
    v1::ComponentState mdm_state = v1::COMPONENT_STATE_UNSPECIFIED;
    bool asked = false;  // and not answered yet
    bool connected = false;
  };
  struct Watch {
    bool open = false;
    uint64_t again_boot_ms = 0;
  };

  void Step(uint64_t now_ms);
  void BeginRound(uint64_t now_ms);
  void Ask(const PartKey& key, Part* part);
  void Answered(const PartKey& key, uint64_t sent_boot_nanos, const absl::Status& status,
                const v1::GetStatusResponse& answer);
  void ReadMdm();
  void MdmAnswered(const absl::Status& status, MdmView* view);
  void LateUnlessOpen();
  // Parts of the topology become known, others are forgotten.
  void TakeParts(const v1::Topology& topology);
  void Connect(Part* part, const KnownPart& known);
  void LookAtConnections();
  void OpenWatches(uint64_t now_ms);
  void TopologyChanged(v1::WatchTopologyResponse* message);
  void OperationsChanged(const v1::WatchOperationsResponse& message);
  void WatchEnded(Watch* watch, const absl::Status& status);
  void Tell(uint64_t now_ms);
  void AddParts(ClusterSnapshot* snapshot);
  [[nodiscard]] static v1::ComponentState StateOf(const Part& part);
  [[nodiscard]] std::vector<KnownPart> KnownParts() const;

  const PollerOptions options_;
  const ChannelFactory channels_;
  const Clock* const clock_;
  MetricRegistry* const metrics_;
  const PollerEvents events_;
  prometheus::Histogram* const round_seconds_;

  std::map<PartKey, Part> parts_;
  Part self_;
  std::shared_ptr<grpc::Channel> mdm_channel_;  // shared with its stubs
  std::unique_ptr<v1::TopologyService::Stub> topology_stub_;
  std::unique_ptr<v1::OperationService::Stub> operation_stub_;
  MdmView view_;
  bool mdm_answers_ = false;
  uint64_t mdm_answered_ms_ = 0;
  std::string mdm_error_;
  bool mdm_asked_ = false;
  RoundSchedule schedule_;
  size_t unanswered_ = 0;
  uint64_t tick_boot_ms_ = 0;
  Watch topology_watch_;
  Watch operation_watch_;
  std::atomic<bool> stopped_{false};
  // Last: its end cancels calls that refer to what is above.
  CallQueue calls_;
  std::unique_ptr<MdmReader> reader_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_POLLER_H_
