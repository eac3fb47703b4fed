// One client's stream: messages in to the engine, results out, gathered while a message is being
// written.
//
// A stream lives on one worker, its home: the worker polls the stream's completion queue, decodes
// and verifies what comes, and writes the answers, all on its own thread.
//
// Bounded: when the requests in progress and the replies not yet sent reach the window, or all
// streams together reach the server's budget, the stream is not read until they have shrunk.
//
// Threads: the home worker's; Deliver, Release, Break and Close from any, they hand over to it.
#ifndef TESSERA_SERVICES_SDS_IO_STREAM_H_
#define TESSERA_SERVICES_SDS_IO_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>
#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "services/common/clock.h"
#include "services/common/grpc_queue.h"
#include "services/common/io_codec.h"
#include "services/sds/io_budget.h"
#include "services/sds/io_engine.h"
#include "services/sds/io_operation.h"
#include "services/sds/sds_metrics.h"

namespace tessera::sds {

class IoStream final : public IoClient, public std::enable_shared_from_this<IoStream> {
 public:
  using Rpc = grpc::ServerAsyncReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>;
  struct Parts {
    IoEngine* engine = nullptr;  // these four must outlive the stream
    IoBudget* budget = nullptr;
    SdsMetrics* metrics = nullptr;
    const Clock* clock = nullptr;
    size_t home = 0;  // index of the worker
    std::function<v1::SdsHello()> hello;
    // A client has come (or none will any more: `accepted` is false): time to wait for the next.
    std::function<void(std::shared_ptr<IoStream>, bool accepted)> on_accepted;
    // Called once for an accepted stream, when gRPC is done with it.
    std::function<void(IoStream*)> on_closed;
  };
  explicit IoStream(Parts parts) : parts_(std::move(parts)), rpc_(&context_) {}

  // Hands context, call and tag to `request`, which asks gRPC for the next call of the method. The
  // stream keeps itself alive from then on until gRPC is done with it.
  template <typename Request>
  void Accept(Request request) {
    self_ = shared_from_this();
    ++operations_;
    request(&context_, &rpc_, static_cast<QueueTag*>(&accepted_));
  }
  // The server stops: ends the stream as soon as nothing is in progress.
  void Close();

  // IoClient.
  void Deliver(IoResponseFrame frame) override;
  void Release(size_t bytes) override;
  void Break(const absl::Status& why) override;

 private:
  void OnAccepted(bool ok);
  void OnRead(bool ok);
  void OnWritten(bool ok);
  void OnFinished(bool ok);
  // Runs `task` on the home worker: at once when this is it.
  template <typename Task>
  void AtHome(Task task) {
    DeviceWorker* home = parts_.engine->workers()[parts_.home].get();
    if (home->OnThisThread()) {
      task();
    } else {
      home->Post(std::move(task));  // a worker that has stopped has no streams any more
    }
  }
  void Gather(IoResponseFrame frame);
  // The message leaves: fills in how long its results have waited for that.
  void EndStages();
  // Begins what can be begun.
  void Proceed();
  void WriteGathered();
  void ReadNext();
  // An operation of gRPC is over; the last one of a finished stream ends its life.
  void OperationEnded();

  const Parts parts_;
  grpc::ServerContext context_;
  Rpc rpc_;
  MemberTag<IoStream, &IoStream::OnAccepted> accepted_{this};
  MemberTag<IoStream, &IoStream::OnRead> read_{this};
  MemberTag<IoStream, &IoStream::OnWritten> written_{this};
  MemberTag<IoStream, &IoStream::OnFinished> finished_tag_{this};

  uint64_t window_bytes_ = 0;               // from the hello
  std::shared_ptr<ClientSession> session_;  // refers back here until the end
  std::shared_ptr<IoStream> self_;          // gRPC's reference
  int operations_ = 0;                      // that gRPC will give a tag back for

  grpc::ByteBuffer incoming_;   // of the read in progress
  uint64_t request_bytes_ = 0;  // in progress
  uint64_t messages_ = 0;       // in progress
  uint64_t reply_bytes_ = 0;    // gathered, and being written
  uint64_t writing_bytes_ = 0;  // being written
  IoResponseFrame gathered_;
  bool has_gathered_ = false;
  bool reading_ = false;
  bool writing_ = false;
  bool waiting_for_room_ = false;
  bool read_closed_ = false;  // the client sends no more, or may not
  bool broken_ = false;       // nothing more can be sent
  bool finished_ = false;
  absl::Status final_status_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_IO_STREAM_H_
