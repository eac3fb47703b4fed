#include "libchunk/store_model.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libchunk/status_macros.h"

namespace tessera::chunk {
namespace {

constexpr size_t kWordsInSector = kSectorBytes / sizeof(uint64_t);
constexpr uint32_t kSectorsInBlock = kBlockBytes / kSectorBytes;
constexpr uint64_t kWordStep = 0x9e3779b97f4a7c15u;
constexpr size_t kListLimit = 5;  // small, so that paging is used

std::string Describe(const Version& version) {
  return absl::StrCat(version.generation, ".", version.sequence);
}

bool Bit(std::span<const uint64_t> bits, size_t index) {
  return index / 64 < bits.size() && ((bits[index / 64] >> (index % 64)) & 1) != 0;
}

std::string DescribeDifference(const ModelChunkPointer& expected, const ModelChunkPointer& found) {
  if (expected == nullptr) return "exists but should not";
  if (found == nullptr) return "is missing";
  if (expected->version != found->version) {
    return absl::StrCat("version ", Describe(found->version), ", expected ",
                        Describe(expected->version));
  }
  if (expected->placement_group_id != found->placement_group_id) return "wrong placement group";
  if (expected->incomplete != found->incomplete) {
    return absl::StrCat("incomplete is ", found->incomplete, ", expected ", expected->incomplete);
  }
  for (size_t i = 0; i < expected->stamps.size(); ++i) {
    if (expected->stamps[i] != found->stamps[i]) {
      return absl::StrCat("sector ", i, " has stamp ", absl::Hex(found->stamps[i]), ", expected ",
                          absl::Hex(expected->stamps[i]));
    }
  }
  for (size_t i = 0; i < expected->mapped.size(); ++i) {
    if (expected->mapped[i] != found->mapped[i]) {
      return absl::StrCat("block ", i, found->mapped[i] ? " is mapped" : " is not mapped");
    }
    if (expected->inherited[i] != found->inherited[i]) {
      return absl::StrCat("block ", i, found->inherited[i] ? " is" : " is not", " inherited");
    }
  }
  if (expected->base != found->base) {
    return absl::StrCat("base is ", found->base.value_or(kNoBase), ", expected ",
                        expected->base.value_or(kNoBase));
  }
  if (expected->pruned != found->pruned) return found->pruned ? "is pruned" : "is not pruned";
  return "";
}

bool Equal(const ModelChunkPointer& a, const ModelChunkPointer& b) {
  return a == b || (a != nullptr && b != nullptr && *a == *b);
}

bool EqualCursors(const std::optional<ModelCursor>& a, const std::optional<ModelCursor>& b) {
  return a.has_value() == b.has_value() && (!a.has_value() || a->last == b->last);
}

template <typename Map>
auto Lookup(const Map& map, const typename Map::key_type& key) {
  const auto entry = map.find(key);
  return entry == map.end() ? std::optional<typename Map::mapped_type>() : entry->second;
}

bool IsSameChunk(const ChunkKey& a, const ChunkKey& b) {
  return a.vtree_id == b.vtree_id && a.chunk_index == b.chunk_index;
}

ModelChunkPointer LookupChunk(const ModelState& state, const ChunkKey& key) {
  return Lookup(state.chunks, key).value_or(nullptr);
}

}  // namespace

void FillSector(uint64_t stamp, std::span<std::byte, kSectorBytes> out) {
  for (size_t i = 0; i < kWordsInSector; ++i) {
    const uint64_t word = stamp == 0 ? 0 : stamp ^ (kWordStep * i);
    std::memcpy(out.data() + i * sizeof(word), &word, sizeof(word));
  }
}

std::optional<uint64_t> StampOfSector(std::span<const std::byte, kSectorBytes> bytes) {
  uint64_t stamp;
  std::memcpy(&stamp, bytes.data(), sizeof(stamp));
  uint64_t differences = 0;
  for (size_t i = 0; i < kWordsInSector; ++i) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i * sizeof(word), sizeof(word));
    differences |= word ^ (stamp == 0 ? 0 : stamp ^ (kWordStep * i));
  }
  return differences == 0 ? std::optional(stamp) : std::nullopt;
}

