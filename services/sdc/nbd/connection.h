// One NBD client: a socket on the event loop, the protocol's state machines, a device.
//
//   kHandshake --GO, EXPORT_NAME--> kTransmission --DISC, end of stream--> kDraining --> kClosed
//       ^  |                             |                                     |           ^
//       |  STARTTLS                      +--protocol broken, socket failed, export closed--+
//       kTlsSwitch
//
// Promises
//  - One receive call for a readable event, one send call at the end of a turn; no payload is
//  copied
//    (but under TLS).
//  - What is held for a client is bounded: over the limits of the options its socket is not read.
//  - A request that has gone to the device may outlive the connection: its slot keeps this object,
//    and what the device then answers is dropped.
//
// Threads: the loop thread.
#ifndef TESSERA_SERVICES_SDC_NBD_CONNECTION_H_
#define TESSERA_SERVICES_SDC_NBD_CONNECTION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "services/sdc/block_device.h"
#include "services/sdc/event_loop.h"
#include "services/sdc/nbd/handshake.h"
#include "services/sdc/nbd/options.h"
#include "services/sdc/nbd/reply_queue.h"
#include "services/sdc/nbd/request_reader.h"
#include "services/sdc/nbd/tls.h"
#include "services/sdc/nbd/transport.h"

namespace tessera::sdc::nbd {

class Connection;

// What a connection needs of the server. Outlives every connection that is not closed.
class ConnectionHost {
 public:
  virtual ~ConnectionHost() = default;
  virtual EventLoop& loop() = 0;
  virtual const NbdServerOptions& options() const = 0;
  virtual const ExportTable& exports() const = 0;
  // Null without TLS. With the files as they are now.
  virtual const TlsContext* tls() = 0;
  virtual ServerCounters& counters() = 0;
  // Calls `connection.EndTurn()` at the end of this turn.
  virtual void RunAtTurnEnd(Connection& connection) = 0;
  // Calls `connection.EndTurn()` when bytes in flight elsewhere have been given back.
  virtual void WaitForBytes(Connection& connection) = 0;
  // The connection is closed; the host lets go of it at the end of the turn.
  virtual void Closed(Connection& connection) = 0;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(ConnectionHost& host, std::unique_ptr<Transport> transport, std::string peer,
             TlsMode tls_mode);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Watches the socket and greets the client. Once, first.
  void Start();
  // Sends what has gathered, and goes on reading if that was held back.
  void EndTurn();
  // Takes no more requests, answers those in flight, and closes. What was not answered, the client
  // may send again over another connection.
  void Drain(std::string_view reason);
  // Closes and answers nothing more, to the same end.
  void Drop(std::string_view reason);
  // Answers all requests in flight with ESHUTDOWN, as far as the socket takes it, and closes.
  void Abort(std::string_view reason);
  // Gives idle memory back; closes a client that has been idle or stalled too long. `starving`: the
  // bytes that all connections may hold are used up.
  void Sweep(EventLoop::Duration now, bool starving);

  [[nodiscard]] bool closed() const { return state_ == State::kClosed; }
  [[nodiscard]] bool InTransmission() const { return session_.device != nullptr; }
  [[nodiscard]] bool Serves(const BlockDevice* device) const {
    return device != nullptr && session_.device.get() == device;
  }
  [[nodiscard]] const std::string& peer() const { return peer_; }
  // Empty before the transmission phase.
  [[nodiscard]] const std::string& export_name() const { return session_.export_name; }
  [[nodiscard]] uint32_t inflight_requests() const { return inflight_requests_; }
  [[nodiscard]] uint64_t inflight_bytes() const { return inflight_bytes_; }

  // For the host's own lists.
  bool queued_for_turn_end = false;
  bool waiting_for_bytes = false;

 private:
  enum class State : uint8_t { kHandshake, kTlsSwitch, kTransmission, kDraining, kClosed };

  // A request in the hands of the device.
  struct Slot {
    std::shared_ptr<Connection> connection;  // set while the device has the request
    RequestHeader header;
  };
  // The `done` of a request. Small enough to live inside the callback without an allocation.
  class Completion {
   public:
    explicit Completion(Slot* slot) : slot_(slot) {}
    Completion(Completion&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
    Completion& operator=(Completion&&) = delete;
    ~Completion();
    void operator()(BlockReply reply);

   private:
    Slot* slot_;
  };

  void OnReady(uint32_t ready);
  void ReadSome();
  void ProcessHandshake();
  void SwitchToTls();
  void BeginTransmission(std::span<const std::byte> rest);
  void ProcessRequests();
  [[nodiscard]] bool Admit(const RequestReader::Request& request);
  void Dispatch(const RequestReader::Request& request, Payload payload);
  void Submit(const RequestHeader& header, Payload payload);
  void Complete(Slot& slot, BlockReply reply);
  void Answer(const RequestHeader& header, BlockReply reply);
  void AnswerError(const RequestHeader& header, int error, std::string_view message,
                   std::optional<uint64_t> offset_bytes, uint64_t charged_bytes);
  // What a request counts towards the limits of bytes in flight.
  [[nodiscard]] static uint64_t ChargeOf(const RequestHeader& header);
  [[nodiscard]] static uint64_t ChargeOf(const RequestReader::Request& request);
  void GiveBack(const ReplyQueue::Released& released);

  [[nodiscard]] bool SendQueued();
  void FinishIfDrained();
  void UpdateInterest();
  [[nodiscard]] bool WantsToRead() const;
  void StartDraining(std::string_view reason);
  void Break(std::string_view reason);
  void TimeOut(std::string_view reason);
  void Close(std::string_view reason);
  void Log(std::string_view event) const;

  ConnectionHost& host_;
  const std::string peer_;
  const TlsMode tls_mode_;
  std::unique_ptr<Transport> transport_;
  State state_ = State::kHandshake;
  uint32_t interest_ = 0;
  std::optional<EventLoop::TimerId> handshake_timer_;
  EventLoop::Duration last_progress_{};  // bytes received or sent
  bool progressed_ = false;              // since last_progress_ was set

  std::optional<Handshake> handshake_;
  std::vector<std::byte> handshake_input_;
  size_t handshake_input_bytes_ = 0;

  Session session_;
  std::shared_ptr<LossCursor> losses_;  // while there is a device
  std::optional<RequestReader> reader_;
  RequestReader::Request request_;  // the one that reader_ is in
  bool held_back_ = false;          // by the limits: there may be more requests in reader_
  ReplyQueue replies_;
  uint32_t inflight_requests_ = 0;   // admitted, reply not sent
  uint64_t inflight_bytes_ = 0;      // of these
  uint32_t submitted_requests_ = 0;  // in the device
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> free_slots_;
};

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_CONNECTION_H_
