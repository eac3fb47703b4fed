// Images of whole chunks, in two parts: content to free space, by whoever has the time; then one
// record that makes the chunk refer to it. A crash in between leaves free space that is free.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libchunk/check.h"
#include "libchunk/slice_cursor.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

// A run of blocks whose content is on the device.
struct StagedRun {
  uint32_t first_block = 0;
  uint32_t block_count = 0;
  DeviceExtents extents;

  [[nodiscard]] uint32_t end_block() const { return first_block + block_count; }
  [[nodiscard]] DeviceExtents Part(uint32_t first, uint32_t count) const;
};

DeviceExtents StagedRun::Part(uint32_t first, uint32_t count) const {
  DeviceExtents part;
  uint64_t skip = first - first_block;
  uint64_t left = count;
  for (const DeviceExtent& extent : extents) {
    if (skip >= extent.count) {
      skip -= extent.count;
      continue;
    }
    const uint64_t taken = std::min<uint64_t>(extent.count - skip, left);
    if (taken == 0) break;
    part.push_back({extent.first_block + skip, taken});
    left -= taken;
    skip = 0;
  }
  return part;
}

// A kernel that does not preempt itself keeps a processor for the whole of a write, 2 ms for a
// chunk, and clients' IO waits. In pieces of 64 KiB it is a tenth.
constexpr uint64_t kPieceBlocks = 16;

enum class Source : uint8_t {
  kNothing,
  kImageZeros,
  kImageInherited,
  kImageLost,  // an operation of its own: recovery takes its checksum for what it is
  kImageBytes,
  kImageDevice,
  kReplaced
};

}  // namespace

class StoreImpl::Staged final : public StagedImage {
 public:
  Staged(StoreImpl* store, ChunkImage image) : store_(store), image_(std::move(image)) {}
  ~Staged() override {
    for (const StagedRun& run : runs) store_->GiveBack(run.extents);
  }
  Staged(const Staged&) = delete;
  Staged& operator=(const Staged&) = delete;

  [[nodiscard]] const ChunkImage& image() const override { return image_; }
  [[nodiscard]] const StoreImpl* store() const { return store_; }
  [[nodiscard]] bool Mapped(uint32_t block) const { return BitOf(image_.mapped, block); }
  [[nodiscard]] bool Lost(uint32_t block) const { return BitOf(image_.unreadable, block); }
  // Of mapped blocks that follow one another.
  [[nodiscard]] std::span<const std::byte> Bytes(uint32_t block, uint32_t count) const {
    return std::span(image_.blocks)
        .subspan(size_t{ordinals[block]} * kBlockBytes, size_t{count} * kBlockBytes);
  }
  [[nodiscard]] const StagedRun* RunOf(uint32_t block) const {
    for (const StagedRun& run : runs) {
      if (block >= run.first_block && block < run.end_block()) return &run;
    }
    return nullptr;
  }

  // By block; of mapped ones.
  std::vector<uint32_t> ordinals, checksums;
  std::vector<StagedRun> runs;  // in order; all that is reserved for the image

 private:
  StoreImpl* const store_;
  const ChunkImage image_;
};

std::vector<StoreImpl::DirectWrite> StoreImpl::InPieces(std::span<const DirectWrite> writes) {
  std::vector<DirectWrite> pieces;
  for (const DirectWrite& write : writes) {
    SliceCursor cursor(write.slices);
    for (uint64_t block = write.first_block; block < write.end_block; block += kPieceBlocks) {
      DirectWrite& piece = pieces.emplace_back();
      piece.first_block = block;
      piece.end_block = std::min(block + kPieceBlocks, write.end_block);
      cursor.Take((piece.end_block - block) * kBlockBytes,
                  [&](std::span<const std::byte> bytes) { piece.slices.push_back(bytes); });
    }
  }
  return pieces;
}

