// Bad blocks: telling them from good ones, and putting their content back (FORMAT.md, "Bad
// blocks").
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

// A place that was reused since the look-up is not damage: so often it is looked at again.
constexpr int kVerifyAttemptsMin = 3;
// A block that a checkpoint or a writer moves is looked up again.
constexpr int kRepairAttemptsMax = 16;

}  // namespace

void StoreImpl::VerifyBlocks(const ChunkKey& key, const BlockSources& sources,
                             ChunkBlocks* blocks) {
  blocks->content.resize(sources.size() * kBlockBytes);
  const std::span<std::byte> content(blocks->content);
  for (BlockState& state : blocks->states) state.readable = true;
  if (ReadSources(key, blocks->first_block, sources, 0, content, Temperature::kAny).ok()) return;
  for (uint32_t i = 0; i < sources.size(); ++i) {
    const auto one = content.subspan(size_t{i} * kBlockBytes, kBlockBytes);
    // Whatever keeps the device from giving the block: it does not give it.
    blocks->states[i].readable =
        ReadSources(key, blocks->first_block + i, {sources[i]}, 0, one, Temperature::kAny).ok();
    if (!blocks->states[i].readable) std::fill(one.begin(), one.end(), std::byte{0});
  }
}

absl::StatusOr<ChunkBlocks> StoreImpl::ReadBlocks(const ChunkKey& key, uint32_t first_block,
                                                  uint32_t count, BlockRead what) {
  CHUNK_RETURN_IF_ERROR(
      ValidateRange(uint64_t{first_block} * kBlockBytes, uint64_t{count} * kBlockBytes));
  BlockSources before;
  for (int attempt = 1;; ++attempt) {
    Found found;
    CHUNK_RETURN_IF_ERROR(LookUpLoading(key, nullptr, first_block, count,
                                        attempt == 1 ? Depth::kRow : Depth::kOwner, &found));
    if (!found.summary.exists) return NoChunk(key);
    ChunkBlocks blocks;
    blocks.info = InfoOf(key, found.summary);
    blocks.first_block = first_block;
    for (const BlockSource& source : found.sources) {
      const BlockPresence unmapped =
          found.summary.pruned ? BlockPresence::kGone : BlockPresence::kZeros;
      blocks.states.push_back(
          {.presence = source.kind == BlockSource::Kind::kZero ? unmapped : BlockPresence::kMapped,
           .checksum = source.checksum});
    }
    if (what == BlockRead::kMetadata) return blocks;
    VerifyBlocks(key, found.sources, &blocks);
    const auto bad = static_cast<uint64_t>(
        std::count_if(blocks.states.begin(), blocks.states.end(),
                      [](const BlockState& state) { return !state.readable; }));
    if (bad == 0 || (attempt >= kVerifyAttemptsMin && found.sources == before)) {
      checksum_errors_.fetch_add(bad, std::memory_order_relaxed);
      return blocks;
    }
    before = found.sources;
  }
}

absl::Status StoreImpl::TryRepair(const ChunkKey& key, const Version& version, uint32_t block,
                                  std::span<const std::byte> content, bool* moved) {
  *moved = false;
  // At the layer whose block it is: all that share it have it again.
  Found found;
  CHUNK_RETURN_IF_ERROR(LookUpLoading(key, nullptr, block, 1, Depth::kOwner, &found));
  if (!found.summary.exists) return NoChunk(key);
  const BlockSource& bad = found.sources[0];
#ifndef TESSERA_PLANT_SKIP_REPAIR_CHECK  // see check_planted_bugs.sh
  if (found.summary.version != version) {
    return absl::AbortedError(absl::StrCat(
        "the chunk is at version ", found.summary.version.generation, ".",
        found.summary.version.sequence, ", not ", version.generation, ".", version.sequence));
  }
  std::array<std::byte, kBlockBytes> present;
  if (ReadSources(key, block, found.sources, 0, present, Temperature::kAny).ok()) {
    return absl::OkStatus();
  }
#else
  (void)version;
#endif
  const BlockChecksum checksum(key);
  const uint32_t offered = checksum.Of(block, content);
#ifndef TESSERA_PLANT_SKIP_REPAIR_CHECK
  if (bad.checksum != offered && bad.checksum != checksum.OfUnreadable(block)) {
    return absl::InvalidArgumentError(absl::StrCat("block ", block,
                                                   " was written here with checksum ", bad.checksum,
                                                   ", the content offered has ", offered));
  }
#endif
  CHUNK_ASSIGN_OR_RETURN(const std::optional<ChunkInfo> owner, GetChunk(found.owner));
  if (!owner) {
    *moved = true;
    return absl::AbortedError("the block's layer is gone");
  }
  // A write of the block like any other, by the replica itself: the layer's own version under the
  // flag that lets the greater count, so that it moves nothing.
  Group group;
  group.repairs = true;
  Operation operation;
  operation.header.kind = OperationKind::kJournalBlocks;
  operation.header.flags = kOperationKeepCursor | kOperationGreaterVersion;
  operation.header.key = found.owner;
  operation.header.stream.placement_group_id = owner->placement_group_id;
  operation.header.version = owner->version;
  operation.header.first_block = block;
  operation.header.block_count = 1;
  operation.checksums.push_back(offered);
  group.operations.push_back(std::move(operation));
  group.payload.push_back(content);
  group.payload_bytes = kBlockBytes;
  group.header_bytes += EncodedBytes(group.operations.back());
  // Only over exactly the block that was found bad. In the layer that it was found in it is not
  // inherited.
  MergedBlock replaced;
  replaced.key = found.owner;
  replaced.block = block;
  replaced.before = bad;
  replaced.before.inherited = false;
  group.merged.push_back(std::move(replaced));
  absl::Status committed = Commit(&group);
  *moved = absl::IsAborted(committed);
  return committed;
}

absl::Status StoreImpl::RepairBlock(const ChunkKey& key, const Version& version, uint32_t block,
                                    std::span<const std::byte> content) {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  CHUNK_RETURN_IF_ERROR(ValidateRange(uint64_t{block} * kBlockBytes, kBlockBytes));
  if (content.size() != kBlockBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a block has ", kBlockBytes, " bytes, the content ", content.size()));
  }
  bool moved = true;
  absl::Status status;
  for (int attempt = 0; moved && attempt < kRepairAttemptsMax; ++attempt) {
    status = TryRepair(key, version, block, content, &moved);
  }
  return status;
}

}  // namespace tessera::chunk
