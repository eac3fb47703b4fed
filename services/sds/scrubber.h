// Goes through everything that the devices hold, one thread a device: reads and checks each block,
// and compares each chunk's checksums with the other replicas in sync (docs/REPLICATION.md,
// "Corrupt blocks and scrub"). When and how fast is the MDM's order, told with each heartbeat;
// where a pass stands is in sds_local.db, so that it goes on after a restart.
//
// Threads: any, unless a method says otherwise.
#ifndef TESSERA_SERVICES_SDS_SCRUBBER_H_
#define TESSERA_SERVICES_SDS_SCRUBBER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/executor.h"
#include "services/sds/block_repairer.h"
#include "services/sds/engine_context.h"
#include "services/sds/io_engine.h"
#include "services/sds/local_state.h"
#include "services/sds/replica_peers.h"
#include "services/sds/scrub_plan.h"

namespace tessera::sds {

class Scrubber {
 public:
  // All must outlive the scrubber.
  Scrubber(IoEngine* engine, BlockRepairer* repairer, ReplicaPeers* peers,
           const EngineContext* context, LocalState* state);
  ~Scrubber() { Stop(); }

  void Start();
  void Stop();

  // Of all devices; one that is not named has no orders any more.
  void TakeOrders(const google::protobuf::RepeatedPtrField<v1::ScrubOrder>& orders);
  [[nodiscard]] std::vector<v1::ScrubStatus> Status();

 private:
  // One device's scrub. Its thread changes record and bad; others read them under the mutex.
  struct DeviceScrub {
    DeviceWorker* worker = nullptr;
    std::optional<v1::ScrubOrder> order;
    v1::ScrubStatus status;
    ScrubRecord record;
    std::vector<BlockId> bad;  // of this pass, as far as they are counted one by one
    ScrubPace pace;
    uint64_t saved_boot_ms = 0;
  };

  void Run(DeviceScrub* device);
  // What should run now and the order that says so; nullopt: nothing, or stopping.
  [[nodiscard]] std::optional<ScrubWish> Wanted(DeviceScrub* device);
  void RunPass(DeviceScrub* device, const ScrubWish& wish);
  void Begin(DeviceScrub* device, const ScrubWish& wish);
  // False: the pass ends here, for now or for good.
  [[nodiscard]] bool ScrubGroup(DeviceScrub* device, const ScrubWish& wish,
                                uint64_t placement_group_id);
  [[nodiscard]] bool ScrubChunk(DeviceScrub* device, const ScrubWish& wish,
                                const chunk::ChunkInfo& info);
  // Looks for the bad blocks of the layer, in it and in those that share them.
  [[nodiscard]] std::vector<BlockId> ExamineLayers(DeviceScrub* device,
                                                   const chunk::ChunkInfo& info, uint32_t blocks);
  void Compare(DeviceScrub* device, uint64_t placement_group_id,
               const std::vector<chunk::ChunkKey>& keys);
  // Compares with one answer; returns the keys that are to be asked for again.
  [[nodiscard]] std::vector<chunk::ChunkKey> CompareWith(
      DeviceScrub* device, uint64_t placement_group_id, uint64_t peer_device_id,
      const std::vector<chunk::ChunkKey>& keys, const v1::ListBlockChecksumsResponse& answer);
  void Complete(DeviceScrub* device, const ScrubWish& wish);
  void Save(DeviceScrub* device, bool now);
  void CountFates(DeviceScrub* device);
  void NoteError(DeviceScrub* device, const std::string& error);
  // The groups of the device, ascending; bytes in them of the vtree (0: all).
  [[nodiscard]] std::vector<uint64_t> GroupsOf(const DeviceScrub& device) const;
  [[nodiscard]] uint64_t BytesOf(const DeviceScrub& device, uint64_t vtree_id);
  [[nodiscard]] bool stopping();
  // True when stopping.
  bool Pause(uint64_t milliseconds);

  IoEngine* const engine_;
  BlockRepairer* const repairer_;
  ReplicaPeers* const peers_;
  const EngineContext* const context_;
  LocalState* const state_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t orders_ ABSL_GUARDED_BY(mutex_) = 0;  // how often they came
  std::vector<std::unique_ptr<DeviceScrub>> devices_;
  Executor executor_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_SCRUBBER_H_
