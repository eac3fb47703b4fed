#include "services/sds/device_space.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

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

uint64_t AvailableBytes(const std::string& device_path) {
  struct stat info {};
  if (stat(device_path.c_str(), &info) != 0) return 0;
  if (!S_ISBLK(info.st_mode)) {
    struct statvfs space {};
    if (statvfs(device_path.c_str(), &space) != 0) return 0;
    return uint64_t{space.f_bavail} * space.f_frsize;
  }
  const int device = open(device_path.c_str(), O_RDONLY | O_CLOEXEC);
  if (device < 0) return 0;
  uint64_t bytes = 0;
  const bool read = ioctl(device, BLKGETSIZE64, &bytes) == 0;
  (void)close(device);
  return read ? bytes : 0;
}

}  // namespace tessera::sds
