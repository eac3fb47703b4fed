#include "services/sds/held_operations.h"

#include <algorithm>
#include <utility>

namespace tessera::sds {

bool HeldOperations::Keep(Queue* queue, const RequestBatch& batch) {
  if (!queue->waiting.empty() && queue->waiting.back().operation.batch.get() == &batch) return true;
  ClientSession& session = *batch.session;
  if (session.held_bytes > 0 && session.held_bytes + batch.bytes > kStreamBytesMax) return false;
  if (!queue->limit->Hold(batch.bytes)) return false;
  session.held_bytes += batch.bytes;
  return true;
}

IoOperationRef HeldOperations::TakeFront(Queue* queue) {
  IoOperationRef operation = std::move(queue->waiting.front().operation);
  queue->waiting.pop_front();
  const bool last =
      queue->waiting.empty() || queue->waiting.front().operation.batch != operation.batch;
  if (last) {
    queue->limit->Release(operation.batch->bytes);
    operation.batch->session->held_bytes -= operation.batch->bytes;
  }
  return operation;
}

HeldOperations::Outcome HeldOperations::Offer(IoOperationRef* operation, uint64_t now_nanos) {
  const std::shared_ptr<ClientLimit>& limit = operation->grant->limit;
  if (limit == nullptr || ended_) return Outcome::kBegin;
  const auto found = queues_.find(limit.get());
  const bool queued = found != queues_.end();
  const v1::IoOperation& what = *operation->operation;
  const ClientLimit::Decision decision =
      limit->Admit(CostOf(what.type(), what.length_bytes()), queued, now_nanos);
  if (decision.refused) {
    metrics_->limit_refused->Increment();
    return Outcome::kRefused;
  }
  if (!queued && decision.begin_nanos <= now_nanos) return Outcome::kBegin;
  std::unique_ptr<Queue>& queue = queued ? found->second : queues_[limit.get()];
  if (queue == nullptr) queue = std::make_unique<Queue>(Queue{limit, {}});
  if (!Keep(queue.get(), *operation->batch)) {
    if (queue->waiting.empty()) queues_.erase(limit.get());
    metrics_->limit_refused->Increment();
    return Outcome::kRefused;
  }
  queue->waiting.push_back({std::move(*operation), now_nanos, decision.begin_nanos});
  ++count_;
  Wake(now_nanos);
  return Outcome::kHeld;
}

void HeldOperations::ReleaseDue(uint64_t now_nanos) {
  wake_nanos_ = UINT64_MAX;
  std::vector<const ClientLimit*> emptied;
  for (const auto& [limit, queue] : queues_) {
    while (!queue->waiting.empty() && queue->waiting.front().begin_nanos <= now_nanos) {
      metrics_->limit_held_seconds->Observe(
          static_cast<double>(now_nanos - queue->waiting.front().since_nanos) * 1e-9);
      IoOperationRef operation = TakeFront(queue.get());
      operation.admitted_nanos = now_nanos;
      --count_;
      begin_(std::move(operation));
    }
    if (queue->waiting.empty()) emptied.push_back(limit);
  }
  for (const ClientLimit* limit : emptied) queues_.erase(limit);
  if (count_ > 0) Wake(now_nanos);
}

void HeldOperations::Wake(uint64_t now_nanos) {
  uint64_t next = UINT64_MAX;
  for (const auto& [limit, queue] : queues_) {
    next = std::min(next, queue->waiting.front().begin_nanos);
  }
  if (next >= wake_nanos_) return;
  wake_nanos_ = next;
  wake_(absl::Nanoseconds(static_cast<int64_t>(next > now_nanos ? next - now_nanos : 0)));
}

void HeldOperations::End(uint64_t now_nanos) {
  ended_ = true;
  for (const auto& [limit, queue] : queues_) {
    for (Held& held : queue->waiting) held.begin_nanos = 0;
  }
  ReleaseDue(now_nanos);
}

}  // namespace tessera::sds