absl::StatusOr<std::unique_ptr<StagedImage>> StoreImpl::StageImage(
    ChunkImage image, const std::function<void(uint64_t bytes)>& pace) {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  uint32_t mapped = 0;
  std::vector<uint32_t> ordinals(blocks_per_chunk());
  for (uint32_t block = 0; block < image.mapped.size() * 64; ++block) {
    if (!BitOf(image.mapped, block)) continue;
    if (block >= blocks_per_chunk()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the image maps block ", block, " of ", blocks_per_chunk()));
    }
    ordinals[block] = mapped++;
  }
  if (image.blocks.size() != uint64_t{mapped} * kBlockBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the image maps ", mapped, " blocks and has ", image.blocks.size(), " bytes"));
  }
  for (uint32_t block = 0; block < image.inherited.size() * 64; ++block) {
    if (!BitOf(image.inherited, block)) continue;
    if (block >= blocks_per_chunk() || BitOf(image.mapped, block) || !image.info.base) {
      return absl::InvalidArgumentError(
          absl::StrCat("the image inherits block ", block, " of ", blocks_per_chunk(),
                       image.info.base ? ", or has a content for it" : ", but has no base"));
    }
  }
  if (image.info.base && *image.info.base >= image.info.key.layer) {
    return absl::InvalidArgumentError(absl::StrCat("the image of ", KeyText(image.info.key),
                                                   " names layer ", *image.info.base,
                                                   " as its base"));
  }
  const BlockChecksum checksum(image.info.key);
  auto staged = std::make_unique<Staged>(this, std::move(image));
  staged->ordinals = std::move(ordinals);
  staged->checksums.resize(blocks_per_chunk());
  Group group;
  for (uint32_t block = 0; block < blocks_per_chunk();) {
    uint32_t count = 1;
    if (!staged->Mapped(block) || staged->Lost(block)) {
      if (staged->Lost(block)) staged->checksums[block] = checksum.OfUnreadable(block);
      ++block;
      continue;
    }
    while (block + count < blocks_per_chunk() && staged->Mapped(block + count) &&
           !staged->Lost(block + count)) {
      ++count;
    }
    for (uint32_t i = block; i < block + count; ++i) {
      staged->checksums[i] = checksum.Of(i, staged->Bytes(i, 1));
    }
    if (uint64_t{count} * kBlockBytes >= parts_.options.direct_write_bytes) {
      Operation operation;
      CHUNK_ASSIGN_OR_RETURN(
          const bool direct,
          PrepareDirect(count, PayloadSlices{staged->Bytes(block, count)}, &group, &operation));
      if (direct) staged->runs.push_back({block, count, operation.extents});
    }
    block += count;
  }
  for (const DirectWrite& piece : InPieces(group.direct_writes)) {
    if (pace) pace((piece.end_block - piece.first_block) * kBlockBytes);
    group.direct_writes.assign(1, piece);
    CHUNK_RETURN_IF_ERROR(WriteDirect(&group));
  }
  return staged;
}

// An image's record in the making.
struct StoreImpl::ImageRecord {
  Group group;
  std::vector<DeviceExtent> unused;  // on the device and not wanted
};

