#include "integration/sim/world.h"

#include <sys/mman.h>
#include <ucontext.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace tessera::sim {
namespace {

constexpr size_t kStackBytes = 512u << 10;
constexpr uint64_t kWallStartMillis = 1'700'000'000'000;
World* g_world = nullptr;

[[noreturn]] void Broken(const char* what) {
  std::fprintf(stderr, "broken invariant of the simulator: %s\n", what);
  std::abort();
}

}  // namespace

// A stack of its own. Sanitizers are told of each change of stacks.
class Fiber {
 public:
  explicit Fiber(void (*body)()) {
    getcontext(&context_);
    stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, body, 0);
#if defined(__SANITIZE_THREAD__)
    own_fiber_ = __tsan_create_fiber(0);
#endif
  }
  // From the scheduler's stack; returns when the fiber leaves.
  void Enter() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stack_, kStackBytes);
#elif defined(__SANITIZE_THREAD__)
    scheduler_fiber_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(own_fiber_, 0);
#endif
    swapcontext(&scheduler_, &context_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }
  // The first thing on its stack.
  void Begin() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }
  // Back to the scheduler; returns when the fiber is entered again.
  void Leave() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, scheduler_stack_, scheduler_stack_bytes_);
#elif defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(scheduler_fiber_, 0);
#endif
    swapcontext(&context_, &scheduler_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

  Life* life = nullptr;
  Task task;
  uint64_t waits = 0;  // begun
  bool parked = false;
  bool over = true;

 private:
  ucontext_t context_{};
  ucontext_t scheduler_{};
  void* stack_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
#elif defined(__SANITIZE_THREAD__)
  void* own_fiber_ = nullptr;
  void* scheduler_fiber_ = nullptr;
#endif
};

void Life::IfKilled(std::shared_ptr<bool> over, std::function<void()> tell) {
  if (if_killed.size() >= 64) {
    std::erase_if(if_killed, [](const auto& entry) { return *entry.first; });
  }
  if_killed.emplace_back(std::move(over), std::move(tell));
}

uint64_t MachineClock::BootNanos() const {
  const Nanos passed = World::Get().now() - since_;
  const auto drifted =
      static_cast<int64_t>(passed) + static_cast<int64_t>(passed / 1'000'000) * drift_ppm_;
  return boot_at_ + static_cast<uint64_t>(drifted);
}

uint64_t MachineClock::WallMillis() const {
  return kWallStartMillis + World::Get().now() / kMillisecond +
         static_cast<uint64_t>(wall_offset_ms_);
}

void MachineClock::SetDrift(int64_t parts_per_million) {
  boot_at_ = BootNanos();
  since_ = World::Get().now();
  drift_ppm_ = parts_per_million;
}

void MachineClock::Boot() {
  boot_at_ = kSecond;
  since_ = World::Get().now();
}

World::World(uint64_t seed) : random_(seed) { g_world = this; }

World& World::Get() { return *g_world; }

bool World::Later(const Event& a, const Event& b) {
  return std::tie(a.when, a.tie, a.number) > std::tie(b.when, b.tie, b.number);
}

void World::Push(Event event) {
  queue_.push_back(std::move(event));
  std::push_heap(queue_.begin(), queue_.end(), Later);
}

void World::At(Nanos when, Life* life, Task task) {
  Push({std::max(when, now_), random_.Next(), ++events_, life, std::move(task)});
}

bool World::Step() {
  while (!queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end(), Later);
    Event event = std::move(queue_.back());
    queue_.pop_back();
    now_ = event.when;
    Life* life = event.life;
    if (life != nullptr && !life->running) {
      // Its closure is not destroyed either: what it holds may be half way through something.
      (void)new Task(std::move(event.task));
      continue;
    }
    if (life != nullptr && life->stopped_until > now_) {
      event.when = life->stopped_until;
      Push(std::move(event));
      continue;
    }
    ++steps_;
    Mix(now_);
    current_ = life;
    event.task();
    current_ = nullptr;
    return true;
  }
  return false;
}

void World::RunAs(Life* life, const std::function<void()>& body) {
  Life* const before = std::exchange(current_, life);
  body();
  current_ = before;
}

void World::FiberMain() {
  g_world->fiber_->Begin();
  while (true) {
    Fiber* self = g_world->fiber_;
    self->task();
    self->task = nullptr;
    self->over = true;
    self->Leave();
  }
}

void World::Resume(Fiber* fiber) {
  Fiber* const before = std::exchange(fiber_, fiber);
  if (before != nullptr) Broken("a fiber is resumed from a fiber");
  fiber->Enter();
  fiber_ = nullptr;
  if (fiber->over) spare_fibers_.push_back(fiber);
}

void World::Spawn(Life* life, Task task) {
  At(now_, life, [this, life, task = std::move(task)]() mutable {
    if (spare_fibers_.empty()) spare_fibers_.push_back(new Fiber(&World::FiberMain));
    Fiber* fiber = spare_fibers_.back();
    spare_fibers_.pop_back();
    fiber->life = life;
    fiber->task = std::move(task);
    fiber->over = false;
    Resume(fiber);
  });
}

World::Wait World::NewWait() {
  if (fiber_ == nullptr) Broken("something blocks outside of a fiber");
  return {fiber_, ++fiber_->waits};
}

void World::Park(const Wait& wait) {
  Fiber* const fiber = wait.fiber;
  if (fiber->waits != wait.number) return;  // ended already
  fiber->parked = true;
  fiber->Leave();
  fiber->parked = false;
}

void World::Unpark(const Wait& wait) {
  if (wait.fiber->waits != wait.number) return;
  ++wait.fiber->waits;
  if (!wait.fiber->parked) return;
  At(now_, wait.fiber->life, [this, fiber = wait.fiber] { Resume(fiber); });
}

void World::Sleep(Nanos duration) {
  const Wait wait = NewWait();
  At(now_ + duration, wait.fiber->life, [this, wait] { Unpark(wait); });
  Park(wait);
}

void World::Mix(uint64_t value) {
  hash_ = (hash_ ^ value) * 1099511628211u;
  hash_ ^= hash_ >> 29;
}

void World::Trace(const std::string& line) {
  for (const char c : line) Mix(static_cast<uint64_t>(c));
  if (!trace_) return;
  std::printf("%11.6f %-6s %s\n", static_cast<double>(now_) / 1e9,
              current_ == nullptr ? "" : current_->name.c_str(), line.c_str());
}

void World::Violation(const std::string& what) {
  Trace("VIOLATION " + what);
  if (violation_.empty()) violation_ = what;
}

}  // namespace tessera::sim
