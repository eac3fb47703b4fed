// Asking the event loop from another thread and waiting for the answer.
//
// Threads: any but the loop's own.
#ifndef TESSERA_SERVICES_SDC_CONTROL_LOOP_CALL_H_
#define TESSERA_SERVICES_SDC_CONTROL_LOOP_CALL_H_

#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/sdc/event_loop.h"

namespace tessera::sdc {

// Runs `start(answer)` on the loop and waits until somebody calls answer(value), on the loop, now
// or later. DEADLINE_EXCEEDED when nobody does in time: what was started goes on. UNAVAILABLE when
// `answer` is dropped, as it is when the loop has stopped.
template <typename Value>
absl::StatusOr<Value> AskLoop(EventLoop& loop, std::chrono::milliseconds timeout,
                              absl::AnyInvocable<void(absl::AnyInvocable<void(Value)>)> start) {
  struct State {
    absl::Mutex mutex;
    bool over ABSL_GUARDED_BY(mutex) = false;
    std::optional<Value> value ABSL_GUARDED_BY(mutex);
  };
  // What the answer holds: says that it is over when the answer goes.
  struct Asked {
    std::shared_ptr<State> state;
    explicit Asked(std::shared_ptr<State> s) : state(std::move(s)) {}
    ~Asked() {
      absl::MutexLock lock(&state->mutex);
      state->over = true;
    }
  };
  auto state = std::make_shared<State>();
  loop.Post([asked = std::make_shared<Asked>(state), start = std::move(start)]() mutable {
    start([asked = std::move(asked)](Value value) {
      absl::MutexLock lock(&asked->state->mutex);
      asked->state->value = std::move(value);
      asked->state->over = true;
    });
  });
  absl::MutexLock lock(&state->mutex);
  if (!state->mutex.AwaitWithTimeout(absl::Condition(&state->over), absl::FromChrono(timeout))) {
    return absl::DeadlineExceededError("no answer within the call's deadline");
  }
  if (!state->value.has_value()) return absl::UnavailableError("the client is stopping");
  return std::move(*state->value);
}

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_LOOP_CALL_H_
