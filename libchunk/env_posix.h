// Env on Linux: real files, block devices, folders and the boot clock.
//
// What it adds to the promises of env.h:
//  - Every descriptor is O_CLOEXEC; EINTR and short transfers are continued inside.
//  - Allocate keeps what is there and extends the size (fallocate(2) mode 0). Where the file system
//    cannot reserve, it only extends the size: a later Write may then meet ENOSPC.
//  - PunchHole falls back to writing zeros where holes are not to be had.
//  - A block device is opened by its path like a file, for one opener alone (O_EXCL): one that is
//    mounted, part of something or open here already, under whatever path, is FAILED_PRECONDITION.
//    Its size is the device's (BLKGETSIZE64), and Truncate of it is refused.
//  - LockFolder takes flock(2) on the folder itself: it goes with the process, and two holders in
//  one
//    process exclude each other too.
//
// Sources: pwritev(2), preadv2(2) (RWF_NOWAIT), fallocate(2), flock(2), clock_gettime(2) of Linux.
#ifndef TESSERA_LIBCHUNK_ENV_POSIX_H_
#define TESSERA_LIBCHUNK_ENV_POSIX_H_

#include <memory>
#include <string>
#include <vector>

#include "libchunk/env.h"

namespace tessera::chunk {

class PosixEnv final : public Env {
 public:
  [[nodiscard]] absl::StatusOr<std::unique_ptr<File>> OpenFile(const std::string& path,
                                                               OpenMode mode) override;
  [[nodiscard]] absl::Status CreateFolder(const std::string& path) override;
  [[nodiscard]] absl::Status SyncFolder(const std::string& path) override;
  [[nodiscard]] absl::Status Rename(const std::string& from, const std::string& to) override;
  [[nodiscard]] absl::Status Delete(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<bool> Exists(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<bool> IsBlockDevice(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<std::vector<std::string>> List(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<FileSystemSpace> Space(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<std::unique_ptr<FolderLock>> LockFolder(
      const std::string& path) override;
  [[nodiscard]] uint64_t NowNanos() override;
  [[nodiscard]] absl::StatusOr<std::string> BootId() override;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_ENV_POSIX_H_
