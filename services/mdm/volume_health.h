// One verdict for each volume, with its cause and what to do, from the state of the placement
// groups that hold its chunks.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_VOLUME_HEALTH_H_
#define TESSERA_SERVICES_MDM_VOLUME_HEALTH_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "services/mdm/operation_view.h"
#include "services/mdm/repair_view.h"
#include "tessera/v1/health.pb.h"
#include "tessera/v1/operation.pb.h"

namespace tessera::mdm {

// One placement group.
struct GroupHealth {
  v1::VolumeVerdict verdict = v1::VOLUME_VERDICT_HEALTHY;
  bool learning = false;  // copies are being made
  uint64_t bytes_done = 0;
  uint64_t bytes_left = 0;
  std::set<uint64_t> missing_device_ids;  // members that don't count
};

// What a pool's volumes share.
struct PoolHealth {
  std::vector<GroupHealth> groups;  // by index
  std::map<uint64_t, RepairDevice> devices;
  std::map<uint64_t, std::string> device_names;  // "device 4 of sds2"
  std::map<uint64_t, std::map<Obstacle, uint32_t>> waiting;
  uint64_t eta_ms = 0;  // of the slowest operation that restores copies; 0: not known
};

[[nodiscard]] GroupHealth JudgeGroup(const RepairGroup& group, const RepairPool& pool,
                                     uint32_t min_replicas, const StatusOfLearner& status);

struct VolumeExtent {
  uint64_t volume_id = 0;
  std::string name;
  uint64_t vtree_id = 0;
  uint64_t size_bytes = 0;
  uint32_t chunk_bytes = 0;
};
[[nodiscard]] v1::VolumeHealth JudgeVolume(const VolumeExtent& volume, const PoolHealth& pool);

// Blocks that no copy has whole. Each replica that lacks one tells of it: it counts once.
class LostBlocks {
 public:
  static constexpr size_t kCountedMax = 100'000;
  void Add(const v1::CorruptBlocks& blocks);
  [[nodiscard]] uint64_t count() const { return blocks_.size(); }
  // "block 4 of chunk 3/17/0 (it is bad on every replica in sync), …", the first few.
  [[nodiscard]] std::string Describe() const;

 private:
  // Vtree, chunk, snapshot, block; why.
  std::map<std::tuple<uint64_t, uint64_t, uint64_t, uint32_t>, std::string> blocks_;
};
// Puts what is lost of a volume into its verdict.
void AddLostBlocks(const LostBlocks& lost, v1::VolumeHealth* health);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_VOLUME_HEALTH_H_
