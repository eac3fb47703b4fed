#include "services/sdc/cache/line_index.h"

#include <algorithm>
#include <bit>

#include "absl/hash/hash.h"

namespace tessera::sdc {
namespace {
uint64_t Count(BlockMask blocks) { return static_cast<uint64_t>(std::popcount(blocks)); }
size_t HashOf(const CacheLineKey& key) { return absl::Hash<CacheLineKey>()(key); }
}  // namespace

uint32_t LineIndex::PlaceOf(const CacheLineKey& key) const {
  return chains_.Find(HashOf(key), [&](uint32_t place) { return slots_[place].key == key; });
}

void LineIndex::Name(uint32_t place, const CacheLineKey& key) {
  slots_[place].key = key;
  slots_[place].taken = true;
  chains_.Add(HashOf(key), place);
}

CacheSpace LineIndex::NewSpace() {
  spaces_[++last_space_] = 0;
  return last_space_;
}

void LineIndex::DropSpace(CacheSpace space) {
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return;
  used_blocks_ -= found->second;
  spaces_.erase(found);
}

std::optional<SlotRef> LineIndex::Find(const CacheLineKey& key, BlockMask blocks) {
  const uint32_t place = PlaceOf(key);
  if (place == HashChains::kNone) return std::nullopt;
  Slot& slot = slots_[place];
  if ((slot.valid & blocks) != blocks) return std::nullopt;
  slot.uses = std::min<uint8_t>(slot.uses + 1, kUsesMax);
  return SlotRef{place, slot.version};
}

BlockMask LineIndex::Lacking(const CacheLineKey& key, BlockMask blocks) const {
  const uint32_t place = PlaceOf(key);
  if (place == HashChains::kNone) return blocks;
  const Slot& slot = slots_[place];
  return static_cast<BlockMask>(blocks & ~(slot.valid | slot.filling));
}

SlotRef LineIndex::BeginFill(const CacheLineKey& key, BlockMask blocks) {
  uint32_t place = PlaceOf(key);
  if (place == HashChains::kNone) {
    place = TakeSlot();
    Name(place, key);
  }
  slots_[place].filling |= blocks;
  return {place, slots_[place].version};
}

void LineIndex::Filled(const SlotRef& ref, BlockMask blocks, const LineChecksums& checksums) {
  if (!Unchanged(ref)) return;
  Slot& slot = slots_[ref.slot];
  for (uint32_t block = 0; block < kCacheBlocksInLine; ++block) {
    if ((blocks >> block & 1) != 0) slot.checksums[block] = checksums[block];
  }
  slot.filling = static_cast<BlockMask>(slot.filling & ~blocks);
  const auto space = spaces_.find(slot.key.space);
  if (space == spaces_.end()) return;
  const uint64_t more = Count(static_cast<BlockMask>(blocks & ~slot.valid));
  space->second += more;
  used_blocks_ += more;
  slot.valid |= blocks;
}

void LineIndex::NotFilled(const SlotRef& ref, BlockMask blocks) {
  if (!Unchanged(ref)) return;
  Slot& slot = slots_[ref.slot];
  slot.filling = static_cast<BlockMask>(slot.filling & ~blocks);
}

void LineIndex::Lose(Slot& slot, BlockMask blocks) {
  const uint64_t lost = Count(slot.valid & blocks);
  slot.valid = static_cast<BlockMask>(slot.valid & ~blocks);
  const auto space = spaces_.find(slot.key.space);
  if (space == spaces_.end()) return;
  space->second -= lost;
  used_blocks_ -= lost;
}

void LineIndex::Invalidate(const CacheLineKey& key, BlockMask blocks) {
  const uint32_t place = PlaceOf(key);
  if (place == HashChains::kNone) return;
  Slot& slot = slots_[place];
  ++slot.version;
  slot.filling = 0;
  Lose(slot, blocks);
}

void LineIndex::InvalidateLines(CacheSpace space, uint64_t first, uint64_t end) {
  constexpr BlockMask kAll = ~BlockMask{0};
  if (end - first <= untouched_) {
    for (uint64_t line = first; line < end; ++line) Invalidate({space, line}, kAll);
    return;
  }
  for (uint32_t place = 0; place < untouched_; ++place) {
    const CacheLineKey key = slots_[place].key;
    if (key.space == space && key.line >= first && key.line < end) Invalidate(key, kAll);
  }
}

void LineIndex::Clear(uint32_t place) {
  Slot& slot = slots_[place];
  if (spaces_.contains(slot.key.space)) evicted_blocks_ += Count(slot.valid);
  Lose(slot, ~BlockMask{0});
  chains_.Remove(HashOf(slot.key), place);
  slot.filling = 0;
  slot.uses = 0;
  slot.taken = false;
  ++slot.version;
}

uint32_t LineIndex::TakeSlot() {
  if (untouched_ < slots_.size()) return untouched_++;
  for (int step = 1;; ++step) {
    const uint32_t place = hand_;
    hand_ = (hand_ + 1) % slots();
    Slot& slot = slots_[place];
    if (slot.uses > 0 && step < kHandStepsMax && spaces_.contains(slot.key.space)) {
      --slot.uses;
      continue;
    }
    if (slot.taken) Clear(place);
    return place;
  }
}

std::vector<SavedLine> LineIndex::Save() const {
  std::vector<SavedLine> lines;
  for (uint32_t place = 0; place < untouched_; ++place) {
    const Slot& slot = slots_[place];
    if (!slot.taken || slot.valid == 0 || !spaces_.contains(slot.key.space)) continue;
    lines.push_back({place, slot.key, slot.valid, slot.checksums});
  }
  return lines;
}

void LineIndex::Restore(const std::vector<CacheSpace>& spaces,
                        const std::vector<SavedLine>& lines) {
  for (const CacheSpace space : spaces) {
    spaces_[space] = 0;
    last_space_ = std::max(last_space_, space);
  }
  for (const SavedLine& line : lines) {
    if (line.slot >= slots_.size() || slots_[line.slot].taken ||
        !spaces_.contains(line.key.space) || Has(line.key)) {
      continue;
    }
    Slot& slot = slots_[line.slot];
    Name(line.slot, line.key);
    slot.valid = line.valid;
    slot.checksums = line.checksums;
    spaces_[line.key.space] += Count(line.valid);
    used_blocks_ += Count(line.valid);
    untouched_ = std::max(untouched_, line.slot + 1);
  }
}

}  // namespace tessera::sdc
