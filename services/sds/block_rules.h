// What may be done with a block that another replica offers, and what it means when replicas differ
// (docs/REPLICATION.md, "Corrupt blocks and scrub"): decisions without network, disk or clock.
//
// Threads: pure functions.
#ifndef TESSERA_SERVICES_SDS_BLOCK_RULES_H_
#define TESSERA_SERVICES_SDS_BLOCK_RULES_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "libchunk/store.h"
#include "services/sds/replica_rules.h"
#include "tessera/v1/replica.pb.h"

namespace tessera::sds {

// Whether a replica may be repaired, and be asked for blocks: in sync, in this epoch.
[[nodiscard]] bool MayRepair(const Membership& membership, uint64_t epoch);

// What a source's answer about one block is good for.
enum class SourceVerdict {
  kApply,      // these are the bytes
  kAgain,      // one of the two has taken a write that the other has not: ask again
  kDropped,    // the source does not have the layer, or has none of this block any more
  kSourceBad,  // the source does not have it, or can't be trusted
};
struct SourceJudgement {
  SourceVerdict verdict = SourceVerdict::kSourceBad;
  std::vector<std::byte> content;  // kApply
};
// `own`: the version of the chunk here. `index`: of the block in the request.
[[nodiscard]] SourceJudgement JudgeSource(const chunk::Version& own,
                                          const v1::FetchedChunk& fetched, size_t index);
// Why a source's answer can't be one to this list of blocks.
[[nodiscard]] absl::Status CheckFetched(const v1::BlockList& asked,
                                        const v1::FetchedChunk& fetched);

// A chunk here beside the same chunk there, by metadata.
struct ChunkComparison {
  bool comparable = false;                 // both whole, at one version
  bool is_there = true;                    // the other one has such a chunk at all
  std::vector<uint32_t> different_blocks;  // ascending
};
[[nodiscard]] ChunkComparison CompareChunk(const chunk::ChunkBlocks& own,
                                           const v1::ChunkChecksums& other);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_BLOCK_RULES_H_
