#include "libchunk/env_posix.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::chunk {
namespace {

// IOV_MAX of Linux is 1024; fewer at a time cost nothing and stay on the stack.
constexpr size_t kSlicesPerCall = 256;
constexpr size_t kZeroBufferBytes = 64u << 10;

// The one table from errno to a status code of env.h.
absl::Status ErrnoStatus(const char* call, const std::string& path, int error) {
  const std::string message = absl::StrCat(call, " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(message);
    case ENOENT:
      return absl::NotFoundError(message);
    case EEXIST:
      return absl::AlreadyExistsError(message);
    default:
      return absl::InternalError(message);
  }
}

// Repeats `call` while a signal interrupts it. It must return -1 with errno set on an error.
template <typename Call>
auto WithoutInterrupts(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

absl::Status CheckRange(const std::string& path, uint64_t offset, uint64_t length_bytes) {
  constexpr auto kOffsetMax = static_cast<uint64_t>(std::numeric_limits<off_t>::max());
  if (offset > kOffsetMax || length_bytes > kOffsetMax - offset) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": offset ", offset, " + length ",
                                                   length_bytes, " exceeds ", kOffsetMax));
  }
  return absl::OkStatus();
}

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  // close(2) frees the descriptor even when interrupted; nothing is lost that SyncData had not
  // promised, so its result says nothing that a caller could use.
  ~Descriptor() {
    if (number_ >= 0) (void)close(number_);
  }
  int number() const { return number_; }
  int Release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

class PosixFile final : public File {
 public:
  PosixFile(std::string path, int descriptor, bool block_device)
      : path_(std::move(path)), descriptor_(descriptor), block_device_(block_device) {}

  absl::Status Read(uint64_t offset, std::span<std::byte> out) override {
    return ReadWith(offset, out, 0);
  }

  absl::Status ReadCached(uint64_t offset, std::span<std::byte> out) override {
    return ReadWith(offset, out, RWF_NOWAIT);
  }

  absl::Status Write(uint64_t offset, std::span<const std::span<const std::byte>> slices) override {
    uint64_t length_bytes = 0;
    for (const auto& slice : slices) length_bytes += slice.size();
    if (absl::Status status = CheckRange(path_, offset, length_bytes); !status.ok()) return status;
    std::array<iovec, kSlicesPerCall> vectors;
    size_t next = 0;             // the first slice that is not wholly written
    size_t written_of_next = 0;  // bytes of it that are
    while (true) {
      size_t count = 0;
      for (size_t i = next; i < slices.size() && count < vectors.size(); ++i) {
        const size_t skip = i == next ? written_of_next : 0;
        if (slices[i].size() == skip) continue;
        // pwritev reads through iov_base only; its type is not const for readv's sake.
        vectors[count++] = {const_cast<std::byte*>(slices[i].data()) + skip,
                            slices[i].size() - skip};
      }
      if (count == 0) return absl::OkStatus();
      const ssize_t done = WithoutInterrupts([&] {
        return pwritev(descriptor_.number(), vectors.data(), static_cast<int>(count),
                       static_cast<off_t>(offset));
      });
      if (done < 0) return ErrnoStatus("pwritev", path_, errno);
      if (done == 0) return absl::InternalError(absl::StrCat("pwritev ", path_, ": wrote nothing"));
      offset += static_cast<uint64_t>(done);
      written_of_next += static_cast<size_t>(done);
      while (next < slices.size() && written_of_next >= slices[next].size()) {
        written_of_next -= slices[next++].size();
      }
    }
  }

  absl::Status SyncData() override {
    // Interrupted or failed, the first result counts: the kernel marks pages clean after an error,
    // so that a second call would say OK about data that is lost.
    if (fdatasync(descriptor_.number()) != 0) {
      return absl::InternalError(absl::StrCat("fdatasync ", path_, ": ", std::strerror(errno)));
    }
    return absl::OkStatus();
  }

