#include "libtoken/key_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "libtoken/crypto.h"

namespace tessera::token {
namespace {

constexpr mode_t kOwnerOnly = S_IRUSR | S_IWUSR;
constexpr mode_t kPermissionBits = 07777;
// More than the largest key file has; whatever is longer is none.
constexpr size_t kReadBytesMax = 16 * 1024;
static_assert(kReadBytesMax > kKeyFileKeysMax * (kKeyBytes + 4) + 64);

absl::Status ErrnoStatus(int error, const char* what, const std::string& path) {
  return absl::ErrnoToStatus(error, absl::StrCat(what, " ", path));
}

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Wipes the bytes that held keys when it goes out of scope.
class WipedBytes {
 public:
  explicit WipedBytes(std::string bytes) : bytes_(std::move(bytes)) {}
  ~WipedBytes() { tessera_token_wipe(bytes_.data(), bytes_.size()); }
  WipedBytes(const WipedBytes&) = delete;
  WipedBytes& operator=(const WipedBytes&) = delete;
  std::string& get() { return bytes_; }

 private:
  std::string bytes_;
};

class Descriptor {
 public:
  Descriptor(KeyFileSystem& system, int number) : system_(system), number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) system_.Close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int number() const { return number_; }
  // Linux has given the number back even where close fails.
  int Close() { return system_.Close(std::exchange(number_, -1)); }

 private:
  KeyFileSystem& system_;
  int number_;
};

int OpenRetried(KeyFileSystem& system, const std::string& path, int flags, mode_t mode) {
  int number;
  do {
    number = system.Open(path, flags, mode);
  } while (number < 0 && errno == EINTR);
  return number;
}

absl::Status CheckPermissions(const struct stat& info, const std::string& path) {
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("key file ", path, " is no regular file"));
  }
  const mode_t mode = info.st_mode & kPermissionBits;
  if ((mode & ~kOwnerOnly) != 0) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "key file %s has mode %04o; it must be 0600: chmod 600, and replace the keys if others may "
        "have read it",
        path, mode));
  }
  if (info.st_uid != geteuid() && info.st_uid != 0) {
    return absl::PermissionDeniedError(absl::StrCat("key file ", path, " belongs to user ",
                                                    info.st_uid, ", not to this one (", geteuid(),
                                                    ") or root"));
  }
  return absl::OkStatus();
}

absl::Status ReadAll(KeyFileSystem& system, int descriptor, const std::string& path,
                     std::string& bytes) {
  bytes.resize(kReadBytesMax);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = system.Read(descriptor, bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "read key file", path);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  if (done == kReadBytesMax) {
    return absl::DataLossError(absl::StrCat("key file ", path, " is too long to be one"));
  }
  // Shrinking a string moves nothing, so no copy of the keys stays behind unwiped.
  bytes.resize(done);
  return absl::OkStatus();
}

absl::Status WriteAll(KeyFileSystem& system, int descriptor, const std::string& path,
                      std::string_view bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t put = system.Write(descriptor, bytes.data() + done, bytes.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ErrnoStatus(errno, "write key file", path);
    if (put == 0)
      return absl::DataLossError(absl::StrCat("write key file ", path, " wrote nothing"));
    done += static_cast<size_t>(put);
  }
  return absl::OkStatus();
}

// A whole and durable file under a name that nobody reads.
absl::Status WriteNewFile(KeyFileSystem& system, const std::string& path, std::string_view bytes) {
  // Left over from a crash. It may be a link or somebody else's: it is not opened but replaced.
  if (system.Unlink(path) != 0 && errno != ENOENT) return ErrnoStatus(errno, "remove", path);
  Descriptor file(
      system,
      OpenRetried(system, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, kOwnerOnly));
  if (file.number() < 0) return ErrnoStatus(errno, "create key file", path);
  // The umask may have taken the owner's own bits away.
  if (system.ChangeMode(file.number(), kOwnerOnly) != 0) {
    return ErrnoStatus(errno, "set the mode of key file", path);
  }
  absl::Status status = WriteAll(system, file.number(), path, bytes);
  if (!status.ok()) return status;
  if (system.Sync(file.number()) != 0) return ErrnoStatus(errno, "fsync key file", path);
  if (file.Close() != 0) return ErrnoStatus(errno, "close key file", path);
  return absl::OkStatus();
}

}  // namespace

