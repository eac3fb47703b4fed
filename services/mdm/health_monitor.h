// Who lives: heartbeats in memory, and states judged from them.
//
// Nothing here is persisted: after a restart every part gets the stale time to be heard from, and
// has the state STALE until then. The caller of Judge makes changes of state events.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_HEALTH_MONITOR_H_
#define TESSERA_SERVICES_MDM_HEALTH_MONITOR_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/mdm/health_rules.h"
#include "services/mdm/mdm_time.h"
#include "tessera/v1/discovery.pb.h"
#include "tessera/v1/health.pb.h"

namespace tessera::mdm {

struct ComponentId {
  v1::ComponentKind kind = v1::COMPONENT_KIND_UNSPECIFIED;
  uint64_t id = 0;
  friend auto operator<=>(const ComponentId&, const ComponentId&) = default;
};

struct StateChange {
  ComponentId component;
  std::string name;
  v1::ComponentState before = v1::COMPONENT_STATE_UNSPECIFIED;
  v1::ComponentState after = v1::COMPONENT_STATE_UNSPECIFIED;
  std::string problem;  // the first that it reports, if any
};

class HealthMonitor {
 public:
  HealthMonitor(const HealthRules& rules, const MdmTime* time) : rules_(rules), time_(time) {}

  // A part that is registered, heard from or not.
  void Expect(const ComponentId& component, const std::string& name, uint64_t incarnation);
  void Forget(const ComponentId& component);
  // A registration counts as a heartbeat. Ends `leaving`.
  void Registered(const ComponentId& component, const std::string& name, uint64_t incarnation);
  void Beat(const ComponentId& component, const v1::HeartbeatRequest& request);

  // Judges everything by the clock; returns what changed, once.
  [[nodiscard]] std::vector<StateChange> Judge();

  [[nodiscard]] v1::ComponentState StateOf(const ComponentId& component) const;
  [[nodiscard]] bool Reachable(const ComponentId& component) const {
    return IsReachable(StateOf(component));
  }
  // Not reachable, and that is not only because it had no time to be heard from since the MDM
  // started.
  [[nodiscard]] bool KnownAway(const ComponentId& component) const;
  // It was heard from at this boot time or later.
  [[nodiscard]] bool HeardSince(const ComponentId& component, uint64_t boot_ms) const;
  [[nodiscard]] uint64_t LastHeartbeatMillis(const ComponentId& component) const;
  // Highest incarnation heard from.
  [[nodiscard]] uint64_t IncarnationOf(const ComponentId& component) const;
  // The device as its server's last heartbeat has it; nullopt: none of the server's present life
  // named it, as far as we know.
  [[nodiscard]] std::optional<v1::DeviceDescription> DeviceNow(
      uint64_t sds_id, const std::string& device_uuid) const;
  // How many bytes of blocks a device has, as last counted; 0: never yet.
  void NoteDeviceData(uint64_t device_id, uint64_t data_bytes);
  [[nodiscard]] uint64_t DeviceData(uint64_t device_id) const;
  // An SDC's attached volumes by its last heartbeat.
  [[nodiscard]] bool IsAttached(uint64_t sdc_id, uint64_t volume_id) const;
  void SetAttached(uint64_t sdc_id, uint64_t volume_id, bool attached);
  [[nodiscard]] std::vector<v1::ComponentHealth> List() const;

 private:
  struct Part {
    std::string name;
    uint64_t incarnation = 0;
    uint64_t heard_boot_ms = 0;  // or when we began to listen
    uint64_t heard_ms = 0;       // MDM time of the last heartbeat; 0: never
    bool left = false;
    v1::HeartbeatRequest last;
    v1::ComponentState state = v1::COMPONENT_STATE_UNSPECIFIED;
    uint64_t since_ms = 0;
  };
  [[nodiscard]] v1::ComponentState JudgeLocked(const Part& part) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  Part& FindOrAddLocked(const ComponentId& component) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const HealthRules rules_;
  const MdmTime* const time_;
  mutable absl::Mutex mutex_;
  std::map<ComponentId, Part> parts_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, uint64_t> device_data_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_HEALTH_MONITOR_H_
