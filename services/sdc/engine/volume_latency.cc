// Where the time of requests goes: docs/decisions/0013-where-latency-goes.md.
//
// Clocks are read where they are anyway; what is between two readings belongs to what was waited
// for, and the rest of a request's time is the client's own.
#include <algorithm>
#include <array>

#include "services/sdc/engine/volume_engine.h"

namespace tessera::sdc {
namespace {

uint32_t Micros(uint64_t from_nanos, uint64_t to_nanos) {
  const uint64_t micros = (to_nanos - std::min(to_nanos, from_nanos)) / 1000;
  return static_cast<uint32_t>(std::min<uint64_t>(micros, UINT32_MAX));
}

// Unspecified: nobody asks where the time of such requests went.
v1::LatencyOperation OperationOf(Command command) {
  switch (command) {
    case Command::kRead:
      return v1::LATENCY_OPERATION_READ;
    case Command::kWrite:
    case Command::kWriteZeroes:
    case Command::kTrim:
      return v1::LATENCY_OPERATION_WRITE;
    case Command::kFlush:
      return v1::LATENCY_OPERATION_FLUSH;
    default:
      return v1::LATENCY_OPERATION_UNSPECIFIED;
  }
}

}  // namespace

void VolumeEngine::WaitEnded(Request* request, v1::LatencyStage stage, uint64_t now_nanos) {
  request->client_micros[ClientStage(stage)] += Micros(request->gate_nanos, now_nanos);
  request->gate_nanos = now_nanos;
}

void VolumeEngine::NoteAnswer(SdsStream& stream, const InFlightOperation& operation, Piece* piece) {
  if (piece->request == nullptr) return;  // kept, and sent to a replica that had lost it
  piece->path = stream.PathOf(operation);
  const bool write = operation.kind == InFlightOperation::Kind::kWrite;
  const bool again = write ? operation.stamp.round > 0 : piece->sends > 1;
  piece->retry_micros = again ? Micros(piece->began_nanos, operation.left_nanos) : 0;
  if (piece->answers < Piece::kAnswersNoted) {
    piece->answered_micros[piece->answers++] =
        Micros(piece->began_nanos, piece->path.received_nanos);
  }
  ledger_.NoteAnswer(write ? v1::LATENCY_OPERATION_WRITE : v1::LATENCY_OPERATION_READ, piece->path,
                     piece->path.received_nanos);
}

void VolumeEngine::NoteCacheRead(const Piece& piece) {
  Request* request = piece.request;
  if (request->outstanding > 1) return;  // it waits for others yet
  request->client_micros[ClientStage(v1::LATENCY_STAGE_READ_CACHE)] +=
      Micros(piece.began_nanos, context_.NowNanos());
}

void VolumeEngine::NoteFlushAnswer(SdsStream& stream, const InFlightOperation& operation) {
  flush_path_ = stream.PathOf(operation);
  ledger_.NoteAnswer(v1::LATENCY_OPERATION_FLUSH, *flush_path_, flush_path_->received_nanos);
}

void VolumeEngine::NoteFlushed(Request* request) const {
  request->client_micros[ClientStage(v1::LATENCY_STAGE_FLUSH_ROUND)] +=
      Micros(request->flush_nanos, flush_began_nanos_);
  if (!flush_path_.has_value()) return;
  request->paths.push_back(*flush_path_);
  if (!flush_retried_) return;
  uint64_t on_its_way = 0;
  for (const uint32_t micros : flush_path_->micros) on_its_way += micros;
  request->client_micros[ClientStage(v1::LATENCY_STAGE_RETRY)] +=
      Micros(flush_began_nanos_ + on_its_way * 1000, flush_path_->received_nanos);
}

void VolumeEngine::NoteLegEnd(Request* request, const Piece& piece) const {
  if (piece.answers == 0) return;  // no server was asked
  request->paths.push_back(piece.path);
  request->client_micros[ClientStage(v1::LATENCY_STAGE_RETRY)] += piece.retry_micros;
  if (!IsWriteType(piece.type)) return;
  // It was there and waited for earlier ones of its order.
  request->client_micros[ClientStage(v1::LATENCY_STAGE_ORDER_WAIT)] +=
      Micros(piece.path.received_nanos, answer_nanos_);
  const size_t others = piece.answers - 1;
  if (others == 0 || piece.retry_micros > 0) return;
  request->slowest_replica_micros = Micros(piece.began_nanos, piece.path.received_nanos) -
                                    piece.answered_micros[(others - 1) / 2];
}

void VolumeEngine::NoteLatency(const Request& request, uint64_t now_nanos) {
  LatencySample sample;
  sample.operation = OperationOf(request.block.command);
  if (sample.operation == v1::LATENCY_OPERATION_UNSPECIFIED || request.internal) return;
  sample.total_micros = Micros(request.started_nanos, now_nanos);
  sample.client_micros = request.client_micros;
  sample.paths = request.paths;
  sample.slowest_replica_micros = request.slowest_replica_micros;
  sample.offset_bytes = request.range.begin;
  sample.length_bytes = request.range.size();
  ledger_.Add(sample, now_nanos);

  StageHistograms& stages = context_.counters().stages;
  const auto observe = [&stages](v1::LatencyStage first, size_t index, uint64_t micros) {
    if (micros == 0) return;
    stages.Observe(static_cast<v1::LatencyStage>(static_cast<size_t>(first) + index), micros);
  };
  for (size_t i = 0; i < kClientStages; ++i) {
    observe(v1::LATENCY_STAGE_QOS_WAIT, i, sample.client_micros[i]);
  }
  observe(v1::LATENCY_STAGE_CLIENT_QUEUE, 0, ClientQueueMicros(sample));
  for (const AnswerPath& path : request.paths) {
    for (size_t i = 0; i < kServerStages; ++i) {
      observe(v1::LATENCY_STAGE_NETWORK, i, path.micros[i]);
    }
  }
  observe(v1::LATENCY_STAGE_SLOWEST_REPLICA, 0, sample.slowest_replica_micros);
}

v1::LatencyFigures VolumeEngine::Latency(uint32_t window_s, v1::LatencyOperation operation) {
  return ledger_.Figures(window_s, operation, context_.NowNanos());
}

}  // namespace tessera::sdc
