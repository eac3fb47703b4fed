#include "services/mdm/operation_meter.h"

#include <algorithm>
#include <array>

namespace tessera::mdm {

void OperationMeter::Count(const RunningLearner& learner, uint64_t bytes) {
  flows_[{.device_id = learner.device_id}].copied += bytes;
  if (learner.source_device_id == 0) return;
  flows_[{.device_id = learner.source_device_id, .out = true}].copied += bytes;
}

void OperationMeter::Add(uint64_t now_ms, uint64_t bytes_done, const OperationRest& rest,
                         const InSync& in_sync) {
  whole_.Add(now_ms, bytes_done);
  std::map<Id, RunningLearner> learners;
  for (const RunningLearner& learner : rest.learners) {
    const Id id(learner.placement_group_id, learner.device_id);
    learners[id] = learner;
    const auto before = learners_.find(id);
    const uint64_t known = before == learners_.end() ? 0 : before->second.copied;
    if (learner.copied > known) Count(learner, learner.copied - known);
  }
  // Of one that is done the last part was never told.
  for (const auto& [id, learner] : learners_) {
    if (!learners.contains(id) && in_sync(id.first, id.second)) Count(learner, learner.left);
  }
  learners_ = std::move(learners);
  for (const auto& [id, left] : rest.left_by_flow) flows_[id];
  for (auto& [id, flow] : flows_) {
    const auto left = rest.left_by_flow.find(id);
    flow.left = left == rest.left_by_flow.end() ? 0 : left->second;
    flow.meter.Add(now_ms, flow.copied);
  }
}

uint64_t OperationMeter::EtaMillis(uint64_t left) const {
  const auto rate = static_cast<double>(whole_.SteadyBytesPerSecond());
  if (rate == 0 || left == 0) return 0;
  std::array<uint32_t, 2> moving = {0, 0};  // in, out
  for (const auto& [id, flow] : flows_) moving[id.out ? 1 : 0] += flow.meter.BytesPerSecond() > 0;
  double seconds = static_cast<double>(left) / rate;
  for (const auto& [id, flow] : flows_) {
    // One that is slower than most, or has not begun, will go as the others do when they are done.
    const double usual = rate / std::max<uint32_t>(1, moving[id.out ? 1 : 0]);
    const double own = std::max(usual, static_cast<double>(flow.meter.SteadyBytesPerSecond()));
    seconds = std::max(seconds, static_cast<double>(flow.left) / own);
  }
  return std::max<uint64_t>(1, static_cast<uint64_t>(seconds * 1'000));
}

}  // namespace tessera::mdm
