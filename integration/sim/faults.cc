#include "integration/sim/faults.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "integration/sim/addresses.h"
#include "integration/sim/coverage.h"
#include "integration/sim/mdm_node.h"
#include "integration/sim/oracle.h"
#include "integration/sim/sdc_node.h"
#include "integration/sim/sds_node.h"

namespace tessera::sim {
namespace {

constexpr NodeId kAdmin = 15;
constexpr Nanos kAdminCallTimeout = 60 * kSecond;

chunk::SeededRandom& Random() { return World::Get().random(); }

}  // namespace

Faults::Faults(Cluster* cluster) : cluster_(cluster), admin_(new Life), attacker_(cluster) {
  cluster->SetTap([this](NodeId client, NodeId server, const grpc::ByteBuffer& message) {
    attacker_.Saw(server, message);
    if (ending_.contains(client)) Saw(client, server, message);
  });
  cluster->SetFlushed([this] { Flushed(); });
  admin_->name = "admin";
  admin_->node = kAdmin;
  admin_->clock = &cluster->network().machine(kAdmin).clock;
}

NodeId Faults::AnyServer() {
  return kFirstSds + static_cast<NodeId>(Random().Below(cluster_->server_count()));
}

NodeId Faults::AnyClient() {
  return kFirstSdc + static_cast<NodeId>(Random().Below(cluster_->client_count()));
}

NodeId Faults::AnyNode() {
  const uint64_t dice = Random().Below(cluster_->server_count() + cluster_->client_count() + 1);
  if (dice == 0) return kMdm;
  return Random().Chance(1, 2) ? AnyServer() : AnyClient();
}

void Faults::Later(Nanos delay, std::function<void()> what) {
  World::Get().After(delay, nullptr, [this, round = round_, what = std::move(what)] {
    if (round == round_) what();
  });
}

// ---- Volumes and applications.

void Faults::MakeVolume() {
  Volume volume;
  volume.client = AnyClient();
  const auto name = absl::StrCat("v", volumes_.size());
  while (volume.id == 0) {
    const auto made = cluster_->AskMdm<v1::CreateVolumeResponse>(
        kAdminCallTimeout, [&name](MdmNode& mdm, v1::CreateVolumeResponse* response) {
          v1::CreateVolumeRequest request;
          request.set_name(name);
          request.set_pool_id(kPoolId);
          request.set_size_bytes(kVolumeBytes);
          return mdm.volume().Do(MdmNode::CallOf(v1::ROLE_ADMIN, 0), request, response);
        });
    if (made.ok()) {
      volume.id = made->volume().volume_id();
      volume.vtree_id = made->volume().vtree_id();
    } else {
      World::Get().Trace(absl::StrCat("no volume: ", made.status().ToString()));
      World::Get().Sleep(100 * kMillisecond);
    }
  }
  cluster_->oracle().AddVolume(volume.id, volume.vtree_id);
  volumes_.push_back(volume);
  Map(volumes_.back());
}

void Faults::Map(Volume& volume) {
  const SdcNode* sdc = cluster_->sdc(volume.client);
  if (sdc == nullptr || sdc->sdc_id() == 0) return;
  const uint64_t sdc_id = sdc->sdc_id();
  const auto mapped = cluster_->AskMdm<v1::MapVolumeResponse>(
      kAdminCallTimeout, [id = volume.id, sdc_id](MdmNode& mdm, v1::MapVolumeResponse* response) {
        v1::MapVolumeRequest request;
        request.set_volume_id(id);
        request.set_sdc_id(sdc_id);
        return mdm.volume().Do(MdmNode::CallOf(v1::ROLE_ADMIN, 0), request, response);
      });
  volume.mapped = mapped.ok();
  volume.sdc_id = sdc_id;
  World::Get().Trace(absl::StrCat("volume ", volume.id, " mapped to c", volume.client, ": ",
                                  mapped.status().ToString()));
}

void Faults::Unmap(Volume& volume) {
  // From that client by name: the call may run once more when another has the volume.
  const auto unmapped = cluster_->AskMdm<v1::UnmapVolumeResponse>(
      kAdminCallTimeout, [id = volume.id, sdc_id = volume.sdc_id, force = Random().Chance(1, 2)](
                             MdmNode& mdm, v1::UnmapVolumeResponse* response) {
        v1::UnmapVolumeRequest request;
        request.set_volume_id(id);
        request.set_sdc_id(sdc_id);
        request.set_force(force);
        return mdm.volume().Do(MdmNode::CallOf(v1::ROLE_ADMIN, 0), request, response);
      });
  World::Get().Trace(
      absl::StrCat("volume ", volume.id, " unmapped: ", unmapped.status().ToString()));
  if (!unmapped.ok()) return;
  volume.mapped = volume.leaving = false;
  cluster_->oracle().Unmapped(volume.id);
  // Not back to the same client: see docs/REPLICATION.md, Known gaps.
  for (const NodeId before = volume.client; volume.client == before;) volume.client = AnyClient();
}

// Maps what is not mapped, and now and then passes a volume to another client.
void Faults::KeepVolumesMapped() {
  while (true) {
    World::Get().Sleep(Random().Between(100, 1'000) * kMillisecond);
    for (size_t i = 0; i < volumes_.size(); ++i) {
      Volume& volume = volumes_[i];
      if (volume.leaving) Unmap(volume);
      if (!volume.mapped && !volume.rolling) Map(volume);
    }
  }
}

void Faults::TakeOver() {
  Volume& volume = volumes_[Random().Below(volumes_.size())];
  if (!volume.mapped || volume.leaving || volume.rolling) return;
  Hit(Coverage::kTakeover);
  volume.leaving = true;
}

void Faults::StartApplicationsAt(NodeId client) {
  for (const Volume& volume : volumes_) StartApplicationsOf(client, volume.id);
}

void Faults::StartApplicationsOf(NodeId client, uint64_t volume_id) {
  if (stopped_applications_) return;
  World::Get().RunAs(cluster_->sdc(client)->life(), [&] {
    for (uint32_t i = 0; i < cluster_->options().applications; ++i) {
      applications_.push_back(std::make_unique<Application>(cluster_, client, volume_id));
      applications_.back()->Start();
    }
  });
}

std::vector<uint64_t> Faults::VolumeIds() const {
  std::vector<uint64_t> ids;
  for (const Volume& volume : volumes_) ids.push_back(volume.id);
  return ids;
}

Faults::Volume& Faults::Find(uint64_t volume_id) {
  return *std::find_if(volumes_.begin(), volumes_.end(),
                       [volume_id](const Volume& volume) { return volume.id == volume_id; });
}

void Faults::AddVolume(const v1::Volume& made) {
  Volume volume;
  volume.id = made.volume_id();
  volume.vtree_id = made.vtree_id();
  volume.client = AnyClient();
  volumes_.push_back(volume);
  for (NodeId node = kFirstSdc; node < kFirstSdc + cluster_->client_count(); ++node) {
    if (cluster_->Runs(node)) StartApplicationsOf(node, volume.id);
  }
}

bool Faults::BeginRollback(uint64_t volume_id, uint32_t most) {
  Volume& volume = Find(volume_id);
  if (!volume.mapped || volume.leaving || volume.rollbacks == most) return false;
  ++volume.rollbacks;
  volume.rolling = volume.leaving = true;
  while (volume.leaving) World::Get().Sleep(100 * kMillisecond);
  return true;
}

void Faults::EndRollback(uint64_t volume_id) { Find(volume_id).rolling = false; }

void Faults::StartApplications() {
  Application::SetPause(Random().Between(20, 400) * kMillisecond);
  for (NodeId node = kFirstSdc; node < kFirstSdc + cluster_->client_count(); ++node) {
    StartApplicationsAt(node);
  }
  Spawn([this] { KeepVolumesMapped(); });
}

void Faults::StopApplications() {
  stopped_applications_ = true;
  for (const auto& application : applications_) application->Stop();
}

bool Faults::ApplicationsWait() const {
  return std::any_of(applications_.begin(), applications_.end(), [](const auto& application) {
    return application->life()->running && application->waiting();
  });
}

std::string Faults::Waiting() const {
  for (const auto& application : applications_) {
    if (!application->life()->running || !application->waiting()) continue;
    SdcNode* sdc = cluster_->sdc(application->life()->node);
    const auto volume = sdc->engine().FindVolume(application->volume_id());
    return absl::StrCat("volume ", application->volume_id(), " at ", application->life()->name,
                        ": ", application->doing(), " waits",
                        volume == nullptr ? ", not attached" : " for " + volume->WaitingFor());
  }
  return "";
}

bool Faults::healed() const {
  return std::all_of(volumes_.begin(), volumes_.end(), [&](const Volume& volume) {
    SdcNode* sdc = cluster_->sdc(volume.client);
    return volume.mapped && !volume.leaving && !volume.rolling && sdc != nullptr &&
           sdc->Volume(volume.id) != nullptr;
  });
}

// ---- Machines.

void Faults::Restart(NodeId node) {
  if (cluster_->Runs(node)) return;
  cluster_->PowerOn(node);
  if (node == kMdm) return cluster_->StartMdm();
  if (node < kFirstSdc) return cluster_->StartSds(node);
  cluster_->StartSdc(node);
  StartApplicationsAt(node);
}

bool Faults::DeviceFailed(NodeId node) {
  SdsNode* sds = cluster_->sds(node);
  return sds != nullptr && sds->device() != nullptr && sds->device()->failed();
}

void Faults::RestartLater(NodeId node, Nanos least, Nanos most) {
  Later(Random().Between(least, most), [this, node] { Restart(node); });
}

void Faults::HealAll() {
  ++round_;
  striking_ = false;
  World& world = World::Get();
  cluster_->network().HealAll();
  going_off_.clear();
  ending_.clear();
  dark_at_flush_ = false;
  for (NodeId node = 0; node < kNodeLimit; ++node) {
    Disk& disk = cluster_->disk(node);
    if (disk.medium == nullptr) continue;
    disk.medium->CancelCrash();
    disk.medium->CancelFault();
    disk.medium->set_capacity_bytes(uint64_t{1} << 40);
    disk.cycle = 20 * kMicrosecond;
    disk.flush = 300 * kMicrosecond;
  }
  Restart(kMdm);
  for (NodeId node = kFirstSds; node < kFirstSds + cluster_->server_count(); ++node) {
    Life* life = cluster_->network().machine(node).life;
    if (life != nullptr) life->stopped_until = std::min(life->stopped_until, world.now());
    // A failed device works again when its server starts anew: the disk is well by now.
    if (DeviceFailed(node)) cluster_->Kill(node);
    Restart(node);
    // One may notice only now what its disk answered a moment ago.
    Later(5 * kSecond, [this, node] { RestartIfFailed(node); });
  }
  for (NodeId node = kFirstSdc; node < kFirstSdc + cluster_->client_count(); ++node) {
    Life* life = cluster_->network().machine(node).life;
    if (life != nullptr) life->stopped_until = std::min(life->stopped_until, world.now());
    Restart(node);
  }
}

void Faults::AfterStep() {
  for (auto it = going_off_.begin(); it != going_off_.end();) {
    const NodeId node = it->first;
    chunk::SimulatedDisk& medium = *cluster_->disk(node).medium;
    if (!cluster_->Runs(node)) {  // it went otherwise
      medium.CancelCrash();
      it = going_off_.erase(it);
      continue;
    }
    if (!medium.off()) {
      ++it;
      continue;
    }
    Hit(Coverage::kCrashInWrite);
    if (it->second) {
      cluster_->PowerOff(node);
    } else {
      cluster_->Kill(node);
      medium.CrashProcess();
    }
    it = going_off_.erase(it);
    RestartLater(node, 100 * kMillisecond, 6 * kSecond);
  }
}

void Faults::Start() {
  striking_ = true;
  quiet_ = Random().Between(100, 2'500) * kMillisecond;
  Later(Random().Below(2 * quiet_), [this] { Strike(); });
}

void Faults::Strike() {
  if (!striking_) return;
  static constexpr struct {
    uint32_t weight;
    void (Faults::*fault)();
  } kFaults[] = {
      {14, &Faults::KillServer},        {9, &Faults::ServerLosesPower},
      {6, &Faults::PoolLosesPower},     {10, &Faults::StopServer},
      {8, &Faults::CrashInDisk},        {7, &Faults::KillClient},
      {14, &Faults::ClientEndsWriting}, {14, &Faults::PassOnBlindly},
      {5, &Faults::StopClient},         {6, &Faults::KillMdm},
      {5, &Faults::CutMdmOff},          {16, &Faults::Partition},
      {8, &Faults::SlowLink},           {6, &Faults::SlowDisk},
      {6, &Faults::DiskError},          {3, &Faults::FillDisk},
      {5, &Faults::SetClocks},          {4, &Faults::FlipBits},
      {14, &Faults::TakeOver},          {4, &Faults::Duplicate},
      {6, &Faults::ReplayMessage},
  };
  uint32_t total = 0;
  for (const auto& fault : kFaults) total += fault.weight;
  uint64_t dice = Random().Below(total);
  for (const auto& fault : kFaults) {
    if (dice < fault.weight) {
      (this->*fault.fault)();
      break;
    }
    dice -= fault.weight;
  }
  Later(Random().Below(2 * quiet_), [this] { Strike(); });
}

void Faults::KillServer() {
  const NodeId node = AnyServer();
  if (!cluster_->Runs(node)) return;
  Hit(Coverage::kSdsKilled);
  cluster_->Kill(node);
  const bool away = Random().Chance(1, 4);
  if (away) Hit(Coverage::kSdsLongAway);
  if (Random().Chance(1, 4)) {
    Hit(Coverage::kStaleRestart);
    CutFromMdm(node);
  }
  RestartLater(node, 50 * kMillisecond, away ? 20 * kSecond : 3 * kSecond);
}

void Faults::CutFromMdm(NodeId node) {
  cluster_->network().Cut(node, kMdm);
  cluster_->network().Cut(kMdm, node);
  Later(Random().Between(1, 8) * kSecond, [this, node] {
    cluster_->network().Heal(node, kMdm);
    cluster_->network().Heal(kMdm, node);
  });
}

void Faults::ServerLosesPower() {
  const NodeId node = AnyServer();
  if (!cluster_->Runs(node)) return;
  Hit(Coverage::kSdsPowerLoss);
  cluster_->PowerOff(node);
  RestartLater(node, 200 * kMillisecond, 8 * kSecond);
}

void Faults::StopServer() {
  Life* life = cluster_->network().machine(AnyServer()).life;
  if (life == nullptr) return;
  Hit(Coverage::kSdsStopped);
  World::Get().Trace(absl::StrCat("stopped: ", life->name));
  life->stopped_until = World::Get().now() + Random().Between(50, 12'000) * kMillisecond;
}

void Faults::CrashInDisk() {
  const NodeId node = AnyServer();
  if (!cluster_->Runs(node) || going_off_.contains(node)) return;
  going_off_[node] = Random().Chance(1, 2);
  cluster_->disk(node).medium->CrashAtChange(Random().Between(1, 60));
}

void Faults::KillClient() {
  const NodeId node = AnyClient();
  if (!cluster_->Runs(node)) return;
  if (Random().Chance(1, 6)) {
    Hit(Coverage::kSdcPowerLoss);
    cluster_->PowerOff(node);
    return RestartLater(node, 200 * kMillisecond, 4 * kSecond);
  }
  Hit(Coverage::kSdcKilled);
  cluster_->Kill(node);
  if (Random().Chance(1, 3)) {
    Hit(Coverage::kSdcAloneRestart);
    CutFromMdm(node);
  }
  // What it had answered and not flushed is on no server then.
  if (Random().Chance(1, 6)) PoolLosesPower();
  RestartLater(node, 5 * kMillisecond, Random().Chance(1, 2) ? 200 * kMillisecond : 3 * kSecond);
}

void Faults::StopClient() {
  Life* life = cluster_->network().machine(AnyClient()).life;
  if (life == nullptr) return;
  Hit(Coverage::kSdcStopped);
  World::Get().Trace(absl::StrCat("stopped: ", life->name));
  life->stopped_until = World::Get().now() + Random().Between(50, 15'000) * kMillisecond;
}

void Faults::KillMdm() {
  if (!cluster_->Runs(kMdm)) return;
  Hit(Coverage::kMdmKilled);
  cluster_->Kill(kMdm);
  RestartLater(kMdm, 50 * kMillisecond, 5 * kSecond);
}

void Faults::CutMdmOff() {
  Hit(Coverage::kMdmAway);
  World::Get().Trace("the MDM is cut off");
  Network& network = cluster_->network();
  for (NodeId node = kFirstSds; node < kNodeLimit; ++node) {
    network.Cut(node, kMdm);
    network.Cut(kMdm, node);
  }
  Later(Random().Between(500, 8'000) * kMillisecond, [&network] {
    for (NodeId node = kFirstSds; node < kNodeLimit; ++node) {
      network.Heal(node, kMdm);
      network.Heal(kMdm, node);
    }
  });
}

void Faults::Partition() {
  Network& network = cluster_->network();
  const NodeId a = AnyNode();
  const NodeId b = AnyNode();
  if (a == b) return;
  const bool one_way = Random().Chance(1, 3);
  Hit(one_way ? Coverage::kOneWayCut : Coverage::kPartition);
  World::Get().Trace(absl::StrCat("cut: ", a, one_way ? " to " : " and ", b));
  network.Cut(a, b);
  if (!one_way) network.Cut(b, a);
  // Often from another as well.
  const NodeId c = Random().Chance(1, 2) ? AnyNode() : a;
  if (c != a && c != b) {
    network.Cut(a, c);
    if (!one_way) network.Cut(c, a);
  }
  Later(Random().Between(100, 12'000) * kMillisecond, [&network, a, b, c] {
    for (const NodeId other : {b, c}) {
      network.Heal(a, other);
      network.Heal(other, a);
    }
  });
}

void Faults::SlowLink() {
  Network& network = cluster_->network();
  const NodeId a = AnyNode();
  const NodeId b = AnyNode();
  Hit(Coverage::kDelayedLink);
  network.SetDelay(a, b, Random().Between(1, 4'000) * kMillisecond);
  Later(Random().Between(500, 8'000) * kMillisecond,
        [&network, a, b] { network.SetDelay(a, b, 0); });
}

void Faults::SlowDisk() {
  Disk& disk = cluster_->disk(AnyServer());
  Hit(Coverage::kSlowDisk);
  disk.cycle = Random().Between(1, 900) * kMillisecond;
  disk.flush = Random().Between(1, 5'000) * kMillisecond;
  Later(Random().Between(500, 5'000) * kMillisecond, [&disk] {
    disk.cycle = 20 * kMicrosecond;
    disk.flush = 300 * kMicrosecond;
  });
}

void Faults::DiskError() {
  const NodeId node = AnyServer();
  if (!cluster_->Runs(node) || going_off_.contains(node)) return;
  chunk::SimulatedDisk& medium = *cluster_->disk(node).medium;
  const uint64_t dice = Random().Below(4);
  const auto kind = dice == 0   ? chunk::CallKind::kRead
                    : dice == 1 ? chunk::CallKind::kWrite
                                : chunk::CallKind::kSyncData;
  Hit(dice == 0   ? Coverage::kDiskReadError
      : dice == 1 ? Coverage::kDiskWriteError
                  : Coverage::kDiskSyncError);
  World::Get().Trace(
      absl::StrCat("disk of s", node, ": ", chunk::CallKindName(kind), " will fail"));
  medium.FailCall(kind, Random().Between(1, 10), chunk::FaultKind::kInputOutputError);
  // What a failed call left unsynced may be gone whenever the store is opened again.
  if (dice != 0 && cluster_->sds_id(node) != 0) {
    cluster_->oracle().DiskFailing(cluster_->sds_id(node));
  }
  // An administrator mends it after a while.
  Later(Random().Between(1, 8) * kSecond, [this, node, &medium] {
    medium.CancelFault();
    RestartIfFailed(node);
  });
}

void Faults::RestartIfFailed(NodeId node) {
  if (!DeviceFailed(node)) return;
  cluster_->Kill(node);
  RestartLater(node, 100 * kMillisecond, kSecond);
}

// Of one machine only: what all replicas have lost is an error of reads, and no fault of the
// cluster. Repair is not simulated, so that what is bad stays so until it is written over or copied
// whole.
void Faults::FlipBits() {
  if (rotting_ == 0) rotting_ = AnyServer();
  chunk::SimulatedDisk& medium = *cluster_->disk(rotting_).medium;
  if (!cluster_->Runs(rotting_) || going_off_.contains(rotting_)) return;
  const std::string path = absl::StrCat(kStoreFolder, "/data");
  bool flipped = false;
  for (int i = 0; i < 64; ++i) {
    const auto mask = static_cast<std::byte>(1 + Random().Below(255));
    flipped |= medium.FlipBits(path, Random().Below(256u << 10), mask).ok();
  }
  if (!flipped) return;
  Hit(Coverage::kFlippedBits);
  cluster_->oracle().BitsFlipped();
  World::Get().Trace(absl::StrCat("disk of s", rotting_, ": bits flip"));
}

NodeId Faults::LoseServer() {
  const NodeId node = AnyServer();
  Hit(Coverage::kServerLostForGood);
  World::Get().Trace(absl::StrCat("s", node, " is gone for good"));
  cluster_->Kill(node);
  return node;
}

void Faults::FillDisk() {
  Hit(Coverage::kFullDisk);
  const NodeId one = AnyServer();
  const bool all = Random().Chance(1, 3);
  for (NodeId node = kFirstSds; node < kFirstSds + cluster_->server_count(); ++node) {
    if (all || node == one) FillDiskOf(node);
  }
}

void Faults::FillDiskOf(NodeId node) {
  chunk::SimulatedDisk& medium = *cluster_->disk(node).medium;
  World::Get().Trace(absl::StrCat("disk of s", node, " is full"));
  medium.set_capacity_bytes(medium.used_bytes() + Random().Below(64u << 10));
  Later(Random().Between(500, 5'000) * kMillisecond, [this, node, &medium] {
    medium.set_capacity_bytes(uint64_t{1} << 40);
    RestartIfFailed(node);
  });
}

void Faults::SetClocks() {
  const NodeId node = AnyNode();
  MachineClock& clock = cluster_->network().machine(node).clock;
  Hit(Coverage::kClockDrift);
  clock.SetDrift(static_cast<int64_t>(Random().Below(401)) - 200);
  if (Random().Chance(1, 2)) return;
  Hit(Coverage::kWallJump);
  clock.JumpWall(static_cast<int64_t>(Random().Below(172'800'000)) - 86'400'000);
}

void Faults::Duplicate() {
  cluster_->network().set_duplicates(static_cast<uint32_t>(Random().Between(20, 400)));
  Later(Random().Between(500, 8'000) * kMillisecond,
        [this] { cluster_->network().set_duplicates(0); });
}

}  // namespace tessera::sim
