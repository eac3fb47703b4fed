// CRC32C (RFC 3720, appendix B.4), one byte at a time: for some hundred bytes.
//
// Threads: a pure function.
#ifndef TESSERA_LIBTOKEN_CRC32C_H_
#define TESSERA_LIBTOKEN_CRC32C_H_

#include <array>
#include <cstdint>
#include <string_view>

namespace tessera::token {

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0);
    table[i] = value;
  }
  return table;
}
inline constexpr std::array<uint32_t, 256> kCrcTable = MakeCrcTable();

[[nodiscard]] constexpr uint32_t Crc32c(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char c : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}
static_assert(Crc32c("123456789") == 0xe3069283u);

}  // namespace tessera::token

#endif  // TESSERA_LIBTOKEN_CRC32C_H_
