#include "services/sds/block_rules.h"

#include <algorithm>
#include <cstddef>
#include <span>

#include "absl/strings/str_cat.h"
#include "libchunk/checksum.h"
#include "services/common/crc32c.h"
#include "services/sds/replica_messages.h"

namespace tessera::sds {
namespace {

using chunk::kBlockBytes;

bool BitOf(const std::string& bits, size_t index) {
  return index / 8 < bits.size() && (static_cast<uint8_t>(bits[index / 8]) >> (index % 8) & 1) != 0;
}

}  // namespace

bool MayRepair(const Membership& membership, uint64_t epoch) {
  return epoch != 0 && membership.epoch == epoch && membership.role == v1::REPLICA_ROLE_IN_SYNC;
}

SourceJudgement JudgeSource(const chunk::Version& own, const v1::FetchedChunk& fetched,
                            size_t index) {
  if (fetched.absent()) return {.verdict = SourceVerdict::kDropped};
  if (VersionOf(fetched.version()) != own) return {.verdict = SourceVerdict::kAgain};
  if (fetched.incomplete()) return {.verdict = SourceVerdict::kSourceBad};
  SourceJudgement judgement{.verdict = SourceVerdict::kApply};
  judgement.content.resize(kBlockBytes);
  switch (fetched.states(static_cast<int>(index))) {
    case v1::FETCHED_BLOCK_STATE_UNMAPPED:
      return judgement;
    case v1::FETCHED_BLOCK_STATE_GOOD: {
      const auto good = std::count(fetched.states().begin(),
                                   fetched.states().begin() + static_cast<std::ptrdiff_t>(index),
                                   v1::FETCHED_BLOCK_STATE_GOOD);
      const auto content = std::as_bytes(std::span(fetched.content()))
                               .subspan(static_cast<size_t>(good) * kBlockBytes, kBlockBytes);
      std::copy(content.begin(), content.end(), judgement.content.begin());
      return judgement;
    }
    case v1::FETCHED_BLOCK_STATE_GONE:
      return {.verdict = SourceVerdict::kDropped};
    default:
      return {.verdict = SourceVerdict::kSourceBad};
  }
}

absl::Status CheckFetched(const v1::BlockList& asked, const v1::FetchedChunk& fetched) {
  if (ChunkKeyOf(asked.key()) != ChunkKeyOf(fetched.key())) {
    return absl::DataLossError("the source answered for another chunk than was asked for");
  }
  if (fetched.absent()) return absl::OkStatus();
  if (fetched.states_size() != asked.blocks_size()) {
    return absl::DataLossError(absl::StrCat("the source answered for ", fetched.states_size(),
                                            " blocks of ", asked.blocks_size()));
  }
  const auto good =
      std::count(fetched.states().begin(), fetched.states().end(), v1::FETCHED_BLOCK_STATE_GOOD);
  if (fetched.content().size() != static_cast<size_t>(good) * kBlockBytes) {
    return absl::DataLossError(absl::StrCat("the source sent ", fetched.content().size(),
                                            " bytes for ", good, " good blocks"));
  }
  if (Crc32c(std::as_bytes(std::span(fetched.content()))) != fetched.content_crc32c()) {
    return absl::DataLossError("fetched blocks were damaged on their way");
  }
  return absl::OkStatus();
}

ChunkComparison CompareChunk(const chunk::ChunkBlocks& own, const v1::ChunkChecksums& other) {
  ChunkComparison comparison;
  comparison.is_there = !other.absent();
  if (other.absent() || other.incomplete() || own.info.incomplete) return comparison;
  if (VersionOf(other.version()) != own.info.version) return comparison;
  comparison.comparable = true;
  const chunk::BlockChecksum checksum(own.info.key);
  int next = 0;
  for (uint32_t i = 0; i < own.states.size(); ++i) {
    const uint32_t block = own.first_block + i;
    const bool there = BitOf(other.mapped(), block);
    const bool has_checksum = there && next < other.checksums_size();
    const uint32_t theirs = has_checksum ? other.checksums(next) : 0;
    if (there) ++next;
    const chunk::BlockState& here = own.states[i];
    // Replicas of a pruned layer have different parts of it.
    if (here.presence == chunk::BlockPresence::kGone || (!there && other.pruned())) continue;
    const bool is_here = here.presence == chunk::BlockPresence::kMapped;
    if (!is_here && !there) continue;
    if (is_here && there && here.checksum == theirs) continue;
    // What is lost says nothing of what it was.
    const uint32_t lost = checksum.OfUnreadable(block);
    if ((is_here && here.checksum == lost) || (there && theirs == lost)) continue;
    // Zeros may be written out on one replica and unmapped on another.
    const uint32_t zeros = checksum.OfZeros(block);
    if ((is_here ? here.checksum : zeros) == (there ? theirs : zeros)) continue;
    comparison.different_blocks.push_back(block);
  }
  return comparison;
}

}  // namespace tessera::sds
