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

absl::Status NoChunk(const ChunkKey& key) {
  return absl::NotFoundError(absl::StrCat("there is no chunk ", key.vtree_id, "/", key.chunk_index,
                                          "/", key.snapshot_sequence));
}

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
    BlockSources sources;
    ChunkSummary summary;
    CHUNK_RETURN_IF_ERROR(LookUpLoading(key, first_block, count, &sources, &summary));
    if (!summary.exists) return NoChunk(key);
    ChunkBlocks blocks;
    blocks.info = {.key = key,
                   .placement_group_id = summary.placement_group_id,
                   .version = summary.version,
                   .incomplete = summary.incomplete,
                   .mapped_bytes = uint64_t{summary.mapped_blocks} * kBlockBytes};
    blocks.first_block = first_block;
    for (const BlockSource& source : sources) {
      blocks.states.push_back(
          {.mapped = source.kind != BlockSource::Kind::kZero, .checksum = source.checksum});
    }
    if (what == BlockRead::kMetadata) return blocks;
    VerifyBlocks(key, sources, &blocks);
    const auto bad = static_cast<uint64_t>(
        std::count_if(blocks.states.begin(), blocks.states.end(),
                      [](const BlockState& state) { return !state.readable; }));
    if (bad == 0 || (attempt >= kVerifyAttemptsMin && sources == before)) {
      checksum_errors_.fetch_add(bad, std::memory_order_relaxed);
      return blocks;
    }
    before = sources;
  }
}

absl::Status StoreImpl::TryRepair(const ChunkKey& key, const Version& version, uint32_t block,
                                  std::span<const std::byte> content, bool* moved) {
  *moved = false;
  BlockSources sources;
  ChunkSummary summary;
  CHUNK_RETURN_IF_ERROR(LookUpLoading(key, block, 1, &sources, &summary));
  if (!summary.exists) return NoChunk(key);
#ifndef TESSERA_PLANT_SKIP_REPAIR_CHECK  // see check_planted_bugs.sh
  if (summary.version != version) {
    return absl::AbortedError(absl::StrCat("the chunk is at version ", summary.version.generation,
                                           ".", summary.version.sequence, ", not ",
                                           version.generation, ".", version.sequence));
  }
  std::array<std::byte, kBlockBytes> present;
  if (ReadSources(key, block, sources, 0, present, Temperature::kAny).ok()) {
    return absl::OkStatus();
  }
#endif
  const BlockChecksum checksum(key);
  const uint32_t offered = checksum.Of(block, content);
#ifndef TESSERA_PLANT_SKIP_REPAIR_CHECK
  if (sources[0].checksum != offered && sources[0].checksum != checksum.OfUnreadable(block)) {
    return absl::InvalidArgumentError(
        absl::StrCat("block ", block, " was written here with checksum ", sources[0].checksum,
                     ", the content offered has ", offered));
  }
#endif
  // A write of the block like any other, by the replica itself: the chunk's own version under the
  // flag that lets the greater count, so that it moves nothing.
  Group group;
  Operation operation;
  operation.header.kind = OperationKind::kJournalBlocks;
  operation.header.flags = kOperationKeepCursor | kOperationGreaterVersion;
  operation.header.key = key;
  operation.header.stream.placement_group_id = summary.placement_group_id;
  operation.header.version = summary.version;
  operation.header.first_block = block;
  operation.header.block_count = 1;
  operation.checksums.push_back(offered);
  group.operations.push_back(std::move(operation));
  group.payload.push_back(content);
  group.payload_bytes = kBlockBytes;
  group.header_bytes += EncodedBytes(group.operations.back());
  // Only over exactly the block that was found bad.
  MergedBlock replaced;
  replaced.key = key;
  replaced.block = block;
  replaced.before = sources[0];
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