uint64_t ModelChunk::mapped_blocks() const {
  return static_cast<uint64_t>(std::count(mapped.begin(), mapped.end(), true));
}

uint64_t ModelChunk::own_blocks() const {
  return mapped_blocks() -
         static_cast<uint64_t>(std::count(inherited.begin(), inherited.end(), true));
}

std::string Describe(const ChunkKey& key) {
  return absl::StrCat("chunk ", key.vtree_id, "/", key.chunk_index, "@", key.layer);
}

StoreModel::StoreModel(uint32_t chunk_bytes) : chunk_bytes_(chunk_bytes) {}

ModelChunkPointer StoreModel::Find(const ChunkKey& key) const { return LookupChunk(state_, key); }

// ---- Steps -----------------------------------------------------------------------------------

ModelChunkPointer StoreModel::Put(const ChunkKey& key, ModelChunkPointer chunk) {
  ModelChunkPointer before = Find(key);
  if (before != nullptr) own_blocks_ -= before->own_blocks();
  if (chunk != nullptr) {
    own_blocks_ += chunk->own_blocks();
    state_.chunks[key] = std::move(chunk);
  } else {
    state_.chunks.erase(key);
  }
  return before;
}

void StoreModel::PutCursor(const StreamId& stream, const std::optional<ModelCursor>& cursor) {
  if (cursor.has_value()) {
    state_.cursors[stream] = *cursor;
  } else {
    state_.cursors.erase(stream);
  }
}

void StoreModel::AddChunk(Step& step, const ChunkKey& key, ModelChunkPointer after) {
  ModelChunkPointer before = Put(key, after);
  step.chunks.push_back({key, std::move(before), std::move(after)});
}

void StoreModel::AddCursor(Step& step, const StreamId& stream, std::optional<ModelCursor> after) {
  step.cursors.push_back({stream, Lookup(state_.cursors, stream), after});
  PutCursor(stream, after);
}

void StoreModel::Apply(const Change& change, std::span<const uint64_t> stamps) {
  const Target target = TargetOf(change);
  if (target.nothing) {
    Step step;
    AddCursor(step, change.stream, ModelCursor{change.version, change.key.vtree_id});
    steps_.push_back(std::move(step));
    return;
  }
  ModelChunkPointer before = Find(target.key);
  auto after =
      before == nullptr ? std::make_shared<ModelChunk>() : std::make_shared<ModelChunk>(*before);
  if (before == nullptr) {
    after->stamps.resize(chunk_bytes_ / kSectorBytes);
    after->mapped.resize(chunk_bytes_ / kBlockBytes);
    after->inherited.resize(chunk_bytes_ / kBlockBytes);
  }
  if (target.base) {
    ChunkKey base_key = target.key;
    base_key.layer = *target.base;
    const ModelChunkPointer base = Find(base_key);
    after->incomplete = base->incomplete;
    after->stamps = base->stamps;
    after->mapped = base->mapped;
    after->inherited = base->mapped;
    after->base = target.base;
  }
  if (before == nullptr) after->placement_group_id = change.stream.placement_group_id;
  after->version = change.version;
  const bool missed = change.kind == ChangeKind::kMissed;
  after->incomplete = after->incomplete || change.incomplete || missed;
  const uint32_t first = change.offset_bytes / kSectorBytes;
  const bool keeps_content = missed || change.kind == ChangeKind::kAdopt;
  const uint32_t count = keeps_content ? 0 : change.length_bytes / kSectorBytes;
  for (uint32_t i = 0; i < count; ++i) {
    after->stamps[first + i] = change.kind == ChangeKind::kWrite ? stamps[i] : 0;
  }
  const uint32_t end_bytes = keeps_content ? 0 : change.offset_bytes + change.length_bytes;
  for (uint32_t block = change.offset_bytes / kBlockBytes; block * kBlockBytes < end_bytes;
       ++block) {
    const bool whole =
        block * kBlockBytes >= change.offset_bytes && (block + 1) * kBlockBytes <= end_bytes;
    if (change.kind == ChangeKind::kWrite) {
      after->mapped[block] = true;
    } else if (whole) {
      after->mapped[block] = false;
    }
    // A block that is cut is written, too, where there is one.
    after->inherited[block] = false;
  }
  Step step;
  AddChunk(step, target.key, std::move(after));
  if (!change.keep_cursor) {
    AddCursor(step, change.stream, ModelCursor{change.version, change.key.vtree_id});
  }
  steps_.push_back(std::move(step));
}

