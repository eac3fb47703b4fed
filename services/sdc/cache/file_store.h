// The cache's file: preallocated, read and written by a thread of its own.
//
// What the kernel has in memory is read at once (preadv2 with RWF_NOWAIT), so that a hit costs no
// change of threads; what has to wait for the disk waits on the thread. Its queue is bounded in
// jobs and bytes: more is refused, and the disk never holds up more than that.
//
// Threads: made anywhere; calls on the loop thread; destroyed where the loop has ended.
#ifndef TESSERA_SERVICES_SDC_CACHE_FILE_STORE_H_
#define TESSERA_SERVICES_SDC_CACHE_FILE_STORE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/sdc/cache/cache_store.h"
#include "services/sdc/event_loop.h"

namespace tessera::sdc {

class FileStore final : public CacheStore {
 public:
  static constexpr size_t kJobsMax = 256;
  static constexpr uint64_t kBytesMax = 16 << 20;

  // Opens or makes the file with mode 0600 and has the file system keep `size_bytes` for it.
  // RESOURCE_EXHAUSTED: there is not so much space.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<FileStore>> Open(EventLoop& loop,
                                                                       const std::string& path,
                                                                       uint64_t size_bytes);
  ~FileStore() override;

  bool Read(uint64_t offset, CacheBytes into, Done done) override;
  bool Write(uint64_t offset, CacheBytes bytes, Done done) override;

  // Everything that was taken is done, and seen by whoever opens the file next; not durable, since
  // nobody uses it after another boot. Once, when the loop has ended; nothing is taken any more.
  void Close();

 private:
  struct Job {
    bool write = false;
    uint64_t offset = 0;
    CacheBytes bytes;
    Done done;
  };
  FileStore(EventLoop& loop, int descriptor);
  [[nodiscard]] bool Enqueue(Job& job);
  void Run();
  [[nodiscard]] bool Do(const Job& job) const;

  EventLoop& loop_;
  const int descriptor_;
  absl::Mutex mutex_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of jobs not done
  size_t unfinished_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CACHE_FILE_STORE_H_
