#include <algorithm>

#include "services/sds/io_operation.h"

namespace tessera::sds {

v1::IoResult* Outbox::Add(const std::shared_ptr<IoClient>& client,
                          const v1::IoOperation& operation) {
  if (last_ >= replies_.size() || replies_[last_].client != client) {
    const auto found =
        std::find_if(replies_.begin(), replies_.end(),
                     [&client](const Reply& reply) { return reply.client == client; });
    last_ = static_cast<size_t>(found - replies_.begin());
    if (found == replies_.end()) replies_.push_back({.client = client});
  }
  v1::IoResult* result = replies_[last_].frame.header.add_results();
  result->set_tag(operation.tag());
  return result;
}

void Outbox::AddPayload(grpc::Slice slice) {
  replies_[last_].frame.payload.push_back(std::move(slice));
}

void Outbox::Deliver() {
  for (Reply& reply : replies_) reply.client->Deliver(std::move(reply.frame));
  replies_.clear();
  last_ = 0;
}

}  // namespace tessera::sds
