// Faults that strike together, where one alone is mended before it shows: clients that end in the
// midst of their writes, takeovers in the dark, and losses of power around flushes.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "integration/sim/coverage.h"
#include "integration/sim/faults.h"
#include "integration/sim/sdc_node.h"
#include "services/common/io_codec.h"

namespace tessera::sim {
namespace {

chunk::SeededRandom& Dice() { return World::Get().random(); }

}  // namespace

void Faults::CutFor(NodeId from, NodeId to, Nanos duration) {
  Network& network = cluster_->network();
  World::Get().Trace(absl::StrCat("cut: ", from, " to ", to));
  network.Cut(from, to);
  Later(duration, [&network, from, to] { network.Heal(from, to); });
}

void Faults::BurstAt(NodeId client) {
  for (const auto& application : applications_) {
    if (application->life()->node == client) application->Burst();
  }
}

void Faults::LosePower(NodeId server, Nanos most) {
  if (!cluster_->Runs(server)) return;
  Hit(Coverage::kSdsPowerLoss);
  cluster_->PowerOff(server);
  RestartLater(server, 200 * kMillisecond, most);
}

void Faults::PassOn(Volume& volume) {
  if (!volume.mapped || volume.leaving) return;
  Hit(Coverage::kTakeover);
  volume.leaving = true;
}

// A client that is killed or stopped as servers take what it writes: some have taken more than
// others. Often one of them was out of its reach before, so that much is not answered.
void Faults::ClientEndsWriting() {
  const NodeId node = AnyClient();
  if (!cluster_->Runs(node) || ending_.contains(node)) return;
  ending_[node] = Dice().Between(1, 12);
  BurstAt(node);
  if (Dice().Chance(1, 2)) {
    CutFor(node, AnyServer(), Dice().Between(100, 4'000) * kMillisecond);
  }
}

void Faults::Saw(NodeId client, NodeId server, const grpc::ByteBuffer& message) {
  IoRequestFrame frame;
  if (!DecodeIoRequest(message, &frame).ok()) return;
  const auto& operations = frame.header.operations();
  const bool writes = std::any_of(operations.begin(), operations.end(), [](const auto& operation) {
    return operation.type() == v1::IO_OPERATION_TYPE_WRITE;
  });
  if (!writes || --ending_[client] > 0) return;
  ending_.erase(client);
  // It may live for a moment more.
  Later(Dice().Chance(1, 2) ? 0 : Dice().Below(400 * kMicrosecond),
        [this, client, server] { EndWriting(client, server); });
}

// Its volumes are passed on then, or it has them again; servers that have its writes fail as well.
void Faults::EndWriting(NodeId client, NodeId server) {
  Life* const life = cluster_->network().machine(client).life;
  if (life == nullptr) return;
  const bool killed = Dice().Chance(2, 3);
  Hit(killed ? Coverage::kSdcDiedWriting : Coverage::kSdcStoppedWriting);
  if (killed) {
    cluster_->Kill(client);
    RestartLater(client, 50 * kMillisecond, 3 * kSecond);
  } else {
    World::Get().Trace(absl::StrCat("stopped: ", life->name));
    life->stopped_until = World::Get().now() + Dice().Between(500, 9'000) * kMillisecond;
  }
  for (size_t i = 0; i < volumes_.size(); ++i) {
    Volume& volume = volumes_[i];
    if (volume.client == client && (!killed || Dice().Chance(1, 2))) PassOn(volume);
  }
  const NodeId other = Dice().Chance(1, 2) ? server : AnyServer();
  if (Dice().Chance(1, 3)) {
    LosePower(other, 4 * kSecond);
  } else if (Dice().Chance(1, 2)) {
    // After the fence, by then.
    Later(Dice().Between(100, 3'000) * kMillisecond, [this, other] {
      if (!cluster_->Runs(other)) return;
      Hit(Coverage::kSdsKilled);
      cluster_->Kill(other);
      RestartLater(other, 50 * kMillisecond, kSecond);
    });
  }
}

// A volume goes to another client while the MDM does not reach all servers. Either the client that
// has it goes on without one of these, and who gets the volume hears late of that, or it is often
// not reached itself, and works on.
void Faults::PassOnBlindly() {
  Volume& volume = volumes_[Dice().Below(volumes_.size())];
  if (!volume.mapped || volume.leaving) return;
  Hit(Coverage::kBlindTakeover);
  const NodeId holder = volume.client;
  BurstAt(holder);
  const bool goes_on = Dice().Chance(1, 2);
  const Nanos blind = Dice().Between(goes_on ? 4'000 : 500, 9'000) * kMillisecond;
  const bool all = !goes_on && Dice().Chance(1, 2);
  const NodeId one = AnyServer();
  for (NodeId node = kFirstSds; node < kFirstSds + cluster_->server_count(); ++node) {
    if (!all && node != one && !Dice().Chance(1, 4)) continue;
    CutFor(node, kMdm, blind);
    CutFor(kMdm, node, blind);
  }
  if (goes_on) {
    CutFor(holder, one, blind);
    for (NodeId node = kFirstSdc; node < kFirstSdc + cluster_->client_count(); ++node) {
      if (node == holder) continue;
      Hit(Coverage::kMapLate);
      cluster_->network().machine(node).map_late_until = World::Get().now() + blind;
    }
    Later(Dice().Below(blind), [this, &volume] { PassOn(volume); });
    return;
  }
  if (Dice().Chance(3, 4)) {
    CutFor(holder, kMdm, blind);
    CutFor(kMdm, holder, blind);
  }
  PassOn(volume);
  // Servers start anew, and know what they have written down.
  Later(Dice().Below(blind), [this] {
    for (NodeId node = kFirstSds; node < kFirstSds + cluster_->server_count(); ++node) {
      if (!cluster_->Runs(node) || Dice().Chance(1, 2)) continue;
      Hit(Coverage::kSdsKilled);
      cluster_->Kill(node);
      RestartLater(node, 10 * kMillisecond, 500 * kMillisecond);
    }
  });
}

// Often when much has been written, or clients look away until servers have done what they can
// among themselves; servers may come back out of the MDM's reach.
void Faults::PoolLosesPower() {
  if (Dice().Chance(1, 2)) return LosePoolPower();
  for (NodeId node = kFirstSdc; node < kFirstSdc + cluster_->client_count(); ++node) BurstAt(node);
  Later(Dice().Below(1'000) * kMillisecond, [this] { LosePoolPower(); });
}

void Faults::LosePoolPower() {
  Hit(Coverage::kPoolPowerLoss);
  for (NodeId node = kFirstSds; node < kFirstSds + cluster_->server_count(); ++node) {
    if (!cluster_->network().machine(node).powered) continue;
    cluster_->PowerOff(node);
    RestartLater(node, 200 * kMillisecond, 4 * kSecond);
    if (!Dice().Chance(1, 3)) continue;
    Hit(Coverage::kStaleRestart);
    const Nanos away = Dice().Between(1'000, 8'000) * kMillisecond;
    CutFor(node, kMdm, away);
    CutFor(kMdm, node, away);
  }
  if (Dice().Chance(1, 3) && cluster_->Runs(kMdm)) {
    cluster_->Kill(kMdm);
    RestartLater(kMdm, 200 * kMillisecond, 2 * kSecond);
  }
  if (Dice().Chance(1, 2)) LookAway(AnyClient(), Dice().Between(1'000, 9'000) * kMillisecond);
  // The next flush that is answered promises something.
  dark_at_flush_ = Dice().Chance(1, 2);
  if (Dice().Chance(1, 3)) return;
  for (const auto& application : applications_) application->Verify();
}

// Stopped, or cut off from all servers, while the map still reaches it.
void Faults::LookAway(NodeId client, Nanos duration) {
  Life* const life = cluster_->network().machine(client).life;
  if (life == nullptr) return;
  if (Dice().Chance(1, 3)) {
    Hit(Coverage::kSdcStopped);
    World::Get().Trace(absl::StrCat("stopped: ", life->name));
    life->stopped_until = World::Get().now() + duration;
    return;
  }
  for (NodeId node = kFirstSds; node < kFirstSds + cluster_->server_count(); ++node) {
    CutFor(client, node, duration);
  }
}

void Faults::Flushed() {
  if (!std::exchange(dark_at_flush_, false)) return;
  Hit(Coverage::kDarkAtFlush);
  Later(Dice().Chance(1, 2) ? 0 : Dice().Below(2'000) * kMicrosecond, [this] { LosePoolPower(); });
}

}  // namespace tessera::sim
