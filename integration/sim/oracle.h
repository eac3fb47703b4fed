// Sees everything and judges it: what the MDM commits, what the stores take, what applications are
// answered. What it finds wrong ends the run (World::Violation).
//
//  - Per-cell linearizability and flushed-write durability: history.h.
//  - The last in-sync replica never leaves; epochs go up by one; generations only go up.
//  - No IO after the fence: once the MDM has recorded that a generation is fenced, no in-sync
//  replica
//    takes a change of an older one.
//  - Replicas are equal at rest (Compare).
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_ORACLE_H_
#define TESSERA_INTEGRATION_SIM_ORACLE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "integration/sim/cluster.h"
#include "integration/sim/history.h"
#include "libchunk/store.h"
#include "libchunk/types.h"
#include "services/mdm/mdm_store.h"

namespace tessera::sim {

class Oracle {
 public:
  explicit Oracle(Cluster* cluster) : cluster_(cluster) {}

  // ---- What happens.
  void Committed(const mdm::ChangeSet& changes);
  void Changed(uint64_t sds_id, const chunk::Change& change, const absl::Status& status);
  // `keeps`: the client keeps all that no flush has covered.
  void Granted(const Life* life, uint64_t volume_id, uint64_t generation, bool keeps);
  // A life goes on with the volume where another one of the same client was killed.
  void Resumed(const Life* before, const Life* life, uint64_t volume_id);
  // The client that was killed has begun another life, which does not go on with the others.
  void Forgotten(const Life* life);
  void Detaching(const Life* life, uint64_t volume_id);
  // The server's process runs, and will register with this incarnation.
  void ServerStarted(uint64_t sds_id, uint64_t incarnation) { incarnations_[sds_id] = incarnation; }
  // The machine of the server lost what was not synced.
  void PowerLost(uint64_t sds_id);
  // From now on, whenever its store is opened again, until it has caught up.
  void DiskFailing(uint64_t sds_id);
  void BitsFlipped() { bits_flipped_ = true; }
  void StoreOpened(uint64_t sds_id, bool fault_struck);

  // ---- Applications.
  // A clone begins with what `initial` says, and numbers its writes from `base` on.
  void AddVolume(uint64_t volume_id, uint64_t vtree_id, uint64_t base = 0,
                 std::vector<uint64_t> initial = {});
  // It has this content now, and nobody has it mapped.
  void RolledBack(uint64_t volume_id, const std::vector<uint64_t>& content);
  [[nodiscard]] History& history(uint64_t volume_id) { return *volumes_.at(volume_id).history; }
  // Shared with who judges a snapshot later.
  [[nodiscard]] std::shared_ptr<History> SharedHistory(uint64_t volume_id) {
    return volumes_.at(volume_id).history;
  }
  // A number for a client's life at a volume: grows.
  [[nodiscard]] uint64_t LifeNumber(const Life* life);
  // From now on nobody knows its end; from then on it ends before this cell for whoever has it.
  void Resizing(uint64_t volume_id);
  void Resized(uint64_t volume_id, uint64_t cells);
  // Nothing from this cell on is served, as long as the revision is the same.
  struct KnownEnd {
    uint64_t cell = UINT64_MAX;
    uint64_t revision = 0;
  };
  [[nodiscard]] KnownEnd EndOf(uint64_t volume_id) const { return volumes_.at(volume_id).end; }
  // Reads of a life whose mapping was taken away show nothing that was promised.
  [[nodiscard]] bool Counts(const Life* life, uint64_t volume_id) const;
  // Unmap returned.
  void Unmapped(uint64_t volume_id);
  void CheckHistories();

  // ---- At rest.
  // Empty, or why the cluster is not at rest.
  [[nodiscard]] std::string Unrest() const;
  // A group with a replica on the server; empty: there is none.
  [[nodiscard]] std::string HeldBy(uint64_t sds_id) const;
  // Compares the replicas of all groups with each other and with the histories.
  void Compare();
  // The MDM has the volume or snapshot.
  [[nodiscard]] bool IsThere(uint64_t volume_id) const;
  // Each replica has this content of a snapshot.
  void CompareSnapshot(uint64_t id, uint64_t vtree_id, const std::vector<uint64_t>& content);

 private:
  struct Volume {
    uint64_t vtree_id = 0;
    uint64_t fenced_generation = 0;
    uint64_t generation = 0;
    std::shared_ptr<History> history;  // shared with snapshots of it
    std::map<const Life*, bool> gone;  // lives that have lost it
    const Life* holder = nullptr;
    uint64_t granted_generation = 0;
    KnownEnd end;
  };
  void TakeHolder(Volume& volume, const Life* life);
  bool TakeGroup(const v1::PlacementGroup& group);
  void JudgeLoss(const v1::PlacementGroup& group);
  void JudgeAllLosses();
  // The MDM knows of each loss that a server has told of by registering.
  void SettleLosses(SQLite::Database& db);
  void CompareGroup(const v1::PlacementGroup& group);
  void ReadAll(uint64_t group, chunk::Store& store);
  // Of the volume or snapshot, as the MDM has it now.
  [[nodiscard]] chunk::LayerPath PathOf(uint64_t volume_id) const;
  // Chunks of the group that somebody sees, and what must not be there.
  [[nodiscard]] std::vector<chunk::ChunkKey> SeenChunks(uint64_t group, chunk::Store& store,
                                                        uint64_t* unseen) const;

  Cluster* const cluster_;
  std::map<uint64_t, v1::PlacementGroup> groups_;
  std::map<uint64_t, Volume> volumes_;
  // What a server may lack, by server: the last time.
  struct Loss {
    Nanos at = 0;
    uint64_t told_after = UINT64_MAX;  // an incarnation: later ones tell the MDM of it
  };
  std::map<uint64_t, Loss> losses_;
  std::map<uint64_t, uint64_t> incarnations_;  // of servers: of their last process
  // By group and server: what was lost until then excuses nothing any more. Either the replica has
  // learned since, or the MDM knows of it and answers for whom it calls in sync.
  std::map<std::pair<uint64_t, uint64_t>, Nanos> settled_;
  std::map<std::pair<uint64_t, uint64_t>, Nanos> joined_;  // as learners
  std::set<uint64_t> failing_;                             // servers whose disk has had an error
  bool bits_flipped_ = false;                              // on some disk
  std::map<const Life*, uint64_t> lives_;
  uint64_t last_life_ = 0;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_ORACLE_H_
