#include "libchunk/group_bitmap.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "libchunk/checksum.h"
#include "libchunk/coding.h"

namespace tessera::chunk {

uint32_t GroupBitmap::Assign(uint32_t first, uint32_t count, bool in_use) {
  uint32_t changed = 0;
  for (uint32_t block = first; block < first + count;) {
    const uint32_t bit = block % 64;
    const uint32_t length = std::min(64 - bit, first + count - block);
    const uint64_t mask = (length == 64 ? ~uint64_t{0} : (uint64_t{1} << length) - 1) << bit;
    uint64_t& word = words_[block / 64];
    const uint64_t after = in_use ? word | mask : word & ~mask;
    changed += static_cast<uint32_t>(std::popcount(word ^ after));
    word = after;
    block += length;
  }
  return changed;
}

uint32_t GroupBitmap::Next(uint32_t from, uint32_t end, bool in_use) const {
  while (from < end) {
    const uint64_t word = (in_use ? words_[from / 64] : ~words_[from / 64]) >> (from % 64);
    if (word != 0) return std::min(end, from + static_cast<uint32_t>(std::countr_zero(word)));
    from = (from / 64 + 1) * 64;
  }
  return end;
}

FreeRun GroupBitmap::FindRun(uint32_t from, uint32_t end, uint32_t count_min,
                             uint32_t count_max) const {
  while (from < end) {
    const uint32_t first = Next(from, end, false);
    const uint32_t after = Next(first, std::min(end, first + count_max), true);
    if (first < end && after - first >= count_min) return {first, after - first};
    from = after;
    if (first == end) break;
  }
  return {};
}

uint32_t GroupBitmap::CountFree() const {
  uint32_t used = 0;
  for (uint64_t word : words_) used += static_cast<uint32_t>(std::popcount(word));
  return kGroupBlocks - used;
}

std::vector<std::byte> GroupBitmap::Encode() const {
  const auto bytes = std::as_bytes(std::span(words_));
  std::vector<std::byte> bits(bytes.begin(), bytes.end());
  ByteWriter(&bits).Put(Crc32c(bytes));
  return bits;
}

absl::StatusOr<GroupBitmap> GroupBitmap::Decode(std::span<const std::byte> bits) {
  GroupBitmap bitmap;
  const size_t length = bitmap.words_.size() * sizeof(uint64_t);
  if (bits.size() != length + sizeof(uint32_t) ||
      LoadInteger<uint32_t>(bits.data() + length) != Crc32c(bits.first(length))) {
    return absl::DataLossError("a free-space bitmap is damaged");
  }
  std::memcpy(bitmap.words_.data(), bits.data(), length);
  return bitmap;
}

}  // namespace tessera::chunk
