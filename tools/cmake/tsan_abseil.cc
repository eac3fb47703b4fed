// Tells ThreadSanitizer about absl::Mutex, Notification and BlockingCounter.
//
// Debian's Abseil is not instrumented, so ThreadSanitizer would take everything that these order
// for a race. Linked into every program of a thread-sanitizer build, these functions stand
// before the library's, call them, and announce acquire and release through
// sanitizer/tsan_interface.h. Conditions of Await are evaluated by whichever thread unlocks, with
// the lock held: their reads are ignored.
//
// gRPC's own locks are absl::Mutex too and call these functions. For callers outside the program
// only the order counts: how a library nests its locks is not ours to judge.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdint>
#include <cstdlib>

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
// Bounds of the program's code, by the linker.
extern const char __executable_start;
extern const char etext;
}

namespace {

class IgnoredReads {
 public:
  IgnoredReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~IgnoredReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

template <typename Function>
Function Real(const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) abort();
  return reinterpret_cast<Function>(found);
}

bool InProgram(const void* return_address) {
  return return_address >= &__executable_start && return_address < &etext;
}

// Announces for a mutex what its caller may see: from the program a lock, from a library the order.
void Unlocking(void* mutex, bool in_program) {
  if (in_program) {
    __tsan_mutex_pre_unlock(mutex, 0);
    __tsan_mutex_post_unlock(mutex, 0);
  } else {
    __tsan_release(mutex);
  }
}
void Locked(void* mutex, bool in_program) {
  if (in_program) {
    __tsan_mutex_pre_lock(mutex, 0);
    __tsan_mutex_post_lock(mutex, 0, 0);
  } else {
    __tsan_acquire(mutex);
  }
}

// The library calls its own functions through the same names: only the outermost call counts.
thread_local int waiting = 0;

// What the calling thread holds is given up for the time of `wait` and held again afterwards.
template <typename Wait>
auto GivenUp(void* mutex, const void* return_address, Wait wait) {
  if (waiting > 0) return wait();
  struct Turn {
    Turn(void* mutex_in, bool in_program_in) : mutex(mutex_in), in_program(in_program_in) {
      ++waiting;
      Unlocking(mutex, in_program);
    }
    ~Turn() {
      Locked(mutex, in_program);
      --waiting;
    }
    void* const mutex;
    const bool in_program;
  } turn(mutex, InProgram(return_address));
  IgnoredReads ignored;
  return wait();
}

}  // namespace

#define TESSERA_ABSL(name) "_ZN4absl7debian3" name
#define TESSERA_ABSL_CONST(name) "_ZNK4absl7debian3" name
// absl::Duration and absl::Time: 12 bytes, passed in two registers.
struct TwoWords {
  int64_t high;
  uint32_t low;
};

#define TESSERA_WRAP_SYMBOL(result, function, symbol, ...)                                    \
  extern "C" __attribute__((visibility("default"))) result function(__VA_ARGS__) asm(symbol); \
  extern "C" result function(__VA_ARGS__)
#define TESSERA_WRAP(result, function, symbol, ...) \
  TESSERA_WRAP_SYMBOL(result, function, TESSERA_ABSL(symbol), __VA_ARGS__)
#define TESSERA_WRAP_CONST(result, function, symbol, ...) \
  TESSERA_WRAP_SYMBOL(result, function, TESSERA_ABSL_CONST(symbol), __VA_ARGS__)

