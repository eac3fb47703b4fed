// Fixed-width little-endian fields of the signed and stored formats (FORMAT.md).
#ifndef TESSERA_LIBTOKEN_BYTES_H_
#define TESSERA_LIBTOKEN_BYTES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace tessera::token {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are copied as they are");

// Writes `value` at `out + offset`; the caller has the room.
template <typename Unsigned>
inline void PutField(char* out, size_t offset, Unsigned value) {
  static_assert(std::is_unsigned_v<Unsigned>);
  std::memcpy(out + offset, &value, sizeof(value));
}

template <typename Unsigned>
[[nodiscard]] inline Unsigned GetField(const char* in, size_t offset) {
  static_assert(std::is_unsigned_v<Unsigned>);
  Unsigned value;
  std::memcpy(&value, in + offset, sizeof(value));
  return value;
}

}  // namespace tessera::token

#endif  // TESSERA_LIBTOKEN_BYTES_H_
