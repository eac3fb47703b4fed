#include "tools/verify_io/block_stamp.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <cstring>

namespace tessera::verify_io {
namespace {

constexpr uint64_t kMagic = 0x31504d5453455354;  // "TSESTMP1"
constexpr size_t kCrcOffset = kBlockBytes - sizeof(uint32_t);

uint32_t Checksum(std::span<const std::byte> block) {
  // ISA-L's argument is not const, though it only reads.
  auto* bytes = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(block.data()));
  return crc32_iscsi(bytes, static_cast<int>(kCrcOffset), 0xffffffffu) ^ 0xffffffffu;
}

uint64_t Word(std::span<const std::byte> block, size_t index) {
  uint64_t word = 0;
  std::memcpy(&word, block.data() + index * sizeof(word), sizeof(word));
  return word;
}

void PutWord(std::span<std::byte> block, size_t index, uint64_t word) {
  std::memcpy(block.data() + index * sizeof(word), &word, sizeof(word));
}

}  // namespace

void WriteStamp(Value value, uint64_t address, std::span<std::byte> block) {
  PutWord(block, 0, kMagic);
  PutWord(block, 1, value);
  PutWord(block, 2, address);
  uint64_t state = value * 0x9e3779b97f4a7c15 ^ address;
  for (size_t i = 3; i < kBlockBytes / sizeof(uint64_t); ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    PutWord(block, i, state);
  }
  const uint32_t checksum = Checksum(block);
  std::memcpy(block.data() + kCrcOffset, &checksum, sizeof(checksum));
}

StampReading ReadStamp(uint64_t address, std::span<const std::byte> block) {
  StampReading reading;
  if (Word(block, 0) != kMagic) {
    const bool zero = std::all_of(block.begin(), block.end(),
                                  [](std::byte byte) { return byte == std::byte{0}; });
    if (!zero) reading.kind = StampReading::Kind::kTorn;
    return reading;
  }
  uint32_t stored = 0;
  std::memcpy(&stored, block.data() + kCrcOffset, sizeof(stored));
  reading.value = Word(block, 1);
  reading.address = Word(block, 2);
  if (stored != Checksum(block)) {
    reading.kind = StampReading::Kind::kTorn;
  } else if (reading.address != address) {
    reading.kind = StampReading::Kind::kMisdirected;
  }
  return reading;
}

}  // namespace tessera::verify_io
