#include "services/sdc/engine/sds_stream.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"

namespace tessera::sdc {
namespace {

// A message is closed at either of these, so that a long one does not delay the first answers.
constexpr size_t kMessagePayloadBytes = 1 << 20;
constexpr int kMessageOperations = 256;
constexpr size_t kSpareFrames = 4;
// Messages that may be ahead of their answers. What comes in while so many are under way leaves
// together when the next answer arrives: a message costs many times what one more operation in it
// does. At depth 1 nothing waits, since nothing is under way.
constexpr uint32_t kMessagesAhead = 2;
// While nothing is under way, so many operations leave before the turn's end: the server works on
// them while the rest is signed, and from then on two halves of the queue take turns.
constexpr int kEarlyOperations = 8;
constexpr uint64_t kDefaultWindowBytes = 4 << 20;
constexpr auto kFirstRetry = std::chrono::milliseconds(50);
constexpr auto kLongestRetry = std::chrono::milliseconds(1000);
// For a server that has just let everything wait for too long.
constexpr EventLoop::Duration kSilentConnectTimeout = std::chrono::milliseconds(300);

}  // namespace

SdsStream::SdsStream(EventLoop& loop, StreamQueue& queue, Observer& observer, Options options)
    : loop_(loop),
      queue_(queue),
      observer_(observer),
      options_(std::move(options)),
      hook_(loop.AddTurnEndHook([this] { SendNext(); })) {}

SdsStream::~SdsStream() {
  loop_.RemoveTurnEndHook(hook_);
  if (timer_set_) loop_.Cancel(timer_);
  if (call_ != nullptr) ending_.push_back(std::move(call_));
  for (const auto& call : ending_) {
    call->Detach();
    call->Release();
  }
  for (const auto& call : ending_) call->WaitUntilOver();
}

void SdsStream::SetAddress(const v1::SdsAddress& address) {
  address_ = address;
  const v1::Endpoints& endpoints = address.endpoints();
  same_host_ = !endpoints.host_id().empty() && endpoints.host_id() == options_.own_host_id;
  const bool unix_socket = same_host_ && !endpoints.data_unix().empty();
  const std::string target = unix_socket ? endpoints.data_unix() : endpoints.data();
  if (target == target_ && state_ != State::kWaiting) return;
  target_ = target;
  if (state_ == State::kOpen || state_ == State::kConnecting) return;
  // News of the server: it is given another chance before anything is said of it.
  failures_ = 0;
  unreachable_ = false;
  Connect();
}

void SdsStream::Connect() {
  if (timer_set_) loop_.Cancel(timer_);
  timer_set_ = false;
  if (target_.empty()) {
    state_ = State::kIdle;
    return;
  }
  state_ = State::kConnecting;
  best_transit_nanos_ = UINT64_MAX;
  call_ = std::make_shared<StreamCall>(loop_, queue_, static_cast<StreamCall::Listener*>(this));
  call_->Start(target_, options_.credentials);
  const EventLoop::Duration limit = was_silent_
                                        ? std::min(kSilentConnectTimeout, options_.connect_timeout)
                                        : options_.connect_timeout;
  was_silent_ = false;
  timer_ = loop_.After(limit, [this] { ConnectTimedOut(); });
  timer_set_ = true;
}

void SdsStream::ConnectTimedOut() {
  timer_set_ = false;
  if (state_ == State::kConnecting) BreakOff("no hello in time");
}

void SdsStream::BreakSilent() {
  was_silent_ = true;
  BreakOff("it says nothing any more");
}

void SdsStream::BreakOff(const std::string& why) {
  const bool was_open = state_ == State::kOpen;
  if (timer_set_) loop_.Cancel(timer_);
  timer_set_ = false;
  call_->Release();
  if (!call_->over()) ending_.push_back(call_);
  call_.reset();
  writing_ = false;
  messages_ahead_ = 0;
  gathered_.clear();
  shown_grants_.clear();
  shown_epochs_.clear();
  std::vector<InFlightOperation> lost = TakeAllInFlight();
  ++counters_.reconnects;
  if (was_open) {
    LogWarning("stream to server broke", {{"sds", options_.sds_id}, {"why", why}});
    failures_ = 0;
    Connect();
    observer_.StreamBroke(*this, std::move(lost));
    return;
  }
  state_ = State::kWaiting;
  const auto delay = std::min<EventLoop::Duration>(
      kFirstRetry * (1u << std::min<uint32_t>(failures_, 5)), kLongestRetry);
  ++failures_;
  timer_ = loop_.After(delay, [this] {
    timer_set_ = false;
    Connect();
  });
  timer_set_ = true;
  if (!std::exchange(unreachable_, true)) {
    LogWarning("server is not reachable",
               {{"sds", options_.sds_id}, {"address", target_}, {"why", why}});
  }
  observer_.StreamUnreachable(*this, why);
}

void SdsStream::CallEnded(StreamCall& call, const std::string& why) {
  if (call_.get() == &call) BreakOff(why);
  std::erase_if(ending_, [&call](const auto& ending) { return ending.get() == &call; });
}

bool SdsStream::CallReceived(StreamCall& call, const grpc::ByteBuffer& message) {
  if (call_.get() != &call) return false;
  received_nanos_ = static_cast<uint64_t>(loop_.Now().count());
  const auto found_since = static_cast<uint64_t>(loop_.FoundSince().count());
  away_nanos_ = received_nanos_ - std::min(received_nanos_, found_since);
  cut_left_nanos_ = 0;  // `cut_` is of the message before
  const absl::Status status = DecodeIoResponse(message, &response_);
  if (!status.ok()) {
    BreakOff(std::string(status.message()));
    return false;
  }
  if (response_.header.has_hello()) Hello(response_.header.hello());
  if (state_ == State::kOpen && response_.header.results_size() > 0) {
    // One answer may stand for several messages: when nothing is under way, none is ahead.
    if (messages_ahead_ > 0) --messages_ahead_;
    Results(response_);
  }
  return in_flight_ > 0;
}

void SdsStream::Hello(const v1::SdsHello& hello) {
  if (state_ != State::kConnecting) return;
  if (hello.sds_id() != options_.sds_id) {
    BreakOff(absl::StrCat("server ", hello.sds_id(), " answers at the address of server ",
                          options_.sds_id));
    return;
  }
  if (timer_set_) loop_.Cancel(timer_);
  timer_set_ = false;
  incarnation_ = hello.incarnation();
  window_bytes_ = hello.window_bytes() == 0 ? kDefaultWindowBytes : hello.window_bytes();
  failures_ = 0;
  unreachable_ = false;
  state_ = State::kOpen;
  LogInfo("stream to server open",
          {{"sds", options_.sds_id}, {"address", target_}, {"incarnation", incarnation_}});
  observer_.StreamOpened(*this);
}

AnswerPath SdsStream::PathOf(const InFlightOperation& operation) {
  // Most answers of a message are of one run, and were sent together.
  if (cut_times_ != answer_times_ || cut_left_nanos_ != operation.left_nanos) {
    cut_times_ = answer_times_;
    cut_left_nanos_ = operation.left_nanos;
    cut_ = CutRoundTrip(received_nanos_ - std::min(received_nanos_, operation.left_nanos),
                        away_nanos_, answer_times_, &best_transit_nanos_);
  }
  return {options_.sds_id, operation.device_id, received_nanos_, cut_};
}

void SdsStream::Results(const IoResponseFrame& frame) {
  PayloadCursor payload(frame.payload);
  int run = -1;
  uint32_t left_of_run = 0;
  std::vector<std::span<const std::byte>> skipped;
  for (const v1::IoResult& result : frame.header.results()) {
    const auto index = static_cast<uint32_t>(result.tag());
    while (left_of_run == 0 && run + 1 < frame.header.stages_size()) {
      left_of_run = frame.header.stages(++run).results();
    }
    answer_times_ = left_of_run > 0 ? &frame.header.stages(run) : nullptr;
    left_of_run -= left_of_run > 0 ? 1 : 0;
    const size_t left_before = payload.RemainingBytes();
    if (left_before < result.payload_bytes()) {
      BreakOff("a result promises more bytes than its message has");
      return;
    }
    if (index < slots_.size() && slot_lives_[index] == result.tag() >> 32 &&
        slots_[index].kind != InFlightOperation::Kind::kFree) {
      const InFlightOperation operation = slots_[index];
      slots_[index].kind = InFlightOperation::Kind::kFree;
      ++slot_lives_[index];
      free_slots_.push_back(index);
      --in_flight_;
      in_flight_bytes_ -= operation.window_bytes;
      CountAnswer(operation);
      if (operation.kind != InFlightOperation::Kind::kAbandoned &&
          operation.kind != InFlightOperation::Kind::kLateRead) {
        observer_.StreamAnswered(*this, operation, result, payload);
      }
    }
    const size_t taken = left_before - payload.RemainingBytes();
    if (taken < result.payload_bytes()) {
      skipped.clear();
      (void)payload.Take(result.payload_bytes() - taken, &skipped);
    }
    if (state_ != State::kOpen) return;
  }
  observer_.StreamBatchEnded(*this);
}

void SdsStream::CountAnswer(const InFlightOperation& operation) {
  using Kind = InFlightOperation::Kind;
  const Kind kind = operation.kind;
  if (kind == Kind::kProbe || kind == Kind::kAbandoned) return;
  Answers& answers = kind == Kind::kWrite   ? counters_.writes
                     : kind == Kind::kFlush ? counters_.flushes
                                            : counters_.reads;
  ++answers.operations;
  answers.micros += (received_nanos_ - std::min(received_nanos_, operation.left_nanos)) / 1000;
  if (answer_times_ != nullptr) {
    answers.store_micros += uint64_t{answer_times_->journal_micros()} +
                            answer_times_->memory_micros() + answer_times_->disk_micros() +
                            answer_times_->flush_wait_micros() + answer_times_->flush_sync_micros();
  }
}

IoRequestFrame& SdsStream::Gathering() {
  const bool full =
      !gathered_.empty() && (gathered_.back().header.operations_size() >= kMessageOperations ||
                             PayloadBytes(gathered_.back().payload) >= kMessagePayloadBytes);
  if (gathered_.empty() || full) {
    if (spare_frames_.empty()) {
      gathered_.emplace_back();
    } else {
      gathered_.push_back(std::move(spare_frames_.back()));
      spare_frames_.pop_back();
    }
  }
  return gathered_.back();
}

void SdsStream::ShowGrant(uint64_t grant_id, uint64_t revision, const std::string& grant) {
  uint64_t& shown = shown_grants_[grant_id];
  if (shown == revision) return;
  shown = revision;
  // A message's grants come before its operations, whose signatures may be under an older renewal.
  if (!gathered_.empty() && gathered_.back().header.operations_size() > 0) {
    gathered_.emplace_back();
  }
  Gathering().header.add_grants(grant);
}

void SdsStream::ShowEntry(const MapCache::Group& group) {
  uint64_t& shown = shown_epochs_[group.entry.placement_group_id];
  if (shown == group.entry.epoch) return;
  shown = group.entry.epoch;
  *Gathering().header.add_placement_groups() = *group.signed_entry;
}

v1::IoOperation* SdsStream::Add(const InFlightOperation& operation,
                                std::span<const grpc::Slice> payload) {
  if (messages_ahead_ == 0 && !writing_ && !gathered_.empty() &&
      gathered_.front().header.operations_size() >= kEarlyOperations) {
    SendNext();
  }
  uint32_t index;
  if (free_slots_.empty()) {
    index = static_cast<uint32_t>(slots_.size());
    slots_.emplace_back();
    slot_lives_.push_back(1);
  } else {
    index = free_slots_.back();
    free_slots_.pop_back();
  }
  InFlightOperation& slot = slots_[index];
  slot = operation;
  slot.window_bytes += kOperationBytes;
  ++in_flight_;
  in_flight_bytes_ += slot.window_bytes;
  ++counters_.operations;

  IoRequestFrame& frame = Gathering();
  frame.payload.insert(frame.payload.end(), payload.begin(), payload.end());
  v1::IoOperation* added = frame.header.add_operations();
  added->set_tag(static_cast<uint64_t>(slot_lives_[index]) << 32 | index);
  added->set_sds_incarnation(incarnation_);
  return added;
}

// Flushes take as long as a disk: a message of flushes alone neither waits for answers nor counts.
bool SdsStream::FlushesOnly(const IoRequestFrame& frame) {
  return std::all_of(frame.header.operations().begin(), frame.header.operations().end(),
                     [](const v1::IoOperation& operation) {
                       return operation.type() == v1::IO_OPERATION_TYPE_FLUSH;
                     });
}

void SdsStream::SendNext() {
  if (state_ != State::kOpen || gathered_.empty()) return;
  if (writing_) {
    call_->ExpectWritten();
    return;
  }
  if (!FlushesOnly(gathered_.front())) {
    uint32_t waiting = 0;
    for (const IoRequestFrame& frame : gathered_) {
      waiting += static_cast<uint32_t>(frame.header.operations_size());
    }
    if (waiting == in_flight_) messages_ahead_ = 0;
    if (messages_ahead_ >= kMessagesAhead) return;
    ++messages_ahead_;
  }
  writing_ = true;
  ++counters_.messages;
  const auto now = static_cast<uint64_t>(loop_.Now().count());
  for (const v1::IoOperation& operation : gathered_.front().header.operations()) {
    slots_[static_cast<uint32_t>(operation.tag())].left_nanos = now;
  }
  call_->Write(EncodeIoRequest(gathered_.front()));
  IoRequestFrame sent = std::move(gathered_.front());
  gathered_.pop_front();
  if (spare_frames_.size() < kSpareFrames) {
    sent.header.Clear();
    sent.payload.clear();
    spare_frames_.push_back(std::move(sent));
  }
}

void SdsStream::CallWrote(StreamCall& call) {
  if (call_.get() != &call) return;
  writing_ = false;
  SendNext();
}

void SdsStream::Abandon(const VolumeEngine* volume) {
  for (InFlightOperation& slot : slots_) {
    if (slot.kind != InFlightOperation::Kind::kFree && slot.volume == volume) {
      slot.kind = InFlightOperation::Kind::kAbandoned;
    }
  }
}

std::vector<InFlightOperation> SdsStream::TakeOlder(InFlightOperation::Kind kind,
                                                    uint64_t sent_before_nanos,
                                                    InFlightOperation::Kind becomes) {
  std::vector<InFlightOperation> taken;
  for (InFlightOperation& slot : slots_) {
    if (slot.kind != kind || slot.sent_nanos >= sent_before_nanos) continue;
    taken.push_back(slot);
    slot.kind = becomes;
  }
  return taken;
}

std::vector<InFlightOperation> SdsStream::TakeAllInFlight() {
  std::vector<InFlightOperation> lost;
  free_slots_.clear();
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    InFlightOperation& slot = slots_[i];
    if (slot.kind != InFlightOperation::Kind::kFree) {
      if (slot.kind != InFlightOperation::Kind::kAbandoned &&
          slot.kind != InFlightOperation::Kind::kLateRead) {
        lost.push_back(slot);
      }
      slot.kind = InFlightOperation::Kind::kFree;
      ++slot_lives_[i];
    }
    free_slots_.push_back(i);
  }
  in_flight_ = 0;
  in_flight_bytes_ = 0;
  return lost;
}

}  // namespace tessera::sdc