  void StartWriteBack() override {
    // An error here is kept by the kernel for the next fdatasync.
    (void)sync_file_range(descriptor_.number(), 0, 0, SYNC_FILE_RANGE_WRITE);
  }

  absl::Status Allocate(uint64_t offset, uint64_t length_bytes) override {
    if (length_bytes == 0) return absl::OkStatus();
    if (absl::Status status = CheckRange(path_, offset, length_bytes); !status.ok()) return status;
    if (block_device_) return CheckInsideDevice(offset, length_bytes);
    const int result = WithoutInterrupts([&] {
      return fallocate(descriptor_.number(), 0, static_cast<off_t>(offset),
                       static_cast<off_t>(length_bytes));
    });
    if (result == 0) return absl::OkStatus();
    if (errno != EOPNOTSUPP) return ErrnoStatus("fallocate", path_, errno);
    absl::StatusOr<uint64_t> size = Size();
    if (!size.ok()) return size.status();
    return *size >= offset + length_bytes ? absl::OkStatus() : Truncate(offset + length_bytes);
  }

  absl::Status PunchHole(uint64_t offset, uint64_t length_bytes) override {
    if (length_bytes == 0) return absl::OkStatus();
    if (absl::Status status = CheckRange(path_, offset, length_bytes); !status.ok()) return status;
    const int result = WithoutInterrupts([&] {
      return fallocate(descriptor_.number(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       static_cast<off_t>(offset), static_cast<off_t>(length_bytes));
    });
    if (result == 0) return absl::OkStatus();
    if (errno != EOPNOTSUPP && errno != ENODEV) return ErrnoStatus("fallocate", path_, errno);
    holes_give_space_back_.store(false, std::memory_order_relaxed);
    return WriteZeros(offset, length_bytes);
  }

  bool HolesGiveSpaceBack() override {
    return holes_give_space_back_.load(std::memory_order_relaxed);
  }

  absl::Status Truncate(uint64_t size_bytes) override {
    if (absl::Status status = CheckRange(path_, size_bytes, 0); !status.ok()) return status;
    const int result = WithoutInterrupts(
        [&] { return ftruncate(descriptor_.number(), static_cast<off_t>(size_bytes)); });
    return result == 0 ? absl::OkStatus() : ErrnoStatus("ftruncate", path_, errno);
  }

  absl::StatusOr<uint64_t> Size() override {
    if (block_device_) {
      uint64_t size_bytes = 0;
      if (ioctl(descriptor_.number(), BLKGETSIZE64, &size_bytes) != 0) {
        return ErrnoStatus("ioctl BLKGETSIZE64", path_, errno);
      }
      return size_bytes;
    }
    struct stat facts;
    if (fstat(descriptor_.number(), &facts) != 0) return ErrnoStatus("fstat", path_, errno);
    return static_cast<uint64_t>(facts.st_size);
  }

  absl::StatusOr<uint64_t> AllocatedBytes() override {
    if (block_device_) return Size();
    struct stat facts;
    if (fstat(descriptor_.number(), &facts) != 0) return ErrnoStatus("fstat", path_, errno);
    return static_cast<uint64_t>(facts.st_blocks) * 512;
  }

 private:
  absl::Status ReadWith(uint64_t offset, std::span<std::byte> out, int flags) {
    if (absl::Status status = CheckRange(path_, offset, out.size()); !status.ok()) return status;
    while (!out.empty()) {
      const iovec vector = {out.data(), out.size()};
      const ssize_t done = WithoutInterrupts([&] {
        return flags == 0
                   ? pread(descriptor_.number(), out.data(), out.size(), static_cast<off_t>(offset))
                   : preadv2(descriptor_.number(), &vector, 1, static_cast<off_t>(offset), flags);
      });
      if (done < 0) {
        if (flags != 0 && (errno == EAGAIN || errno == EOPNOTSUPP)) {
          return absl::UnavailableError("not in the page cache");
        }
        return ErrnoStatus("pread", path_, errno);
      }
      if (done == 0) {
        return absl::OutOfRangeError(
            absl::StrCat("pread ", path_, ": the file ends before offset ", offset + out.size()));
      }
      offset += static_cast<uint64_t>(done);
      out = out.subspan(static_cast<size_t>(done));
    }
    return absl::OkStatus();
  }

  absl::Status CheckInsideDevice(uint64_t offset, uint64_t length_bytes) {
    absl::StatusOr<uint64_t> size = Size();
    if (!size.ok()) return size.status();
    if (offset + length_bytes <= *size) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat(path_, ": the device has ", *size, " bytes, not ", offset + length_bytes));
  }

