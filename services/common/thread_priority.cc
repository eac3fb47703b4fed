#include "services/common/thread_priority.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <thread>

namespace tessera {
namespace {

constexpr uint64_t kShortSliceNanos = 100'000;  // the least that the kernel takes
constexpr int kBackgroundNice = 10;             // a tenth of the weight of the others

// As in the manual page of sched_setattr(2); glibc has no wrapper.
struct SchedulingAttributes {
  uint32_t size = sizeof(SchedulingAttributes);
  uint32_t policy = 0;  // SCHED_OTHER
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime_nanos = 0;  // SCHED_OTHER: the slice; 0: the kernel's
  uint64_t deadline_nanos = 0;
  uint64_t period_nanos = 0;
};

}  // namespace

void PreferShortSlices() {
  SchedulingAttributes attributes;
  attributes.nice = getpriority(PRIO_PROCESS, 0);
  attributes.runtime_nanos = kShortSliceNanos;
  (void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

void WorkInBackground() {
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kBackgroundNice);
}

void RunInBackground(const std::function<void()>& work) {
  std::thread thread([&work] {
    pthread_setname_np(pthread_self(), "background");
    WorkInBackground();
    work();
  });
  thread.join();
}

}  // namespace tessera
