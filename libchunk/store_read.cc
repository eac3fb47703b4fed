// Reads: places and checksums under the lock, bytes without it, looked up again on a mismatch.
#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

constexpr int kReadAttemptsMin = 3;

absl::Status Mismatch(const ChunkKey& key, uint32_t block, const BlockSource& source) {
  return absl::DataLossError(absl::StrCat(
      "checksum mismatch in chunk ", key.vtree_id, "/", key.chunk_index, "/", key.snapshot_sequence,
      " block ", block, ", at ",
      source.kind == BlockSource::Kind::kJournal ? "journal position " : "device block ",
      source.location));
}

// Whether `next` lies directly after `previous` on the same file.
bool Continues(const BlockSource& previous, const BlockSource& next) {
  if (previous.kind != next.kind) return false;
  if (next.kind == BlockSource::Kind::kZero) return true;
  const uint64_t step = next.kind == BlockSource::Kind::kJournal ? kBlockBytes : 1;
  return next.location == previous.location + step;
}

void Resolve(const OverlayChunk& chunk, uint32_t first_block, BlockSources* sources,
             absl::InlinedVector<bool, 16>* known, size_t* unknown) {
  for (uint32_t i = 0; i < sources->size() && *unknown > 0; ++i) {
    if ((*known)[i]) continue;
    const OverlayEntry* entry = chunk.Find(first_block + i);
    if (entry != nullptr && entry->kind != EntryKind::kZero) {
      (*sources)[i] = {.location = entry->location,
                       .checksum = entry->checksum,
                       .kind = entry->kind == EntryKind::kJournal ? BlockSource::Kind::kJournal
                                                                  : BlockSource::Kind::kDevice};
    }
    if (entry != nullptr || chunk.hides_below) {
      (*known)[i] = true;
      --*unknown;
    }
  }
}

}  // namespace

absl::Status StoreImpl::ValidateRange(uint64_t offset_bytes, uint64_t length_bytes) const {
  if (offset_bytes % kSectorBytes != 0 || length_bytes % kSectorBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("offset ", offset_bytes, " and length ",
                                                   length_bytes, " must be multiples of ",
                                                   kSectorBytes));
  }
  if (offset_bytes + length_bytes > parts_.options.chunk_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the range [", offset_bytes, ", ", offset_bytes + length_bytes,
                     ") crosses the chunk's end at ", parts_.options.chunk_bytes));
  }
  return absl::OkStatus();
}

bool StoreImpl::LookUp(const ChunkKey& key, uint32_t first_block, uint32_t count,
                       BlockSources* sources, ChunkSummary* summary, const SharedRow* loaded) {
  sources->assign(count, BlockSource());
  absl::InlinedVector<bool, 16> known(count, false);
  size_t unknown = count;
  const OverlayChunk* newest = nullptr;
  for (const Overlay* overlay : {active_.get(), frozen_.get()}) {
    const OverlayChunk* chunk = overlay == nullptr ? nullptr : overlay->Find(key);
    if (chunk == nullptr) continue;
    if (newest == nullptr) newest = chunk;
    Resolve(*chunk, first_block, sources, &known, &unknown);
  }
  if (newest != nullptr && summary != nullptr) *summary = newest->summary;
  if (unknown == 0 && newest != nullptr) return true;
  const SharedRow* row = loaded != nullptr ? loaded : cache_.Find(key);
  if (row == nullptr) return false;
  if (newest == nullptr && summary != nullptr) *summary = (*row)->summary;
  for (uint32_t i = 0; i < count; ++i) {
    if (known[i]) continue;
    const BlockPlace place = (*row)->At(first_block + i);
    if (!place.mapped()) continue;
    (*sources)[i] = {.location = place.device_block(),
                     .checksum = place.checksum(),
                     .kind = BlockSource::Kind::kDevice};
  }
  return true;
}

absl::StatusOr<SharedRow> StoreImpl::LoadRow(const ChunkKey& key, uint64_t* epoch) {
  for (;;) {
    {
      absl::MutexLock lock(&state_mutex_);
      *epoch = base_epoch_;
    }
    CHUNK_ASSIGN_OR_RETURN(SharedRow row, parts_.database->LoadRow(key));
    absl::MutexLock lock(&state_mutex_);
    // A row that a checkpoint of right now has put there is newer than the one just read.
    if (const SharedRow* cached = cache_.Find(key)) return *cached;
    if (*epoch != base_epoch_) continue;
    cache_.Put(key, row);
    return row;
  }
}

