#include "services/sdc/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "services/common/look_out.h"

namespace tessera::sdc {
namespace {

constexpr int kEventsPerTurn = 256;
constexpr uint64_t kAtOnceNanos = 20'000;
// Cancelled timers stay in the heap until they outnumber the live ones by this much.
constexpr size_t kStaleTimersAllowed = 64;

// For failures that only a bug in this process can cause (a bad descriptor, too many epoll sets).
[[noreturn]] void Fatal(const char* what, int error) {
  std::fprintf(stderr, "event loop: %s: %s\n", what, std::strerror(error));
  std::abort();
}

int CheckedDescriptor(int fd, const char* what) {
  if (fd < 0) Fatal(what, errno);
  return fd;
}

uint32_t EpollEvents(uint32_t interest) {
  uint32_t events = 0;
  if (interest & EventLoop::kReadable) events |= EPOLLIN;
  if (interest & EventLoop::kWritable) events |= EPOLLOUT;
  if (interest & EventLoop::kEdge) events |= EPOLLET;
  return events;
}

uint32_t InterestOf(uint32_t epoll_events) {
  if (epoll_events & (EPOLLERR | EPOLLHUP)) return EventLoop::kReadable | EventLoop::kWritable;
  uint32_t interest = 0;
  if (epoll_events & EPOLLIN) interest |= EventLoop::kReadable;
  if (epoll_events & EPOLLOUT) interest |= EventLoop::kWritable;
  return interest;
}

}  // namespace

class EventLoop::Impl {
 public:
  Impl()
      : epoll_(CheckedDescriptor(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
        wake_(CheckedDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
        timer_(CheckedDescriptor(::timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK),
                                 "timerfd_create")) {
    AddInternal(wake_, &wake_);
    AddInternal(timer_, &timer_);
  }

  ~Impl() {
    // Destructors of tasks and handlers may still call into the loop, so each container is emptied
    // by way of a local before the descriptors go.
    std::vector<Task> posted;
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      posted.swap(posted_);
    }
    posted.clear();
    auto timers = std::exchange(timer_tasks_, {});
    timers.clear();
    auto hooks = std::exchange(hooks_, {});
    hooks.clear();
    auto watches = std::exchange(watches_, {});
    watches.clear();
    BuryTheDead();
    ::close(timer_);
    ::close(wake_);
    ::close(epoll_);
  }

  void Run() {
    loop_thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    while (Turn()) {
    }
    loop_thread_.store(std::thread::id(), std::memory_order_relaxed);
  }

  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    Wake();
  }

  void Post(Task task) {
    bool wake = false;
    {
      const std::lock_guard lock(mutex_);
      if (!stopping_) {
        posted_.push_back(std::move(task));
        wake = !std::exchange(wake_pending_, true);
      }
    }
    // The loop looks at the queue before it sleeps, so its own thread needs no wake-up. A refused
    // task is destroyed here, outside the lock.
    if (wake && !InLoopThread()) Wake();
  }

  bool InLoopThread() const {
    return loop_thread_.load(std::memory_order_relaxed) == std::this_thread::get_id();
  }

  void Watch(int fd, uint32_t interest, absl::AnyInvocable<void(uint32_t)> ready) {
    if (fd < 0) Fatal("Watch", EBADF);
    const auto index = static_cast<size_t>(fd);
    if (watches_.size() <= index) watches_.resize(index + 1);
    if (watches_[index] != nullptr) Fatal("Watch", EEXIST);
    watches_[index] = std::make_unique<Watched>(Watched{fd, interest, false, std::move(ready)});
    Control(EPOLL_CTL_ADD, *watches_[index]);
  }

  void ChangeInterest(int fd, uint32_t interest) {
    Watched* watched = FindWatch(fd);
    if (watched == nullptr) Fatal("ChangeInterest", ENOENT);
    if (watched->interest == interest) return;
    watched->interest = interest;
    Control(EPOLL_CTL_MOD, *watched);
  }

  void Unwatch(int fd) {
    Watched* watched = FindWatch(fd);
    if (watched == nullptr) return;
    Control(EPOLL_CTL_DEL, *watched);
    watched->dead = true;
    // The handler may be the caller: it is destroyed at the end of the turn.
    dead_.push_back(std::move(watches_[static_cast<size_t>(fd)]));
  }

  TimerId After(Duration delay, Task task) {
    const TimerId id = next_timer_++;
    const Duration deadline = Now() + std::max(delay, Duration::zero());
    timer_tasks_.emplace(id, std::move(task));
    timer_heap_.push_back({deadline, id});
    std::push_heap(timer_heap_.begin(), timer_heap_.end(), Later);
    ArmTimer();
    return id;
  }

