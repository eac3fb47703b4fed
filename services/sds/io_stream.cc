#include "services/sds/io_stream.h"

#include <utility>

#include "services/common/errors.h"

namespace tessera::sds {

void IoStream::Start(const v1::SdsHello& hello) {
  window_bytes_ = hello.window_bytes();
  self_ = shared_from_this();
  session_ = engine_->NewSession(self_);
  metrics_->open_streams->Increment();
  Step step;
  {
    absl::MutexLock lock(&mutex_);
    *gathered_.header.mutable_hello() = hello;
    has_gathered_ = true;
    step = NextStep();
  }
  Take(step);
}

IoStream::Step IoStream::NextStep() {
  Step step;
  if (finished_) return step;
  if (has_gathered_ && !writing_ && !broken_) {
    outgoing_ = EncodeIoResponse(gathered_);
    gathered_ = IoResponseFrame{};
    has_gathered_ = false;
    writing_bytes_ = reply_bytes_;
    writing_ = true;
    step.write = true;
  }
  if (!read_closed_ && !reading_ && request_bytes_ + reply_bytes_ < window_bytes_) {
    if (budget_->HasRoom()) {
      reading_ = true;
      starting_read_ = true;
      step.read = true;
    } else if (!waiting_for_room_) {
      waiting_for_room_ = true;
      step.wait_for_room = true;
    }
  }
  // A read in progress may stay: it ends with the call.
  const bool idle = !writing_ && !starting_read_ && messages_ == 0;
  if (idle && read_closed_ && (broken_ || !has_gathered_)) {
    finished_ = true;
    step.finish = true;
  }
  return step;
}

void IoStream::Take(const Step& step) {
  if (step.write) StartWrite(&outgoing_);
  if (step.read) {
    StartRead(&incoming_);
    Step next;
    {
      absl::MutexLock lock(&mutex_);
      starting_read_ = false;
      next = NextStep();
    }
    Take(next);
  }
  if (step.wait_for_room) {
    budget_->OnRoom([weak = weak_from_this()] {
      const std::shared_ptr<IoStream> stream = weak.lock();
      if (stream == nullptr) return;
      Step next;
      {
        absl::MutexLock lock(&stream->mutex_);
        stream->waiting_for_room_ = false;
        next = stream->NextStep();
      }
      stream->Take(next);
    });
  }
  if (step.finish) {
    absl::Status status;
    {
      absl::MutexLock lock(&mutex_);
      status = final_status_;
    }
    Finish(ToGrpcStatus(status));
  }
}

void IoStream::OnReadDone(bool ok) {
  size_t bytes = 0;
  grpc::ByteBuffer message;
  Step step;
  {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (!ok || read_closed_) {
      read_closed_ = true;
      step = NextStep();
    } else {
      message.Swap(&incoming_);
      bytes = message.Length();
      request_bytes_ += bytes;
      ++messages_;
      budget_->Take(bytes);
    }
  }
  if (message.Valid()) {
    engine_->Submit(session_, std::move(message), bytes);
    absl::MutexLock lock(&mutex_);
    step = NextStep();
  }
  Take(step);
}

void IoStream::OnWriteDone(bool ok) {
  Step step;
  uint64_t sent_bytes = 0;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    sent_bytes = writing_bytes_;
    reply_bytes_ -= writing_bytes_;
    writing_bytes_ = 0;
    if (!ok) {
      broken_ = true;
      read_closed_ = true;
    }
    step = NextStep();
  }
  budget_->Release(sent_bytes);
  Take(step);
}

void IoStream::Deliver(IoResponseFrame frame) {
  Step step;
  {
    absl::MutexLock lock(&mutex_);
    if (finished_ || broken_) return;
    const uint64_t bytes = PayloadBytes(frame.payload) + frame.header.ByteSizeLong();
    reply_bytes_ += bytes;
    budget_->Take(bytes);
    if (!has_gathered_) {
      gathered_ = std::move(frame);
      has_gathered_ = true;
    } else {
      gathered_.header.MergeFrom(frame.header);
      gathered_.payload.insert(gathered_.payload.end(),
                               std::make_move_iterator(frame.payload.begin()),
                               std::make_move_iterator(frame.payload.end()));
    }
    step = NextStep();
  }
  Take(step);
}

void IoStream::Release(size_t bytes) {
  budget_->Release(bytes);
  Step step;
  {
    absl::MutexLock lock(&mutex_);
    request_bytes_ -= bytes;
    --messages_;
    step = NextStep();
  }
  Take(step);
}

void IoStream::Break(const absl::Status& why) {
  Step step;
  {
    absl::MutexLock lock(&mutex_);
    if (final_status_.ok()) final_status_ = why;
    read_closed_ = true;
    step = NextStep();
  }
  Take(step);
}

void IoStream::Close() { Break(absl::UnavailableError("the server stops")); }

void IoStream::OnCancel() {
  Step step;
  {
    absl::MutexLock lock(&mutex_);
    broken_ = true;
    read_closed_ = true;
    if (final_status_.ok()) final_status_ = absl::CancelledError("cancelled");
    step = NextStep();
  }
  Take(step);
}

void IoStream::OnDone() {
  metrics_->open_streams->Decrement();
  uint64_t unsent_bytes = 0;
  {
    absl::MutexLock lock(&mutex_);
    unsent_bytes = reply_bytes_;
    reply_bytes_ = 0;
  }
  budget_->Release(unsent_bytes);
  on_closed_();
  session_ = nullptr;
  const std::shared_ptr<IoStream> last =
      std::move(self_);  // destroyed here unless a worker holds it
}

}  // namespace tessera::sds
