// Reads: places and checksums under the lock, bytes without it, looked up again on a mismatch.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libchunk/check.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

constexpr int kReadAttemptsMin = 3;

absl::Status Mismatch(const ChunkKey& key, uint32_t block, const BlockSource& source) {
  return absl::DataLossError(absl::StrCat(
      "checksum mismatch in chunk ", KeyText(key), " block ", block, ", at ",
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

// What is known of a block on the way down.
enum class Known : uint8_t { kNothing, kPlace, kInBase };

// What a look-up knows of its blocks so far.
struct Progress {
  explicit Progress(uint32_t count) : known(count, Known::kNothing), unknown(count) {}

  void Learn(uint32_t index, Known what) {
    known[index] = what;
    --unknown;
    in_base += what == Known::kInBase ? 1 : 0;
  }

  absl::InlinedVector<Known, 16> known;
  size_t unknown;  // kNothing
  size_t in_base = 0;
};

void Resolve(const OverlayChunk& chunk, uint32_t first_block, BlockSources* sources,
             Progress* progress) {
  for (uint32_t i = 0; i < sources->size() && progress->unknown > 0; ++i) {
    if (progress->known[i] != Known::kNothing) continue;
    const OverlayEntry* entry = chunk.Find(first_block + i);
    if (entry == nullptr) {
      if (chunk.below == Below::kOlder) continue;
      const bool in_base = chunk.below == Below::kBase && chunk.below_mapped[first_block + i];
      progress->Learn(i, in_base ? Known::kInBase : Known::kPlace);
      continue;
    }
    if (entry->kind == EntryKind::kJournal || entry->kind == EntryKind::kDirect) {
      BlockSource& source = (*sources)[i];
      source.location = entry->location;
      source.checksum = entry->checksum;
      source.kind = entry->kind == EntryKind::kJournal ? BlockSource::Kind::kJournal
                                                       : BlockSource::Kind::kDevice;
    }
    progress->Learn(i, entry->kind == EntryKind::kInherited ? Known::kInBase : Known::kPlace);
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

const ChunkRow* StoreImpl::RowAtHand(const ChunkKey& key, const LoadedRows* loaded) {
  if (loaded != nullptr && loaded->epoch == base_epoch_) {
    const auto found = loaded->rows.find(key);
    if (found != loaded->rows.end()) return found->second.get();
  }
  const SharedRow* cached = cache_.Find(key);
  return cached == nullptr ? nullptr : cached->get();
}

std::optional<ChunkKey> StoreImpl::LookUp(const ChunkKey& key, uint32_t first_block, uint32_t count,
                                          Depth depth, const LoadedRows* loaded, Found* found) {
  found->key = key;
  found->owner = key;
  found->sources.assign(count, BlockSource());
  Progress progress(count);
  // From layer to base, until all blocks are found.
  for (bool is_first = true;; is_first = false) {
    const ChunkKey& layer = found->owner;
    uint64_t base = kNoBase;
    const OverlayChunk* newest = nullptr;
    for (const Overlay* overlay : {active_.get(), frozen_.get()}) {
      const OverlayChunk* chunk = overlay == nullptr ? nullptr : overlay->Find(layer);
      if (chunk == nullptr) continue;
      if (newest == nullptr) newest = chunk;
      Resolve(*chunk, first_block, &found->sources, &progress);
      // All that a layer inherits is of one base: what changes the base leaves nothing of the old.
      if (base == kNoBase) base = chunk->summary.base.value_or(kNoBase);
    }
    if (newest != nullptr && is_first) found->summary = newest->summary;
    if (progress.unknown > 0 || (newest == nullptr && is_first)) {
      const ChunkRow* row = RowAtHand(layer, loaded);
      if (row == nullptr) return layer;
      if (newest == nullptr && is_first) found->summary = row->summary;
      if (base == kNoBase) base = row->summary.base.value_or(kNoBase);
      for (uint32_t i = 0; i < count && progress.unknown > 0; ++i) {
        if (progress.known[i] != Known::kNothing) continue;
        const uint32_t block = first_block + i;
        const BlockPlace place = row->At(block);
        BlockSource& source = found->sources[i];
        if (place.mapped() && row->inherited[block]) {
          source.inherited = true;
          if (depth == Depth::kOwner) {
            progress.Learn(i, Known::kInBase);
            continue;
          }
        }
        if (place.mapped()) {
          source.location = place.device_block();
          source.checksum = place.checksum();
          source.kind = BlockSource::Kind::kDevice;
        }
        progress.Learn(i, Known::kPlace);
      }
    }
    if (progress.in_base == 0) return std::nullopt;
    for (uint32_t i = 0; i < count; ++i) {
      if (progress.known[i] != Known::kInBase) continue;
      progress.known[i] = Known::kNothing;
      found->sources[i].inherited = true;
    }
    progress.unknown = std::exchange(progress.in_base, 0);
    CHUNK_CHECK(base != kNoBase);
    found->owner.layer = base;
  }
}

bool StoreImpl::LookUpOnPath(const ChunkKey& key, const LayerPath* path, uint32_t first_block,
                             uint32_t count, Depth depth, const LoadedRows* loaded, Found* found,
                             Missing* missing) {
  ChunkKey layer = key;
  bool is_seen = true;
  if (path != nullptr) {
    layer.layer = 0;
    LayerLists::Newest newest;
    if (!layered_.empty()) newest = layer_lists_.FindNewest(ChunkId(key), *path);
    if (newest.is_known) {
      is_seen = newest.layer.has_value();
      layer.layer = newest.layer.value_or(0);
    } else if (IsLayered(key.vtree_id)) {
      missing->layers = ChunkId(key);
      return false;
    } else {
      is_seen = path->Sees(0);
    }
  }
  if (!is_seen) {
    found->key = layer;
    found->owner = layer;
    found->summary = ChunkSummary();
    found->sources.assign(count, BlockSource());
    return true;
  }
  missing->row = LookUp(layer, first_block, count, depth, loaded, found);
  return !missing->row.has_value();
}

absl::StatusOr<SharedRow> StoreImpl::LoadRow(const ChunkKey& key, uint64_t* epoch) {
  for (;;) {
    {
      absl::MutexLock lock(&state_mutex_);
      *epoch = base_epoch_;
    }
    CHUNK_ASSIGN_OR_RETURN(SharedRow row, parts_.database->LoadRow(key));
    absl::MutexLock lock(&state_mutex_);
    // Layers that are being dropped are there until all of that shows at once.
    if (drop_ != nullptr) {
      if (const auto before = drop_->rows.find(key); before != drop_->rows.end()) {
        row = before->second;
      }
    }
    // A row that a checkpoint of right now has put there is newer than the one just read.
    if (const SharedRow* cached = cache_.Find(key)) return *cached;
    if (*epoch != base_epoch_) continue;
    cache_.Put(key, row);
    return row;
  }
}

absl::Status StoreImpl::LoadRowInto(const ChunkKey& key, LoadedRows* loaded) {
  uint64_t epoch = 0;
  CHUNK_ASSIGN_OR_RETURN(SharedRow row, LoadRow(key, &epoch));
  if (epoch != loaded->epoch) loaded->rows.clear();
  loaded->epoch = epoch;
  loaded->rows[key] = std::move(row);
  return absl::OkStatus();
}

absl::Status StoreImpl::LookUpLoading(const ChunkKey& key, const LayerPath* path,
                                      uint32_t first_block, uint32_t count, Depth depth,
                                      Found* found) {
  LoadedRows loaded;
  LayerLists::Pin pin;
  bool needs_list = false;
  for (;;) {
    Missing missing;
    {
      absl::MutexLock lock(&state_mutex_);
      if (LookUpOnPath(key, path, first_block, count, depth, &loaded, found, &missing)) {
        return absl::OkStatus();
      }
    }
    if (missing.layers && std::exchange(needs_list, true)) {
      CHUNK_ASSIGN_OR_RETURN(pin, LoadLayers(*missing.layers));
    } else if (missing.layers) {
      CHUNK_RETURN_IF_ERROR(LoadGreatestLayer(*missing.layers));
    } else {
      CHUNK_RETURN_IF_ERROR(LoadRowInto(*missing.row, &loaded));
    }
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

absl::Status StoreImpl::ReadRange(const ChunkKey& key, const LayerPath* path, uint32_t offset_bytes,
                                  std::span<std::byte> out, Temperature temperature) {
  CHUNK_RETURN_IF_ERROR(ValidateRange(offset_bytes, out.size()));
  if (out.empty()) return absl::OkStatus();
  const uint32_t first = offset_bytes / kBlockBytes;
  const uint32_t count =
      (offset_bytes + static_cast<uint32_t>(out.size()) + kBlockBytes - 1) / kBlockBytes - first;
  Found found;
  BlockSources before;
  for (int attempt = 1;; ++attempt) {
    const Depth depth = attempt == 1 ? Depth::kRow : Depth::kOwner;
    if (temperature == Temperature::kCachedOnly) {
      Missing missing;
      absl::MutexLock lock(&state_mutex_);
      if (!LookUpOnPath(key, path, first, count, depth, nullptr, &found, &missing)) {
        return absl::UnavailableError("the chunk's metadata is not in memory");
      }
    } else {
      CHUNK_RETURN_IF_ERROR(LookUpLoading(key, path, first, count, depth, &found));
    }
    absl::Status status =
        ReadSources(found.key, first, found.sources, offset_bytes % kBlockBytes, out, temperature);
    if (!absl::IsDataLoss(status)) {
      if (status.ok()) {
        reads_.fetch_add(1, std::memory_order_relaxed);
        read_bytes_.fetch_add(out.size(), std::memory_order_relaxed);
      }
      return status;
    }
    if (temperature == Temperature::kCachedOnly) return absl::UnavailableError(status.message());
    // A place that was reused since the look-up is not damage: look again until it holds still.
    if (attempt >= kReadAttemptsMin && found.sources == before) {
      checksum_errors_.fetch_add(1, std::memory_order_relaxed);
      return status;
    }
    before = found.sources;
  }
}

absl::Status StoreImpl::Read(const ChunkKey& key, const LayerPath* path, uint32_t offset_bytes,
                             std::span<std::byte> out) {
  return ReadRange(key, path, offset_bytes, out, Temperature::kAny);
}

absl::Status StoreImpl::ReadCached(const ChunkKey& key, const LayerPath* path,
                                   uint32_t offset_bytes, std::span<std::byte> out) {
  return ReadRange(key, path, offset_bytes, out, Temperature::kCachedOnly);
}

absl::StatusOr<std::vector<Extent>> StoreImpl::Map(const ChunkKey& key, const LayerPath* path,
                                                   uint32_t offset_bytes, uint32_t length_bytes) {
  CHUNK_RETURN_IF_ERROR(ValidateRange(offset_bytes, length_bytes));
  std::vector<Extent> extents;
  if (length_bytes == 0) return extents;
  const uint32_t first = offset_bytes / kBlockBytes;
  const uint32_t end = offset_bytes + length_bytes;
  const uint32_t count = (end + kBlockBytes - 1) / kBlockBytes - first;
  Found found;
  CHUNK_RETURN_IF_ERROR(LookUpLoading(key, path, first, count, Depth::kRow, &found));
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t from = std::max(offset_bytes, (first + i) * kBlockBytes);
    const uint32_t to = std::min(end, (first + i + 1) * kBlockBytes);
    const bool mapped = found.sources[i].kind != BlockSource::Kind::kZero;
    if (!extents.empty() && extents.back().mapped == mapped) {
      extents.back().length_bytes += to - from;
    } else {
      extents.push_back({.offset_bytes = from, .length_bytes = to - from, .mapped = mapped});
    }
  }
  return extents;
}

absl::StatusOr<std::optional<ChunkInfo>> StoreImpl::GetChunk(const ChunkKey& key) {
  Found found;
  CHUNK_RETURN_IF_ERROR(LookUpLoading(key, nullptr, 0, 0, Depth::kRow, &found));
  if (!found.summary.exists) return std::nullopt;
  return InfoOf(key, found.summary);
}

absl::Status StoreImpl::ReadSourcesOf(const Found& found, ImageContent content, ChunkImage* image) {
  const BlockSources& sources = found.sources;
  const auto is_read = [&](uint32_t block) {
    return sources[block].kind != BlockSource::Kind::kZero &&
           (content == ImageContent::kWhole || !sources[block].inherited);
  };
  const auto block_count = static_cast<uint32_t>(sources.size());
  BlockBits mapped(block_count), inherited(block_count);
  for (uint32_t block = 0; block < block_count; ++block) {
    mapped.Set(block, is_read(block));
    inherited.Set(block, sources[block].kind != BlockSource::Kind::kZero && !is_read(block));
  }
  image->mapped.assign(mapped.words().begin(), mapped.words().end());
  if (inherited.Count() > 0) {
    image->inherited.assign(inherited.words().begin(), inherited.words().end());
  }
  image->blocks.resize(size_t{mapped.Count()} * kBlockBytes);
  size_t at = 0;
  for (uint32_t block = 0; block < block_count;) {
    uint32_t count = 1;
    while (block + count < block_count && is_read(block) == is_read(block + count) &&
           Continues(sources[block + count - 1], sources[block + count])) {
      ++count;
    }
    if (is_read(block)) {
      const BlockSources run(sources.begin() + block, sources.begin() + block + count);
      CHUNK_RETURN_IF_ERROR(ReadSources(
          found.key, block, run, 0,
          std::span(image->blocks).subspan(at, size_t{count} * kBlockBytes), Temperature::kAny));
      at += size_t{count} * kBlockBytes;
    }
    block += count;
  }
  return absl::OkStatus();
}

absl::StatusOr<ChunkImage> StoreImpl::ReadImage(const ChunkKey& key, ImageContent content) {
  BlockSources before;
  for (int attempt = 1;; ++attempt) {
    Found found;
    CHUNK_RETURN_IF_ERROR(LookUpLoading(key, nullptr, 0, blocks_per_chunk(),
                                        attempt == 1 ? Depth::kRow : Depth::kOwner, &found));
    if (!found.summary.exists) return NoChunk(key);
    ChunkImage image;
    image.info = InfoOf(key, found.summary);
    if (content == ImageContent::kWhole) {
      image.info.base.reset();
      image.info.own_bytes = image.info.mapped_bytes;
    }
    absl::Status status = ReadSourcesOf(found, content, &image);
    if (status.ok()) return image;
    if (!absl::IsDataLoss(status) || (attempt >= kReadAttemptsMin && found.sources == before)) {
      if (absl::IsDataLoss(status)) checksum_errors_.fetch_add(1, std::memory_order_relaxed);
      return status;
    }
    before = found.sources;
  }
}

}  // namespace tessera::chunk
