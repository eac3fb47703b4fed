#include "services/common/grpc_queue.h"

#include <grpc/support/time.h>

#include <cstdlib>

namespace tessera {

bool PollQueuesByThemselves() {
  return setenv("GRPC_POLL_STRATEGY", "poll", 1) == 0 &&
         setenv("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", "50", 1) == 0;
}

bool RunReadyTags(grpc::CompletionQueue* queue, int limit) {
  void* tag = nullptr;
  bool ok = false;
  for (int i = 0; i < limit; ++i) {
    switch (queue->AsyncNext(&tag, &ok, gpr_inf_past(GPR_CLOCK_MONOTONIC))) {
      case grpc::CompletionQueue::GOT_EVENT:
        static_cast<QueueTag*>(tag)->Done(ok);
        break;
      case grpc::CompletionQueue::TIMEOUT:
        return true;
      case grpc::CompletionQueue::SHUTDOWN:
        return false;
    }
  }
  return true;
}

void DrainQueue(grpc::CompletionQueue* queue) {
  queue->Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) static_cast<QueueTag*>(tag)->Done(ok);
}

}  // namespace tessera
