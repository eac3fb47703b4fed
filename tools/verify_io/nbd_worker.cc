#include "tools/verify_io/nbd_worker.h"

#include <time.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "tools/verify_io/block_stamp.h"

namespace tessera::verify_io {
namespace {

constexpr int kConnectTimeoutMillis = 2'000;
constexpr auto kReconnectPause = std::chrono::milliseconds(20);
constexpr auto kRest = std::chrono::milliseconds(2);
constexpr int kPollMillis = 20;
constexpr size_t kBadBlocksTold = 20;
constexpr uint32_t kReadAllBlocks = 64;
constexpr Moment kMilli = 1'000'000;

}  // namespace

Moment Now() {
  timespec time{};
  clock_gettime(CLOCK_BOOTTIME, &time);
  return static_cast<Moment>(time.tv_sec) * 1'000'000'000 + static_cast<Moment>(time.tv_nsec);
}

NbdWorker::NbdWorker(const WorkerOptions& options, Shared* shared)
    : options_(options), shared_(shared), random_(options.seed), slots_(options.depth) {
  for (Slot& slot : slots_) {
    slot.worker = this;
    slot.buffer.resize(std::max(options_.blocks_per_operation_max, kReadAllBlocks) * kBlockBytes);
  }
}

NbdWorker::~NbdWorker() {
  if (nbd_ != nullptr) nbd_close(nbd_);
}

int NbdWorker::OnAnswered(void* slot, int* error) {
  auto* answered = static_cast<Slot*>(slot);
  answered->answered = true;
  answered->error = *error;
  return 1;  // the command is retired
}

bool NbdWorker::Connect() {
  std::string uri;
  {
    const std::lock_guard lock(shared_->mutex);
    uri = shared_->uris[next_uri_++ % shared_->uris.size()];
  }
  nbd_ = nbd_create();
  bool ready = nbd_aio_connect_uri(nbd_, uri.c_str()) == 0;
  const Moment deadline = Now() + kConnectTimeoutMillis * kMilli;
  while (ready && !nbd_aio_is_ready(nbd_)) {
    ready = Now() < deadline && !nbd_aio_is_dead(nbd_) && !nbd_aio_is_closed(nbd_) &&
            nbd_poll(nbd_, kPollMillis) >= 0;
  }
  if (!ready) {
    nbd_close(nbd_);
    nbd_ = nullptr;
    return false;
  }
  shared_->connected.fetch_add(1);
  reported_connected_ = true;
  return true;
}

// What is in flight will not be answered on this connection.
void NbdWorker::Disconnect() {
  for (Slot& slot : slots_) {
    if (slot.kind != Slot::Kind::kFree) End(&slot, Outcome::kUnknown);
  }
  // Closing calls the completion callbacks of what is in flight; the slots are free by now.
  nbd_close(nbd_);
  nbd_ = nullptr;
  for (Slot& slot : slots_) slot.answered = false;
  if (std::exchange(reported_connected_, false)) shared_->connected.fetch_sub(1);
  shared_->reconnects.fetch_add(1);
}

bool NbdWorker::InFlight() const {
  return std::any_of(slots_.begin(), slots_.end(),
                     [](const Slot& slot) { return slot.kind != Slot::Kind::kFree; });
}

bool NbdWorker::Overdue() const {
  const Moment now = Now();
  return std::any_of(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    return slot.kind != Slot::Kind::kFree &&
           now - slot.start > options_.operation_timeout_ms * kMilli;
  });
}

// The rate is kept from the last rest or catch-up on: after a pause there is no burst.
bool NbdWorker::MayStart(Moment now) {
  if (options_.operations_per_second == 0) return true;
  const Moment interval = 1'000'000'000 / options_.operations_per_second;
  const Moment due = rate_origin_ + rate_started_ * interval;
  if (now < due) return false;
  if (rate_origin_ == 0 || now - due > 100 * kMilli) {
    rate_origin_ = now;
    rate_started_ = 0;
  }
  ++rate_started_;
  return true;
}

void NbdWorker::Run() {
  while (true) {
    const bool stop = shared_->stop.load();
    const bool hold = shared_->hold.load();
    if ((stop || hold) && !InFlight()) {
      pauses_.Rest();
      if (stop) return;
      shared_->resting.fetch_add(1);
      while (shared_->hold.load() && !shared_->stop.load()) std::this_thread::sleep_for(kRest);
      shared_->resting.fetch_sub(1);
      rate_origin_ = 0;
      continue;
    }
    pauses_.Begin(Now());
    if (nbd_ == nullptr && !Connect()) {
      std::this_thread::sleep_for(kReconnectPause);
      continue;
    }
    if (!stop && !hold) {
      for (Slot& slot : slots_) {
        if (nbd_ == nullptr) break;
        if (slot.kind == Slot::Kind::kFree && MayStart(Now())) StartNext(&slot);
      }
    }
    if (nbd_ == nullptr) continue;
    if (!Poll(options_.operations_per_second == 0 ? kPollMillis : 1) || Overdue()) Disconnect();
  }
}

// False when the connection is gone.
bool NbdWorker::Poll(int timeout_ms) {
  if (!InFlight()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  } else if (nbd_poll(nbd_, timeout_ms) < 0) {
    CollectAnswers();
    return false;
  }
  CollectAnswers();
  return !nbd_aio_is_dead(nbd_) && !nbd_aio_is_closed(nbd_);
}