  void Cancel(TimerId timer) {
    const auto found = timer_tasks_.find(timer);
    if (found == timer_tasks_.end()) return;
    const Task destroyed_last = std::move(found->second);
    timer_tasks_.erase(found);
    if (timer_heap_.size() > 2 * timer_tasks_.size() + kStaleTimersAllowed) CompactTimers();
  }

  [[nodiscard]] Duration found_since() const { return found_since_; }
  static uint64_t Count(Duration time) { return static_cast<uint64_t>(time.count()); }
  static Duration Now() {
    timespec now;
    ::clock_gettime(CLOCK_BOOTTIME, &now);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
  }

  HookId AddTurnEndHook(absl::AnyInvocable<void()> hook) {
    const HookId id = next_hook_++;
    hooks_.push_back(std::make_unique<Hook>(Hook{id, std::move(hook), false}));
    return id;
  }

  void RemoveTurnEndHook(HookId id) {
    for (auto& hook : hooks_) {
      if (hook->id == id) hook->removed = true;
    }
    if (!in_hooks_) EraseRemovedHooks();
  }

 private:
  struct Watched {
    int fd;
    uint32_t interest;
    bool dead;
    absl::AnyInvocable<void(uint32_t)> ready;
  };
  struct Timer {
    Duration deadline;
    TimerId id;
  };
  struct Hook {
    HookId id;
    absl::AnyInvocable<void()> run;
    bool removed;
  };

  // Orders the heap by deadline, then by order of creation.
  static bool Later(const Timer& a, const Timer& b) {
    return a.deadline != b.deadline ? a.deadline > b.deadline : a.id > b.id;
  }

