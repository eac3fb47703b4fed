// A thread that does one thing again and again: when woken, and at least once a period.
//
// Threads: Wake and Stop from any. The body runs on the loop's own thread, never twice at once.
#ifndef TESSERA_SERVICES_MDM_BACKGROUND_LOOP_H_
#define TESSERA_SERVICES_MDM_BACKGROUND_LOOP_H_

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera::mdm {

class BackgroundLoop {
 public:
  // `name` is the thread's, at most 15 bytes. Two runs of the body begin at least `pause` apart, so
  // that what happens in a burst is done at once.
  struct Options {
    std::string name;
    std::chrono::milliseconds period{1'000};
    std::chrono::milliseconds pause{0};
  };
  BackgroundLoop(const Options& options, std::function<void()> body);
  ~BackgroundLoop() { Stop(); }
  BackgroundLoop(const BackgroundLoop&) = delete;
  BackgroundLoop& operator=(const BackgroundLoop&) = delete;

  void Wake();
  // Lets the running body end, then joins. Idempotent.
  void Stop();

 private:
  void Run();

  const Options options_;
  const std::function<void()> body_;
  absl::Mutex mutex_;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_BACKGROUND_LOOP_H_
