// Processor time of this process by thread, for store_bench: which of the store's threads worked,
// and how much of it in the kernel.
//
// Threads: none; a value each call.
#ifndef TESSERA_LIBCHUNK_BENCH_USAGE_H_
#define TESSERA_LIBCHUNK_BENCH_USAGE_H_

#include <cstdint>
#include <map>
#include <string>

namespace tessera::chunk {

struct ThreadUsage {
  uint64_t nanos = 0;  // on a processor, exact
  // The same in ticks of the kernel's sampling: good for their ratio over a second or more.
  uint64_t user_ticks = 0, system_ticks = 0;

  double system_nanos() const {
    const uint64_t ticks = user_ticks + system_ticks;
    return ticks == 0 ? 0.0
                      : static_cast<double>(nanos) * static_cast<double>(system_ticks) /
                            static_cast<double>(ticks);
  }
};
// By thread name (/proc/self/task/*/comm); threads of one name are summed.
using UsageByThread = std::map<std::string, ThreadUsage>;

UsageByThread ReadUsage();
// What was used between two readings.
UsageByThread operator-(const UsageByThread& after, const UsageByThread& before);

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_BENCH_USAGE_H_