void StoreModel::ApplyImage(const ChunkKey& key, const ModelChunk& image,
                            std::span<const uint64_t> keep) {
  const ModelChunkPointer before = Find(key);
  auto after = std::make_shared<ModelChunk>(image);
  after->incomplete = false;
  if (before != nullptr) {
    after->placement_group_id = before->placement_group_id;
    after->version = std::max(before->version, image.version);
  }
  for (size_t block = 0; block < after->mapped.size(); ++block) {
    if (!Bit(keep, block)) continue;
    after->mapped[block] = before != nullptr && before->mapped[block];
    after->inherited[block] =
        before != nullptr && before->inherited[block] && before->base == image.base;
    for (uint32_t i = 0; i < kSectorsInBlock; ++i) {
      const size_t sector = block * kSectorsInBlock + i;
      after->stamps[sector] = before == nullptr ? 0 : before->stamps[sector];
    }
  }
  Step step;
  AddChunk(step, key, std::move(after));
  steps_.push_back(std::move(step));
}

void StoreModel::DeleteChunk(const ChunkKey& key) {
  Step step;
  AddChunk(step, key, nullptr);
  steps_.push_back(std::move(step));
}

void StoreModel::DeleteVtree(uint64_t vtree_id, uint64_t placement_group_id) {
  Step step;
  step.divisible = true;
  const ModelState before = state_;
  for (const auto& [key, chunk] : before.chunks) {
    const bool in_group =
        placement_group_id == 0 || chunk->placement_group_id == placement_group_id;
    if (key.vtree_id == vtree_id && in_group) AddChunk(step, key, nullptr);
  }
  for (const auto& [stream, cursor] : before.cursors) {
    const bool in_group =
        placement_group_id == 0 || stream.placement_group_id == placement_group_id;
    if (cursor.vtree_id == vtree_id && in_group) AddCursor(step, stream, std::nullopt);
  }
  steps_.push_back(std::move(step));
}

void StoreModel::SetCursor(const StreamId& stream, const Version& version) {
  const std::optional<ModelCursor> before = Lookup(state_.cursors, stream);
  Step step;
  AddCursor(step, stream, ModelCursor{version, before.has_value() ? before->vtree_id : 0});
  steps_.push_back(std::move(step));
}

void StoreModel::DropPlacementGroup(uint64_t placement_group_id) {
  Step step;
  step.divisible = true;
  const auto before = state_.cursors;
  for (const auto& [stream, cursor] : before) {
    if (stream.placement_group_id == placement_group_id) AddCursor(step, stream, std::nullopt);
  }
  steps_.push_back(std::move(step));
}

void StoreModel::Flushed() {
  steps_.clear();
  acknowledged_ = 0;
}

void StoreModel::UndoLast() {
  Step& step = steps_.back();
  for (auto part = step.chunks.rbegin(); part != step.chunks.rend(); ++part) {
    (void)Put(part->key, part->before);
  }
  for (auto part = step.cursors.rbegin(); part != step.cursors.rend(); ++part) {
    PutCursor(part->stream, part->before);
  }
  steps_.pop_back();
}

void StoreModel::GoBackTo(size_t count) {
  while (steps_.size() > count) UndoLast();
  acknowledged_ = std::min(acknowledged_, count);
}

bool StoreModel::TouchedSinceFlush(const ChunkKey& key) const {
  return std::any_of(steps_.begin(), steps_.end(), [&](const Step& step) {
    return std::any_of(step.chunks.begin(), step.chunks.end(),
                       [&](const ChunkStep& part) { return IsSameChunk(part.key, key); });
  });
}

// ---- Comparison ------------------------------------------------------------------------------

