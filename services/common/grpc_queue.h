// gRPC's completion queues, polled by threads of ours that do more than poll.
//
// gRPC's own threads hand each event from one to another: at one operation at a time that costs
// several times what the operation does. Where it counts (ChunkService.Io), the thread that does
// the work polls the queue itself.
//
// For that, the process polls each queue's own sockets ("poll", see PollQueuesByThemselves) and not
// all sockets in one set, where any polling thread may get, and must then pass on, the event of
// another's. The price is one poll() over a queue's sockets each time: some microseconds for a
// hundred clients.
#ifndef TESSERA_SERVICES_COMMON_GRPC_QUEUE_H_
#define TESSERA_SERVICES_COMMON_GRPC_QUEUE_H_

#include <grpcpp/completion_queue.h>

namespace tessera {

// What a queue gives back of an operation that was begun on it. Must live until then.
class QueueTag {
 public:
  // On the thread that polls. `ok`: see grpc::CompletionQueue::Next.
  virtual void Done(bool ok) = 0;

 protected:
  ~QueueTag() = default;
};

// Calls owner->*kMethod.
template <typename Owner, void (Owner::*kMethod)(bool)>
class MemberTag final : public QueueTag {
 public:
  explicit MemberTag(Owner* owner) : owner_(owner) {}
  void Done(bool ok) override { (owner_->*kMethod)(ok); }

 private:
  Owner* const owner_;
};

// Makes gRPC poll as said above (environment variables of gRPC's documentation); true. A channel
// that connects while no call of it waits has nobody to poll for it then, but gRPC's backup poller,
// which looks every 5 s by default: later than an attempt to connect may take. It is made to look
// every 50 ms.
// It counts only before the process first uses gRPC: call it from the initialiser of a
// constant in the file that relies on it.
bool PollQueuesByThemselves();

// Runs the tags that are there now, at most `limit`. False when the queue was shut down and is
// empty.
bool RunReadyTags(grpc::CompletionQueue* queue, int limit);
// Shuts the queue down and runs its tags until it is empty. Nothing may be begun on it any more.
void DrainQueue(grpc::CompletionQueue* queue);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_GRPC_QUEUE_H_