  // Zeros up to the end of the range or of the file, whichever is first: the size stays.
  absl::Status WriteZeros(uint64_t offset, uint64_t length_bytes) {
    static constexpr std::array<std::byte, kZeroBufferBytes> kZeros{};
    absl::StatusOr<uint64_t> size = Size();
    if (!size.ok()) return size.status();
    const uint64_t end = std::min(offset + length_bytes, *size);
    while (offset < end) {
      const std::span<const std::byte> slice(kZeros.data(),
                                             std::min<uint64_t>(kZeros.size(), end - offset));
      if (absl::Status status = Write(offset, {&slice, 1}); !status.ok()) return status;
      offset += slice.size();
    }
    return absl::OkStatus();
  }

  const std::string path_;
  const Descriptor descriptor_;
  const bool block_device_;
  std::atomic<bool> holes_give_space_back_ = true;
};

class PosixFolderLock final : public FolderLock {
 public:
  explicit PosixFolderLock(int descriptor) : descriptor_(descriptor) {}

 private:
  const Descriptor descriptor_;  // closing the only descriptor of the open file ends its flock
};

int OpenFlags(OpenMode mode) {
  switch (mode) {
    case OpenMode::kMustExist:
      return O_RDWR | O_CLOEXEC;
    case OpenMode::kCreateIfMissing:
      return O_RDWR | O_CLOEXEC | O_CREAT;
    case OpenMode::kCreateNew:
      return O_RDWR | O_CLOEXEC | O_CREAT | O_EXCL;
  }
  return O_RDWR | O_CLOEXEC;
}

int OpenRetrying(const std::string& path, int flags) {
  return WithoutInterrupts([&] { return open(path.c_str(), flags, 0600); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<File>> PosixEnv::OpenFile(const std::string& path, OpenMode mode) {
  struct stat facts;
  const bool device = stat(path.c_str(), &facts) == 0 && S_ISBLK(facts.st_mode);
  if (device && mode == OpenMode::kCreateNew) {
    return absl::AlreadyExistsError(absl::StrCat("open ", path, ": is a block device"));
  }
  // A lock on the device's node is not enough: each container may have a node of its own.
  Descriptor descriptor(OpenRetrying(path, device ? O_RDWR | O_CLOEXEC | O_EXCL : OpenFlags(mode)));
  if (descriptor.number() < 0 && device && errno == EBUSY) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is in use: mounted, part of another device, or open in another process"));
  }
  if (descriptor.number() < 0) return ErrnoStatus("open", path, errno);
  if (fstat(descriptor.number(), &facts) != 0) return ErrnoStatus("fstat", path, errno);
  if (!S_ISREG(facts.st_mode) && !S_ISBLK(facts.st_mode)) {
    return absl::InternalError(
        absl::StrCat("open ", path, ": neither a regular file nor a block device"));
  }
  return std::make_unique<PosixFile>(path, descriptor.Release(), S_ISBLK(facts.st_mode));
}

absl::Status PosixEnv::CreateFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0700) == 0) return absl::OkStatus();
  const int error = errno;
  struct stat facts;
  if (error == EEXIST && stat(path.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode)) {
    return absl::OkStatus();
  }
  return ErrnoStatus("mkdir", path, error);
}

