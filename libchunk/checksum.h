// CRC32C (Castagnoli, RFC 3720 appendix B.4) by ISA-L, and the checksum of a block.
//
// Threads: pure functions and values.
#ifndef TESSERA_LIBCHUNK_CHECKSUM_H_
#define TESSERA_LIBCHUNK_CHECKSUM_H_

#include <cstdint>
#include <span>

#include "libchunk/types.h"

namespace tessera::chunk {

// CRC32C of `bytes` with initial value and final xor 0xffffffff; `previous` is the result for the
// bytes before them (0: none).
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t previous = 0);

// The checksum of a block covers vtree, chunk, block number and content (FORMAT.md), so that a
// misdirected or lost write shows. One BlockChecksum serves all blocks of one chunk, of all layers.
class BlockChecksum {
 public:
  explicit BlockChecksum(const ChunkKey& key);

  // Of one whole block.
  uint32_t Of(uint32_t block_number, std::span<const std::byte> bytes) const {
    return Crc32c(bytes, Prefix(block_number));
  }
  // Kept for a block whose content is lost: of no content (FORMAT.md, Unreadable blocks).
  uint32_t OfUnreadable(uint32_t block_number) const;
  // Of a block of zeros.
  uint32_t OfZeros(uint32_t block_number) const;
  // The checksum before any content: continue it with Crc32c, piece by piece.
  uint32_t Prefix(uint32_t block_number) const;

 private:
  uint32_t key_checksum_;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_CHECKSUM_H_