absl::Status StoreImpl::LookUpLoading(const ChunkKey& key, uint32_t first_block, uint32_t count,
                                      BlockSources* sources, ChunkSummary* summary) {
  SharedRow row;
  uint64_t epoch = 0;
  for (;;) {
    {
      absl::MutexLock lock(&state_mutex_);
      const SharedRow* loaded = row != nullptr && epoch == base_epoch_ ? &row : nullptr;
      if (LookUp(key, first_block, count, sources, summary, loaded)) return absl::OkStatus();
    }
    CHUNK_ASSIGN_OR_RETURN(row, LoadRow(key, &epoch));
  }
}

absl::Status StoreImpl::ReadRun(const BlockSource& first, std::span<std::byte> out,
                                Temperature temperature) {
  const bool cached = temperature == Temperature::kCachedOnly;
  if (first.kind == BlockSource::Kind::kJournal) {
    return cached ? journal_->ReadBytesCached(first.location, out)
                  : journal_->ReadBytes(first.location, out);
  }
  const uint64_t offset = first.location * kBlockBytes;
  return cached ? parts_.data->ReadCached(offset, out) : parts_.data->Read(offset, out);
}

absl::Status StoreImpl::ReadSources(const ChunkKey& key, uint32_t first_block,
                                    const BlockSources& sources, uint32_t skip_bytes,
                                    std::span<std::byte> out, Temperature temperature) {
  const BlockChecksum checksum(key);
  for (size_t i = 0; i < sources.size();) {
    // Where this block's bytes begin in `out`; before its start when the range cuts the block.
    const int64_t at = static_cast<int64_t>(i) * kBlockBytes - skip_bytes;
    const uint64_t begin = at < 0 ? static_cast<uint64_t>(-at) : 0;
    const uint64_t end = std::min<uint64_t>(kBlockBytes, out.size() - at);
    const bool whole = begin == 0 && end == kBlockBytes;
    const BlockSource& source = sources[i];
    size_t count = 1;
    if (whole) {
      while (i + count < sources.size() && Continues(sources[i + count - 1], sources[i + count]) &&
             at + static_cast<int64_t>((count + 1) * kBlockBytes) <=
                 static_cast<int64_t>(out.size())) {
        ++count;
      }
    }
    std::array<std::byte, kBlockBytes> cut;
    const std::span<std::byte> target =
        whole ? out.subspan(at, count * kBlockBytes) : std::span<std::byte>(cut);
    if (source.kind == BlockSource::Kind::kZero) {
      std::memset(target.data(), 0, target.size());
    } else {
      absl::Status read = ReadRun(source, target, temperature);
      // The data file ends before a block that was lost: the bytes are not what was written.
      if (absl::IsOutOfRange(read)) read = Mismatch(key, first_block + i, source);
      CHUNK_RETURN_IF_ERROR(read);
#ifndef TESSERA_PLANT_SKIP_CRC  // see check_planted_bugs.sh
      for (size_t j = 0; j < count; ++j) {
        const uint32_t block = first_block + static_cast<uint32_t>(i + j);
        if (checksum.Of(block, target.subspan(j * kBlockBytes, kBlockBytes)) !=
            sources[i + j].checksum) {
          return Mismatch(key, block, sources[i + j]);
        }
      }
#endif
    }
    if (!whole) std::memcpy(out.data() + at + begin, cut.data() + begin, end - begin);
    i += count;
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::ReadRange(const ChunkKey& key, uint32_t offset_bytes,
                                  std::span<std::byte> out, Temperature temperature) {
  CHUNK_RETURN_IF_ERROR(ValidateRange(offset_bytes, out.size()));
  if (out.empty()) return absl::OkStatus();
  const uint32_t first = offset_bytes / kBlockBytes;
  const uint32_t count =
      (offset_bytes + static_cast<uint32_t>(out.size()) + kBlockBytes - 1) / kBlockBytes - first;
  BlockSources sources;
  BlockSources before;
  for (int attempt = 1;; ++attempt) {
    if (temperature == Temperature::kCachedOnly) {
      absl::MutexLock lock(&state_mutex_);
      if (!LookUp(key, first, count, &sources, nullptr, nullptr)) {
        return absl::UnavailableError("the chunk's metadata is not in memory");
      }
    } else {
      CHUNK_RETURN_IF_ERROR(LookUpLoading(key, first, count, &sources, nullptr));
    }
    absl::Status status =
        ReadSources(key, first, sources, offset_bytes % kBlockBytes, out, temperature);
    if (!absl::IsDataLoss(status)) {
      if (status.ok()) {
        reads_.fetch_add(1, std::memory_order_relaxed);
        read_bytes_.fetch_add(out.size(), std::memory_order_relaxed);
      }
      return status;
    }
    if (temperature == Temperature::kCachedOnly) return absl::UnavailableError(status.message());
    // A place that was reused since the look-up is not damage: look again until it holds still.
    if (attempt >= kReadAttemptsMin && sources == before) {
      checksum_errors_.fetch_add(1, std::memory_order_relaxed);
      return status;
    }
    before = sources;
  }
}

absl::Status StoreImpl::Read(const ChunkKey& key, uint32_t offset_bytes, std::span<std::byte> out) {
  return ReadRange(key, offset_bytes, out, Temperature::kAny);
}

absl::Status StoreImpl::ReadCached(const ChunkKey& key, uint32_t offset_bytes,
                                   std::span<std::byte> out) {
  return ReadRange(key, offset_bytes, out, Temperature::kCachedOnly);
}

absl::StatusOr<std::vector<Extent>> StoreImpl::Map(const ChunkKey& key, uint32_t offset_bytes,
                                                   uint32_t length_bytes) {
  CHUNK_RETURN_IF_ERROR(ValidateRange(offset_bytes, length_bytes));
  std::vector<Extent> extents;
  if (length_bytes == 0) return extents;
  const uint32_t first = offset_bytes / kBlockBytes;
  const uint32_t end = offset_bytes + length_bytes;
  const uint32_t count = (end + kBlockBytes - 1) / kBlockBytes - first;
  BlockSources sources;
  CHUNK_RETURN_IF_ERROR(LookUpLoading(key, first, count, &sources, nullptr));
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t from = std::max(offset_bytes, (first + i) * kBlockBytes);
    const uint32_t to = std::min(end, (first + i + 1) * kBlockBytes);
    const bool mapped = sources[i].kind != BlockSource::Kind::kZero;
    if (!extents.empty() && extents.back().mapped == mapped) {
      extents.back().length_bytes += to - from;
    } else {
      extents.push_back({.offset_bytes = from, .length_bytes = to - from, .mapped = mapped});
    }
  }
  return extents;
}

absl::StatusOr<std::optional<ChunkInfo>> StoreImpl::GetChunk(const ChunkKey& key) {
  ChunkSummary summary;
  BlockSources none;
  CHUNK_RETURN_IF_ERROR(LookUpLoading(key, 0, 0, &none, &summary));
  if (!summary.exists) return std::nullopt;
  return ChunkInfo{.key = key,
                   .placement_group_id = summary.placement_group_id,
                   .version = summary.version,
                   .incomplete = summary.incomplete,
                   .mapped_bytes = uint64_t{summary.mapped_blocks} * kBlockBytes};
}

absl::StatusOr<ChunkImage> StoreImpl::ReadImage(const ChunkKey& key) {
  BlockSources before;
  for (int attempt = 1;; ++attempt) {
    BlockSources sources;
    ChunkSummary summary;
    CHUNK_RETURN_IF_ERROR(LookUpLoading(key, 0, blocks_per_chunk(), &sources, &summary));
    if (!summary.exists) {
      return absl::NotFoundError(absl::StrCat("there is no chunk ", key.vtree_id, "/",
                                              key.chunk_index, "/", key.snapshot_sequence));
    }
    ChunkImage image;
    image.info = {.key = key,
                  .placement_group_id = summary.placement_group_id,
                  .version = summary.version,
                  .incomplete = summary.incomplete,
                  .mapped_bytes = uint64_t{summary.mapped_blocks} * kBlockBytes};
    image.mapped.assign((blocks_per_chunk() + 63) / 64, 0);
    image.blocks.resize(image.info.mapped_bytes);
    absl::Status status;
    size_t at = 0;
    for (uint32_t block = 0; block < sources.size() && status.ok();) {
      uint32_t count = 1;
      while (block + count < sources.size() &&
             Continues(sources[block + count - 1], sources[block + count])) {
        ++count;
      }
      if (sources[block].kind != BlockSource::Kind::kZero) {
        for (uint32_t i = block; i < block + count; ++i) {
          image.mapped[i / 64] |= uint64_t{1} << i % 64;
        }
        const BlockSources run(sources.begin() + block, sources.begin() + block + count);
        status = ReadSources(key, block, run, 0,
                             std::span(image.blocks).subspan(at, size_t{count} * kBlockBytes),
                             Temperature::kAny);
        at += size_t{count} * kBlockBytes;
      }
      block += count;
    }
    if (status.ok()) return image;
    if (!absl::IsDataLoss(status) || (attempt >= kReadAttemptsMin && sources == before)) {
      if (absl::IsDataLoss(status)) checksum_errors_.fetch_add(1, std::memory_order_relaxed);
      return status;
    }
    before = sources;
  }
}

}  // namespace tessera::chunk