absl::Status PosixEnv::SyncFolder(const std::string& path) {
  Descriptor descriptor(OpenRetrying(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (descriptor.number() < 0) return ErrnoStatus("open", path, errno);
  if (fsync(descriptor.number()) != 0) {
    return absl::InternalError(absl::StrCat("fsync ", path, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status PosixEnv::Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus("rename", absl::StrCat(from, " to ", to), errno);
}

absl::Status PosixEnv::Delete(const std::string& path) {
  return unlink(path.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus("unlink", path, errno);
}

absl::StatusOr<bool> PosixEnv::Exists(const std::string& path) {
  struct stat facts;
  if (stat(path.c_str(), &facts) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR) return false;
  return ErrnoStatus("stat", path, errno);
}

absl::StatusOr<bool> PosixEnv::IsBlockDevice(const std::string& path) {
  struct stat facts;
  if (stat(path.c_str(), &facts) == 0) return S_ISBLK(facts.st_mode);
  if (errno == ENOENT || errno == ENOTDIR) return false;
  return ErrnoStatus("stat", path, errno);
}

absl::StatusOr<std::vector<std::string>> PosixEnv::List(const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), &closedir);
  if (folder == nullptr) return ErrnoStatus("opendir", path, errno);
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* const entry = readdir(folder.get());
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    struct stat facts;
    if (fstatat(dirfd(folder.get()), entry->d_name, &facts, 0) != 0) {
      if (errno == ENOENT) continue;  // deleted meanwhile
      return ErrnoStatus("fstatat", absl::StrCat(path, "/", name), errno);
    }
    if (!S_ISDIR(facts.st_mode)) names.push_back(name);
  }
  if (errno != 0) return ErrnoStatus("readdir", path, errno);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<FileSystemSpace> PosixEnv::Space(const std::string& path) {
  struct statvfs facts;
  const int result = WithoutInterrupts([&] { return statvfs(path.c_str(), &facts); });
  if (result != 0) return ErrnoStatus("statvfs", path, errno);
  FileSystemSpace space;
  space.total_bytes = static_cast<uint64_t>(facts.f_blocks) * facts.f_frsize;
  space.available_bytes = static_cast<uint64_t>(facts.f_bavail) * facts.f_frsize;
  return space;
}

absl::StatusOr<std::unique_ptr<FolderLock>> PosixEnv::LockFolder(const std::string& path) {
  Descriptor descriptor(OpenRetrying(path, O_RDONLY | O_CLOEXEC));
  if (descriptor.number() < 0) return ErrnoStatus("open", path, errno);
  const int result =
      WithoutInterrupts([&] { return flock(descriptor.number(), LOCK_EX | LOCK_NB); });
  if (result == 0) return std::make_unique<PosixFolderLock>(descriptor.Release());
  if (errno == EWOULDBLOCK) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is locked: another store has it open, here or in another process"));
  }
  return ErrnoStatus("flock", path, errno);
}

uint64_t PosixEnv::NowNanos() {
  timespec now;
  // Fails only for an unknown clock; every kernel since 2.6.39 has this one.
  if (clock_gettime(CLOCK_BOOTTIME, &now) != 0) std::abort();
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

absl::StatusOr<std::string> PosixEnv::BootId() {
  const std::string path = "/proc/sys/kernel/random/boot_id";
  Descriptor descriptor(OpenRetrying(path, O_RDONLY | O_CLOEXEC));
  if (descriptor.number() < 0) return ErrnoStatus("open", path, errno);
  std::array<char, 64> text;
  const ssize_t length =
      WithoutInterrupts([&] { return read(descriptor.number(), text.data(), text.size()); });
  if (length < 0) return ErrnoStatus("read", path, errno);
  std::string id(text.data(), static_cast<size_t>(length));
  while (!id.empty() && id.back() == '\n') id.pop_back();
  if (id.empty()) return absl::InternalError(absl::StrCat(path, " is empty"));
  return id;
}

}  // namespace tessera::chunk
