// One client's stream: messages in to the engine, results out, gathered while a message is being
// written.
//
// Bounded: when the requests in progress and the replies not yet sent reach the window, or all
// streams together reach the server's budget, the stream is not read until they have shrunk.
//
// Threads: gRPC's callbacks only hand over; Deliver, Release and Break come from workers.
#ifndef TESSERA_SERVICES_SDS_IO_STREAM_H_
#define TESSERA_SERVICES_SDS_IO_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/io_codec.h"
#include "services/sds/io_budget.h"
#include "services/sds/io_engine.h"
#include "services/sds/io_operation.h"
#include "services/sds/sds_metrics.h"

namespace tessera::sds {

class IoStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                       public IoClient,
                       public std::enable_shared_from_this<IoStream> {
 public:
  // `on_closed` is called once, when gRPC is done with the stream. The engine and the budget must
  // outlive it.
  IoStream(IoEngine* engine, IoBudget* budget, SdsMetrics* metrics, std::function<void()> on_closed)
      : engine_(engine), budget_(budget), metrics_(metrics), on_closed_(std::move(on_closed)) {}

  // Says hello and begins to read. Once.
  void Start(const v1::SdsHello& hello);
  // The server stops: ends the stream as soon as nothing is in progress.
  void Close();

  // IoClient.
  void Deliver(IoResponseFrame frame) override;
  void Release(size_t bytes) override;
  void Break(const absl::Status& why) override;

  // grpc::ServerBidiReactor.
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // What is to be done after the lock is released: gRPC may call back from inside its Start
  // functions.
  struct Step {
    bool read = false;
    bool write = false;
    bool finish = false;
    bool wait_for_room = false;
  };
  [[nodiscard]] Step NextStep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Take(const Step& step);

  IoEngine* const engine_;
  IoBudget* const budget_;
  SdsMetrics* const metrics_;
  const std::function<void()> on_closed_;
  uint64_t window_bytes_ = 0;               // set by Start
  std::shared_ptr<ClientSession> session_;  // set by Start; refers back here until OnDone
  std::shared_ptr<IoStream> self_;          // until OnDone: gRPC's own reference

  grpc::ByteBuffer incoming_;  // of the read in progress
  grpc::ByteBuffer outgoing_;  // of the write in progress

  absl::Mutex mutex_;
  uint64_t request_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // in progress
  uint64_t messages_ ABSL_GUARDED_BY(mutex_) = 0;       // in progress
  uint64_t reply_bytes_ ABSL_GUARDED_BY(mutex_) = 0;    // gathered, and being written
  uint64_t writing_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // being written
  IoResponseFrame gathered_ ABSL_GUARDED_BY(mutex_);
  bool has_gathered_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool starting_read_ ABSL_GUARDED_BY(mutex_) = false;  // StartRead is about to be called
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool waiting_for_room_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_closed_ ABSL_GUARDED_BY(mutex_) = false;  // the client sends no more, or may not
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;       // nothing more can be sent
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status final_status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_IO_STREAM_H_
