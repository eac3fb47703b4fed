// The simulated world: virtual time, the queue of what happens next, processes' lives, and fibers
// for code that blocks. One thread, one seed: the same seed gives the same run.
//
// An event belongs to a life (one run of a process) or to nobody (the world itself). Events of a
// life that has ended are dropped unseen, those of a stopped one wait. Objects of an ended life are
// never destroyed: a killed process runs no destructors. The memory goes with the seed's process.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_WORLD_H_
#define TESSERA_INTEGRATION_SIM_WORLD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "libchunk/seeded_random.h"
#include "services/common/clock.h"

namespace tessera::sim {

using Nanos = uint64_t;  // of virtual time
inline constexpr Nanos kMicrosecond = 1'000;
inline constexpr Nanos kMillisecond = 1'000'000;
inline constexpr Nanos kSecond = 1'000'000'000;

using Task = absl::AnyInvocable<void()>;

// A machine's clock: boot time drifts by a few parts per million, wall time may be set.
class MachineClock final : public Clock {
 public:
  [[nodiscard]] uint64_t WallMillis() const override;
  [[nodiscard]] uint64_t BootNanos() const override;
  void SetDrift(int64_t parts_per_million);
  void JumpWall(int64_t milliseconds) { wall_offset_ms_ += milliseconds; }
  // The machine booted now.
  void Boot();

 private:
  Nanos since_ = 0;                   // virtual time at which
  uint64_t boot_at_ = 1'000'000'000;  // boot time was this
  int64_t drift_ppm_ = 0;
  int64_t wall_offset_ms_ = 0;
};

// One run of a process.
struct Life {
  std::string name;
  uint32_t node = 0;
  MachineClock* clock = nullptr;
  bool running = true;
  Nanos stopped_until = 0;      // SIGSTOP until then
  std::function<bool()> muted;  // its machine is already off: nothing it does can be seen
  // Told when the process is killed while its machine lives, unless the flag is set by then.
  std::vector<std::pair<std::shared_ptr<bool>, std::function<void()>>> if_killed;

  void IfKilled(std::shared_ptr<bool> over, std::function<void()> tell);
};

class Fiber;

class World {
 public:
  explicit World(uint64_t seed);
  static World& Get();

  [[nodiscard]] Nanos now() const { return now_; }
  [[nodiscard]] chunk::SeededRandom& random() { return random_; }
  [[nodiscard]] uint64_t steps() const { return steps_; }
  // Whose event runs; null: the world's.
  [[nodiscard]] Life* current() const { return current_; }

  void At(Nanos when, Life* life, Task task);
  void After(Nanos delay, Life* life, Task task) { At(now_ + delay, life, std::move(task)); }
  // Runs the next event. False: there is none.
  bool Step();

  // Code that may block: runs as an event of the life, on a stack of its own.
  void Spawn(Life* life, Task task);
  [[nodiscard]] bool in_fiber() const { return fiber_ != nullptr; }
  void Sleep(Nanos duration);
  // A wait is named before it begins, so that what ends it may come first.
  struct Wait {
    Fiber* fiber = nullptr;
    uint64_t number = 0;
  };
  [[nodiscard]] Wait NewWait();
  void Park(const Wait& wait);
  // Ends the wait, soon. Nothing when it has ended.
  void Unpark(const Wait& wait);

  // As if in the life: what is made meanwhile belongs to it.
  void RunAs(Life* life, const std::function<void()>& body);

  // ---- The trace: printed when asked for; its hash always, to tell whether runs are the same.
  void set_trace(bool trace) { trace_ = trace; }
  [[nodiscard]] bool tracing() const { return trace_; }
  void Trace(const std::string& line);
  [[nodiscard]] uint64_t hash() const { return hash_; }
  void Mix(uint64_t value);

  // The first thing that must not happen ends the run.
  void Violation(const std::string& what);
  [[nodiscard]] const std::string& violation() const { return violation_; }

 private:
  struct Event {
    Nanos when = 0;
    uint64_t tie = 0;
    uint64_t number = 0;
    Life* life = nullptr;
    Task task;
  };
  static bool Later(const Event& a, const Event& b);
  void Push(Event event);
  void Resume(Fiber* fiber);
  static void FiberMain();

  chunk::SeededRandom random_;
  Nanos now_ = 0;
  uint64_t steps_ = 0;
  uint64_t events_ = 0;
  std::vector<Event> queue_;  // a heap
  Life* current_ = nullptr;
  Fiber* fiber_ = nullptr;
  std::vector<Fiber*> spare_fibers_;
  bool trace_ = false;
  uint64_t hash_ = 1469598103934665603u;
  std::string violation_;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_WORLD_H_
