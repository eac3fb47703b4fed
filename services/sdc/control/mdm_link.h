// The client's standing with the MDM: registers (again whenever it has to), sends heartbeats, feeds
// the engine with the map, takes its failure reports there, and follows the list of mapped volumes.
//
// With the MDM away nothing stops: calls are tried again for ever at growing distances.
//
// Threads: loop thread; the const methods from any.
#ifndef TESSERA_SERVICES_SDC_CONTROL_MDM_LINK_H_
#define TESSERA_SERVICES_SDC_CONTROL_MDM_LINK_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "services/common/clock.h"
#include "services/sdc/control/attachments.h"
#include "services/sdc/control/local_state.h"
#include "services/sdc/control/mdm_client.h"
#include "services/sdc/engine/io_engine.h"

namespace tessera::sdc {

class MdmLink final : public ClusterLink {
 public:
  struct Options {
    std::string join_token;
    v1::Endpoints endpoints;
    std::vector<std::string> nbd_uris;
    // A newer life of this client has registered: this one has to stop.
    std::function<void()> superseded = [] {};
    // Each time that the MDM has taken a registration.
    std::function<void(const LocalIdentity&)> registered = [](const LocalIdentity&) {};
  };

  // All must outlive it.
  MdmLink(EventLoop& loop, const Clock& clock, IoEngine& engine, MdmClient& mdm,
          Attachments& attachments, LocalState& state, HealthLog& health_log, Options options);
  ~MdmLink() override;

  // Before Start.
  void SetManagementAddress(const std::string& address) {
    options_.endpoints.set_management(address);
  }
  void Start();
  // Says goodbye; `done` when the MDM has heard it, or can't.
  void Leave(absl::AnyInvocable<void()> done);

  // ClusterLink.
  void ReportReplicas(std::vector<ReplicaReport> reports) override;
  void GrantNeeded(uint64_t volume_id, GrantTrouble trouble) override;

  // From any thread.
  [[nodiscard]] bool registered() const { return registered_.load(std::memory_order_relaxed); }
  // The last heartbeat was answered.
  [[nodiscard]] bool reachable() const { return reachable_.load(std::memory_order_relaxed); }
  [[nodiscard]] const MdmTimeEstimator& mdm_time() const { return mdm_time_; }

 private:
  void Register();
  void Registered(const v1::RegisterSdcResponse& response, uint64_t sent_nanos);
  void Heartbeat();
  void HeartbeatAnswered(const absl::StatusOr<v1::HeartbeatResponse>& response,
                         uint64_t sent_nanos);
  void After(EventLoop::Duration delay, void (MdmLink::*step)());
  void Mapped(const google::protobuf::RepeatedField<uint64_t>& volume_ids, uint64_t sent_nanos);
  void SetReachable(bool reachable);
  [[nodiscard]] v1::HeartbeatRequest MakeHeartbeat() const;

  EventLoop& loop_;
  const Clock& clock_;
  IoEngine& engine_;
  MdmClient& mdm_;
  Attachments& attachments_;
  LocalState& state_;
  HealthLog& health_log_;
  Options options_;
  MdmTimeEstimator mdm_time_;
  std::atomic<bool> registered_{false};
  std::atomic<bool> reachable_{false};
  bool watching_ = false;
  bool leaving_ = false;
  uint32_t failures_ = 0;  // in a row
  EventLoop::TimerId timer_ = 0;
  bool timer_set_ = false;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_MDM_LINK_H_
