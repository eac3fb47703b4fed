#include "services/sdc/control/request_window.h"

#include <cerrno>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/sdc/control/sdc_control_service.h"

namespace tessera::sdc {
namespace {

constexpr size_t kRequestsMax = 32;
constexpr uint64_t kBytesMax = 8 << 20;

}  // namespace

struct RequestWindow::State {
  absl::Mutex mutex;
  size_t requests ABSL_GUARDED_BY(mutex) = 0;
  uint64_t bytes ABSL_GUARDED_BY(mutex) = 0;
  absl::Status status ABSL_GUARDED_BY(mutex);

  [[nodiscard]] bool HasRoom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    return !status.ok() || requests == 0 || (requests < kRequestsMax && bytes < kBytesMax);
  }
  [[nodiscard]] bool IsEmpty() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return requests == 0; }
};

// A request's place in the window. When it goes without an answer the loop has stopped.
struct RequestWindow::Ticket {
  Ticket(std::shared_ptr<State> s, uint64_t b) : state(std::move(s)), bytes(b) {}
  ~Ticket() {
    absl::MutexLock lock(&state->mutex);
    --state->requests;
    state->bytes -= bytes;
    if (state->status.ok()) state->status = std::move(result);
  }
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;

  const std::shared_ptr<State> state;  // shared by all requests of the window
  const uint64_t bytes;
  absl::Status result = absl::UnavailableError("the client is stopping");
};

RequestWindow::RequestWindow(EventLoop& loop, const SharedVolumes& volumes, uint64_t volume_id)
    : loop_(loop), volumes_(volumes), volume_id_(volume_id), state_(std::make_shared<State>()) {}

absl::Status RequestWindow::Begin(BlockRequest request, std::chrono::milliseconds timeout) {
  const uint64_t bytes = request.data.size_bytes();
  {
    absl::MutexLock lock(&state_->mutex);
    if (!state_->mutex.AwaitWithTimeout(absl::Condition(state_.get(), &State::HasRoom),
                                        absl::FromChrono(timeout))) {
      return absl::DeadlineExceededError("no request was answered within the call's deadline");
    }
    if (!state_->status.ok()) return state_->status;
    ++state_->requests;
    state_->bytes += bytes;
  }
  auto ticket = std::make_shared<Ticket>(state_, bytes);
  loop_.Post([volumes = &volumes_, volume_id = volume_id_, ticket = std::move(ticket),
              request = std::move(request)]() mutable {
    // The device may have been detached since it was found.
    const std::shared_ptr<BlockDevice> device = volumes->FindOffer(volume_id).device;
    if (device == nullptr) {
      ticket->result = FromBlockError(ESHUTDOWN, "the volume was detached");
      return;
    }
    request.done = [ticket = std::move(ticket)](const BlockReply& reply) {
      ticket->result = FromBlockError(reply.error, reply.message);
    };
    device->Submit(std::move(request));
  });
  return absl::OkStatus();
}

absl::Status RequestWindow::Finish(std::chrono::milliseconds timeout) {
  absl::MutexLock lock(&state_->mutex);
  if (!state_->mutex.AwaitWithTimeout(absl::Condition(state_.get(), &State::IsEmpty),
                                      absl::FromChrono(timeout))) {
    return absl::DeadlineExceededError("not all requests were answered within the call's deadline");
  }
  return state_->status;
}

}  // namespace tessera::sdc
