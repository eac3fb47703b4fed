// The network between simulated machines: messages take a while, links can be cut in one
// direction, slow, or lossy for whole connections; connections keep their own order and no other.
//
// - A call (gRPC unary) is one request and one answer, each on its way by itself. A cut link holds
//   what is sent over it back, as TCP does, and delivers it late; the caller gives up at its
//   deadline. A process that is not there refuses; a machine that is off says nothing. A duplicated
//   call runs twice at the server, the caller hears the first answer.
// - A stream (IO, watches, copying) delivers in order in each direction, and breaks when nothing
//   came through for kBreakAfter. What was sent before it broke may still arrive, at the server,
//   after the client has opened another.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_NETWORK_H_
#define TESSERA_INTEGRATION_SIM_NETWORK_H_

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "integration/sim/coverage.h"
#include "integration/sim/world.h"

namespace tessera::sim {

using NodeId = uint32_t;
inline constexpr NodeId kNodeLimit = 16;

// A machine with at most one process that matters.
struct Machine {
  NodeId id = 0;
  MachineClock clock;
  bool powered = true;
  Life* life = nullptr;      // of its process; null: none runs
  Nanos map_late_until = 0;  // until then its watch of the map brings nothing
};

class Network {
 public:
  static constexpr Nanos kBreakAfter = 3 * kSecond;

  Machine& machine(NodeId id) { return machines_[id]; }

  // ---- Faults.
  void Cut(NodeId from, NodeId to) { cut_[from][to] = true; }
  void Heal(NodeId from, NodeId to) { cut_[from][to] = false; }
  void HealAll();
  [[nodiscard]] bool IsCut(NodeId from, NodeId to) const { return cut_[from][to]; }
  // Adds up to `extra` to each message's way.
  void SetDelay(NodeId from, NodeId to, Nanos extra) { delay_[from][to] = extra; }
  // Of a thousand calls so many run twice.
  void set_duplicates(uint32_t of_thousand) { duplicates_of_thousand_ = of_thousand; }

  // Of one message that is sent now.
  [[nodiscard]] Nanos Latency(NodeId from, NodeId to);

  // Runs `arrive` once the message is through. Held back while the link is cut; given up (false to
  // `arrive`) after `patience`. The arrival belongs to the world: the callee looks who is there.
  void Send(NodeId from, NodeId to, Nanos patience, std::function<void(bool through)> arrive);

  // A call of the current life. `serve` runs in a fiber of the process that is then on machine
  // `to`; `done` runs as an event of the caller's life, once.
  template <typename Response>
  void Call(NodeId to, Nanos timeout, std::function<absl::Status(Response*)> serve,
            std::function<void(absl::StatusOr<Response>)> done);
  // The same, from a fiber, which waits.
  template <typename Response>
  absl::StatusOr<Response> CallAndWait(NodeId to, Nanos timeout,
                                       std::function<absl::Status(Response*)> serve);

 private:
  template <typename Response>
  struct CallState;
  template <typename Response>
  void Serve(const std::shared_ptr<CallState<Response>>& call, bool duplicate);
  void Retry(NodeId from, NodeId to, Nanos give_up_at, Nanos pause,
             std::function<void(bool through)> arrive);

  [[nodiscard]] bool Open(NodeId from, NodeId to) const {
    return !cut_[from][to] && machines_[to].powered;
  }

  std::array<Machine, kNodeLimit> machines_;
  std::array<std::array<bool, kNodeLimit>, kNodeLimit> cut_{};
  std::array<std::array<Nanos, kNodeLimit>, kNodeLimit> delay_{};
  uint32_t duplicates_of_thousand_ = 0;
};

template <typename Response>
struct Network::CallState {
  NodeId from = 0;
  NodeId to = 0;
  Life* caller = nullptr;
  Nanos deadline = 0;
  bool over = false;
  std::function<absl::Status(Response*)> serve;
  std::function<void(absl::StatusOr<Response>)> done;

