// services/sdc/event_loop.h in the simulated world: turns and timers are events of the life that
// made the loop. Descriptors can't be watched: nothing here has any.
#include <map>
#include <utility>
#include <vector>

#include "integration/sim/world.h"
#include "services/sdc/event_loop.h"

namespace tessera::sdc {
namespace {

using sim::World;
constexpr sim::Nanos kWakeNanos = 3 * sim::kMicrosecond;

}  // namespace

class EventLoop::Impl {
 public:
  Impl() : life_(World::Get().current()) {}

  void Post(Task task) {
    tasks_.push_back(std::move(task));
    if (std::exchange(turn_set_, true)) return;
    World::Get().After(World::Get().random().Below(kWakeNanos), life_, [this] { Turn(); });
  }
  TimerId After(Duration delay, Task task) {
    const TimerId id = ++last_timer_;
    timers_[id] = std::move(task);
    World::Get().After(static_cast<sim::Nanos>(delay.count()), life_, [this, id] {
      if (!timers_.contains(id)) return;
      // What was posted runs first, and may cancel it.
      tasks_.push_back([this, id] {
        const auto found = timers_.find(id);
        if (found == timers_.end()) return;
        Task due = std::move(found->second);
        timers_.erase(found);
        due();
      });
      Turn();
    });
    return id;
  }
  void Cancel(TimerId id) { timers_.erase(id); }
  HookId AddHook(absl::AnyInvocable<void()> hook) {
    hooks_[++last_hook_] = std::move(hook);
    return last_hook_;
  }
  void RemoveHook(HookId id) { hooks_.erase(id); }
  [[nodiscard]] Duration Now() const {
    return Duration(static_cast<int64_t>(life_->clock->BootNanos()));
  }

 private:
  void Turn() {
    turn_set_ = false;
    std::vector<Task> tasks;
    tasks.swap(tasks_);
    for (Task& task : tasks) task();
    std::vector<HookId> ids;
    for (const auto& [id, hook] : hooks_) ids.push_back(id);
    for (const HookId id : ids) {
      const auto hook = hooks_.find(id);
      if (hook != hooks_.end()) hook->second();
    }
  }

  sim::Life* const life_;
  std::vector<Task> tasks_;
  bool turn_set_ = false;
  std::map<TimerId, Task> timers_;
  TimerId last_timer_ = 0;
  std::map<HookId, absl::AnyInvocable<void()>> hooks_;
  HookId last_hook_ = 0;
};

EventLoop::EventLoop() : impl_(std::make_unique<Impl>()) {}
EventLoop::~EventLoop() = default;
void EventLoop::Run() {}
void EventLoop::Stop() {}
void EventLoop::Post(Task task) { impl_->Post(std::move(task)); }
bool EventLoop::InLoopThread() const { return true; }
void EventLoop::Watch(int, uint32_t, absl::AnyInvocable<void(uint32_t)>) {}
void EventLoop::ChangeInterest(int, uint32_t) {}
void EventLoop::Unwatch(int) {}
EventLoop::TimerId EventLoop::After(Duration delay, Task task) {
  return impl_->After(delay, std::move(task));
}
void EventLoop::Cancel(TimerId timer) { impl_->Cancel(timer); }
EventLoop::Duration EventLoop::Now() const { return impl_->Now(); }
EventLoop::Duration EventLoop::FoundSince() const { return impl_->Now(); }
EventLoop::HookId EventLoop::AddTurnEndHook(absl::AnyInvocable<void()> hook) {
  return impl_->AddHook(std::move(hook));
}
void EventLoop::RemoveTurnEndHook(HookId id) { impl_->RemoveHook(id); }

}  // namespace tessera::sdc
