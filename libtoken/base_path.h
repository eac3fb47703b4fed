// What the token of a comparison of two paths (IO_OPERATION_TYPE_CHANGES) binds as its data.
//
// Threads: a pure function.
#ifndef TESSERA_LIBTOKEN_BASE_PATH_H_
#define TESSERA_LIBTOKEN_BASE_PATH_H_

#include <cstdint>
#include <span>

#include "libtoken/token.h"

namespace tessera::token {

// CRC32C over the base's parts, in the bytes of FORMAT.md. Of none: that of no parts, which is not
// 0.
[[nodiscard]] uint32_t BasePathChecksum(std::span<const PathPart> base_path);

}  // namespace tessera::token

#endif  // TESSERA_LIBTOKEN_BASE_PATH_H_