TESSERA_WRAP(void, WrapLock, "5Mutex4LockEv", void* mutex) {
  static const auto real = Real<void (*)(void*)>(TESSERA_ABSL("5Mutex4LockEv"));
  if (!InProgram(__builtin_return_address(0))) {
    real(mutex);
    __tsan_acquire(mutex);
    return;
  }
  __tsan_mutex_pre_lock(mutex, 0);
  real(mutex);
  __tsan_mutex_post_lock(mutex, 0, 0);
}
TESSERA_WRAP(void, WrapUnlock, "5Mutex6UnlockEv", void* mutex) {
  static const auto real = Real<void (*)(void*)>(TESSERA_ABSL("5Mutex6UnlockEv"));
  if (!InProgram(__builtin_return_address(0))) {
    __tsan_release(mutex);
    IgnoredReads ignored;
    real(mutex);
    return;
  }
  __tsan_mutex_pre_unlock(mutex, 0);
  {
    IgnoredReads ignored;
    real(mutex);
  }
  __tsan_mutex_post_unlock(mutex, 0);
}
TESSERA_WRAP(bool, WrapTryLock, "5Mutex7TryLockEv", void* mutex) {
  static const auto real = Real<bool (*)(void*)>(TESSERA_ABSL("5Mutex7TryLockEv"));
  if (!InProgram(__builtin_return_address(0))) {
    const bool locked = real(mutex);
    if (locked) __tsan_acquire(mutex);
    return locked;
  }
  __tsan_mutex_pre_lock(mutex, __tsan_mutex_try_lock);
  const bool locked = real(mutex);
  __tsan_mutex_post_lock(mutex, __tsan_mutex_try_lock | (locked ? 0 : __tsan_mutex_try_lock_failed),
                         0);
  return locked;
}
TESSERA_WRAP(void, WrapReaderLock, "5Mutex10ReaderLockEv", void* mutex) {
  static const auto real = Real<void (*)(void*)>(TESSERA_ABSL("5Mutex10ReaderLockEv"));
  if (!InProgram(__builtin_return_address(0))) {
    real(mutex);
    __tsan_acquire(mutex);
    return;
  }
  __tsan_mutex_pre_lock(mutex, __tsan_mutex_read_lock);
  real(mutex);
  __tsan_mutex_post_lock(mutex, __tsan_mutex_read_lock, 0);
}
TESSERA_WRAP(void, WrapReaderUnlock, "5Mutex12ReaderUnlockEv", void* mutex) {
  static const auto real = Real<void (*)(void*)>(TESSERA_ABSL("5Mutex12ReaderUnlockEv"));
  if (!InProgram(__builtin_return_address(0))) {
    __tsan_release(mutex);
    IgnoredReads ignored;
    real(mutex);
    return;
  }
  __tsan_mutex_pre_unlock(mutex, __tsan_mutex_read_lock);
  {
    IgnoredReads ignored;
    real(mutex);
  }
  __tsan_mutex_post_unlock(mutex, __tsan_mutex_read_lock);
}
TESSERA_WRAP(void, WrapLockWhen, "5Mutex8LockWhenERKNS0_9ConditionE", void* mutex,
             const void* condition) {
  static const auto real =
      Real<void (*)(void*, const void*)>(TESSERA_ABSL("5Mutex8LockWhenERKNS0_9ConditionE"));
  __tsan_mutex_pre_lock(mutex, 0);
  {
    IgnoredReads ignored;
    real(mutex, condition);
  }
  __tsan_mutex_post_lock(mutex, 0, 0);
}
TESSERA_WRAP(void, WrapAwait, "5Mutex5AwaitERKNS0_9ConditionE", void* mutex,
             const void* condition) {
  static const auto real =
      Real<void (*)(void*, const void*)>(TESSERA_ABSL("5Mutex5AwaitERKNS0_9ConditionE"));
  GivenUp(mutex, __builtin_return_address(0), [&] { real(mutex, condition); });
}
TESSERA_WRAP(bool, WrapAwaitTimeout, "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE",
             void* mutex, const void* condition, TwoWords timeout) {
  static const auto real = Real<bool (*)(void*, const void*, TwoWords)>(
      TESSERA_ABSL("5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE"));
  return GivenUp(mutex, __builtin_return_address(0),
                 [&] { return real(mutex, condition, timeout); });
}
TESSERA_WRAP(bool, WrapAwaitDeadline, "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE",
             void* mutex, const void* condition, TwoWords deadline) {
  static const auto real = Real<bool (*)(void*, const void*, TwoWords)>(
      TESSERA_ABSL("5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE"));
  return GivenUp(mutex, __builtin_return_address(0),
                 [&] { return real(mutex, condition, deadline); });
}
TESSERA_WRAP(void, WrapWait, "7CondVar4WaitEPNS0_5MutexE", void* variable, void* mutex) {
  static const auto real = Real<void (*)(void*, void*)>(TESSERA_ABSL("7CondVar4WaitEPNS0_5MutexE"));
  GivenUp(mutex, __builtin_return_address(0), [&] { real(variable, mutex); });
}
TESSERA_WRAP(bool, WrapWaitTimeout, "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE",
             void* variable, void* mutex, TwoWords timeout) {
  static const auto real = Real<bool (*)(void*, void*, TwoWords)>(
      TESSERA_ABSL("7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE"));
  return GivenUp(mutex, __builtin_return_address(0),
                 [&] { return real(variable, mutex, timeout); });
}
TESSERA_WRAP(bool, WrapWaitDeadline, "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE",
             void* variable, void* mutex, TwoWords deadline) {
  static const auto real = Real<bool (*)(void*, void*, TwoWords)>(
      TESSERA_ABSL("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE"));
  return GivenUp(mutex, __builtin_return_address(0),
                 [&] { return real(variable, mutex, deadline); });
}
TESSERA_WRAP(void, WrapDestroy, "5MutexD1Ev", void* mutex) {
  static const auto real = Real<void (*)(void*)>(TESSERA_ABSL("5MutexD1Ev"));
  real(mutex);
  if (InProgram(__builtin_return_address(0))) __tsan_mutex_destroy(mutex, 0);
}

