// The threads of the services in the simulated world: WorkerThread's cycles are events, Executor's
// tasks and BackgroundLoop's rounds run in fibers, waits let the world go on. All belong to the
// life that made them.
#include <unordered_map>
#include <utility>

#include "integration/sim/disk_speed.h"
#include "integration/sim/world.h"
#include "services/common/executor.h"
#include "services/common/wait.h"
#include "services/mdm/background_loop.h"
#include "services/sds/worker_thread.h"

namespace tessera {
namespace {

using sim::World;

// What the simulator adds to an object of a service.
template <typename State>
State& Side(const void* owner) {
  static auto* const states = new std::unordered_map<const void*, State>();
  return (*states)[owner];
}

// A wait looks again after a millisecond, then ever more seldom.
constexpr sim::Nanos kPollMin = sim::kMillisecond;
constexpr sim::Nanos kPollMax = 64 * sim::kMillisecond;

// False when `end` is reached.
bool PollAgain(sim::Nanos end, sim::Nanos* pause) {
  if (World::Get().now() >= end) return false;
  World::Get().Sleep(std::min(*pause, end - World::Get().now()));
  *pause = std::min(*pause * 2, kPollMax);
  return true;
}

}  // namespace

bool AwaitWithTimeout(absl::Mutex* mutex, const absl::Condition& condition,
                      absl::Duration timeout) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  const sim::Nanos end =
      World::Get().now() + static_cast<sim::Nanos>(absl::ToInt64Nanoseconds(timeout));
  sim::Nanos pause = kPollMin;
  while (!condition.Eval()) {
    mutex->Unlock();
    const bool again = PollAgain(end, &pause);
    mutex->Lock();
    if (!again) return condition.Eval();
  }
  return true;
}

bool AwaitNotification(const absl::Notification& notification, absl::Duration timeout) {
  const sim::Nanos end =
      World::Get().now() + static_cast<sim::Nanos>(absl::ToInt64Nanoseconds(timeout));
  sim::Nanos pause = kPollMin;
  while (!notification.HasBeenNotified()) {
    if (!PollAgain(end, &pause)) return notification.HasBeenNotified();
  }
  return true;
}

void Pause(absl::Duration duration) {
  World::Get().Sleep(static_cast<sim::Nanos>(absl::ToInt64Nanoseconds(duration)));
}

// ---- Executor

namespace {
struct ExecutorState {
  sim::Life* life = nullptr;
  size_t running = 0;
};
}  // namespace

Executor::Executor(const ExecutorOptions& options) : options_(options) {
  Side<ExecutorState>(this) = {World::Get().current(), 0};
}

Executor::~Executor() = default;

bool Executor::Post(Task task) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_ || queue_.size() >= options_.queue_limit) return false;
    queue_.push_back(std::move(task));
  }
  ExecutorState& state = Side<ExecutorState>(this);
  if (state.running >= options_.threads) return true;
  ++state.running;
  World::Get().Spawn(state.life, [this] { Work(); });
  return true;
}

void Executor::Work() {
  while (true) {
    Task task;
    {
      absl::MutexLock lock(&mutex_);
      if (queue_.empty()) break;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    // A disk that is slow is slow to readers, too.
    const sim::Nanos cycle = sim::CycleNanos(*Side<ExecutorState>(this).life);
    if (cycle > sim::kMillisecond) World::Get().Sleep(World::Get().random().Below(cycle));
    task();
  }
  --Side<ExecutorState>(this).running;
}

void Executor::Shutdown() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
}

size_t Executor::queued() const {
  absl::MutexLock lock(&mutex_);
  return queue_.size();
}

