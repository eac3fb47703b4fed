// One bit for each block of a chunk.
//
// Threads: a value.
#ifndef TESSERA_LIBCHUNK_BLOCK_BITS_H_
#define TESSERA_LIBCHUNK_BLOCK_BITS_H_

#include <bit>
#include <cstdint>
#include <span>

#include "absl/container/inlined_vector.h"

namespace tessera::chunk {

// Whether bit `index` of words is set; those past the end are not.
inline bool BitOf(std::span<const uint64_t> words, uint32_t index) {
  return index / 64 < words.size() && (words[index / 64] >> (index % 64) & 1) != 0;
}

class BlockBits {
 public:
  BlockBits() = default;  // none set
  explicit BlockBits(uint32_t block_count) : words_((block_count + 63) / 64) {}

  bool operator[](uint32_t block) const { return BitOf(words_, block); }
  void Set(uint32_t block, bool value) {
    const uint64_t bit = uint64_t{1} << block % 64;
    uint64_t& word = words_[block / 64];
    word = value ? word | bit : word & ~bit;
  }
  uint32_t Count() const {
    uint32_t count = 0;
    for (const uint64_t word : words_) count += static_cast<uint32_t>(std::popcount(word));
    return count;
  }
  std::span<const uint64_t> words() const { return words_; }
  friend bool operator==(const BlockBits&, const BlockBits&) = default;

 private:
  absl::InlinedVector<uint64_t, 4> words_;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_BLOCK_BITS_H_
