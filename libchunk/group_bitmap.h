// The free-space bitmap of one group of device blocks (1 GiB). Bit = 1: in use.
//
// Threads: a value.
#ifndef TESSERA_LIBCHUNK_GROUP_BITMAP_H_
#define TESSERA_LIBCHUNK_GROUP_BITMAP_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::chunk {

inline constexpr uint32_t kGroupBlocks = 262'144;

struct FreeRun {
  uint32_t first = 0;
  uint32_t count = 0;  // 0: none found
};

class GroupBitmap {
 public:
  GroupBitmap() : words_(kGroupBlocks / 64, 0) {}

  bool InUse(uint32_t block) const { return (words_[block / 64] >> (block % 64) & 1) != 0; }
  // Sets or clears the range; returns how many bits changed.
  uint32_t Assign(uint32_t first, uint32_t count, bool in_use);
  // The first run of free blocks at or after `from` that has at least `count_min` blocks, cut at
  // `count_max`; none when there is no such run before `end`.
  FreeRun FindRun(uint32_t from, uint32_t end, uint32_t count_min, uint32_t count_max) const;
  uint32_t CountFree() const;

  // The `bits` column of FORMAT.md.
  std::vector<std::byte> Encode() const;
  // DATA_LOSS when length or checksum do not fit.
  static absl::StatusOr<GroupBitmap> Decode(std::span<const std::byte> bits);

 private:
  // The first block at or after `from` whose bit is `in_use`; `end` when there is none.
  uint32_t Next(uint32_t from, uint32_t end, bool in_use) const;

  std::vector<uint64_t> words_;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_GROUP_BITMAP_H_
