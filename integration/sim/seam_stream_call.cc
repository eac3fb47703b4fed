// services/sdc/engine/stream_call.h and stream_queue.h over the simulated network.
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "integration/sim/io_connection.h"
#include "services/sdc/engine/stream_call.h"

namespace tessera::sdc {
namespace {

std::unordered_map<const StreamCall*, std::shared_ptr<sim::IoConnection>>& Connections() {
  static auto* const connections =
      new std::unordered_map<const StreamCall*, std::shared_ptr<sim::IoConnection>>();
  return *connections;
}

}  // namespace

StreamQueue::~StreamQueue() = default;

StreamCall::StreamCall(EventLoop& loop, StreamQueue& queue, Listener* listener)
    : loop_(loop), queue_(queue), listener_(listener) {}

StreamCall::~StreamCall() { Connections().erase(this); }

// Targets are machines: "sim:3".
void StreamCall::Start(const std::string& target, std::shared_ptr<grpc::ChannelCredentials>) {
  self_ = shared_from_this();
  uint32_t node = 0;
  absl::string_view number = target;
  if (!absl::ConsumePrefix(&number, "sim:") || !absl::SimpleAtoi(number, &node)) {
    return FailSoon("no such address");
  }
  const std::weak_ptr<StreamCall> weak = weak_from_this();
  sim::IoConnection::ClientEnd end;
  end.received = [this, weak](const grpc::ByteBuffer& message) {
    loop_.Post([weak, message] {
      const auto self = weak.lock();
      if (self == nullptr || self->released_ || self->over_) return;
      if (self->listener_ != nullptr) (void)self->listener_->CallReceived(*self, message);
    });
  };
  end.ended = [this, weak](const std::string& why) {
    loop_.Post([weak, why] {
      if (const auto self = weak.lock(); self != nullptr) self->End(why);
    });
  };
  Connections()[this] = sim::IoConnection::Open(node, std::move(end));
}

void StreamCall::FailSoon(const std::string& why) {
  loop_.Post([self = shared_from_this(), why] { self->End(why); });
}

void StreamCall::Write(const grpc::ByteBuffer& message) {
  writing_ = true;
  // As a kernel does: what is on its way is not changed by what the sender does with its memory.
  std::vector<grpc::Slice> slices;
  (void)message.Dump(&slices);
  for (grpc::Slice& slice : slices) slice = grpc::Slice(slice.begin(), slice.size());
  Connections()[this]->Send(grpc::ByteBuffer(slices.data(), slices.size()));
  loop_.Post([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || !std::exchange(self->writing_, false)) return;
    if (!self->released_ && !self->over_ && self->listener_ != nullptr) {
      self->listener_->CallWrote(*self);
    }
  });
}

void StreamCall::Release() {
  if (std::exchange(released_, true) || over_) return;
  const auto found = Connections().find(this);
  if (found != Connections().end()) found->second->Leave();
  FailSoon("given up");
}

void StreamCall::WaitUntilOver() { End("given up"); }

void StreamCall::End(const std::string& why) {
  if (std::exchange(over_, true)) return;
  const std::shared_ptr<StreamCall> keep = std::move(self_);
  if (listener_ != nullptr) listener_->CallEnded(*this, why);
}

void StreamCall::ExpectWritten() {}
void StreamCall::ReadWhenIdle() {}
void StreamCall::OnStarted(bool) {}
void StreamCall::OnRead(bool) {}
void StreamCall::OnWritten(bool) {}
void StreamCall::OnFinished(bool) {}

}  // namespace tessera::sdc