std::string StoreModel::Difference(const ModelState& found) const {
  for (const auto& [key, chunk] : state_.chunks) {
    const ModelChunkPointer other = LookupChunk(found, key);
    if (!Equal(chunk, other)) {
      return absl::StrCat(Describe(key), " ", DescribeDifference(chunk, other));
    }
  }
  for (const auto& [key, chunk] : found.chunks) {
    if (!state_.chunks.contains(key)) {
      return absl::StrCat(Describe(key), " ", DescribeDifference(nullptr, chunk));
    }
  }
  const auto cursor_text = [](const std::optional<ModelCursor>& cursor) {
    return cursor.has_value() ? Describe(cursor->last) : "none";
  };
  for (const ModelState* side : {&state_, &found}) {
    for (const auto& [stream, unused] : side->cursors) {
      const auto expected = Lookup(state_.cursors, stream);
      const auto other = Lookup(found.cursors, stream);
      if (EqualCursors(expected, other)) continue;
      return absl::StrCat("cursor ", stream.volume_id, "/", stream.placement_group_id, " is ",
                          cursor_text(other), ", expected ", cursor_text(expected));
    }
  }
  return "";
}

bool StoreModel::DiffersOnlyBy(const ModelState& found, const Step& step) const {
  ModelState undone = found;
  for (const ChunkStep& part : step.chunks) {
    if (!Equal(LookupChunk(found, part.key), part.after)) continue;
    if (part.before != nullptr) undone.chunks[part.key] = part.before;
  }
  for (const CursorStep& part : step.cursors) {
    if (!EqualCursors(Lookup(found.cursors, part.stream), part.after)) continue;
    if (part.before.has_value()) undone.cursors[part.stream] = *part.before;
  }
  return Difference(undone).empty();
}

absl::StatusOr<size_t> StoreModel::AdoptPrefix(const ModelState& found, size_t least) {
  const size_t steps_before = steps_.size();
  const size_t acknowledged_before = acknowledged_;
  std::string difference = absl::StrCat("no such state");
  while (true) {
    const std::string here = Difference(found);
    if (here.empty()) {
      acknowledged_ = steps_.size();
      return steps_.size();
    }
    if (steps_.size() == acknowledged_before || steps_.size() == least) difference = here;
    if (steps_.size() <= least) break;
    const Step last = steps_.back();
    UndoLast();
    if (last.divisible && DiffersOnlyBy(found, last)) {
      // Half of it was done: that half becomes the step.
      Step part;
      part.divisible = true;
      for (const ChunkStep& chunk : last.chunks) {
        if (Equal(LookupChunk(found, chunk.key), chunk.after))
          AddChunk(part, chunk.key, chunk.after);
      }
      for (const CursorStep& cursor : last.cursors) {
        const bool done = EqualCursors(Lookup(found.cursors, cursor.stream), cursor.after);
        if (done) AddCursor(part, cursor.stream, cursor.after);
      }
      steps_.push_back(std::move(part));
      acknowledged_ = steps_.size();
      return steps_.size();
    }
  }
  return absl::DataLossError(absl::StrCat("the store equals no prefix of at least ", least, " of ",
                                          steps_before, " steps (", acknowledged_before,
                                          " acknowledged): ", difference));
}

// ---- Observation -----------------------------------------------------------------------------

namespace {

absl::Status FillStamps(const ChunkImage& image, ModelChunk* chunk) {
  const std::span<const std::byte> bytes = image.blocks;
  size_t block_offset = 0;
  for (size_t block = 0; block < chunk->mapped.size(); ++block) {
    if (!Bit(image.mapped, block)) continue;
    chunk->mapped[block] = true;
    if (block_offset + kBlockBytes > bytes.size()) {
      return absl::DataLossError(absl::StrCat(Describe(image.info.key), ": image too short"));
    }
    for (uint32_t i = 0; i < kSectorsInBlock; ++i) {
      const size_t sector = block * kSectorsInBlock + i;
      const auto stamp = StampOfSector(
          bytes.subspan(block_offset + size_t{i} * kSectorBytes).first<kSectorBytes>());
      if (!stamp.has_value()) {
        return absl::DataLossError(absl::StrCat(Describe(image.info.key), " sector ", sector,
                                                " holds bytes nobody wrote"));
      }
      chunk->stamps[sector] = *stamp;
    }
    block_offset += kBlockBytes;
  }
  if (block_offset == bytes.size() && block_offset == image.info.mapped_bytes) {
    return absl::OkStatus();
  }
  return absl::DataLossError(absl::StrCat(Describe(image.info.key), ": mapped_bytes ",
                                          image.info.mapped_bytes, ", image ", bytes.size(),
                                          " for ", block_offset));
}

}  // namespace

