#include "integration/sim/network.h"

#include <algorithm>

namespace tessera::sim {
namespace {

constexpr Nanos kRetryMin = 20 * kMillisecond;
constexpr Nanos kRetryMax = kSecond;

}  // namespace

void Network::HealAll() {
  for (auto& row : cut_) row.fill(false);
  for (auto& row : delay_) row.fill(0);
  for (Machine& machine : machines_) machine.map_late_until = 0;
  duplicates_of_thousand_ = 0;
}

Nanos Network::Latency(NodeId from, NodeId to) {
  chunk::SeededRandom& random = World::Get().random();
  if (from == to) return random.Between(5, 30) * kMicrosecond;
  Nanos latency = random.Between(40, 200) * kMicrosecond;
  if (random.Chance(1, 50)) latency += random.Below(5 * kMillisecond);
  if (delay_[from][to] > 0) {
    Hit(Coverage::kDelayedMessage);
    latency += random.Below(delay_[from][to]);
  }
  return latency;
}

void Network::Send(NodeId from, NodeId to, Nanos patience,
                   std::function<void(bool through)> arrive) {
  Retry(from, to, World::Get().now() + patience, kRetryMin, std::move(arrive));
}

void Network::Retry(NodeId from, NodeId to, Nanos give_up_at, Nanos pause,
                    std::function<void(bool through)> arrive) {
  World::Get().After(Latency(from, to), nullptr,
                     [this, from, to, give_up_at, pause, arrive = std::move(arrive)]() mutable {
                       if (Open(from, to)) return arrive(true);
                       Hit(Coverage::kHeldMessage);
                       if (World::Get().now() >= give_up_at) return arrive(false);
                       World::Get().After(
                           pause, nullptr,
                           [this, from, to, give_up_at, pause, arrive = std::move(arrive)] {
                             Retry(from, to, give_up_at, std::min(pause * 2, kRetryMax), arrive);
                           });
                     });
}

void Pipe::Send(std::function<void()> arrive) {
  if (closed_) return;
  last_arrival_ = std::max(last_arrival_, World::Get().now() + network_->Latency(from_, to_));
  queue_.emplace_back(last_arrival_, std::move(arrive));
  if (std::exchange(pumping_, true)) return;
  World::Get().At(last_arrival_, nullptr, [self = shared_from_this()] { self->Pump(); });
}

void Pipe::LoseTail() {
  const size_t left = World::Get().random().Below(queue_.size() + 1);
  while (queue_.size() > left) queue_.pop_back();
}

void Pipe::Pump() {
  World& world = World::Get();
  while (!queue_.empty() && !closed_) {
    if (queue_.front().first > world.now()) {
      world.At(queue_.front().first, nullptr, [self = shared_from_this()] { self->Pump(); });
      return;
    }
    if (network_->IsCut(from_, to_) || !network_->machine(to_).powered) {
      Hit(Coverage::kHeldMessage);
      if (held_since_ == 0) held_since_ = world.now();
      if (world.now() - held_since_ > Network::kBreakAfter && stuck_) {
        auto stuck = std::move(stuck_);
        stuck_ = nullptr;
        stuck();
      }
      world.After(kRetryMin, nullptr, [self = shared_from_this()] { self->Pump(); });
      return;
    }
    held_since_ = 0;
    const auto arrive = std::move(queue_.front().second);
    queue_.pop_front();
    arrive();
  }
  pumping_ = false;
}

}  // namespace tessera::sim
