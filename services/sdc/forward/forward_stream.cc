#include "services/sdc/forward/forward_stream.h"

#include <utility>

#include "services/common/grpc_server.h"

namespace tessera::sdc {

ForwardStreams::~ForwardStreams() {
  {
    absl::MutexLock lock(&ended_->mutex);
    ended_->mutex.Await(absl::Condition(
        +[](size_t* running) { return *running == 0; }, &ended_->running));
  }
  ended_->LetGo();
}

void ForwardStreams::Ended::LetGo() {
  std::vector<std::shared_ptr<ForwardStream>> gone;
  absl::MutexLock lock(&mutex);
  gone.swap(streams);
}

std::shared_ptr<ForwardStream> ForwardStreams::Open(const std::string& address,
                                                    ForwardStream::Listener* listener) {
  auto stream = std::make_shared<ForwardStream>(*this, listener);
  {
    absl::MutexLock lock(&ended_->mutex);
    ++ended_->running;
  }
  stream->Start(address, credentials_);
  return stream;
}

// On a thread of gRPC: the loop destroys it.
void ForwardStreams::Over(std::shared_ptr<ForwardStream> stream) {
  const std::shared_ptr<Ended> ended = ended_;
  absl::MutexLock lock(&ended->mutex);
  ended->streams.push_back(std::move(stream));
  loop_.Post([ended] { ended->LetGo(); });
  // Last: the destructor may be waiting.
  --ended->running;
}

void ForwardStream::Start(const std::string& address,
                          const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  self_ = shared_from_this();
  // A fresh connection each time: gRPC's back-off must not add to ours.
  channel_ = NewChannel(address, credentials);
  stub_ = v1::ForwardService::NewStub(channel_);
  stub_->async()->Forward(&context_, this);
  AddHold();
  held_ = true;
  StartRead(&incoming_);
  StartCall();
}

void ForwardStream::Write(v1::ForwardRequest request) {
  if (!held_) return;
  writes_.push_back(std::move(request));
  WriteNext();
}

void ForwardStream::WriteNext() {
  if (writing_ || writes_.empty() || !held_) return;
  writing_ = true;
  StartWrite(&writes_.front());
}

void ForwardStream::Close() {
  listener_ = nullptr;
  Ended("");
}

void ForwardStream::Ended(const std::string& why) {
  if (std::exchange(held_, false)) {
    context_.TryCancel();
    RemoveHold();
  }
  Listener* listener = std::exchange(listener_, nullptr);
  if (listener != nullptr) listener->StreamEnded(why);
}

void ForwardStream::OnReadDone(bool ok) {
  if (!ok) {
    streams_.loop_.Post([self = shared_from_this()] { self->Ended("the stream ended"); });
    return;
  }
  auto response = std::make_unique<v1::ForwardResponse>(std::move(incoming_));
  incoming_.Clear();
  streams_.loop_.Post([self = shared_from_this(), response = std::move(response)] {
    if (self->listener_ != nullptr) self->listener_->StreamReceived(std::move(*response));
  });
  // Answers are bounded by what was asked.
  StartRead(&incoming_);
}

void ForwardStream::OnWriteDone(bool ok) {
  streams_.loop_.Post([self = shared_from_this(), ok] {
    self->writing_ = false;
    self->writes_.pop_front();
    // When it failed, the read side sees the end, too.
    if (ok) self->WriteNext();
  });
}

void ForwardStream::OnDone(const grpc::Status& status) {
  streams_.loop_.Post(
      [self = shared_from_this(), why = status.error_message()] { self->Ended(why); });
  streams_.Over(std::move(self_));
}

}  // namespace tessera::sdc