// A notification's flag follows its mutex, which is one word. HasBeenNotified is inline: it reads
// the flag with acquire in instrumented code, so the release is announced at the flag's address.
static void* FlagOf(void* notification) { return static_cast<char*>(notification) + sizeof(void*); }

TESSERA_WRAP(void, WrapNotify, "12Notification6NotifyEv", void* notification) {
  static const auto real = Real<void (*)(void*)>(TESSERA_ABSL("12Notification6NotifyEv"));
  __tsan_release(FlagOf(notification));
  real(notification);
}
TESSERA_WRAP_CONST(void, WrapWaitNotified, "12Notification19WaitForNotificationEv",
                   void* notification) {
  static const auto real =
      Real<void (*)(void*)>(TESSERA_ABSL_CONST("12Notification19WaitForNotificationEv"));
  real(notification);
  __tsan_acquire(FlagOf(notification));
}
TESSERA_WRAP_CONST(bool, WrapWaitNotifiedTimeout,
                   "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE",
                   void* notification, TwoWords timeout) {
  static const auto real = Real<bool (*)(void*, TwoWords)>(
      TESSERA_ABSL_CONST("12Notification30WaitForNotificationWithTimeoutENS0_8DurationE"));
  const bool notified = real(notification, timeout);
  if (notified) __tsan_acquire(FlagOf(notification));
  return notified;
}
TESSERA_WRAP_CONST(bool, WrapWaitNotifiedDeadline,
                   "12Notification31WaitForNotificationWithDeadlineENS0_4TimeE", void* notification,
                   TwoWords deadline) {
  static const auto real = Real<bool (*)(void*, TwoWords)>(
      TESSERA_ABSL_CONST("12Notification31WaitForNotificationWithDeadlineENS0_4TimeE"));
  const bool notified = real(notification, deadline);
  if (notified) __tsan_acquire(FlagOf(notification));
  return notified;
}
// Only the last decrement takes the counter's mutex; the others are ordered by its atomic count.
TESSERA_WRAP(bool, WrapDecrement, "15BlockingCounter14DecrementCountEv", void* counter) {
  static const auto real =
      Real<bool (*)(void*)>(TESSERA_ABSL("15BlockingCounter14DecrementCountEv"));
  __tsan_release(counter);
  return real(counter);
}
TESSERA_WRAP(void, WrapCounterWait, "15BlockingCounter4WaitEv", void* counter) {
  static const auto real = Real<void (*)(void*)>(TESSERA_ABSL("15BlockingCounter4WaitEv"));
  real(counter);
  __tsan_acquire(counter);
}
