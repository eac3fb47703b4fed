#include "services/sdc/nbd/connection.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::sdc::nbd {
namespace {

// Room for replies in one send call: 256 replies of one piece each.
constexpr size_t kVectorsPerSend = 512;
// A client in the handshake that does not read answers is not listened to beyond this.
constexpr uint64_t kHandshakeOutputBytes = 256 << 10;
// What a connection with nothing in flight may have even when all connections together are at the
// limit.
constexpr uint64_t kAlwaysAdmittedBytes = 256 << 10;

Command DeviceCommand(WireCommand command) {
  switch (command) {
    case WireCommand::kRead:
      return Command::kRead;
    case WireCommand::kWrite:
      return Command::kWrite;
    case WireCommand::kFlush:
      return Command::kFlush;
    case WireCommand::kTrim:
      return Command::kTrim;
    case WireCommand::kWriteZeroes:
      return Command::kWriteZeroes;
    case WireCommand::kBlockStatus:
      return Command::kBlockStatus;
    default:
      return Command::kCache;
  }
}

}  // namespace

Connection::Connection(ConnectionHost& host, std::unique_ptr<Transport> transport, std::string peer,
                       TlsMode tls_mode)
    : host_(host), peer_(std::move(peer)), tls_mode_(tls_mode), transport_(std::move(transport)) {}

Connection::~Connection() = default;

void Connection::Start() {
  last_progress_ = host_.loop().Now();
  handshake_.emplace(host_.exports(), tls_mode_);
  handshake_timer_ =
      host_.loop().After(host_.options().handshake_timeout, [weak = weak_from_this()] {
        if (const auto self = weak.lock(); self != nullptr && !self->closed()) {
          self->handshake_timer_.reset();
          self->TimeOut("the handshake took too long");
        }
      });
  interest_ = EventLoop::kReadable;
  host_.loop().Watch(transport_->descriptor(), interest_,
                     [self = this](uint32_t ready) { self->OnReady(ready); });
  std::string greeting;
  handshake_->Greet(greeting);
  replies_.AddRaw(std::move(greeting));
  host_.RunAtTurnEnd(*this);
}

// ---- Socket events

void Connection::OnReady(uint32_t ready) {
  // Bits that were not asked for mean an error or hang-up. Where input is wanted, reading finds out
  // what it is, after the last of what the client has sent.
  if ((ready & ~interest_) != 0 && (interest_ & EventLoop::kReadable) == 0) {
    Close("the client hung up");
    return;
  }
  if ((ready & EventLoop::kWritable) != 0) host_.RunAtTurnEnd(*this);
  // Under TLS a read may be what waits for the socket to become writable.
  if ((ready & EventLoop::kReadable) != 0 || transport_->ReadWantsWritable()) ReadSome();
}

void Connection::ReadSome() {
  if (!WantsToRead()) return;
  std::span<std::byte> space;
  if (state_ == State::kTransmission) {
    space = reader_->Space();
  } else {
    handshake_input_.resize(Handshake::kInputBytes);
    space = std::span(handshake_input_).subspan(handshake_input_bytes_);
  }
  const Transport::Result result = transport_->Read(space);
  switch (result.state) {
    case Transport::State::kWouldBlock:
      UpdateInterest();
      return;
    case Transport::State::kFailed:
      Close(result.error);
      return;
    case Transport::State::kEnd:
      StartDraining("the client closed the connection");
      return;
    case Transport::State::kOpen:
      break;
  }
  progressed_ = true;
  if (state_ == State::kTransmission) {
    reader_->Received(result.bytes);
    ProcessRequests();
  } else {
    handshake_input_bytes_ += result.bytes;
    ProcessHandshake();
  }
  if (state_ != State::kClosed && transport_->HasBufferedInput()) host_.RunAtTurnEnd(*this);
}

// ---- Handshake

void Connection::ProcessHandshake() {
  std::string output;
  Handshake::Step step;
  std::span<const std::byte> input = std::span(handshake_input_).first(handshake_input_bytes_);
  do {
    step = handshake_->Consume(input, output);
    input = input.subspan(step.consumed_bytes);
  } while (step.event == Handshake::Event::kNeedInput && step.consumed_bytes > 0);
  replies_.AddRaw(std::move(output));
  host_.RunAtTurnEnd(*this);
  switch (step.event) {
    case Handshake::Event::kNeedInput:
      std::memmove(handshake_input_.data(), input.data(), input.size());
      handshake_input_bytes_ = input.size();
      return;
    case Handshake::Event::kStartTls:
      // What came in the clear must not be taken for what comes under TLS.
      if (!input.empty()) return Break("data between STARTTLS and its answer");
      handshake_input_bytes_ = 0;
      state_ = State::kTlsSwitch;
      return;
    case Handshake::Event::kTransmission:
      BeginTransmission(input);
      return;
    case Handshake::Event::kClose:
      if (SendQueued()) Break(handshake_->close_reason());
      return;
    case Handshake::Event::kAborted:
      if (SendQueued()) Close("the client ended the handshake");
      return;
  }
}