  void End(absl::StatusOr<Response> answer) {
    if (std::exchange(over, true)) return;
    World::Get().After(0, caller, [done = std::move(done), answer = std::move(answer)]() mutable {
      done(std::move(answer));
    });
  }
};

template <typename Response>
void Network::Call(NodeId to, Nanos timeout, std::function<absl::Status(Response*)> serve,
                   std::function<void(absl::StatusOr<Response>)> done) {
  World& world = World::Get();
  auto call = std::make_shared<CallState<Response>>();
  call->from = world.current()->node;
  call->to = to;
  call->caller = world.current();
  call->deadline = world.now() + timeout;
  call->serve = std::move(serve);
  call->done = std::move(done);
  world.At(call->deadline, call->caller,
           [call] { call->End(absl::DeadlineExceededError("no answer in time")); });
  if (call->caller->muted && call->caller->muted()) return;
  Send(call->from, to, timeout + 5 * kSecond, [this, call](bool through) {
    if (through) Serve(call, false);
  });
  if (world.random().Chance(duplicates_of_thousand_, 1000)) {
    Send(call->from, to, timeout + 5 * kSecond, [this, call](bool through) {
      if (through) Serve(call, true);
    });
  }
}

template <typename Response>
void Network::Serve(const std::shared_ptr<CallState<Response>>& call, bool duplicate) {
  Machine& server = machines_[call->to];
  if (!server.powered) return;
  if (server.life == nullptr) {
    Send(call->to, call->from, kSecond, [call](bool through) {
      if (through) call->End(absl::UnavailableError("connection refused"));
    });
    return;
  }
  if (duplicate) Hit(Coverage::kDuplicatedCall);
  Life* const life = server.life;
  // A killed process resets its connections.
  auto answered = std::make_shared<bool>(false);
  World::Get().Spawn(life, [this, call, life, answered] {
    Response response;
    const absl::Status status = call->serve(&response);
    *answered = true;
    if (life->muted && life->muted()) return;
    absl::StatusOr<Response> answer =
        status.ok() ? absl::StatusOr<Response>(std::move(response)) : status;
    Send(call->to, call->from, call->deadline - std::min(call->deadline, World::Get().now()) + 1,
         [call, answer = std::move(answer)](bool through) mutable {
           if (through) call->End(std::move(answer));
         });
  });
  life->IfKilled(answered, [this, call] {
    Send(call->to, call->from, kSecond, [call](bool through) {
      if (through) call->End(absl::UnavailableError("connection reset"));
    });
  });
}

template <typename Response>
absl::StatusOr<Response> Network::CallAndWait(NodeId to, Nanos timeout,
                                              std::function<absl::Status(Response*)> serve) {
  const World::Wait wait = World::Get().NewWait();
  absl::StatusOr<Response> result = absl::UnknownError("not answered");
  Call<Response>(to, timeout, std::move(serve), [&result, wait](absl::StatusOr<Response> answer) {
    result = std::move(answer);
    World::Get().Unpark(wait);
  });
  World::Get().Park(wait);
  return result;
}

// One direction of a stream: what is sent arrives in order.
class Pipe : public std::enable_shared_from_this<Pipe> {
 public:
  // `stuck` is called when the first in line could not be delivered for kBreakAfter.
  Pipe(Network* network, NodeId from, NodeId to, std::function<void()> stuck)
      : network_(network), from_(from), to_(to), stuck_(std::move(stuck)) {}
  void Send(std::function<void()> arrive);
  // What is on its way is lost.
  void Close() { closed_ = true; }
  // The sender is no more: what it had handed over last may not have left its machine.
  void LoseTail();

 private:
  void Pump();

  Network* const network_;
  const NodeId from_;
  const NodeId to_;
  std::function<void()> stuck_;
  std::deque<std::pair<Nanos, std::function<void()>>> queue_;
  Nanos last_arrival_ = 0;
  Nanos held_since_ = 0;
  bool pumping_ = false;
  bool closed_ = false;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_NETWORK_H_
