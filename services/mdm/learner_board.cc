#include "services/mdm/learner_board.h"

#include <algorithm>

namespace tessera::mdm {

void LearnerBoard::Report(uint64_t sds_id,
                          const google::protobuf::RepeatedPtrField<v1::LearnerStatus>& learners) {
  std::map<Id, v1::LearnerStatus> of_server;
  for (const v1::LearnerStatus& status : learners) {
    v1::LearnerStatus& kept = of_server[{status.placement_group_id(), status.device_id()}];
    // A learner of an older epoch may still be ending.
    if (kept.epoch() <= status.epoch()) kept = status;
  }
  absl::MutexLock lock(&mutex_);
  status_[sds_id] = std::move(of_server);
}

void LearnerBoard::SetSource(uint64_t placement_group_id, uint64_t device_id,
                             uint64_t source_device_id) {
  absl::MutexLock lock(&mutex_);
  sources_[{placement_group_id, device_id}] = source_device_id;
}

uint64_t LearnerBoard::SourceOf(uint64_t placement_group_id, uint64_t device_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = sources_.find({placement_group_id, device_id});
  return found == sources_.end() ? 0 : found->second;
}

std::optional<v1::LearnerStatus> LearnerBoard::StatusOf(uint64_t placement_group_id,
                                                        uint64_t device_id, uint64_t epoch) const {
  absl::MutexLock lock(&mutex_);
  for (const auto& [sds_id, of_server] : status_) {
    const auto found = of_server.find({placement_group_id, device_id});
    if (found == of_server.end()) continue;
    if (found->second.epoch() != epoch) return std::nullopt;
    return found->second;
  }
  return std::nullopt;
}

void LearnerBoard::LearnerFailed(uint64_t device_id) {
  absl::MutexLock lock(&mutex_);
  Failure& failure = failures_[device_id];
  const uint64_t now = time_->clock().BootMillis();
  // Many groups of a device fail together: that is one failure.
  if (now < failure.until_boot_ms) return;
  failure.count = std::min(failure.count + 1, 16u);
  failure.at_boot_ms = now;
  failure.until_boot_ms =
      now + std::min(rules_.back_off_ms << (failure.count - 1), rules_.back_off_max_ms);
}

void LearnerBoard::LearnerDone(uint64_t placement_group_id, uint64_t device_id) {
  absl::MutexLock lock(&mutex_);
  failures_.erase(device_id);
  sources_.erase({placement_group_id, device_id});
}

LearnerBoard::Rest LearnerBoard::RestOf(uint64_t sds_id, uint64_t device_id) const {
  Failure failure;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = failures_.find(device_id);
    if (found == failures_.end()) return {};
    failure = found->second;
  }
  const bool heard = health_->HeardSince({v1::COMPONENT_KIND_SDS, sds_id}, failure.at_boot_ms);
  return {.resting = time_->clock().BootMillis() < failure.until_boot_ms || !heard,
          .failures = failure.count};
}

}  // namespace tessera::mdm