void Connection::SwitchToTls() {
  transport_ = host_.tls()->Wrap(std::move(transport_));
  handshake_->TlsStarted();
  host_.counters().tls_sessions.Add();
  state_ = State::kHandshake;
}

void Connection::BeginTransmission(std::span<const std::byte> rest) {
  session_ = handshake_->TakeSession();
  losses_ = session_.device->OpenCursor();
  if (handshake_timer_.has_value()) host_.loop().Cancel(*handshake_timer_);
  handshake_timer_.reset();
  host_.counters().handshakes_completed.Add();
  state_ = State::kTransmission;
  reader_.emplace(session_);
  reader_->Append(rest);
  handshake_.reset();
  std::vector<std::byte>().swap(handshake_input_);  // gives the memory back
  Log(absl::StrCat("serves export '", session_.export_name, "'"));
  ProcessRequests();
}

// ---- Requests

uint64_t Connection::ChargeOf(const RequestHeader& header) {
  return header.command == WireCommand::kRead || header.command == WireCommand::kWrite
             ? header.length_bytes
             : 0;
}

// A refused request holds no bytes: its payload is read over.
uint64_t Connection::ChargeOf(const RequestReader::Request& request) {
  return request.verdict.action == Verdict::Action::kSubmit ? ChargeOf(request.header) : 0;
}

bool Connection::Admit(const RequestReader::Request& request) {
  const NbdServerOptions& options = host_.options();
  if (inflight_requests_ >= options.connection_inflight_requests) return false;
  const uint64_t charge = ChargeOf(request);
  Counter& total = host_.counters().inflight_bytes;
  if (inflight_bytes_ > 0 && inflight_bytes_ + charge > options.connection_inflight_bytes) {
    return false;
  }
  const bool small = inflight_bytes_ == 0 && charge <= kAlwaysAdmittedBytes;
  if (!small && total.Get() > 0 && total.Get() + charge > options.total_inflight_bytes) {
    host_.WaitForBytes(*this);
    return false;
  }
  ++inflight_requests_;
  inflight_bytes_ += charge;
  total.Add(charge);
  host_.counters().inflight_requests.Add();
  return true;
}

void Connection::ProcessRequests() {
  held_back_ = false;
  while (state_ == State::kTransmission) {
    if (!reader_->in_request()) {
      switch (reader_->Peek(request_)) {
        case RequestReader::Outcome::kNeedInput:
          return UpdateInterest();
        case RequestReader::Outcome::kBroken:
          return Break(reader_->broken_reason());
        case RequestReader::Outcome::kReady:
          break;
      }
      if (request_.verdict.action == Verdict::Action::kDisconnect) {
        return StartDraining("the client said goodbye");
      }
      if (!Admit(request_)) {
        held_back_ = true;
        return UpdateInterest();
      }
      reader_->Begin(request_);
    }
    Payload payload;
    if (!reader_->Finish(payload)) return UpdateInterest();
    Dispatch(request_, std::move(payload));
  }
}

void Connection::Dispatch(const RequestReader::Request& request, Payload payload) {
  const Verdict& verdict = request.verdict;
  switch (verdict.action) {
    case Verdict::Action::kSubmit:
      return Submit(request.header, std::move(payload));
    case Verdict::Action::kRefuse:
      host_.counters().requests_refused.Add();
      AnswerError(request.header, verdict.error, verdict.message, verdict.error_offset_bytes, 0);
      break;
    default:
      Answer(request.header, {});
  }
  host_.RunAtTurnEnd(*this);
}

void Connection::Submit(const RequestHeader& header, Payload payload) {
  if (free_slots_.empty()) {
    slots_.push_back(std::make_unique<Slot>());
    free_slots_.push_back(slots_.back().get());
  }
  Slot* const slot = free_slots_.back();
  free_slots_.pop_back();
  slot->connection = shared_from_this();
  slot->header = header;
  ++submitted_requests_;

  BlockRequest request;
  request.command = DeviceCommand(header.command);
  request.offset_bytes = header.offset_bytes;
  request.length_bytes = header.length_bytes;
  request.force_unit_access = (header.flags & kCommandFlagFua) != 0;
  request.no_hole = (header.flags & kCommandFlagNoHole) != 0;
  request.fast_zero = (header.flags & kCommandFlagFastZero) != 0;
  request.one_extent = (header.flags & kCommandFlagRequestOne) != 0;
  request.data = std::move(payload);
  if (request.command == Command::kFlush) request.client = losses_;
  request.done = Completion(slot);
  host_.counters().requests[static_cast<size_t>(request.command)].Add();
  session_.device->Submit(std::move(request));
}

