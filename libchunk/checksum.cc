#include "libchunk/checksum.h"

#include <isa-l/crc.h>

#include <array>
#include <cstring>

namespace tessera::chunk {
namespace {

constexpr std::array<std::byte, kBlockBytes> kZeros{};
// No chunk has a block of this number.
constexpr uint32_t kUnreadableBit = uint32_t{1} << 31;

}  // namespace

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t previous) {
  // ISA-L's signature lacks const; it does not write.
  auto* start = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes.data()));
  return ~crc32_iscsi(start, static_cast<int>(bytes.size()), ~previous);
}

BlockChecksum::BlockChecksum(const ChunkKey& key) {
  // A block that layers share has one checksum: the place of the layer is 0.
  const std::array<uint64_t, 3> words = {key.vtree_id, key.chunk_index, 0};
  key_checksum_ = Crc32c(std::as_bytes(std::span(words)));
}

uint32_t BlockChecksum::OfUnreadable(uint32_t block_number) const {
  return Of(block_number | kUnreadableBit, kZeros);
}

uint32_t BlockChecksum::OfZeros(uint32_t block_number) const { return Of(block_number, kZeros); }

uint32_t BlockChecksum::Prefix(uint32_t block_number) const {
  return Crc32c(std::as_bytes(std::span(&block_number, 1)), key_checksum_);
}

}  // namespace tessera::chunk
