#include "services/sdc/resume/resume_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"

namespace tessera::sdc {
namespace {

constexpr mode_t kMode = 0600;
constexpr int kAttempts = 10;

absl::Status ErrnoStatus(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(what, " ", path));
}

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  [[nodiscard]] int get() const { return number_; }

 private:
  int number_;
};

// Holds the lock for as long as it exists.
class MappedFile final : public ResumeMemory {
 public:
  static absl::StatusOr<std::shared_ptr<MappedFile>> Map(Descriptor descriptor, uint64_t size_bytes,
                                                         const std::string& path) {
    void* memory = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                        descriptor.get(), 0);
    if (memory == MAP_FAILED) return ErrnoStatus("map", path);
    // What a core dump would hold is data and keys.
    (void)madvise(memory, size_bytes, MADV_DONTDUMP);
    return std::shared_ptr<MappedFile>(new MappedFile(
        std::move(descriptor), {static_cast<std::byte*>(memory), static_cast<size_t>(size_bytes)}));
  }
  ~MappedFile() override { munmap(bytes_.data(), bytes_.size()); }

  std::span<std::byte> bytes() override { return bytes_; }
  bool Back(uint64_t offset, uint64_t length) override {
    int result;
    do {
      result =
          fallocate(descriptor_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(length));
    } while (result != 0 && errno == EINTR);
    return result == 0;
  }
  void GiveBack(uint64_t offset, uint64_t length) override {
    // Where the file system can't, the memory stays.
    (void)fallocate(descriptor_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(offset), static_cast<off_t>(length));
  }

 private:
  MappedFile(Descriptor descriptor, std::span<std::byte> bytes)
      : descriptor_(std::move(descriptor)), bytes_(bytes) {}
  const Descriptor descriptor_;
  const std::span<std::byte> bytes_;
};

absl::Status CheckOwner(const struct stat& info, const std::string& path) {
  const bool ours = S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
                    (info.st_mode & 0777) == kMode && info.st_nlink == 1;
  if (ours) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(path, " is not a file of this user alone: remove it"));
}

// Opens and locks. The path may be given to another file between the two: then again.
absl::StatusOr<Descriptor> OpenLocked(const std::string& path, struct stat* info) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Descriptor file(open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kMode));
    if (file.get() < 0) return ErrnoStatus("open", path);
    if (fstat(file.get(), info) != 0) return ErrnoStatus("look at", path);
    TESSERA_RETURN_IF_ERROR(CheckOwner(*info, path));
    if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) return ErrnoStatus("lock", path);
      LogWarning("another process of this client runs: nothing is resumed", {{"file", path}});
      if (unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoStatus("unlink", path);
      continue;
    }
    struct stat now {};
    if (fstat(file.get(), info) != 0) return ErrnoStatus("look at", path);
    if (lstat(path.c_str(), &now) == 0 && now.st_ino == info->st_ino &&
        now.st_dev == info->st_dev) {
      return file;
    }
  }
  return absl::UnavailableError(absl::StrCat("cannot get the lock of ", path));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ResumeTable>> OpenResumeFile(const std::string& path,
                                                            const ResumeOwner& owner,
                                                            const ResumeGeometry& geometry,
                                                            ResumedState* state) {
  struct stat info {};
  TESSERA_ASSIGN_OR_RETURN(Descriptor file, OpenLocked(path, &info));
  if (info.st_size > 0) {
    Descriptor again(dup(file.get()));  // the lock is shared by both
    if (again.get() < 0) return ErrnoStatus("open", path);
    TESSERA_ASSIGN_OR_RETURN(
        auto memory, MappedFile::Map(std::move(again), static_cast<uint64_t>(info.st_size), path));
    auto table = ResumeTable::TakeOver(std::move(memory), owner, state);
    if (table.ok()) return table;
    LogWarning("nothing is resumed", {{"file", path}, {"why", table.status()}});
    *state = ResumedState();
  }
  if (ftruncate(file.get(), 0) != 0 ||
      ftruncate(file.get(), static_cast<off_t>(geometry.TotalBytes())) != 0) {
    return ErrnoStatus("make", path);
  }
  TESSERA_ASSIGN_OR_RETURN(auto memory,
                           MappedFile::Map(std::move(file), geometry.TotalBytes(), path));
  auto table = ResumeTable::Create(std::move(memory), owner, geometry);
  if (table == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("no space for ", path));
  }
  return table;
}

}  // namespace tessera::sdc
