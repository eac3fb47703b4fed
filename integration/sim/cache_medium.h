// The file of a client's read cache in the simulated world: one job after the other, each takes a
// while, seldom much too long, and some fail. What a life has not finished when it ends is not
// done.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_CACHE_MEDIUM_H_
#define TESSERA_INTEGRATION_SIM_CACHE_MEDIUM_H_

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "integration/sim/world.h"
#include "services/sdc/cache/cache_store.h"

namespace tessera::sim {

class CacheMedium final : public sdc::CacheStore {
 public:
  // Of the current life.
  explicit CacheMedium(size_t size_bytes) : life_(World::Get().current()), bytes_(size_bytes) {}

  bool Read(uint64_t offset, sdc::CacheBytes into, Done done) override {
    return Add({false, offset, std::move(into), std::move(done)});
  }
  bool Write(uint64_t offset, sdc::CacheBytes bytes, Done done) override {
    return Add({true, offset, std::move(bytes), std::move(done)});
  }

 private:
  static constexpr size_t kJobsMax = 16;
  struct Job {
    bool write = false;
    uint64_t offset = 0;
    sdc::CacheBytes bytes;
    Done done;
  };
  bool Add(Job job) {
    if (jobs_.size() >= kJobsMax) return false;
    jobs_.push_back(std::move(job));
    if (jobs_.size() == 1) DoNext();
    return true;
  }
  void DoNext() {
    chunk::SeededRandom& random = World::Get().random();
    const Nanos most = random.Chance(1, 500) ? 300 * kMillisecond : 2 * kMillisecond;
    World::Get().After(kMicrosecond + random.Below(most), life_, [this] {
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      const bool fails = World::Get().random().Chance(1, 2'000);
      auto* place = bytes_.data() + job.offset;
      std::byte* memory = job.bytes.memory.get();
      if (!fails && job.write) std::copy_n(memory, job.bytes.size, place);
      if (!fails && !job.write) std::copy_n(place, job.bytes.size, memory);
      if (!jobs_.empty()) DoNext();
      job.done(!fails);
    });
  }

  Life* const life_;
  std::vector<std::byte> bytes_;
  std::deque<Job> jobs_;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_CACHE_MEDIUM_H_
