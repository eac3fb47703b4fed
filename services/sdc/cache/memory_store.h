// A CacheStore in memory whose work is done when the test says so, and that can fail.
//
// Threads: one.
#ifndef TESSERA_SERVICES_SDC_CACHE_MEMORY_STORE_H_
#define TESSERA_SERVICES_SDC_CACHE_MEMORY_STORE_H_

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "services/sdc/cache/cache_store.h"

namespace tessera::sdc {

class MemoryStore final : public CacheStore {
 public:
  // `disk` outlives it, as a disk outlives the process.
  explicit MemoryStore(std::vector<std::byte>& disk) : disk_(disk) {}

  bool Read(uint64_t offset, CacheBytes into, Done done) override {
    return Add({false, offset, std::move(into), std::move(done)});
  }
  bool Write(uint64_t offset, CacheBytes bytes, Done done) override {
    return Add({true, offset, std::move(bytes), std::move(done)});
  }

  // Does the oldest job. False: there is none.
  bool Step(bool fail = false) {
    if (jobs_.empty()) return false;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    if (!fail) Transfer(job, job.bytes.size);
    done_.push_back([done = std::move(job.done), fail]() mutable { done(!fail); });
    return true;
  }
  // Tells of the oldest job that was done. False: there is none.
  bool Tell() {
    if (done_.empty()) return false;
    auto done = std::move(done_.front());
    done_.pop_front();
    done();
    return true;
  }
  void RunAll() {
    while (Step() || Tell()) {
    }
  }
  // The process ends: of each write that waits, as much as `share` of it (0 to 255) may be there.
  template <typename Share>
  void Crash(const Share& share) {
    for (Job& job : jobs_) {
      if (job.write) Transfer(job, job.bytes.size * static_cast<size_t>(share()) / 255);
    }
    jobs_.clear();
    done_.clear();
  }
  // In good order: everything is on the disk, nobody is told.
  void Close() {
    while (Step()) {
    }
    done_.clear();
  }

  size_t limit = 256;

  [[nodiscard]] size_t waiting() const { return jobs_.size(); }

 private:
  struct Job {
    bool write = false;
    uint64_t offset = 0;
    CacheBytes bytes;
    Done done;
  };
  bool Add(Job job) {
    if (jobs_.size() >= limit) return false;
    jobs_.push_back(std::move(job));
    return true;
  }
  void Transfer(Job& job, size_t size) {
    std::byte* place = disk_.data() + job.offset;
    if (job.write) {
      std::memcpy(place, job.bytes.memory.get(), size);
    } else {
      std::memcpy(job.bytes.memory.get(), place, size);
    }
  }

  std::vector<std::byte>& disk_;
  std::deque<Job> jobs_;
  std::deque<absl::AnyInvocable<void()>> done_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CACHE_MEMORY_STORE_H_