void Connection::Completion::operator()(BlockReply reply) {
  Slot* const slot = std::exchange(slot_, nullptr);
  slot->connection->Complete(*slot, std::move(reply));
}

// A device that goes away may drop a request; the client still gets an answer.
Connection::Completion::~Completion() {
  if (slot_ == nullptr) return;
  BlockReply reply;
  reply.error = ESHUTDOWN;
  reply.message = "the device has gone";
  slot_->connection->Complete(*slot_, std::move(reply));
}

void Connection::Complete(Slot& slot, BlockReply reply) {
  // This may be the last that keeps the connection, and with it the slot.
  const std::shared_ptr<Connection> self = std::move(slot.connection);
  if (state_ == State::kClosed) return;
  free_slots_.push_back(&slot);
  --submitted_requests_;
  Answer(slot.header, std::move(reply));
  host_.RunAtTurnEnd(*this);
}

void Connection::Answer(const RequestHeader& header, BlockReply reply) {
  ServerCounters& counters = host_.counters();
  const uint64_t charge = ChargeOf(header);
  if (reply.error != 0) {
    return AnswerError(header, NbdError(reply.error), reply.message, header.offset_bytes, charge);
  }
  switch (header.command) {
    case WireCommand::kRead:
      if (reply.data.size_bytes() != header.length_bytes) {
        return AnswerError(header, EIO, "the device gave a wrong number of bytes", std::nullopt,
                           charge);
      }
      counters.read_bytes.Add(header.length_bytes);
      if (!session_.structured_replies) break;
      if (header.length_bytes == 0) return replies_.AddStructuredDone(header.cookie);
      return replies_.AddReadChunk(header.cookie, header.offset_bytes, std::move(reply.data),
                                   charge);
    case WireCommand::kBlockStatus:
      return replies_.AddBlockStatus(header.cookie, header.length_bytes,
                                     (header.flags & kCommandFlagRequestOne) != 0, reply.extents);
    case WireCommand::kWrite:
      counters.written_bytes.Add(header.length_bytes);
      break;
    default:
      break;
  }
  Payload data = header.command == WireCommand::kRead ? std::move(reply.data) : Payload();
  replies_.AddSimple(header.cookie, 0, std::move(data), charge);
}

void Connection::AnswerError(const RequestHeader& header, int error, std::string_view message,
                             std::optional<uint64_t> offset_bytes, uint64_t charged_bytes) {
  host_.counters().CountError(error);
  if (!session_.structured_replies) {
    return replies_.AddSimple(header.cookie, error, {}, charged_bytes);
  }
  const bool has_range =
      header.length_bytes > 0 &&
      (header.command == WireCommand::kRead || header.command == WireCommand::kWrite ||
       header.command == WireCommand::kTrim || header.command == WireCommand::kBlockStatus);
  if (!has_range) offset_bytes.reset();
  replies_.AddStructuredError(header.cookie, error, message, offset_bytes, charged_bytes);
}

void Connection::GiveBack(const ReplyQueue::Released& released) {
  inflight_requests_ -= released.replies;
  inflight_bytes_ -= released.charged_bytes;
  host_.counters().inflight_requests.Subtract(released.replies);
  host_.counters().inflight_bytes.Subtract(released.charged_bytes);
}

// ---- Sending

void Connection::EndTurn() {
  while (state_ != State::kClosed) {
    if (!SendQueued()) return;
    if (state_ == State::kTlsSwitch && replies_.empty()) SwitchToTls();
    if (held_back_ && replies_.empty()) {
      // Requests that are refused at once give replies at once, and these want to be sent.
      ProcessRequests();
      if (state_ == State::kClosed) return;
      if (!replies_.empty()) continue;
    }
    break;
  }
  if (state_ == State::kClosed) return;
  if (transport_->HasBufferedInput() && WantsToRead()) {
    // Bytes that TLS has decrypted make no descriptor readable.
    host_.loop().Post([weak = weak_from_this()] {
      if (const auto self = weak.lock(); self != nullptr && !self->closed()) self->ReadSome();
    });
  }
  FinishIfDrained();
  if (state_ != State::kClosed) UpdateInterest();
}

// False when the connection was closed over it.
bool Connection::SendQueued() {
  std::array<iovec, kVectorsPerSend> vectors;
  while (!replies_.empty() || transport_->HasBufferedOutput()) {
    const size_t used = replies_.Gather(vectors);
    const Transport::Result result = transport_->Write(std::span(vectors).first(used));
    if (result.state == Transport::State::kFailed) {
      Close(result.error);
      return false;
    }
    if (result.bytes > 0) {
      progressed_ = true;
      GiveBack(replies_.Sent(result.bytes));
    }
    if (result.state == Transport::State::kWouldBlock) return true;
  }
  return true;
}

