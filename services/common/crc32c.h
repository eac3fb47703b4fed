// CRC32C (Castagnoli, RFC 3720 appendix B.4), by ISA-L, for data on its way between client and
// server.
//
// Threads: pure functions.
#ifndef TESSERA_SERVICES_COMMON_CRC32C_H_
#define TESSERA_SERVICES_COMMON_CRC32C_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace tessera {

// Initial value and final xor 0xffffffff. `previous` is the result for the bytes before these (0:
// none), so that a run of pieces gives the value of the whole.
[[nodiscard]] uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t previous = 0);
// Of pieces, one after another.
[[nodiscard]] uint32_t Crc32c(std::span<const std::span<const std::byte>> pieces);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_CRC32C_H_
