// The world outside libchunk: files, durability and time.
//
// Everything that libchunk does to a disk goes through an Env, its SQLite database included, so
// that the same code runs on POSIX (env_posix.h) and on a simulated disk that loses, tears,
// reorders and corrupts from a seed (sim_disk.h).
//
// What an Env promises about durability (the crash model; POSIX as ext4 and xfs really behave):
//  - Write, Allocate, PunchHole and Truncate are visible to every later Read at once, and survive a
//    crash of the process. After a power loss each may be lost, kept, or (Write) kept in part: any
//    subset of the 512-byte sectors written since the last successful SyncData of that file.
//  - SyncData (fdatasync) makes everything that finished before it was called durable, with the
//    file's size. After SyncData has failed once, the unsynced state of the file is unknown for
//    good.
//  - A file created, renamed or deleted is so after a power loss only once SyncDirectory of its
//    folder has returned OK. Rename is atomic: the old or the new file, never a mix.
//
// Threads: an Env and its Files may be used by any number of threads at once; overlapping Reads and
// Writes of one range see each sector old or new.
#ifndef TESSERA_LIBCHUNK_ENV_H_
#define TESSERA_LIBCHUNK_ENV_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::chunk {

// A file or block device open for random access. Closed by the destructor, which syncs nothing.
class File {
 public:
  virtual ~File() = default;

  // Reads exactly out.size() bytes at `offset`. OUT_OF_RANGE when the file ends before that (out is
  // then unspecified); INTERNAL with the errno's text for an I/O error.
  [[nodiscard]] virtual absl::Status Read(uint64_t offset, std::span<std::byte> out) = 0;

  // As Read, but only from memory: UNAVAILABLE when the disk would have to be waited for.
  [[nodiscard]] virtual absl::Status ReadCached(uint64_t offset, std::span<std::byte> out) = 0;

  // Writes all slices one after another at `offset`, extending the file where needed.
  // RESOURCE_EXHAUSTED for ENOSPC and EDQUOT, INTERNAL for other errors; a prefix of the bytes may
  // have been written in either case.
  [[nodiscard]] virtual absl::Status Write(uint64_t offset,
                                           std::span<const std::span<const std::byte>> slices) = 0;

  // fdatasync(2). Any error is INTERNAL and final: see the crash model above.
  [[nodiscard]] virtual absl::Status SyncData() = 0;

  // Begins to write what was written so far to the device and does not wait for it. A hint, so that
  // SyncData finds less to do: it promises nothing, and SyncData reports its errors.
  virtual void StartWriteBack() = 0;

  // Reserves space for the range, reading as zeros where nothing was written; extends the size.
  // RESOURCE_EXHAUSTED when the device is full.
  [[nodiscard]] virtual absl::Status Allocate(uint64_t offset, uint64_t length_bytes) = 0;

  // Gives the range's space back; it reads as zeros afterwards. The size stays. On a device that
  // cannot, the range is still made to read as zeros.
  [[nodiscard]] virtual absl::Status PunchHole(uint64_t offset, uint64_t length_bytes) = 0;
  // False once PunchHole had to write zeros: a hole costs as much as a write, and gives nothing.
  [[nodiscard]] virtual bool HolesGiveSpaceBack() { return true; }

  [[nodiscard]] virtual absl::Status Truncate(uint64_t size_bytes) = 0;
  [[nodiscard]] virtual absl::StatusOr<uint64_t> Size() = 0;

  // Bytes of the device that the file occupies (st_blocks * 512).
  [[nodiscard]] virtual absl::StatusOr<uint64_t> AllocatedBytes() = 0;
};

enum class OpenMode {
  kMustExist,        // NOT_FOUND when missing
  kCreateIfMissing,  // as O_CREAT
  kCreateNew,        // ALREADY_EXISTS when present
};

struct FileSystemSpace {
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;  // to an unprivileged writer
};

// Holds an advisory lock on a folder until destroyed.
class FolderLock {
 public:
  virtual ~FolderLock() = default;
};

class Env {
 public:
  virtual ~Env() = default;

  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<File>> OpenFile(const std::string& path,
                                                                       OpenMode mode) = 0;
  // Creates one folder; OK when it is there already.
  [[nodiscard]] virtual absl::Status CreateFolder(const std::string& path) = 0;
  [[nodiscard]] virtual absl::Status SyncFolder(const std::string& path) = 0;
  [[nodiscard]] virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  [[nodiscard]] virtual absl::Status Delete(const std::string& path) = 0;
  [[nodiscard]] virtual absl::StatusOr<bool> Exists(const std::string& path) = 0;
  // False also when there is nothing at `path`.
  [[nodiscard]] virtual absl::StatusOr<bool> IsBlockDevice(const std::string& path) = 0;
  // Names (not paths) of the files in a folder, sorted.
  [[nodiscard]] virtual absl::StatusOr<std::vector<std::string>> List(const std::string& path) = 0;
  [[nodiscard]] virtual absl::StatusOr<FileSystemSpace> Space(const std::string& path) = 0;
  // FAILED_PRECONDITION when another process (or another holder in this one) has it.
  [[nodiscard]] virtual absl::StatusOr<std::unique_ptr<FolderLock>> LockFolder(
      const std::string& path) = 0;

  // CLOCK_BOOTTIME in nanoseconds: goes on in suspend, never jumps.
  [[nodiscard]] virtual uint64_t NowNanos() = 0;
  // Changes with every boot of the host, so that a store knows whether the page cache could have
  // been lost since it was last open.
  [[nodiscard]] virtual absl::StatusOr<std::string> BootId() = 0;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_ENV_H_
