// The client's one long-lived stream of IO to one server (ChunkService.Io).
//
// Operations added during a turn of the loop leave together at its end; while a message is being
// written, what comes gathers for the next: batches form by themselves, nothing waits for a timer.
// Payloads are slices that are never copied here, in either direction.
//
// The stream connects on its own for as long as it exists: at once after a break, then, when that
// failed too, after 50 ms growing to 1 s. It connects over the unix socket when server and client
// share a host. Operations in flight when it breaks are handed back: whether the server did them is
// unknown.
//
// Threads: made and used on the loop thread; destroyed there or after the loop has ended.
#ifndef TESSERA_SERVICES_SDC_ENGINE_SDS_STREAM_H_
#define TESSERA_SERVICES_SDC_ENGINE_SDS_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "services/common/io_codec.h"
#include "services/sdc/engine/stream_call.h"
#include "services/sdc/engine/stream_queue.h"
#include "services/sdc/event_loop.h"
#include "services/sdc/rules/latency_ledger.h"
#include "services/sdc/rules/map_cache.h"
#include "services/sdc/rules/placement_group_writer.h"
#include "tessera/v1/chunk.pb.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::sdc {

class VolumeEngine;

// What is remembered of an operation until it is answered.
struct InFlightOperation {
  // A late read has been sent to another replica meanwhile.
  enum class Kind : uint8_t { kFree, kWrite, kRead, kFlush, kProbe, kLateRead, kAbandoned };
  Kind kind = Kind::kFree;
  VolumeEngine* volume = nullptr;
  void* object = nullptr;  // the volume's: a piece
  uint64_t device_id = 0;
  uint64_t placement_group_id = 0;
  SendStamp stamp;
  uint32_t window_bytes = 0;
  uint64_t sent_nanos = 0;
  uint64_t left_nanos = 0;  // when its message was handed to gRPC
};

class SdsStream final : private StreamCall::Listener {
 public:
  class Observer {
   public:
    virtual ~Observer() = default;
    // The server said hello: operations can be signed and sent.
    virtual void StreamOpened(SdsStream& stream) = 0;
    // `lost` was in flight. Another attempt to connect is under way.
    virtual void StreamBroke(SdsStream& stream, std::vector<InFlightOperation> lost) = 0;
    // Connecting failed, at once after a break or at first: the server is not there.
    virtual void StreamUnreachable(SdsStream& stream, const std::string& why) = 0;
    // `payload` stands at the result's bytes.
    virtual void StreamAnswered(SdsStream& stream, const InFlightOperation& operation,
                                const v1::IoResult& result, PayloadCursor& payload) = 0;
    // All results of a message have been handed over: there may be room in the window again.
    virtual void StreamBatchEnded(SdsStream& stream) = 0;
  };
  struct Options {
    uint64_t sds_id = 0;
    std::string own_host_id;
    std::shared_ptr<grpc::ChannelCredentials>
        credentials;  // shared by all streams; null: plain text
    EventLoop::Duration connect_timeout = std::chrono::seconds(2);
  };
  // Operations of a kind that were answered.
  struct Answers {
    uint64_t operations = 0;
    uint64_t micros = 0;        // from their leaving to the answers' arrival
    uint64_t store_micros = 0;  // of that, in the server's store, as the server says
  };
  struct Counters {
    uint64_t reconnects = 0;
    uint64_t messages = 0;
    uint64_t operations = 0;
    Answers reads, writes, flushes;
  };

  // All three must outlive the stream.
  SdsStream(EventLoop& loop, StreamQueue& queue, Observer& observer, Options options);
  ~SdsStream() override;
  SdsStream(const SdsStream&) = delete;
  SdsStream& operator=(const SdsStream&) = delete;

  // Where the server is now. Connects when it is not connected; a new incarnation of a server to
  // which a stream is still open breaks that stream only when it really ends.
  void SetAddress(const v1::SdsAddress& address);

  [[nodiscard]] uint64_t sds_id() const { return options_.sds_id; }
  [[nodiscard]] bool open() const { return state_ == State::kOpen; }
  // The server was not there at the last attempt.
  [[nodiscard]] bool unreachable() const { return unreachable_; }
  [[nodiscard]] bool same_host() const { return same_host_; }
  // Of the open stream.
  [[nodiscard]] uint64_t incarnation() const { return incarnation_; }
  [[nodiscard]] uint32_t in_flight() const { return in_flight_; }
  // When its last message came.
  [[nodiscard]] uint64_t received_nanos() const { return received_nanos_; }
  [[nodiscard]] const Counters& counters() const { return counters_; }

  // Something is in flight, and nothing was received since that moment.
  [[nodiscard]] bool SilentSince(uint64_t nanos) const {
    return state_ == State::kOpen && in_flight_ > 0 && received_nanos_ < nanos;
  }
  // Breaks the stream of a server that says nothing any more. It has less time than usual to say
  // hello again before it counts as unreachable.
  void BreakSilent();

