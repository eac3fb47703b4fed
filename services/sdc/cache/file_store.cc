#include "services/sdc/cache/file_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::sdc {
namespace {

constexpr mode_t kMode = 0600;

absl::Status Failed(const char* what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " ", path));
}

// All of it or an error.
bool Transfer(bool write, int descriptor, uint64_t offset, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const auto at = static_cast<off_t>(offset);
    const ssize_t done = write ? pwrite(descriptor, bytes.data(), bytes.size(), at)
                               : pread(descriptor, bytes.data(), bytes.size(), at);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(done));
    offset += static_cast<uint64_t>(done);
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileStore>> FileStore::Open(EventLoop& loop, const std::string& path,
                                                           uint64_t size_bytes) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, kMode);
  if (descriptor < 0) return Failed("open", path);
  std::unique_ptr<FileStore> store(new FileStore(loop, descriptor));
  struct stat info {};
  if (fstat(descriptor, &info) != 0) return Failed("look at", path);
  const auto size = static_cast<off_t>(size_bytes);
  if (info.st_size > size && ftruncate(descriptor, size) != 0) return Failed("shorten", path);
  int result = 0;
  do {
    result = fallocate(descriptor, 0, 0, size);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EOPNOTSUPP) result = ftruncate(descriptor, size);
  if (result != 0) return Failed(absl::StrCat("keep ", size_bytes, " bytes for").c_str(), path);
  store->thread_ = std::thread([self = store.get()] { self->Run(); });
  return store;
}

FileStore::FileStore(EventLoop& loop, int descriptor) : loop_(loop), descriptor_(descriptor) {}

FileStore::~FileStore() {
  Close();
  close(descriptor_);
}

void FileStore::Close() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

bool FileStore::Read(uint64_t offset, CacheBytes into, Done done) {
  iovec vector{into.memory.get(), into.size};
  const ssize_t got = preadv2(descriptor_, &vector, 1, static_cast<off_t>(offset), RWF_NOWAIT);
  if (got == static_cast<ssize_t>(into.size)) {
    loop_.Post([done = std::move(done)]() mutable { done(true); });
    return true;
  }
  Job job{false, offset, std::move(into), std::move(done)};
  return Enqueue(job);
}

bool FileStore::Write(uint64_t offset, CacheBytes bytes, Done done) {
  Job job{true, offset, std::move(bytes), std::move(done)};
  return Enqueue(job);
}

bool FileStore::Enqueue(Job& job) {
  absl::MutexLock lock(&mutex_);
  if (stopping_ || unfinished_ >= kJobsMax || bytes_ + job.bytes.size > kBytesMax) return false;
  ++unfinished_;
  bytes_ += job.bytes.size;
  jobs_.push_back(std::move(job));
  return true;
}

bool FileStore::Do(const Job& job) const {
  return Transfer(job.write, descriptor_, job.offset, job.bytes.bytes());
}

void FileStore::Run() {
  for (;;) {
    Job job;
    {
      absl::MutexLock lock(&mutex_);
      const auto something = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !jobs_.empty();
      };
      mutex_.Await(absl::Condition(&something));
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    const bool ok = Do(job);
    {
      absl::MutexLock lock(&mutex_);
      --unfinished_;
      bytes_ -= job.bytes.size;
    }
    loop_.Post([done = std::move(job.done), ok]() mutable { done(ok); });
  }
}

}  // namespace tessera::sdc