bool Connection::WantsToRead() const {
  switch (state_) {
    case State::kHandshake:
      return replies_.size_bytes() < kHandshakeOutputBytes;
    case State::kTransmission:
      return !held_back_;
    default:
      return false;
  }
}

void Connection::UpdateInterest() {
  uint32_t interest = 0;
  if (WantsToRead()) interest |= EventLoop::kReadable;
  if (transport_->ReadWantsWritable()) interest |= EventLoop::kWritable;
  // Replies of this turn are still to be sent; only what the socket did not take waits for it.
  if (!queued_for_turn_end && (!replies_.empty() || transport_->HasBufferedOutput())) {
    interest |= EventLoop::kWritable;
  }
  if (interest == interest_) return;
  interest_ = interest;
  host_.loop().ChangeInterest(transport_->descriptor(), interest);
}

// ---- The end

void Connection::StartDraining(std::string_view reason) {
  if (state_ != State::kTransmission) return Close(reason);
  Log(reason);
  state_ = State::kDraining;
  held_back_ = false;
  if (reader_->in_request()) {
    // The rest of this request will never come.
    GiveBack({1, ChargeOf(request_)});
  }
  host_.RunAtTurnEnd(*this);
}

void Connection::FinishIfDrained() {
  if (state_ != State::kDraining || submitted_requests_ > 0 || !replies_.empty() ||
      transport_->HasBufferedOutput()) {
    return;
  }
  transport_->Shutdown();
  Close("");
}

void Connection::Break(std::string_view reason) {
  host_.counters().connections_broken.Add();
  Close(reason);
}

void Connection::TimeOut(std::string_view reason) {
  host_.counters().connections_timed_out.Add();
  Close(reason);
}

void Connection::Drain(std::string_view reason) {
  if (state_ != State::kClosed && state_ != State::kDraining) StartDraining(reason);
}

void Connection::Drop(std::string_view reason) { Close(reason); }

void Connection::Abort(std::string_view reason) {
  if (state_ == State::kClosed) return;
  if (state_ == State::kTransmission || state_ == State::kDraining) {
    for (const auto& slot : slots_) {
      if (slot->connection != nullptr) {
        AnswerError(slot->header, ESHUTDOWN, reason, slot->header.offset_bytes,
                    ChargeOf(slot->header));
      }
    }
    if (!SendQueued()) return;
  }
  Close(reason);
}

void Connection::Close(std::string_view reason) {
  if (state_ == State::kClosed) return;
  const std::shared_ptr<Connection> self = shared_from_this();
  state_ = State::kClosed;
  if (!reason.empty()) Log(reason);
  if (handshake_timer_.has_value()) host_.loop().Cancel(*handshake_timer_);
  handshake_timer_.reset();
  host_.loop().Unwatch(transport_->descriptor());
  transport_.reset();
  host_.counters().inflight_requests.Subtract(inflight_requests_);
  host_.counters().inflight_bytes.Subtract(inflight_bytes_);
  inflight_requests_ = 0;
  inflight_bytes_ = 0;
  replies_.Clear();
  std::vector<std::byte>().swap(handshake_input_);  // gives the memory back
  session_.device.reset();
  if (losses_ != nullptr) losses_->closed = true;
  host_.Closed(*this);
}

void Connection::Sweep(EventLoop::Duration now, bool starving) {
  if (state_ == State::kClosed) return;
  const NbdServerOptions& options = host_.options();
  if (std::exchange(progressed_, false)) {
    last_progress_ = now;
    return;
  }
  // Only what has been let in holds memory; a client that is being held back is a victim itself.
  const bool mid_request = reader_.has_value() && reader_->in_request();
  const bool mid_reply = !replies_.empty();
  const bool may_evict = starving || state_ == State::kDraining;
  if (may_evict && (mid_request || mid_reply) && now - last_progress_ >= options.stall_timeout) {
    return TimeOut("stalled for too long");
  }
  if (inflight_requests_ > 0 || state_ != State::kTransmission) return;
  if (options.idle_timeout > options.idle_timeout.zero() &&
      now - last_progress_ >= options.idle_timeout) {
    return TimeOut("idle for too long");
  }
  reader_->ReleaseIdle();
  if (replies_.empty()) replies_.Clear();
}

void Connection::Log(std::string_view event) const {
  const auto& log = host_.options().log;
  if (log) log(absl::StrCat("nbd client ", peer_, ": ", std::string(event)));
}

}  // namespace tessera::sdc::nbd
