#include "services/sds/io_stream.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "services/common/errors.h"

namespace tessera::sds {

void IoStream::OnAccepted(bool ok) {
  parts_.on_accepted(self_, ok);
  if (!ok) {
    self_ = nullptr;
    return;
  }
  const v1::SdsHello hello = parts_.hello();
  window_bytes_ = hello.window_bytes();
  session_ = parts_.engine->NewSession(self_, parts_.home);
  parts_.metrics->open_streams->Increment();
  *gathered_.header.mutable_hello() = hello;
  has_gathered_ = true;
  Proceed();
  OperationEnded();
}

void IoStream::Proceed() {
  if (finished_ || session_ == nullptr) return;
  if (has_gathered_ && !writing_ && !broken_) WriteGathered();
  if (!read_closed_ && !reading_ && request_bytes_ + reply_bytes_ < window_bytes_) ReadNext();
  // A read in progress may stay: it ends with the call.
  const bool idle = !writing_ && messages_ == 0;
  if (idle && read_closed_ && (broken_ || !has_gathered_)) {
    finished_ = true;
    ++operations_;
    rpc_.Finish(ToGrpcStatus(final_status_), static_cast<QueueTag*>(&finished_tag_));
  }
}

void IoStream::EndStages() {
  if (gathered_.done_nanos.empty()) return;
  const uint64_t now = parts_.clock->BootNanos();
  StageHistograms* stages = parts_.engine->workers()[parts_.home]->stages();
  for (size_t i = 0; i < gathered_.done_nanos.size(); ++i) {
    v1::StageTimes* run = gathered_.header.mutable_stages(static_cast<int>(i));
    const uint64_t micros = (now - std::min(now, gathered_.done_nanos[i])) / 1000;
    run->set_reply_micros(static_cast<uint32_t>(std::min<uint64_t>(micros, UINT32_MAX)));
    stages->Observe(v1::LATENCY_STAGE_REPLY_QUEUE, micros, run->results());
  }
}

void IoStream::WriteGathered() {
  EndStages();
  const grpc::ByteBuffer outgoing = EncodeIoResponse(gathered_);
  gathered_.header.Clear();
  gathered_.payload.clear();
  gathered_.done_nanos.clear();
  has_gathered_ = false;
  writing_bytes_ = reply_bytes_;
  writing_ = true;
  ++operations_;
  rpc_.Write(outgoing, static_cast<QueueTag*>(&written_));
}

void IoStream::ReadNext() {
  if (parts_.budget->HasRoom()) {
    reading_ = true;
    ++operations_;
    rpc_.Read(&incoming_, static_cast<QueueTag*>(&read_));
    return;
  }
  if (std::exchange(waiting_for_room_, true)) return;
  parts_.budget->OnRoom([weak = weak_from_this()] {
    const std::shared_ptr<IoStream> stream = weak.lock();
    if (stream == nullptr) return;
    stream->AtHome([stream] {
      stream->waiting_for_room_ = false;
      stream->Proceed();
    });
  });
}

void IoStream::OnRead(bool ok) {
  reading_ = false;
  if (!ok || read_closed_) {
    read_closed_ = true;
  } else {
    grpc::ByteBuffer message;
    message.Swap(&incoming_);
    const size_t bytes = message.Length();
    request_bytes_ += bytes;
    ++messages_;
    parts_.budget->Take(bytes);
    parts_.engine->Submit(session_, message, bytes);
  }
  Proceed();
  OperationEnded();
}

void IoStream::OnWritten(bool ok) {
  writing_ = false;
  reply_bytes_ -= writing_bytes_;
  parts_.budget->Release(std::exchange(writing_bytes_, 0));
  if (!ok) {
    broken_ = true;
    read_closed_ = true;
  }
  Proceed();
  OperationEnded();
}

void IoStream::OnFinished(bool) { OperationEnded(); }

void IoStream::OperationEnded() {
  if (--operations_ > 0 || !finished_) return;
  const std::shared_ptr<IoStream> last = std::move(self_);  // workers may hold others
  parts_.metrics->open_streams->Decrement();
  parts_.budget->Release(std::exchange(reply_bytes_, 0));
  session_ = nullptr;
  parts_.on_closed(this);
}

void IoStream::Deliver(IoResponseFrame frame) {
  AtHome([self = shared_from_this(), frame = std::move(frame)]() mutable {
    self->Gather(std::move(frame));
  });
}

void IoStream::Gather(IoResponseFrame frame) {
  if (finished_ || broken_) return;
  const uint64_t bytes = PayloadBytes(frame.payload) + frame.header.ByteSizeLong();
  reply_bytes_ += bytes;
  parts_.budget->Take(bytes);
  if (!has_gathered_) {
    gathered_ = std::move(frame);
    has_gathered_ = true;
  } else {
    gathered_.header.MergeFrom(frame.header);
    gathered_.done_nanos.insert(gathered_.done_nanos.end(), frame.done_nanos.begin(),
                                frame.done_nanos.end());
    gathered_.payload.insert(gathered_.payload.end(),
                             std::make_move_iterator(frame.payload.begin()),
                             std::make_move_iterator(frame.payload.end()));
  }
  Proceed();
}

void IoStream::Release(size_t bytes) {
  parts_.budget->Release(bytes);
  AtHome([self = shared_from_this(), bytes] {
    self->request_bytes_ -= bytes;
    --self->messages_;
    self->Proceed();
  });
}

void IoStream::Break(const absl::Status& why) {
  AtHome([self = shared_from_this(), why] {
    if (self->final_status_.ok()) self->final_status_ = why;
    self->read_closed_ = true;
    self->Proceed();
  });
}

void IoStream::Close() { Break(absl::UnavailableError("the server stops")); }

}  // namespace tessera::sds
