#include "libchunk/overlay.h"

#include <algorithm>

namespace tessera::chunk {
namespace {

template <typename Entries>
auto LowerBound(Entries& entries, uint32_t block) {
  return std::lower_bound(entries.begin(), entries.end(), block,
                          [](const OverlayEntry& entry, uint32_t b) { return entry.block < b; });
}

}  // namespace

const OverlayEntry* OverlayChunk::Find(uint32_t block) const {
  const auto place = LowerBound(entries, block);
  return place != entries.end() && place->block == block ? &*place : nullptr;
}

OverlayEntry* OverlayChunk::FindOrAdd(uint32_t block, bool* added) {
  // Sequential writers append; that needs no search.
  auto place =
      entries.empty() || entries.back().block < block ? entries.end() : LowerBound(entries, block);
  *added = place == entries.end() || place->block != block;
  if (*added) {
    OverlayEntry entry;
    entry.block = static_cast<uint16_t>(block);
    place = entries.insert(place, entry);
  }
  return &*place;
}

BlockBits OverlayChunk::Mapped() const {
  BlockBits mapped = below_mapped;
  for (const OverlayEntry& entry : entries)
    mapped.Set(entry.block, Shows(&entry, entry.block).mapped);
  return mapped;
}

BlockBits OverlayChunk::OwnAfter() const {
  const auto blocks = static_cast<uint32_t>(below_own.words().size() * 64);
  BlockBits own = below == Below::kOlder ? below_own : BlockBits(blocks);
  for (const OverlayEntry& entry : entries) own.Set(entry.block, Shows(&entry, entry.block).own);
  return own;
}

void AddBlock(std::vector<DeviceExtent>* extents, uint64_t device_block) {
  if (!extents->empty() && extents->back().first_block + extents->back().count == device_block) {
    ++extents->back().count;
  } else {
    extents->push_back({device_block, 1});
  }
}

}  // namespace tessera::chunk
