// One thread's event loop: file descriptors, posted tasks, timers, and hooks at the end of each
// turn.
//
// The SDC runs NBD sockets and volume engines on the same loop, so that a request goes from socket
// to gRPC stream without changing threads, and operations that arrive in one turn leave in one
// message (the end-of-turn hook sends what gathered).
//
// Threads: Post and Stop from any thread; everything else on the loop thread, or before Run.
#ifndef TESSERA_SERVICES_SDC_EVENT_LOOP_H_
#define TESSERA_SERVICES_SDC_EVENT_LOOP_H_

#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/functional/any_invocable.h"

namespace tessera::sdc {

class EventLoop {
 public:
  using Task = absl::AnyInvocable<void()>;
  using Duration = std::chrono::nanoseconds;
  using TimerId = uint64_t;

  // kEdge: tell of changes only, not of what lasts.
  enum Interest : uint32_t { kReadable = 1, kWritable = 2, kEdge = 4 };

  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Runs until Stop. The calling thread becomes the loop thread.
  void Run();
  void Stop();

  // Runs `task` on the loop thread, soon, in order of posting. Tasks posted after Stop are
  // destroyed without being run.
  void Post(Task task);
  [[nodiscard]] bool InLoopThread() const;

  // Calls `ready` with a mask of Interest bits (an error or hang-up shows as both) while
  // registered. The descriptor stays the caller's. Level-triggered, unless kEdge is given.
  void Watch(int fd, uint32_t interest, absl::AnyInvocable<void(uint32_t)> ready);
  void ChangeInterest(int fd, uint32_t interest);
  // `ready` is not called any more, also when called from inside a handler of the same turn.
  void Unwatch(int fd);

  // Once after `delay` on the loop's clock (CLOCK_BOOTTIME).
  TimerId After(Duration delay, Task task);
  void Cancel(TimerId timer);
  [[nodiscard]] Duration Now() const;

  // Since when what this turn has found may have been there: the loop did not look in between.
  [[nodiscard]] Duration FoundSince() const;

  // Called at the end of every turn in which anything ran, in order of registration.
  using HookId = uint64_t;
  HookId AddTurnEndHook(absl::AnyInvocable<void()> hook);
  void RemoveTurnEndHook(HookId id);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_EVENT_LOOP_H_