absl::StatusOr<ModelChunkPointer> ObserveChunk(Store& store, const ChunkKey& key) {
  const absl::StatusOr<ChunkImage> image = store.ReadImage(key, ImageContent::kWhole);
  if (absl::IsNotFound(image.status())) return ModelChunkPointer();
  CHUNK_RETURN_IF_ERROR(image.status());
  const absl::StatusOr<ChunkImage> own = store.ReadImage(key, ImageContent::kOwn);
  CHUNK_RETURN_IF_ERROR(own.status());
  const ChunkInfo& info = own->info;
  auto chunk = std::make_shared<ModelChunk>();
  chunk->placement_group_id = info.placement_group_id;
  chunk->version = info.version;
  chunk->incomplete = info.incomplete;
  chunk->base = info.base;
  chunk->pruned = info.pruned;
  chunk->stamps.resize(store.chunk_bytes() / kSectorBytes);
  chunk->mapped.resize(store.chunk_bytes() / kBlockBytes);
  chunk->inherited.resize(store.chunk_bytes() / kBlockBytes);
  CHUNK_RETURN_IF_ERROR(FillStamps(*image, chunk.get()));
  for (size_t block = 0; block < chunk->mapped.size(); ++block) {
    chunk->inherited[block] = Bit(own->inherited, block);
    if (chunk->mapped[block] != (Bit(own->mapped, block) || Bit(own->inherited, block))) {
      return absl::DataLossError(
          absl::StrCat(Describe(key), ": the two images differ in block ", block));
    }
  }
  if (info.own_bytes != chunk->own_blocks() * kBlockBytes || info.own_bytes != own->blocks.size()) {
    return absl::DataLossError(absl::StrCat(Describe(key), ": own_bytes ", info.own_bytes));
  }
  return ModelChunkPointer(std::move(chunk));
}

absl::StatusOr<ModelState> ObserveStore(Store& store, uint64_t placement_groups,
                                        const ModelState& expected,
                                        const std::function<bool(const ChunkKey&)>& whole) {
  ModelState found;
  for (uint64_t group = 1; group <= placement_groups; ++group) {
    for (const StreamCursor& cursor : store.Cursors(group)) {
      found.cursors[cursor.stream] = {cursor.last, 0};
      if (store.Cursor(cursor.stream) != cursor.last) {
        return absl::DataLossError("Cursor and Cursors disagree");
      }
    }
    std::optional<ChunkKey> after;
    while (true) {
      absl::StatusOr<std::vector<ChunkInfo>> page = store.ListChunks(group, after, kListLimit);
      CHUNK_RETURN_IF_ERROR(page.status());
      for (const ChunkInfo& info : *page) {
        if (after.has_value() && !(*after < info.key)) {
          return absl::DataLossError("ListChunks is not in key order");
        }
        after = info.key;
        const ModelChunkPointer known = LookupChunk(expected, info.key);
        const bool agrees = known != nullptr && known->version == info.version &&
                            known->incomplete == info.incomplete &&
                            known->placement_group_id == info.placement_group_id &&
                            known->base == info.base && known->pruned == info.pruned &&
                            known->own_blocks() * kBlockBytes == info.own_bytes &&
                            known->mapped_blocks() * kBlockBytes == info.mapped_bytes;
        if (agrees && !whole(info.key)) {
          found.chunks[info.key] = known;
          continue;
        }
        CHUNK_ASSIGN_OR_RETURN(found.chunks[info.key], ObserveChunk(store, info.key));
        if (found.chunks[info.key] == nullptr) {
          return absl::DataLossError(absl::StrCat(Describe(info.key), " is listed but not there"));
        }
      }
      if (page->size() < kListLimit) break;
    }
  }
  return found;
}

}  // namespace tessera::chunk
