// What a verified block carries: who wrote it, as the how-manieth of its writes, for which address,
// and a checksum over all of it; so a block that is torn, misdirected or from nowhere shows.
//
// Layout (little endian): magic, writer and sequence, address, then words that follow from these,
// and in the last four bytes the CRC32C of everything before. A block of zeros was never written.
//
// Threads: pure functions.
#ifndef TESSERA_TOOLS_VERIFY_IO_BLOCK_STAMP_H_
#define TESSERA_TOOLS_VERIFY_IO_BLOCK_STAMP_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace tessera::verify_io {

inline constexpr size_t kBlockBytes = 4096;

// One write of one writer, unique in a run; 0: never written.
using Value = uint64_t;
inline constexpr int kSequenceBits = 48;
inline constexpr Value kNeverWritten = 0;

// `writer` from 1, `sequence` from 1.
[[nodiscard]] constexpr Value MakeValue(uint64_t writer, uint64_t sequence) {
  return writer << kSequenceBits | sequence;
}

// What a block was found to be.
struct StampReading {
  enum class Kind { kValue, kTorn, kMisdirected };
  Kind kind = Kind::kValue;
  Value value = kNeverWritten;  // also of a misdirected block
  uint64_t address = 0;         // as the block says
};

// `block` has kBlockBytes; `address` is the block's number in the volume.
void WriteStamp(Value value, uint64_t address, std::span<std::byte> block);
[[nodiscard]] StampReading ReadStamp(uint64_t address, std::span<const std::byte> block);

}  // namespace tessera::verify_io

#endif  // TESSERA_TOOLS_VERIFY_IO_BLOCK_STAMP_H_