void NbdWorker::StartNext(Slot* slot) {
  ++started_;
  slot->blocks = 1 + static_cast<uint32_t>(random_() % options_.blocks_per_operation_max);
  slot->block = options_.first_block + random_() % (options_.block_count - slot->blocks + 1);
  if (options_.flush_every > 0 && started_ % options_.flush_every == 0) {
    slot->kind = Slot::Kind::kFlush;
  } else if (random_() % 100 < options_.write_percent) {
    slot->kind =
        random_() % 100 < options_.durable_percent ? Slot::Kind::kDurableWrite : Slot::Kind::kWrite;
    slot->sequence = next_sequence_++;
    for (uint32_t i = 0; i < slot->blocks; ++i) {
      WriteStamp(MakeValue(options_.writer, slot->sequence), slot->block + i,
                 std::span(slot->buffer).subspan(i * kBlockBytes, kBlockBytes));
    }
  } else {
    slot->kind = Slot::Kind::kRead;
  }
  Issue(slot);
}

void NbdWorker::Issue(Slot* slot) {
  slot->answered = false;
  slot->error = 0;
  slot->start = Now();
  const nbd_completion_callback done{.callback = &OnAnswered, .user_data = slot, .free = nullptr};
  const uint64_t offset = slot->block * kBlockBytes;
  const size_t length = slot->blocks * kBlockBytes;
  int64_t cookie = -1;
  switch (slot->kind) {
    case Slot::Kind::kRead:
      cookie = nbd_aio_pread(nbd_, slot->buffer.data(), length, offset, done, 0);
      break;
    case Slot::Kind::kWrite:
      cookie = nbd_aio_pwrite(nbd_, slot->buffer.data(), length, offset, done, 0);
      break;
    case Slot::Kind::kDurableWrite:
      cookie = nbd_aio_pwrite(nbd_, slot->buffer.data(), length, offset, done, LIBNBD_CMD_FLAG_FUA);
      break;
    default:
      cookie = nbd_aio_flush(nbd_, done, 0);
      break;
  }
  if (cookie < 0) Disconnect();
}

void NbdWorker::CollectAnswers() {
  for (Slot& slot : slots_) {
    if (slot.kind == Slot::Kind::kFree || !slot.answered) continue;
    const bool connected = nbd_ != nullptr && !nbd_aio_is_dead(nbd_);
    // A dead connection answers with an error of its own, which says nothing of the operation.
    const Outcome bad = connected ? Outcome::kFailed : Outcome::kUnknown;
    End(&slot, slot.error == 0 ? Outcome::kDone : bad);
  }
}

void NbdWorker::End(Slot* slot, Outcome outcome) {
  const Moment now = Now();
  if (outcome == Outcome::kDone) {
    pauses_.Completed(slot->start, now);
  } else {
    pauses_.Failed();
  }
  if (outcome == Outcome::kFailed) {
    const std::lock_guard lock(shared_->mutex);
    ++shared_->errors[slot->error];
  }
  Record(*slot, outcome, now);
  slot->kind = Slot::Kind::kFree;
}

void NbdWorker::Record(const Slot& slot, Outcome outcome, Moment end) {
  if (slot.kind == Slot::Kind::kFlush) {
    if (outcome == Outcome::kUnknown) return;
    history_.flushes.push_back({slot.start, end, outcome == Outcome::kFailed});
    return;
  }
  if (slot.kind == Slot::Kind::kRead) {
    if (outcome != Outcome::kDone) return;
    for (uint32_t i = 0; i < slot.blocks; ++i) NoteBlock(slot, i, end);
    return;
  }
  for (uint32_t i = 0; i < slot.blocks; ++i) {
    history_.operations.push_back({slot.block + i, MakeValue(options_.writer, slot.sequence),
                                   slot.start, outcome == Outcome::kDone ? end : kOpenEnd,
                                   slot.kind == Slot::Kind::kDurableWrite
                                       ? BlockOperation::Kind::kDurableWrite
                                       : BlockOperation::Kind::kWrite});
  }
}

void NbdWorker::NoteBlock(const Slot& slot, uint32_t index, Moment end) {
  const uint64_t block = slot.block + index;
  const StampReading reading =
      ReadStamp(block, std::span(slot.buffer).subspan(index * kBlockBytes, kBlockBytes));
  if (reading.kind == StampReading::Kind::kValue) {
    history_.operations.push_back(
        {block, reading.value, slot.start, end, BlockOperation::Kind::kRead});
    return;
  }
  const std::lock_guard lock(shared_->mutex);
  ++shared_->bad_block_count;
  if (shared_->bad_blocks.size() >= kBadBlocksTold) return;
  shared_->bad_blocks.push_back(
      "block " + std::to_string(block) +
      (reading.kind == StampReading::Kind::kTorn
           ? " is torn or was never written by anybody"
           : " holds what was written to block " + std::to_string(reading.address)));
}

bool NbdWorker::ReadAll(uint64_t first, uint64_t count, uint64_t deadline_ms) {
  const Moment deadline = Now() + deadline_ms * kMilli;
  Slot& slot = slots_.front();
  for (uint64_t done = 0; done < count && Now() < deadline;) {
    if (nbd_ == nullptr && !Connect()) {
      std::this_thread::sleep_for(kReconnectPause);
      continue;
    }
    slot.kind = Slot::Kind::kRead;
    slot.block = first + done;
    slot.blocks = static_cast<uint32_t>(std::min<uint64_t>(kReadAllBlocks, count - done));
    Issue(&slot);
    while (nbd_ != nullptr && slot.kind != Slot::Kind::kFree) {
      if (!Poll(kPollMillis) || Overdue() || Now() > deadline) {
        Disconnect();
        break;
      }
    }
    if (nbd_ == nullptr) continue;
    if (slot.error != 0) return false;
    done += slot.blocks;
    if (done >= count) return true;
  }
  return count == 0;
}

}  // namespace tessera::verify_io
