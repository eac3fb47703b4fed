// What befalls the cluster, and its administrator: makes volumes, maps them to one client after
// another, keeps applications at every client, and lets faults strike at random.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_FAULTS_H_
#define TESSERA_INTEGRATION_SIM_FAULTS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "integration/sim/application.h"
#include "integration/sim/attacker.h"
#include "integration/sim/cluster.h"
#include "tessera/v1/volume.pb.h"

namespace tessera::sim {

inline constexpr uint32_t kVolumes = 2;

class Faults {
 public:
  explicit Faults(Cluster* cluster);

  // In a fiber of the administrator.
  void Spawn(Task task) { World::Get().Spawn(admin_, std::move(task)); }
  // In such a fiber: a volume, mapped to a client.
  void MakeVolume();
  void StartApplications();
  [[nodiscard]] std::vector<uint64_t> VolumeIds() const;
  // One that was made meanwhile: it is mapped, and applications use it.
  void AddVolume(const v1::Volume& made);
  // Nobody has the volume when it returns true, until EndRollback. False: not now.
  [[nodiscard]] bool BeginRollback(uint64_t volume_id, uint32_t most);
  void EndRollback(uint64_t volume_id);
  // It is being taken from its client, or may be.
  [[nodiscard]] bool IsLeaving(uint64_t volume_id) { return Find(volume_id).leaving; }
  // Faults strike from now on.
  void Start();
  // No more of them; everything is on, whole and connected again.
  void HealAll();
  // One server is gone for good. REQUIRES: everything is whole; the others are enough.
  NodeId LoseServer();
  // Every volume has a client again.
  [[nodiscard]] bool healed() const;
  void StopApplications();
  [[nodiscard]] bool ApplicationsWait() const;
  [[nodiscard]] std::string Waiting() const;
  // An application heard that all is durable.
  void Flushed();
  // What shows only after an event: machines that went off inside a call of their disk.
  void AfterStep();

 private:
  struct Volume {
    uint64_t id = 0;
    uint64_t vtree_id = 0;
    NodeId client = 0;    // that it is, or is to be, mapped to
    uint64_t sdc_id = 0;  // of the client that it was mapped to last
    bool mapped = false;
    bool leaving = false;  // to be unmapped: asked for until the MDM says that it is done
    bool rolling = false;  // to stay unmapped until it is rolled back
    uint32_t rollbacks = 0;
  };
  void Strike();
  void KeepVolumesMapped();
  void Map(Volume& volume);
  void Unmap(Volume& volume);
  void RestartLater(NodeId node, Nanos least, Nanos most);
  void Restart(NodeId node);
  [[nodiscard]] bool DeviceFailed(NodeId node);
  void RestartIfFailed(NodeId node);
  void Continue(NodeId node);
  void StartApplicationsAt(NodeId client);
  void StartApplicationsOf(NodeId client, uint64_t volume_id);
  [[nodiscard]] Volume& Find(uint64_t volume_id);
  [[nodiscard]] NodeId AnyServer();
  [[nodiscard]] NodeId AnyClient();
  [[nodiscard]] NodeId AnyNode();
  // Later, unless all was healed meanwhile.
  void Later(Nanos delay, std::function<void()> what);

  void CutFromMdm(NodeId node);
  void KillServer();
  void ServerLosesPower();
  void PoolLosesPower();
  void StopServer();
  void CrashInDisk();
  void KillClient();
  void ClientEndsWriting();
  void Saw(NodeId client, NodeId server, const grpc::ByteBuffer& message);
  void EndWriting(NodeId client, NodeId server);
  void PassOnBlindly();
  void PassOn(Volume& volume);
  void LosePoolPower();
  void LookAway(NodeId client, Nanos duration);
  void CutFor(NodeId from, NodeId to, Nanos duration);
  void BurstAt(NodeId client);
  void LosePower(NodeId server, Nanos most);
  void StopClient();
  void KillMdm();
  void CutMdmOff();
  void Partition();
  void SlowLink();
  void SlowDisk();
  void DiskError();
  void FillDisk();
  void FillDiskOf(NodeId node);
  void FlipBits();
  void SetClocks();
  void TakeOver();
  void Duplicate();
  void ReplayMessage() { attacker_.Arm(); }

  Cluster* const cluster_;
  Life* const admin_;
  Attacker attacker_;
  std::deque<Volume> volumes_;  // stay where they are
  std::vector<std::unique_ptr<Application>> applications_;
  bool striking_ = false;
  bool stopped_applications_ = false;
  uint64_t round_ = 0;  // of healing
  // Machines that go off inside a call of the disk: whether they lose power then.
  std::map<NodeId, bool> going_off_;
  // Clients that end as servers take their writes: how many messages of them from now.
  std::map<NodeId, uint64_t> ending_;
  bool dark_at_flush_ = false;  // the power goes as soon as a flush was answered
  NodeId rotting_ = 0;          // the one machine whose disk flips bits
  Nanos quiet_ = kSecond;       // between faults, on average
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_FAULTS_H_
