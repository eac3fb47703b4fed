#include "services/mdm/health_monitor.h"

#include <algorithm>

namespace tessera::mdm {

HealthMonitor::Part& HealthMonitor::FindOrAddLocked(const ComponentId& component) {
  const auto [found, added] = parts_.try_emplace(component);
  if (added) {
    found->second.heard_boot_ms = time_->clock().BootMillis();
    found->second.since_ms = time_->NowMillis();
    found->second.state = v1::COMPONENT_STATE_STALE;
  }
  return found->second;
}

void HealthMonitor::Expect(const ComponentId& component, const std::string& name,
                           uint64_t incarnation) {
  absl::MutexLock lock(&mutex_);
  Part& part = FindOrAddLocked(component);
  part.name = name;
  part.incarnation = incarnation;
}

void HealthMonitor::Forget(const ComponentId& component) {
  absl::MutexLock lock(&mutex_);
  parts_.erase(component);
}

void HealthMonitor::Registered(const ComponentId& component, const std::string& name,
                               uint64_t incarnation) {
  absl::MutexLock lock(&mutex_);
  const bool joined = !parts_.contains(component);
  Part& part = FindOrAddLocked(component);
  // A newcomer was never away.
  if (joined) part.state = v1::COMPONENT_STATE_ONLINE;
  part.name = name;
  // The devices that its earlier life had may be gone: its registration says what there is.
  if (incarnation > part.incarnation) part.last.clear_devices();
  part.incarnation = std::max(part.incarnation, incarnation);
  part.heard_boot_ms = time_->clock().BootMillis();
  part.heard_ms = time_->NowMillis();
  part.left = false;
}

void HealthMonitor::Beat(const ComponentId& component, const v1::HeartbeatRequest& request) {
  absl::MutexLock lock(&mutex_);
  Part& part = FindOrAddLocked(component);
  if (request.incarnation() < part.incarnation) return;  // its next life has registered meanwhile
  part.incarnation = request.incarnation();
  part.heard_boot_ms = time_->clock().BootMillis();
  part.heard_ms = time_->NowMillis();
  part.left = request.leaving();
  part.last = request;
}

v1::ComponentState HealthMonitor::JudgeLocked(const Part& part) const {
  VitalSigns signs;
  signs.silence_ms = time_->clock().BootMillis() - part.heard_boot_ms;
  signs.left = part.left;
  signs.has_problems = part.last.problems_size() > 0;
  // Never heard from in this life of the MDM: stale, and offline in its time.
  if (part.heard_ms == 0) signs.silence_ms = std::max(signs.silence_ms, rules_.stale_after_ms);
  return mdm::Judge(rules_, signs);
}

std::vector<StateChange> HealthMonitor::Judge() {
  std::vector<StateChange> changes;
  absl::MutexLock lock(&mutex_);
  for (auto& [component, part] : parts_) {
    const v1::ComponentState state = JudgeLocked(part);
    if (state == part.state) continue;
    StateChange& change = changes.emplace_back();
    change.component = component;
    change.name = part.name;
    change.before = part.state;
    change.after = state;
    if (part.last.problems_size() > 0) change.problem = part.last.problems(0).message();
    part.state = state;
    part.since_ms = time_->NowMillis();
  }
  return changes;
}

v1::ComponentState HealthMonitor::StateOf(const ComponentId& component) const {
  absl::MutexLock lock(&mutex_);
  const auto found = parts_.find(component);
  return found == parts_.end() ? v1::COMPONENT_STATE_UNSPECIFIED : JudgeLocked(found->second);
}

bool HealthMonitor::KnownAway(const ComponentId& component) const {
  absl::MutexLock lock(&mutex_);
  const auto found = parts_.find(component);
  if (found == parts_.end()) return true;
  const Part& part = found->second;
  if (IsReachable(JudgeLocked(part))) return false;
  const uint64_t silence_ms = time_->clock().BootMillis() - part.heard_boot_ms;
  return part.heard_ms != 0 || silence_ms >= rules_.stale_after_ms;
}

bool HealthMonitor::HeardSince(const ComponentId& component, uint64_t boot_ms) const {
  absl::MutexLock lock(&mutex_);
  const auto found = parts_.find(component);
  return found != parts_.end() && found->second.heard_ms != 0 &&
         found->second.heard_boot_ms >= boot_ms;
}

uint64_t HealthMonitor::LastHeartbeatMillis(const ComponentId& component) const {
  absl::MutexLock lock(&mutex_);
  const auto found = parts_.find(component);
  return found == parts_.end() ? 0 : found->second.heard_ms;
}

uint64_t HealthMonitor::IncarnationOf(const ComponentId& component) const {
  absl::MutexLock lock(&mutex_);
  const auto found = parts_.find(component);
  return found == parts_.end() ? 0 : found->second.incarnation;
}

std::optional<v1::DeviceDescription> HealthMonitor::DeviceNow(
    uint64_t sds_id, const std::string& device_uuid) const {
  absl::MutexLock lock(&mutex_);
  const auto found = parts_.find({v1::COMPONENT_KIND_SDS, sds_id});
  if (found == parts_.end()) return std::nullopt;
  for (const v1::DeviceDescription& device : found->second.last.devices()) {
    if (device.device_uuid() == device_uuid) return device;
  }
  return std::nullopt;
}

void HealthMonitor::NoteDeviceData(uint64_t device_id, uint64_t data_bytes) {
  absl::MutexLock lock(&mutex_);
  device_data_[device_id] = data_bytes;
}

uint64_t HealthMonitor::DeviceData(uint64_t device_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = device_data_.find(device_id);
  return found == device_data_.end() ? 0 : found->second;
}

bool HealthMonitor::IsAttached(uint64_t sdc_id, uint64_t volume_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = parts_.find({v1::COMPONENT_KIND_SDC, sdc_id});
  if (found == parts_.end()) return false;
  const auto& attached = found->second.last.attached_volume_ids();
  return std::find(attached.begin(), attached.end(), volume_id) != attached.end();
}

void HealthMonitor::SetAttached(uint64_t sdc_id, uint64_t volume_id, bool attached) {
  absl::MutexLock lock(&mutex_);
  const auto found = parts_.find({v1::COMPONENT_KIND_SDC, sdc_id});
  if (found == parts_.end()) return;
  auto* ids = found->second.last.mutable_attached_volume_ids();
  ids->erase(std::remove(ids->begin(), ids->end(), volume_id), ids->end());
  if (attached) ids->Add(volume_id);
}

std::vector<v1::ComponentHealth> HealthMonitor::List() const {
  std::vector<v1::ComponentHealth> components;
  absl::MutexLock lock(&mutex_);
  for (const auto& [component, part] : parts_) {
    v1::ComponentHealth& health = components.emplace_back();
    health.set_kind(component.kind);
    health.set_component_id(component.id);
    health.set_name(part.name);
    health.set_state(JudgeLocked(part));
    health.set_since_ms(part.since_ms);
    health.set_last_heartbeat_ms(part.heard_ms);
    *health.mutable_problems() = part.last.problems();
    *health.mutable_metrics() = part.last.metrics();
  }
  return components;
}

}  // namespace tessera::mdm
