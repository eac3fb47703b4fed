#include "services/mdm/background_loop.h"

#include <pthread.h>

namespace tessera::mdm {

BackgroundLoop::BackgroundLoop(const Options& options, std::function<void()> body)
    : options_(options), body_(std::move(body)), thread_([this] { Run(); }) {}

void BackgroundLoop::Wake() {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
}

void BackgroundLoop::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void BackgroundLoop::Run() {
  pthread_setname_np(pthread_self(), options_.name.substr(0, 15).c_str());
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      const auto due = [this] {
        mutex_.AssertReaderHeld();
        return woken_ || stopping_;
      };
      mutex_.AwaitWithTimeout(absl::Condition(&due), absl::FromChrono(options_.period));
      if (!stopping_ && options_.pause.count() > 0) {
        mutex_.AwaitWithTimeout(absl::Condition(&stopping_), absl::FromChrono(options_.pause));
      }
      if (stopping_) return;
      woken_ = false;
    }
    body_();
  }
}

}  // namespace tessera::mdm
