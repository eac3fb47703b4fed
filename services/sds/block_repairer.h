// Repairs the bad blocks of this server's in-sync replicas from other in-sync replicas
// (docs/REPLICATION.md, "Corrupt blocks and scrub"). Whoever finds one tells Found; the rest
// happens on one thread of its own, block by block of one placement group at a time.
//
// A block is written anew on the device's worker, in the epoch in which its source was asked, and
// only by Store::RepairBlock, which takes nothing but what was last written there.
//
// Threads: any, unless a method says otherwise.
#ifndef TESSERA_SERVICES_SDS_BLOCK_REPAIRER_H_
#define TESSERA_SERVICES_SDS_BLOCK_REPAIRER_H_

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/executor.h"
#include "services/sds/corrupt_block_book.h"
#include "services/sds/engine_context.h"
#include "services/sds/health_board.h"
#include "services/sds/io_engine.h"
#include "services/sds/local_state.h"
#include "services/sds/replica_peers.h"

namespace tessera::sds {

class BlockRepairer {
 public:
  // Ranges that wait to be looked at; more are not taken: the next read finds them again.
  static constexpr size_t kSuspectsMax = 4'096;

  // All must outlive the repairer.
  BlockRepairer(IoEngine* engine, ReplicaPeers* peers, const EngineContext* context,
                LocalState* state, HealthBoard* health);
  ~BlockRepairer() { Stop(); }

  // Takes up what an earlier life knew as lost, and begins.
  void Start();
  void Stop();

  // Some block of the range can't be read. Never blocks.
  void Found(const BadRange& range);
  // Looks at the range now and tells of each bad block. Returns them.
  std::vector<uint32_t> Examine(const BadRange& range);
  // Examine, then waits until each is repaired or known as lost; whether that is so.
  [[nodiscard]] bool Settle(const BadRange& range, absl::Duration timeout);
  // Waits until no bad block of the chunk is undecided; false after `timeout`.
  bool AwaitDecision(uint64_t device_id, const chunk::ChunkKey& key, absl::Duration timeout);
  // Replicas of equal version differ in the block.
  void Different(const BlockId& id, uint64_t placement_group_id, uint64_t other_device_id);

  // For heartbeats.
  void FillHeartbeat(v1::HeartbeatRequest* request);
  void Confirm(uint64_t report_number);
  // Whether the block is in the book, and lost: for scrub's counts.
  enum class Fate { kGone, kPending, kUnreadable };
  [[nodiscard]] Fate FateOf(const BlockId& id);

 private:
  // The bad blocks of one group, read here and without a source yet.
  struct Batch;

  void Run();
  void Work(const std::vector<CorruptBlock>& due);
  // Fills the batch; decides about blocks that read well, and those that can't be tried now.
  [[nodiscard]] bool Prepare(const std::vector<CorruptBlock>& due, Batch* batch);
  void AskPeer(const ReplicaPeers::Peer& peer, Batch* batch);
  void TakeFetched(const ReplicaPeers::Peer& peer, const v1::FetchedChunk& fetched,
                   const v1::BlockList& asked, Batch* batch);
  // On the worker. True when decided.
  [[nodiscard]] absl::Status Rewrite(const Batch& batch, const BlockId& id,
                                     const chunk::Version& version,
                                     std::span<const std::byte> content);
  void SettleRest(const ReplicaPeers::Peers& peers, Batch* batch);
  [[nodiscard]] DeviceWorker* WorkerOf(uint64_t device_id) const;

  void NoteRepaired(const BlockId& id, uint64_t other_device_id);
  void NoteHealed(const BlockId& id);
  void NoteAgain(const BlockId& id);
  [[nodiscard]] bool IsTriedOften(const BlockId& id);
  void NoteUnreadable(const CorruptBlock& block, const std::string& reason);
  void UpdateBoard();

  IoEngine* const engine_;
  ReplicaPeers* const peers_;
  const EngineContext* const context_;
  LocalState* const state_;
  HealthBoard* const health_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;  // the book has something that is due
  std::deque<BadRange> suspects_ ABSL_GUARDED_BY(mutex_);
  CorruptBlockBook book_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> devices_on_board_;  // the thread's
  Executor executor_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_BLOCK_REPAIRER_H_
