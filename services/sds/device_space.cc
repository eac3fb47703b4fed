#include "services/sds/device_space.h"

#include <sys/stat.h>

namespace tessera::sds {

uint64_t BytesBesideStore(const std::string& device_path) {
  constexpr uint64_t kStatBlockBytes = 512;  // the unit of st_blocks, whatever the file system's
  uint64_t bytes = 0;
  struct stat info {};
  for (const std::string& path : {device_path, device_path + "/device.uuid"}) {
    const bool counts = stat(path.c_str(), &info) == 0 && !S_ISBLK(info.st_mode);
    if (counts) bytes += static_cast<uint64_t>(info.st_blocks) * kStatBlockBytes;
  }
  return bytes;
}

}  // namespace tessera::sds
