#include "services/common/crc32c.h"

#include <isa-l.h>

#include <algorithm>
#include <limits>

namespace tessera {

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t previous) {
  uint32_t state = ~previous;
  while (!bytes.empty()) {
    const size_t step =
        std::min<size_t>(bytes.size(), static_cast<size_t>(std::numeric_limits<int>::max()));
    // The function's parameter lacks const; it only reads.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    state = crc32_iscsi(data, static_cast<int>(step), state);
    bytes = bytes.subspan(step);
  }
  return ~state;
}

uint32_t Crc32c(std::span<const std::span<const std::byte>> pieces) {
  uint32_t crc = 0;
  for (const std::span<const std::byte>& piece : pieces) crc = Crc32c(piece, crc);
  return crc;
}

}  // namespace tessera
