#include "services/mdm/learner_scheduler.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "services/common/logging.h"
#include "services/mdm/membership_rules.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"

namespace tessera::mdm {

std::vector<LearnerChoice> ChooseLearners(const LearnerRules& rules,
                                          const std::vector<v1::PlacementGroup>& groups,
                                          const std::set<uint64_t>& ready,
                                          const std::set<uint64_t>& resting) {
  std::map<uint64_t, uint32_t> learning;  // by server
  std::vector<std::pair<uint32_t, const v1::PlacementGroup*>> order;
  for (const v1::PlacementGroup& group : groups) {
    bool has_source = false;
    bool wants = false;
    for (const v1::Replica& replica : group.replicas()) {
      if (replica.role() == v1::REPLICA_ROLE_LEARNER) ++learning[replica.sds_id()];
      if (replica.role() == v1::REPLICA_ROLE_OUT_OF_SYNC) wants = true;
      if (replica.role() == v1::REPLICA_ROLE_IN_SYNC && ready.contains(replica.sds_id())) {
        has_source = true;
      }
    }
    if (has_source && wants) order.emplace_back(InSyncCount(group), &group);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<LearnerChoice> choices;
  for (const auto& [in_sync, group] : order) {
    for (const v1::Replica& replica : group->replicas()) {
      if (replica.role() != v1::REPLICA_ROLE_OUT_OF_SYNC || !ready.contains(replica.sds_id()) ||
          resting.contains(replica.device_id()) ||
          learning[replica.sds_id()] >= rules.learners_per_server) {
        continue;
      }
      ++learning[replica.sds_id()];
      choices.push_back({group->placement_group_id(), replica.device_id()});
      break;  // one change of a group at a time
    }
  }
  return choices;
}

void LearnerScheduler::Run() {
  std::vector<v1::PlacementGroup> groups;
  std::set<uint64_t> ready;
  std::set<uint64_t> resting;
  const absl::Status read = store_->Read([&](SQLite::Database& db) {
    groups = ListPlacementGroupRows(db, 0);
    for (const SdsRow& sds : ListSdsRows(db)) {
      if (health_->Reachable({v1::COMPONENT_KIND_SDS, sds.sds_id})) ready.insert(sds.sds_id);
    }
    for (const DeviceRow& device : ListDeviceRows(db)) {
      const auto now = health_->DeviceNow(device.sds_id, device.description.device_uuid());
      const bool failed = !now.value_or(device.description).failure().empty();
      const auto sds = FindSds(db, device.sds_id);
      // Not before its server has opened the device in its present life.
      const bool open = sds.has_value() && device.configured_incarnation == sds->incarnation;
      if (failed || !open) resting.insert(device.device_id);
    }
    return absl::OkStatus();
  });
  if (!read.ok()) {
    LogError("reading the map for learners failed", {{"error", read}});
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    const uint64_t now = time_->clock().BootMillis();
    for (const auto& [device_id, rest] : rests_) {
      if (now < rest.until_boot_ms) resting.insert(device_id);
    }
  }
  const std::vector<LearnerChoice> choices = ChooseLearners(rules_, groups, ready, resting);
  if (choices.empty()) return;
  const absl::Status written = store_->Write([&](WriteTransaction& transaction) {
    for (const LearnerChoice& choice : choices) {
      auto group = FindPlacementGroup(transaction.db, choice.placement_group_id);
      if (!group.has_value() ||
          MakeLearner(&*group, choice.device_id) != MembershipOutcome::kChanged) {
        continue;
      }
      PutPlacementGroup(transaction.db, *group);
      transaction.changes.placement_group_ids.insert(choice.placement_group_id);
      transaction.changes.topology = true;
    }
    return absl::OkStatus();
  });
  if (!written.ok()) LogError("making learners failed", {{"error", written}});
}

void LearnerScheduler::LearnerFailed(uint64_t device_id) {
  absl::MutexLock lock(&mutex_);
  Rest& rest = rests_[device_id];
  const uint64_t now = time_->clock().BootMillis();
  // Many groups of a device fail together: that is one failure.
  if (now < rest.until_boot_ms) return;
  rest.failures = std::min(rest.failures + 1, 16u);
  rest.until_boot_ms =
      now + std::min(rules_.back_off_ms << (rest.failures - 1), rules_.back_off_max_ms);
}

void LearnerScheduler::LearnerDone(uint64_t device_id) {
  absl::MutexLock lock(&mutex_);
  rests_.erase(device_id);
}

}  // namespace tessera::mdm
