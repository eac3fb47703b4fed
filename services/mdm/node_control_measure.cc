// NodeControl: asking servers what vtrees take, a stream each.
#include <deque>

#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/mdm/node_control.h"

namespace tessera::mdm {
namespace {

constexpr std::chrono::milliseconds kLookAround{100};

// One stream of the fan-out: begun, read to its end, and finished.
struct Measurement {
  enum class Step { kBegin, kRead, kFinish };

  uint64_t sds_id = 0;
  Step step = Step::kBegin;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncReader<v1::MeasureVtreesResponse>> reader;
  v1::MeasureVtreesResponse piece;
  v1::MeasureVtreesResponse all;
  grpc::Status status;

  // What was begun last is done, well or not. False: all is over.
  bool GoOn(bool ok) {
    if (step == Step::kFinish) return false;
    if (step == Step::kRead && ok) all.MergeFrom(piece);
    step = ok ? Step::kRead : Step::kFinish;
    piece.Clear();
    if (ok) {
      reader->Read(&piece, this);
    } else {
      reader->Finish(&status, this);
    }
    return true;
  }
};

}  // namespace

NodeControl::MeasureAnswers NodeControl::MeasureVtrees(const MeasureRequests& requests,
                                                       Milliseconds timeout,
                                                       const std::function<bool()>& cancelled) {
  grpc::CompletionQueue queue;
  std::deque<Measurement> running;
  for (const auto& [target, request] : requests) {
    Measurement& measurement = running.emplace_back();
    measurement.sds_id = target.sds_id;
    PrepareCall(&measurement.context, static_cast<int>(timeout.count()),
                keys_->BearerForSds(target.sds_id));
    measurement.reader =
        StubOf(target)->AsyncMeasureVtrees(&measurement.context, request, &queue, &measurement);
  }
  void* tag = nullptr;
  bool ok = false;
  for (size_t left = running.size(); left > 0;) {
    const auto next = queue.AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kLookAround);
    if (next == grpc::CompletionQueue::GOT_EVENT) {
      if (!static_cast<Measurement*>(tag)->GoOn(ok)) --left;
    } else if (cancelled != nullptr && cancelled()) {
      for (Measurement& measurement : running) measurement.context.TryCancel();
    }
  }
  queue.Shutdown();
  MeasureAnswers answers;
  for (Measurement& measurement : running) {
    if (!measurement.status.ok()) {
      answers.emplace(measurement.sds_id, FromGrpcStatus(measurement.status));
    } else if (!measurement.all.complete()) {
      answers.emplace(measurement.sds_id, absl::UnavailableError("its answer is not complete"));
    } else {
      answers.emplace(measurement.sds_id, std::move(measurement.all));
    }
  }
  return answers;
}

}  // namespace tessera::mdm