namespace mdm {

// ---- BackgroundLoop

namespace {
struct LoopState {
  sim::Life* life = nullptr;
  World::Wait wait;
  bool waiting = false;
};
}  // namespace

BackgroundLoop::BackgroundLoop(const Options& options, std::function<void()> body)
    : options_(options), body_(std::move(body)) {
  Side<LoopState>(this).life = World::Get().current();
  World::Get().Spawn(World::Get().current(), [this] { Run(); });
}

void BackgroundLoop::Wake() {
  {
    absl::MutexLock lock(&mutex_);
    woken_ = true;
  }
  LoopState& state = Side<LoopState>(this);
  if (state.waiting) World::Get().Unpark(state.wait);
}

void BackgroundLoop::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
}

void BackgroundLoop::Run() {
  LoopState& state = Side<LoopState>(this);
  while (true) {
    bool woken = false;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      woken = std::exchange(woken_, false);
    }
    if (!woken) {
      state.wait = World::Get().NewWait();
      state.waiting = true;
      World::Get().After(static_cast<sim::Nanos>(options_.period.count()) * sim::kMillisecond,
                         state.life, [wait = state.wait] { World::Get().Unpark(wait); });
      World::Get().Park(state.wait);
      state.waiting = false;
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      woken_ = false;
    }
    body_();
  }
}

}  // namespace mdm

namespace sds {

// ---- WorkerThread

namespace {
struct WorkerState {
  sim::Life* life = nullptr;
  bool scheduled = false;
  bool running = false;
  sim::Nanos busy_until = 0;
};
}  // namespace

void WorkerThread::Start(const std::string&, std::function<void()> end_of_cycle) {
  end_of_cycle_ = std::move(end_of_cycle);
  absl::MutexLock lock(&mutex_);
  stopping_ = false;
  Side<WorkerState>(this) = {World::Get().current()};
}

bool WorkerThread::Post(Task task) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return false;
    queue_.push_back(std::move(task));
  }
  WorkerState& state = Side<WorkerState>(this);
  if (std::exchange(state.scheduled, true)) return true;
  const sim::Nanos soon = World::Get().now() + World::Get().random().Below(5 * sim::kMicrosecond);
  World::Get().At(std::max(soon, state.busy_until), state.life, [this] { Run(); });
  return true;
}

void WorkerThread::PostAfter(absl::Duration delay, Task task) {
  World::Get().After(static_cast<sim::Nanos>(absl::ToInt64Nanoseconds(delay)),
                     Side<WorkerState>(this).life,
                     [this, task = std::make_shared<Task>(std::move(task))] {
                       (void)Post([task] { (*task)(); });
                     });
}

void WorkerThread::Run() {
  WorkerState& state = Side<WorkerState>(this);
  state.scheduled = false;
  state.running = true;
  std::vector<Task> tasks;
  {
    absl::MutexLock lock(&mutex_);
    tasks.swap(queue_);
  }
  for (Task& task : tasks) task();
  end_of_cycle_();
  state.running = false;
  state.busy_until = World::Get().now() + sim::CycleNanos(*state.life);
}

bool WorkerThread::RunAndWait(Task task) {
  const World::Wait wait = World::Get().NewWait();
  if (!Post([&task, wait] {
        task();
        World::Get().Unpark(wait);
      })) {
    World::Get().Unpark(wait);
    return false;
  }
  World::Get().Park(wait);
  return true;
}

void WorkerThread::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
}

void WorkerThread::EnterQueue(grpc::CompletionQueue*) {}
void WorkerThread::LeaveQueue() {}

size_t WorkerThread::queued() const {
  absl::MutexLock lock(&mutex_);
  return queue_.size();
}

bool WorkerThread::IsCurrent() const { return Side<WorkerState>(this).running; }
bool WorkerThread::NextTasks(std::vector<Task>*) { return false; }
bool WorkerThread::AwaitTasks(std::vector<Task>*) { return false; }
void WorkerThread::AwaitTag() {}
void WorkerThread::TakeDue(std::vector<Task>*) {}
void WorkerThread::Woken(bool) {}

}  // namespace sds
}  // namespace tessera
