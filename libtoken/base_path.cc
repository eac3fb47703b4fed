#include "libtoken/base_path.h"

#include <string>
#include <string_view>

#include "libtoken/bytes.h"
#include "libtoken/crc32c.h"

namespace tessera::token {
namespace {

// Keeps the checksum of a path from being that of something that is written.
constexpr std::string_view kLabel("base path\0", 10);

}  // namespace

uint32_t BasePathChecksum(std::span<const PathPart> base_path) {
  const size_t parts_at = kLabel.size() + sizeof(uint32_t);
  std::string bytes(parts_at + base_path.size() * 2 * sizeof(uint32_t), '\0');
  kLabel.copy(bytes.data(), kLabel.size());
  PutField(bytes.data(), kLabel.size(), static_cast<uint32_t>(base_path.size()));
  size_t at = parts_at;
  for (const PathPart& part : base_path) {
    PutField(bytes.data(), at, part.branch);
    PutField(bytes.data(), at + sizeof(part.branch), part.ordinal_max);
    at += 2 * sizeof(uint32_t);
  }
  return Crc32c(bytes);
}

}  // namespace tessera::token
