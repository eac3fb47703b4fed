// Requests of one call to one volume that are on their way at once: a bounded number with a bounded
// number of bytes. The first error is kept, and nothing is begun after it.
//
// Threads: any but the loop's own; one at a time.
#ifndef TESSERA_SERVICES_SDC_CONTROL_REQUEST_WINDOW_H_
#define TESSERA_SERVICES_SDC_CONTROL_REQUEST_WINDOW_H_

#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "services/sdc/forward/shared_volumes.h"

namespace tessera::sdc {

class RequestWindow {
 public:
  // Both must outlive it and its requests.
  RequestWindow(EventLoop& loop, const SharedVolumes& volumes, uint64_t volume_id);

  // Begins the request when there is room. The error of an earlier one; DEADLINE_EXCEEDED when none
  // ends in time. `done` of the request is not used.
  [[nodiscard]] absl::Status Begin(BlockRequest request, std::chrono::milliseconds timeout);
  // Waits for the end of all of them.
  [[nodiscard]] absl::Status Finish(std::chrono::milliseconds timeout);

 private:
  struct State;
  struct Ticket;

  EventLoop& loop_;
  const SharedVolumes& volumes_;
  const uint64_t volume_id_;
  const std::shared_ptr<State> state_;  // shared with requests under way
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_REQUEST_WINDOW_H_