absl::Status StoreImpl::KeepAsOwn(const ChunkKey& key, const ImageMerge& merge,
                                  const Operation& start, Group* group) {
  const BlockChecksum checksum(key);
  Found found;
  CHUNK_RETURN_IF_ERROR(LookUpLoading(key, nullptr, 0, blocks_per_chunk(), Depth::kRow, &found));
  for (uint32_t block = 0; block < blocks_per_chunk(); ++block) {
    if (!BitOf(merge.keep, block) || !found.sources[block].inherited) continue;
    CHUNK_ASSIGN_OR_RETURN(MergedBlock merged, BeginMerge(key, block));
    Operation operation = start;
    operation.header.kind = OperationKind::kJournalBlocks;
    operation.header.first_block = block;
    operation.header.block_count = 1;
    operation.checksums.push_back(checksum.Of(block, *merged.bytes));
    group->operations.push_back(std::move(operation));
    group->payload.push_back(*merged.bytes);
    group->payload_bytes += kBlockBytes;
    group->merged.push_back(std::move(merged));
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::PrepareImage(const Staged& staged, const ImageMerge& merge,
                                     ImageRecord* record) {
  const ChunkImage& image = staged.image();
  const ChunkKey& key = image.info.key;
  const BlockChecksum checksum(key);
  const auto start = [&](OperationKind kind) {
    Operation operation;
    operation.header.kind = kind;
    operation.header.flags = kOperationKeepCursor | kOperationGreaterVersion |
                             kOperationClearIncomplete | (image.info.pruned ? kOperationPruned : 0);
    operation.header.key = key;
    operation.header.stream.placement_group_id = image.info.placement_group_id;
    operation.header.version = merge.version;
    operation.base = image.info.base.value_or(kNoBase);
    return operation;
  };
  size_t next_replaced = 0;
  const auto source_of = [&](uint32_t block, size_t replaced) {
    if (BitOf(merge.keep, block)) return Source::kNothing;
    if (replaced < merge.replaced.size() && merge.replaced[replaced].block == block) {
      return Source::kReplaced;
    }
    if (BitOf(image.inherited, block)) return Source::kImageInherited;
    if (!staged.Mapped(block)) return Source::kImageZeros;
    if (staged.Lost(block)) return Source::kImageLost;
    return staged.RunOf(block) != nullptr ? Source::kImageDevice : Source::kImageBytes;
  };
  Group& group = record->group;
  // The first operation carries the version, whatever else there is. What is kept and was the old
  // base's is written before that goes.
  CHUNK_ASSIGN_OR_RETURN(const std::optional<ChunkInfo> present, GetChunk(key));
  const std::optional<uint64_t> present_base = present ? present->base : std::nullopt;
  group.present_base = {key, present_base};
  if (present_base && present_base != image.info.base) {
    CHUNK_RETURN_IF_ERROR(KeepAsOwn(key, merge, start(OperationKind::kZeroBlocks), &group));
  }
  const bool has_base = present_base || image.info.base;
  group.operations.push_back(
      start(has_base ? OperationKind::kInheritBlocks : OperationKind::kZeroBlocks));
  for (uint32_t block = 0; block < blocks_per_chunk();) {
    const Source source = source_of(block, next_replaced);
    const StagedRun* const run = staged.RunOf(block);
    uint32_t count = 1;
    while (source != Source::kReplaced && block + count < blocks_per_chunk() &&
           source_of(block + count, next_replaced) == source &&
           staged.RunOf(block + count) == run) {
      ++count;
    }
    Operation operation = start(OperationKind::kZeroBlocks);
    operation.header.first_block = block;
    operation.header.block_count = count;
    std::span<const std::byte> payload;
    if (source == Source::kReplaced) {
      payload = merge.replaced[next_replaced++].content;
      if (!payload.empty()) operation.checksums.push_back(checksum.Of(block, payload));
    } else if (staged.Mapped(block) && source != Source::kNothing) {
      operation.checksums.assign(staged.checksums.begin() + block,
                                 staged.checksums.begin() + block + count);
    }
    if (source == Source::kImageBytes || source == Source::kImageLost)
      payload = staged.Bytes(block, count);
    if (run != nullptr && source != Source::kImageDevice) {
      const DeviceExtents part = run->Part(block, count);
      record->unused.insert(record->unused.end(), part.begin(), part.end());
    }
    if (source == Source::kImageDevice) {
      operation.header.kind = OperationKind::kDirectBlocks;
      operation.extents = run->Part(block, count);
      group.direct_bytes += uint64_t{count} * kBlockBytes;
      group.direct.insert(group.direct.end(), operation.extents.begin(), operation.extents.end());
    } else if (source == Source::kImageInherited) {
#ifndef TESSERA_PLANT_IGNORE_INHERITED  // see check_planted_bugs.sh
      operation.header.kind = OperationKind::kInheritBlocks;
#endif
    } else if (!payload.empty()) {
      operation.header.kind = OperationKind::kJournalBlocks;
      group.payload.push_back(payload);
      group.payload_bytes += payload.size();
    }
    if (source != Source::kNothing) group.operations.push_back(std::move(operation));
    block += count;
  }
  for (const Operation& operation : group.operations) group.header_bytes += EncodedBytes(operation);
  return absl::OkStatus();
}

absl::Status StoreImpl::ApplyStaged(std::unique_ptr<StagedImage> staged, const ImageMerge& merge) {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  auto* const own = static_cast<Staged*>(staged.get());
  CHUNK_CHECK(own->store() == this);
  for (;;) {
    ImageRecord record;
    CHUNK_RETURN_IF_ERROR(PrepareImage(*own, merge, &record));
    absl::Status committed = Commit(&record.group);
    if (absl::IsAborted(committed)) continue;
    // Without the record all of it is still the image's to give back.
    CHUNK_RETURN_IF_ERROR(committed);
    own->runs.clear();
    if (!record.unused.empty()) GiveBack(record.unused);
    return absl::OkStatus();
  }
}

absl::Status Store::ApplyImage(ChunkImage image, std::span<const uint64_t> keep) {
  const ImageMerge merge{.version = image.info.version, .keep = {keep.begin(), keep.end()}};
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<StagedImage> staged,
                         StageImage(std::move(image), nullptr));
  return ApplyStaged(std::move(staged), merge);
}

}  // namespace tessera::chunk