int PosixKeyFileSystem::Open(const std::string& path, int flags, mode_t mode) {
  return ::open(path.c_str(), flags, mode);
}
int PosixKeyFileSystem::Close(int descriptor) { return ::close(descriptor); }
int PosixKeyFileSystem::Stat(int descriptor, struct stat* out) { return ::fstat(descriptor, out); }
int PosixKeyFileSystem::ChangeMode(int descriptor, mode_t mode) {
  return ::fchmod(descriptor, mode);
}
ssize_t PosixKeyFileSystem::Read(int descriptor, void* out, size_t bytes) {
  return ::read(descriptor, out, bytes);
}
ssize_t PosixKeyFileSystem::Write(int descriptor, const void* data, size_t bytes) {
  return ::write(descriptor, data, bytes);
}
int PosixKeyFileSystem::Sync(int descriptor) { return ::fsync(descriptor); }
int PosixKeyFileSystem::Rename(const std::string& from, const std::string& to) {
  return std::rename(from.c_str(), to.c_str());
}
int PosixKeyFileSystem::Unlink(const std::string& path) { return ::unlink(path.c_str()); }

absl::StatusOr<KeyFile> LoadKeyFileFrom(KeyFileSystem& system, const std::string& path) {
  // Not blocking: a pipe under this name is refused, not waited for.
  Descriptor file(system, OpenRetried(system, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0));
  if (file.number() < 0) return ErrnoStatus(errno, "open key file", path);
  struct stat info = {};
  if (system.Stat(file.number(), &info) != 0) return ErrnoStatus(errno, "stat key file", path);
  absl::Status status = CheckPermissions(info, path);
  if (!status.ok()) return status;
  WipedBytes bytes{std::string()};
  status = ReadAll(system, file.number(), path, bytes.get());
  if (!status.ok()) return status;
  absl::StatusOr<KeyFile> keys = DecodeKeyFile(bytes.get());
  if (!keys.ok()) {
    return absl::Status(keys.status().code(), absl::StrCat(path, ": ", keys.status().message()));
  }
  return keys;
}

absl::Status SaveKeyFileTo(KeyFileSystem& system, const std::string& path, const KeyFile& keys) {
  absl::Status status = CheckKeys(keys);
  if (!status.ok()) return status;
  const std::string folder_path = FolderOf(path);
  Descriptor folder(system,
                    OpenRetried(system, folder_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
  if (folder.number() < 0) return ErrnoStatus(errno, "open folder", folder_path);

  WipedBytes bytes(EncodeKeyFile(keys));
  const std::string new_path = path + ".new";
  status = WriteNewFile(system, new_path, bytes.get());
  if (status.ok() && system.Rename(new_path, path) != 0) {
    status = ErrnoStatus(errno, "rename to key file", path);
  }
  if (!status.ok()) {
    // Best effort: the first error is the one to report, and the next save removes the file, too.
    system.Unlink(new_path);
    return status;
  }
  if (system.Sync(folder.number()) != 0) return ErrnoStatus(errno, "fsync folder", folder_path);
  return absl::OkStatus();
}

absl::StatusOr<KeyFile> LoadKeyFile(const std::string& path) {
  PosixKeyFileSystem system;
  return LoadKeyFileFrom(system, path);
}

absl::Status SaveKeyFile(const std::string& path, const KeyFile& keys) {
  PosixKeyFileSystem system;
  return SaveKeyFileTo(system, path, keys);
}

}  // namespace tessera::token
