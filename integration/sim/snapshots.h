// Administrators that make snapshots of the volumes while everything goes on, read them back at
// clients, clone them, roll volumes back to them, and delete them; and what each has to contain.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_SNAPSHOTS_H_
#define TESSERA_INTEGRATION_SIM_SNAPSHOTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "integration/sim/cluster.h"
#include "integration/sim/history.h"
#include "tessera/v1/volume.pb.h"

namespace tessera::sim {

class Faults;

class Snapshots {
 public:
  static constexpr size_t kMost = 6;
  static constexpr uint32_t kClonesMost = 2;
  static constexpr uint32_t kRollbacksMost = 4;  // of one volume: paths do not grow for ever

  Snapshots(Cluster* cluster, Faults* faults) : cluster_(cluster), faults_(faults) {}

  // In a fiber of the administrator: until Stop.
  void Run();
  void Stop() { stopped_ = true; }
  // Nothing is under way any more.
  [[nodiscard]] bool idle() const { return !busy_; }
  // At rest: every replica has what was read before.
  void Compare();

 private:
  struct Snapshot {
    uint64_t id = 0;
    uint64_t volume_id = 0;
    uint64_t vtree_id = 0;
    Nanos began = 0;
    Nanos ready = 0;
    bool leaving = false;              // its volume was being taken from its client then
    bool maybe_gone = false;           // a deletion was answered with an error
    std::shared_ptr<History> history;  // of its volume, then
    std::vector<uint64_t> content;     // by cell; empty: not read yet
  };
  void Act();
  void Create();
  void Read(Snapshot& snapshot);
  void Delete(size_t index);
  void Clone(const Snapshot& snapshot);
  void Rollback(const Snapshot& snapshot);
  // What anybody sees stays.
  void Flatten();
  // All cells, read at a client; nullopt: it did not come to that.
  [[nodiscard]] std::optional<std::vector<uint64_t>> ReadAt(NodeId client, uint64_t id);
  [[nodiscard]] bool Map(NodeId client, uint64_t id);
  void Unmap(uint64_t id);
  void Judge(Snapshot& snapshot, std::vector<uint64_t> content);

  Cluster* const cluster_;
  Faults* const faults_;
  std::vector<std::unique_ptr<Snapshot>> snapshots_;
  uint64_t names_ = 0;
  uint32_t clones_ = 0;
  bool stopped_ = false;
  bool busy_ = false;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_SNAPSHOTS_H_