  void AddInternal(int fd, void* tag) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = tag;
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) Fatal("epoll_ctl", errno);
  }

  void Control(int operation, Watched& watched) {
    epoll_event event{};
    event.events = EpollEvents(watched.interest);
    event.data.ptr = &watched;
    if (::epoll_ctl(epoll_, operation, watched.fd, &event) != 0) Fatal("epoll_ctl", errno);
  }

  Watched* FindWatch(int fd) {
    const auto index = static_cast<size_t>(fd);
    return fd >= 0 && index < watches_.size() ? watches_[index].get() : nullptr;
  }

  void Wake() {
    const uint64_t one = 1;
    // EAGAIN means that the counter is full, so the loop wakes anyway.
    [[maybe_unused]] const ssize_t written = ::write(wake_, &one, sizeof(one));
  }

  static void DrainCounter(int fd) {
    uint64_t count;
    [[maybe_unused]] const ssize_t got = ::read(fd, &count, sizeof(count));
  }

  // Waits and runs everything that is ready, then the hooks. False when the loop has been stopped
  // and nothing posted before that is left.
  bool Turn() {
    bool tasks_waiting;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_ && posted_.empty()) return false;
      tasks_waiting = !posted_.empty() || stopping_;
    }
    bool ran = Dispatch(tasks_waiting ? 0 : -1);
    ran |= RunPosted();
    ran |= RunTimers();
    if (ran) RunHooks();
    BuryTheDead();
    look_out_.Done(Count(Now()));
    return true;
  }

  bool Dispatch(int timeout_ms) {
    const int count = ::epoll_wait(epoll_, events_.data(), kEventsPerTurn, timeout_ms);
    if (count < 0 && errno != EINTR) Fatal("epoll_wait", errno);
    woke_ = Now();
    found_since_ = woke_ - Duration(look_out_.Found(Count(woke_)));
    bool ran = false;
    for (int i = 0; i < count; ++i) {
      void* const tag = events_[i].data.ptr;
      if (tag == &wake_) {
        DrainCounter(wake_);
      } else if (tag == &timer_) {
        DrainCounter(timer_);
        armed_ = Duration::max();
      } else if (auto* watched = static_cast<Watched*>(tag); !watched->dead) {
        ran = true;
        watched->ready(InterestOf(events_[i].events));
      }
    }
    return ran;
  }

  // Runs what was posted so far; what these tasks post waits for the next turn, so that descriptors
  // are not starved.
  bool RunPosted() {
    {
      const std::lock_guard lock(mutex_);
      running_.swap(posted_);
      wake_pending_ = false;
    }
    const bool ran = !running_.empty();
    for (Task& task : running_) {
      task();
      task = nullptr;
    }
    running_.clear();
    return ran;
  }

  // Those that were due when the turn began: the descriptor fires for what has come due since.
  bool RunTimers() {
    if (timer_heap_.empty()) return false;
    bool ran = false;
    while (!timer_heap_.empty() && timer_heap_.front().deadline <= woke_) {
      std::pop_heap(timer_heap_.begin(), timer_heap_.end(), Later);
      const TimerId id = timer_heap_.back().id;
      timer_heap_.pop_back();
      const auto found = timer_tasks_.find(id);
      if (found == timer_tasks_.end()) continue;
      Task task = std::move(found->second);
      timer_tasks_.erase(found);
      ran = true;
      task();
    }
    ArmTimer();
    return ran;
  }

  // A timer descriptor of CLOCK_BOOTTIME and not a timeout of epoll_wait, which stands still while
  // the machine is suspended. Set only when the earliest deadline moves forward.
  void ArmTimer() {
    if (timer_heap_.empty() || timer_heap_.front().deadline >= armed_) return;
    armed_ = timer_heap_.front().deadline;
    const auto seconds = std::chrono::floor<std::chrono::seconds>(armed_);
    itimerspec at{};
    at.it_value.tv_sec = seconds.count();
    at.it_value.tv_nsec = std::max<int64_t>(1, (armed_ - seconds).count());
    if (::timerfd_settime(timer_, TFD_TIMER_ABSTIME, &at, nullptr) != 0) {
      Fatal("timerfd_settime", errno);
    }
  }

  void CompactTimers() {
    std::erase_if(timer_heap_, [this](const Timer& t) { return !timer_tasks_.contains(t.id); });
    std::make_heap(timer_heap_.begin(), timer_heap_.end(), Later);
  }

  void RunHooks() {
    in_hooks_ = true;
    const size_t count = hooks_.size();  // a hook added by a hook runs from the next turn on
    for (size_t i = 0; i < count; ++i) {
      if (!hooks_[i]->removed) hooks_[i]->run();
    }
    in_hooks_ = false;
    EraseRemovedHooks();
  }

  void EraseRemovedHooks() {
    std::vector<std::unique_ptr<Hook>> removed;
    for (auto& hook : hooks_) {
      if (hook->removed) removed.push_back(std::move(hook));
    }
    if (!removed.empty()) std::erase(hooks_, nullptr);
  }

  void BuryTheDead() {
    while (!dead_.empty()) {
      auto dead = std::exchange(dead_, {});
      dead.clear();
    }
  }

  const int epoll_;
  int wake_;  // their addresses tag events of the loop itself
  int timer_;
  std::atomic<std::thread::id> loop_thread_{};

  // Not absl::Mutex: the system's Abseil hides its locking from ThreadSanitizer.
  std::mutex mutex_;  // guards the three below
  std::vector<Task> posted_;
  bool wake_pending_ = false;
  bool stopping_ = false;

  // Below: loop thread only.
  std::array<epoll_event, kEventsPerTurn> events_;
  std::vector<Task> running_;
  std::vector<std::unique_ptr<Watched>> watches_;  // by descriptor
  std::vector<std::unique_ptr<Watched>> dead_;     // until the end of the turn
  std::vector<Timer> timer_heap_;
  absl::flat_hash_map<TimerId, Task> timer_tasks_;
  TimerId next_timer_ = 1;
  LookOut look_out_{kAtOnceNanos};
  Duration woke_{0};         // when this turn's wait ended
  Duration found_since_{0};  // FoundSince
  Duration armed_ = Duration::max();
  std::vector<std::unique_ptr<Hook>> hooks_;
  HookId next_hook_ = 1;
  bool in_hooks_ = false;
};

EventLoop::EventLoop() : impl_(std::make_unique<Impl>()) {}
EventLoop::~EventLoop() = default;
void EventLoop::Run() { impl_->Run(); }
void EventLoop::Stop() { impl_->Stop(); }
void EventLoop::Post(Task task) { impl_->Post(std::move(task)); }
bool EventLoop::InLoopThread() const { return impl_->InLoopThread(); }

void EventLoop::Watch(int fd, uint32_t interest, absl::AnyInvocable<void(uint32_t)> ready) {
  impl_->Watch(fd, interest, std::move(ready));
}
void EventLoop::ChangeInterest(int fd, uint32_t interest) { impl_->ChangeInterest(fd, interest); }
void EventLoop::Unwatch(int fd) { impl_->Unwatch(fd); }

EventLoop::TimerId EventLoop::After(Duration delay, Task task) {
  return impl_->After(delay, std::move(task));
}
void EventLoop::Cancel(TimerId timer) { impl_->Cancel(timer); }
EventLoop::Duration EventLoop::Now() const { return Impl::Now(); }
EventLoop::Duration EventLoop::FoundSince() const { return impl_->found_since(); }

EventLoop::HookId EventLoop::AddTurnEndHook(absl::AnyInvocable<void()> hook) {
  return impl_->AddTurnEndHook(std::move(hook));
}
void EventLoop::RemoveTurnEndHook(HookId id) { impl_->RemoveTurnEndHook(id); }

}  // namespace tessera::sdc
