#include <algorithm>

#include "services/sds/io_operation.h"

namespace tessera::sds {

v1::IoResult* Outbox::AddResult(const std::shared_ptr<IoClient>& client,
                                const v1::IoOperation& operation) {
  if (last_ >= replies_.size() || replies_[last_].client != client) {
    const auto found =
        std::find_if(replies_.begin(), replies_.end(),
                     [&client](const Reply& reply) { return reply.client == client; });
    last_ = static_cast<size_t>(found - replies_.begin());
    if (found == replies_.end()) replies_.push_back({.client = client});
  }
  v1::IoResult* result = replies_[last_].frame.header.add_results();
  result->set_tag(operation.tag());
  return result;
}

v1::IoResult* Outbox::Add(const IoOperationRef& operation, const StoreWork& work) {
  const RequestBatch& batch = *operation.batch;
  v1::IoResult* result = AddResult(batch.session->client, *operation.operation);
  Reply& reply = replies_[last_];
  auto* stages = reply.frame.header.mutable_stages();
  const bool more = !stages->empty() && reply.batch == &batch && reply.work == work &&
                    reply.admitted_nanos == operation.admitted_nanos;
  if (!more) {
    reply.batch = &batch;
    reply.work = work;
    reply.admitted_nanos = operation.admitted_nanos;
    const Arrival arrival{batch.arrived_nanos, batch.away_nanos, batch.token_nanos,
                          operation.admitted_nanos};
    reply.frame.done_nanos.push_back(FillStageTimes(arrival, work, stages->Add()));
  }
  v1::StageTimes& run = *stages->rbegin();
  run.set_results(run.results() + 1);
  return result;
}

void Outbox::Observe(StageHistograms* stages) const {
  for (const Reply& reply : replies_) {
    for (const v1::StageTimes& run : reply.frame.header.stages()) {
      const auto observe = [&](v1::LatencyStage stage, uint32_t micros) {
        if (micros > 0) stages->Observe(stage, micros, run.results());
      };
      stages->Observe(v1::LATENCY_STAGE_SERVER_QUEUE, run.queue_micros(), run.results());
      stages->Observe(v1::LATENCY_STAGE_TOKEN_CHECK, run.token_micros(), run.results());
      observe(v1::LATENCY_STAGE_LIMIT_HELD, run.held_micros());
      observe(v1::LATENCY_STAGE_JOURNAL, run.journal_micros());
      observe(v1::LATENCY_STAGE_MEMORY_READ, run.memory_micros());
      observe(v1::LATENCY_STAGE_DISK_READ, run.disk_micros());
      observe(v1::LATENCY_STAGE_FLUSH_WAIT, run.flush_wait_micros());
      observe(v1::LATENCY_STAGE_FLUSH_SYNC, run.flush_sync_micros());
    }
  }
}

void Outbox::AddPayload(grpc::Slice slice) {
  replies_[last_].frame.payload.push_back(std::move(slice));
}

void Outbox::Deliver() {
  for (Reply& reply : replies_) reply.client->Deliver(std::move(reply.frame));
  replies_.clear();
  last_ = 0;
}

}  // namespace tessera::sds
