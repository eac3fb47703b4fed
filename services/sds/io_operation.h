// What travels from a stream to the worker of a device and back.
//
// Threads: a RequestBatch is filled by one thread, then read by several; its last holder releases
// the window bytes. IoClient's methods are called from any worker.
#ifndef TESSERA_SERVICES_SDS_IO_OPERATION_H_
#define TESSERA_SERVICES_SDS_IO_OPERATION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "services/common/io_codec.h"
#include "services/common/stage_histograms.h"
#include "services/sds/grant_cache.h"
#include "services/sds/stage_times.h"

namespace tessera::sds {

// Where results go: a stream, or a simple call that waits for its one result.
class IoClient {
 public:
  virtual ~IoClient() = default;
  // Results in any order. Called on a worker; does not block.
  virtual void Deliver(IoResponseFrame frame) = 0;
  // Request bytes that are done with: the window opens again.
  virtual void Release(size_t bytes) = 0;
  // The client sent something that is no request: no more is taken from it.
  virtual void Break(const absl::Status& why) = 0;
};

// A client's connection as the engine knows it.
struct ClientSession {
  explicit ClientSession(std::shared_ptr<IoClient> to) : client(std::move(to)) {}
  const std::shared_ptr<IoClient> client;  // shared with the stream itself
  size_t home = 0;                         // index of the worker that parses and verifies
  size_t held_bytes = 0;                   // of messages with operations that are held; home worker
  ShownGrants grants;                      // home worker only
};

// One request message while any of its operations is in progress.
struct RequestBatch {
  RequestBatch(std::shared_ptr<ClientSession> from, size_t window_bytes)
      : session(std::move(from)), bytes(window_bytes) {}
  ~RequestBatch() { session->client->Release(bytes); }
  RequestBatch(const RequestBatch&) = delete;
  RequestBatch& operator=(const RequestBatch&) = delete;

  const std::shared_ptr<ClientSession> session;  // shared by the stream and its batches
  const size_t bytes;
  IoRequestFrame frame;
  std::vector<std::span<const std::byte>> spans;  // into frame.payload, of all writes
  uint64_t arrived_nanos = 0;
  uint64_t away_nanos = 0;   // before it was taken: StageTimes.away_micros
  uint64_t token_nanos = 0;  // how long it took to judge its operations
};

// An operation whose token is good, on its way through a device's worker.
struct IoOperationRef {
  std::shared_ptr<RequestBatch> batch;  // shared by the operations of one message
  const v1::IoOperation* operation = nullptr;
  std::shared_ptr<const ShownGrant> grant;  // shared with the stream
  uint64_t admitted_nanos = 0;              // 0: when its message arrived; else it was held
  size_t first_span = 0;
  size_t span_count = 0;

  [[nodiscard]] std::span<const std::span<const std::byte>> data() const {
    return std::span(batch->spans).subspan(first_span, span_count);
  }
};

[[nodiscard]] inline bool IsChange(v1::IoOperationType type) {
  return type == v1::IO_OPERATION_TYPE_WRITE || type == v1::IO_OPERATION_TYPE_WRITE_ZEROES ||
         type == v1::IO_OPERATION_TYPE_TRIM || type == v1::IO_OPERATION_TYPE_ADOPT;
}

// What an IO_OPERATION_TYPE_CHANGES compares with; empty: nothing.
[[nodiscard]] inline std::vector<token::PathPart> BasePathOf(const v1::IoOperation& operation) {
  std::vector<token::PathPart> parts;
  for (const v1::LayerPathPart& part : operation.base_path()) {
    parts.push_back({.branch = part.branch(), .ordinal_max = part.ordinal_max()});
  }
  return parts;
}

// Results gather here by client until the end of a worker's cycle.
class Outbox {
 public:
  // The result to fill in, with its tag set. Valid until the next call. `work`: what the store did
  // for it.
  [[nodiscard]] v1::IoResult* Add(const IoOperationRef& operation, const StoreWork& work);
  // Appends to the payload of the result that was added last.
  void AddPayload(grpc::Slice slice);
  // Adds the times of what is to be sent.
  void Observe(StageHistograms* stages) const;
  // Sends everything.
  void Deliver();

 private:
  struct Reply {
    std::shared_ptr<IoClient> client;  // shared with its stream
    IoResponseFrame frame;
    // Of its last run of equal times.
    const RequestBatch* batch = nullptr;
    uint64_t admitted_nanos = 0;
    StoreWork work;
  };
  [[nodiscard]] v1::IoResult* AddResult(const std::shared_ptr<IoClient>& client,
                                        const v1::IoOperation& operation);

  std::vector<Reply> replies_;
  size_t last_ = 0;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_IO_OPERATION_H_
