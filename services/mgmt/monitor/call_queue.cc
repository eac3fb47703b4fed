#include "services/mgmt/monitor/call_queue.h"

namespace tessera::mgmt {

CallQueue::~CallQueue() {
  for (const auto& [raw, tag] : open_) tag->Cancel();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
    // A call is over with its last event; what it would say, nobody wants to hear any more.
  }
}

bool CallQueue::Next(std::chrono::milliseconds timeout) {
  void* raw = nullptr;
  bool ok = false;
  const auto deadline = std::chrono::system_clock::now() + timeout;
  if (queue_.AsyncNext(&raw, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) return false;
  Tag* const tag = static_cast<Tag*>(raw);
  if (tag == &wake_tag_) return false;
  // Out of the map while it runs: what it starts may move the map's entries.
  const auto found = open_.find(tag);
  std::unique_ptr<Tag> owned = std::move(found->second);
  if (owned->Done(ok)) {
    open_[tag] = std::move(owned);
  } else {
    open_.erase(tag);
  }
  return true;
}

void CallQueue::Wake() {
  wake_.Set(&queue_, std::chrono::system_clock::now(), static_cast<Tag*>(&wake_tag_));
}

}  // namespace tessera::mgmt
