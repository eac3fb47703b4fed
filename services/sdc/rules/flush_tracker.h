// Which devices hold answered writes of one volume that no flush has covered yet, and whether a
// device can still promise them: docs/REPLICATION.md, "A flush".
//
// Flushes are done in rounds: a flush that comes while a round runs waits for the next one, with
// all others that came meanwhile. A round asks every device with uncovered writes, each through one
// of the placement groups concerned.
//
// A store that was opened anew since it answered a write (its incarnation differs) may have lost
// it: its replicas are *lost* until the map drops them or the caller settles the matter.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_RULES_FLUSH_TRACKER_H_
#define TESSERA_SERVICES_SDC_RULES_FLUSH_TRACKER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tessera::sdc {

// A replica: one placement group on one device.
struct ReplicaName {
  uint64_t device_id = 0;
  uint64_t placement_group_id = 0;

  friend bool operator==(const ReplicaName&, const ReplicaName&) = default;
};

class FlushTracker {
 public:
  // The replica answered a write. False when the store's incarnation is not that of earlier writes
  // that no flush has covered: those replicas are lost now; see TakeNewlyLost.
  bool NoteWrite(const ReplicaName& replica, uint64_t store_incarnation);

  // The volume begins to use the replica: what an earlier client wrote there, and this one may
  // read, may not be durable yet. The next round covers it, in whatever life of the store; that a
  // later life lost it is the map's to tell (LoseGroup).
  void NoteInherited(const ReplicaName& replica);

  // Starts a round; returns the devices to be asked, each with one of its placement groups. Empty:
  // all is durable, and no round has begun. REQUIRES: !round_running().
  [[nodiscard]] std::vector<ReplicaName> BeginRound();
  [[nodiscard]] bool round_running() const { return round_running_; }
  // A placement group through which the device can be asked; 0 when it need not be asked any more.
  [[nodiscard]] uint64_t PlacementGroupToAsk(uint64_t device_id) const;
  // The device flushed. False when its incarnation shows that writes of the round may be lost; see
  // TakeNewlyLost.
  bool DeviceFlushed(uint64_t device_id, uint64_t store_incarnation);
  // The device could not flush: its replicas are lost, and nothing that they say later of this life
  // of the store proves the contrary.
  void FlushFailed(uint64_t device_id);
  // The replica left the set (or begins to learn anew): it need not be covered.
  void DropReplica(const ReplicaName& replica);
  // Nothing is left that the round waits for; ends it.
  [[nodiscard]] bool FinishRound();

  [[nodiscard]] bool IsLost(const ReplicaName& replica) const;
  // The lost replica has proved that it has every write: it is to be covered like any other. True
  // when the device must be asked (again) in the round that runs.
  bool Recover(const ReplicaName& replica);

  // The writer's order starts anew. What was answered before and is not covered yet is no longer in
  // an order that could be asked for. It is again when the same life of the store has taken a write
  // of the new order: whoever has that one has everything before it.
  void NewGeneration();
  [[nodiscard]] bool CanProve(const ReplicaName& replica) const;
  // The replica has uncovered writes of this generation only.
  [[nodiscard]] bool OwesThisGenerationOnly(const ReplicaName& replica) const;
  // So has every replica of the group.
  [[nodiscard]] bool GroupOwesThisGenerationOnly(uint64_t placement_group_id) const;
  // The replica may lack what it answered, and is asked: it counts as lost until Recover,
  // AcceptLoss or DropReplica. It is not among the newly lost.
  void Suspect(const ReplicaName& replica);

  // All that are lost now.
  [[nodiscard]] std::vector<ReplicaName> Lost() const;
  // Replicas that were lost since the last call.
  [[nodiscard]] std::vector<ReplicaName> TakeNewlyLost();
  // The only in-sync replica of its group is lost: there is nobody else to ask. A flush that ends
  // with more losses than its client has been told of does not make durable what it covers.
  void AcceptLoss(const ReplicaName& replica);
  // The map says that the group's last in-sync replica came back without what was not flushed: what
  // any member answered and no flush has covered is given up, and counts as one loss. False when
  // there was nothing.
  bool LoseGroup(uint64_t placement_group_id);
  [[nodiscard]] uint64_t losses() const { return losses_; }
  // Of an earlier life of this writer.
  void ResumeLosses(uint64_t losses) { losses_ = losses; }

  // All replicas of the device that a round waits for, for reports.
  [[nodiscard]] std::vector<ReplicaName> WaitedFor(uint64_t device_id) const;
  [[nodiscard]] bool clean() const;

 private:
  // What is not covered, the worse the greater.
  enum class Owed : uint8_t {
    kThisGeneration,
    kInherited,   // too, of an earlier client, answered in who knows which life of the store
    kEarlier,     // too, before a write of this generation in the same life of the store
    kUnprovable,  // too, and the store may have begun another life since, or has failed
  };
  using Groups = absl::flat_hash_map<uint64_t, Owed>;
  struct Device {
    uint64_t device_id = 0;
    uint64_t store_incarnation = 0;  // of `dirty` and `flushing`; 0: not heard of yet
    Groups dirty;
    Groups flushing;  // asked for in this round
    Groups lost;
  };

  Device* Find(uint64_t device_id);
  Device& FindOrAdd(uint64_t device_id);
  const Device* Find(uint64_t device_id) const;
  enum class Cause : uint8_t { kAnotherLife, kFailedFlush };
  void Lose(Device& device, Cause cause);
  [[nodiscard]] Owed OwedBy(const ReplicaName& replica) const;

  std::vector<Device> devices_;  // as many as the volume's pool has devices that it wrote to
  std::vector<ReplicaName> newly_lost_;
  bool round_running_ = false;
  uint64_t losses_ = 0;  // accepted so far
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RULES_FLUSH_TRACKER_H_