  // While StreamAnswered runs: where the operation's time went since its message left.
  [[nodiscard]] AnswerPath PathOf(const InFlightOperation& operation);

  // Room for an operation that moves this many bytes. An empty stream has room for anything.
  [[nodiscard]] bool HasRoom(uint32_t bytes) const {
    return in_flight_ == 0 || in_flight_bytes_ + bytes + kOperationBytes <= window_bytes_;
  }

  // Makes sure that the server has the grant / map entry before what is added next. REQUIRES:
  // open().
  void ShowGrant(uint64_t grant_id, uint64_t revision, const std::string& grant);
  void ShowEntry(const MapCache::Group& group);
  // Shows the entry again with the next operation, or the grant.
  void ForgetEntry(uint64_t placement_group_id) { shown_epochs_.erase(placement_group_id); }
  void ForgetGrant(uint64_t grant_id) { shown_grants_.erase(grant_id); }

  // Adds an operation; the caller fills in everything but the tag, the server's incarnation and the
  // payload. REQUIRES: open().
  v1::IoOperation* Add(const InFlightOperation& operation, std::span<const grpc::Slice> payload);

  // Answers of the volume's operations are dropped from now on.
  void Abandon(const VolumeEngine* volume);
  // Operations of a kind that were sent before a moment; they are of the other kind from now on.
  // What is late or abandoned is forgotten when its answer comes.
  [[nodiscard]] std::vector<InFlightOperation> TakeOlder(InFlightOperation::Kind kind,
                                                         uint64_t sent_before_nanos,
                                                         InFlightOperation::Kind becomes);

 private:
  enum class State : uint8_t { kIdle, kConnecting, kOpen, kWaiting };
  static constexpr uint32_t kOperationBytes = 160;

  void Connect();
  void ConnectTimedOut();
  // StreamCall::Listener.
  bool CallReceived(StreamCall& call, const grpc::ByteBuffer& message) override;
  void CallWrote(StreamCall& call) override;
  void CallEnded(StreamCall& call, const std::string& why) override;
  void Hello(const v1::SdsHello& hello);
  void Results(const IoResponseFrame& frame);
  void CountAnswer(const InFlightOperation& operation);
  void SendNext();
  [[nodiscard]] static bool FlushesOnly(const IoRequestFrame& frame);
  void BreakOff(const std::string& why);
  std::vector<InFlightOperation> TakeAllInFlight();
  IoRequestFrame& Gathering();

  EventLoop& loop_;
  StreamQueue& queue_;
  Observer& observer_;
  const Options options_;
  const EventLoop::HookId hook_;
  v1::SdsAddress address_;
  std::string target_;
  bool same_host_ = false;

  State state_ = State::kIdle;
  bool unreachable_ = false;
  uint32_t failures_ = 0;                            // to connect, in a row
  std::shared_ptr<StreamCall> call_;                 // shared with gRPC until the call is over
  std::vector<std::shared_ptr<StreamCall>> ending_;  // cancelled, not over yet
  EventLoop::TimerId timer_ = 0;
  bool timer_set_ = false;

  bool was_silent_ = false;                       // it was broken off for that just now
  uint64_t received_nanos_ = 0;                   // when the last message came
  uint64_t away_nanos_ = 0;                       // before that the loop had not looked for so long
  const v1::StageTimes* answer_times_ = nullptr;  // of the result that is handed over; null: none
  uint64_t best_transit_nanos_ = UINT64_MAX;      // on this connection
  // The last round trip that was cut, of this message if `cut_left_nanos_` is not 0.
  std::array<uint32_t, kServerStages> cut_{};
  const v1::StageTimes* cut_times_ = nullptr;
  uint64_t cut_left_nanos_ = 0;

  uint64_t incarnation_ = 0;
  uint64_t window_bytes_ = 0;
  uint64_t in_flight_bytes_ = 0;
  uint32_t in_flight_ = 0;
  std::vector<InFlightOperation> slots_;  // by the low half of the tag
  std::vector<uint32_t> slot_lives_;      // the high half
  std::vector<uint32_t> free_slots_;

  bool writing_ = false;
  uint32_t messages_ahead_ = 0;          // sent, not answered yet (about: see CallReceived)
  std::deque<IoRequestFrame> gathered_;  // bounded by the window
  std::vector<IoRequestFrame> spare_frames_;
  IoResponseFrame response_;
  absl::flat_hash_map<uint64_t, uint64_t> shown_grants_;  // id to revision
  absl::flat_hash_map<uint64_t, uint64_t> shown_epochs_;  // placement group to epoch
  Counters counters_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_SDS_STREAM_H_
