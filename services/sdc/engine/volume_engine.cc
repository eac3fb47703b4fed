#include "services/sdc/engine/volume_engine.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/crc32c.h"
#include "services/sdc/rules/request_cost.h"

namespace tessera::sdc {
namespace {

// Pieces of one request on their way at once: bounds what a trim of a whole volume occupies.
constexpr uint32_t kOutstandingPieces = 64;

bool IsWrite(Command command) {
  return command == Command::kWrite || command == Command::kTrim ||
         command == Command::kWriteZeroes;
}

// What brings something back.
bool IsReadType(v1::IoOperationType type) {
  return type == v1::IO_OPERATION_TYPE_READ || type == v1::IO_OPERATION_TYPE_MAP ||
         type == v1::IO_OPERATION_TYPE_CHANGES;
}

}  // namespace

VolumeEngine::VolumeEngine(EngineContext& context, std::string name, VolumeGrant grant)
    : context_(context),
      name_(std::move(name)),
      grant_(std::move(grant)),
      ledger_(context.NowNanos()),
      alive_(std::make_shared<bool>(true)) {
  AdoptLimits();
}

VolumeEngine::~VolumeEngine() {
  EndCache(false);
  Retire(false);
  ReleaseAllWrites();
}

void VolumeEngine::Retire(bool forget) {
  *alive_ = false;
  EndCache(!forget);
  if (table_ != nullptr && forget) {
    table_->ForgetVolume(volume_id());
    for (const auto& piece : pieces_) ForgetWrite(piece.get());
  }
  table_ = nullptr;
  for (const auto& group : groups_) {
    if (group != nullptr) group->record = ResumeGroup();
  }
  if (std::exchange(throttle_timer_set_, false)) context_.loop().Cancel(throttle_timer_);
  if (std::exchange(retry_timer_set_, false)) context_.loop().Cancel(retry_timer_);
  if (std::exchange(full_timer_set_, false)) context_.loop().Cancel(full_timer_);
  if (std::exchange(keep_timer_set_, false)) context_.loop().Cancel(keep_timer_);
  if (std::exchange(hold_.timer_set, false)) context_.loop().Cancel(hold_.timer);
}

BlockDeviceInfo VolumeEngine::info() const {
  BlockDeviceInfo info;
  info.size_bytes = size_bytes();
  info.read_only = read_only();
  info.description = absl::StrCat("Tessera volume ", name_);
  return info;
}

std::shared_ptr<LossCursor> VolumeEngine::OpenCursor() {
  auto cursor = std::make_shared<LossCursor>();
  AdoptCursor(cursor);
  return cursor;
}

void VolumeEngine::AdoptCursor(const std::shared_ptr<LossCursor>& cursor) {
  cursor->told = told_losses_;
  std::erase_if(cursors_, [](const auto& other) { return other.expired(); });
  cursors_.push_back(cursor);
}

void VolumeEngine::Submit(BlockRequest block) {
  const ByteRange range{block.offset_bytes, block.offset_bytes + block.length_bytes};
  if (detaching_) return FailLater(std::move(block), ESHUTDOWN, "the volume is being detached");
  (void)InheritUnflushed();  // a loss that the map tells from now on is this client's, too
  if (IsWrite(block.command) && read_only()) {
    return FailLater(std::move(block), EPERM, "the volume is mapped read-only");
  }
  if (range.end < range.begin || range.end > size_bytes() ||
      (block.command == Command::kWrite && block.data.size_bytes() != block.length_bytes)) {
    return FailLater(std::move(block), EINVAL, "the range does not lie inside the volume");
  }
  // A trim smaller than a sector is advice that can't be followed.
  const bool nothing =
      block.command == Command::kTrim ? NarrowToSectors(range).empty() : range.empty();
  if (block.command != Command::kFlush && nothing) return FailLater(std::move(block), 0, "");

  // A zeroing gives space back, unless it is asked not to.
  const bool takes_space =
      block.command == Command::kWrite || (block.command == Command::kWriteZeroes && block.no_hole);
  if (grant_.over_budget && takes_space) {
    return FailLater(std::move(block), ENOSPC, "the volume takes more than its byte budget");
  }

  Request* request = NewRequest(std::move(block));
  // A flush never waits for what has not begun.
  if (request->block.command != Command::kFlush && (!limiter_.unlimited() || !throttled_.empty())) {
    return Throttle(request);
  }
  EnterGate(request);
}

void VolumeEngine::FailLater(BlockRequest block, int error, std::string message) {
  BlockReply reply;
  reply.error = error;
  reply.message = std::move(message);
  if (error != 0) {
    context_.counters().commands[static_cast<size_t>(block.command)].errors.Add();
    stats_.errors.Add();
  }
  context_.loop().Post([done = std::move(block.done), reply = std::move(reply)]() mutable {
    done(std::move(reply));
  });
}

Request* VolumeEngine::NewRequest(BlockRequest block) {
  if (free_requests_.empty()) {
    requests_.push_back(std::make_unique<Request>());
    free_requests_.push_back(requests_.back().get());
  }
  Request* request = free_requests_.back();
  free_requests_.pop_back();
  request->block = std::move(block);
  request->range = {request->block.offset_bytes,
                    request->block.offset_bytes + request->block.length_bytes};
  request->widened = WidenToSectors(request->range);
  request->phase = Request::Phase::kThrottled;
  request->started_nanos = request->admitted_nanos = context_.NowNanos();
  request->limited = false;
  request->gate_nanos = request->started_nanos;
  request->client_micros.fill(0);
  request->paths.clear();
  request->slowest_replica_micros = 0;
  request->live_index = live_.size();
  request->in_gate = request->read_modify_write = request->answered = request->flush_after = false;
  request->taken_write = false;
  request->internal = request->adopts = request->partly_done = false;
  // A write promises itself; a flush all that its client has not heard the contrary of.
  request->told_losses = flushes_.losses();
  if (request->block.command == Command::kFlush) {
    request->told_losses =
        request->block.client != nullptr ? request->block.client->told : told_losses_;
  }
  request->segments.clear();
  request->next_segment = 0;
  request->cursor = PieceCursor();
  request->outstanding = 0;
  request->parts.clear();
  request->error = 0;
  request->message.clear();
  live_.push_back(request);
  stats_.in_flight.Add();
  context_.counters().in_flight.Add();
  return request;
}

void VolumeEngine::FreeRequest(Request* request) {
  if (std::exchange(request->taken_write, false)) --writes_taken_;
  live_[request->live_index] = live_.back();
  live_[request->live_index]->live_index = request->live_index;
  live_.pop_back();
  request->block = BlockRequest();
  request->segments.clear();
  request->parts.clear();
  free_requests_.push_back(request);
}

Piece* VolumeEngine::NewPiece() {
  if (free_pieces_.empty()) {
    pieces_.push_back(std::make_unique<Piece>());
    free_pieces_.push_back(pieces_.back().get());
  }
  Piece* piece = free_pieces_.back();
  free_pieces_.pop_back();
  piece->checksum_errors = 0;
  piece->force_unit_access = piece->cuts_bad_block = false;
  piece->crc32c = 0;
  piece->began_nanos = 0;
  piece->answers = piece->sends = 0;
  return piece;
}

void VolumeEngine::FreePiece(Piece* piece) {
  ForgetWrite(piece);
  FillCache(piece, {});
  piece->slices.clear();
  piece->tried_device_ids.clear();
  piece->request = nullptr;
  free_pieces_.push_back(piece);
}

void VolumeEngine::EnterGate(Request* request) {
  const Command command = request->block.command;
  if (IsWrite(command)) {
    if (HoldBack(request)) return;
    request->taken_write = true;
    ++writes_taken_;
  }
  request->phase = Request::Phase::kAtGate;
  if (command == Command::kFlush) {
    RequestFlush(request);
    return;
  }
  // It changes nothing that anybody reads, so nobody has to wait for it.
  if (request->adopts) return Begin(request);
  RangeGate::Kind kind = RangeGate::Kind::kRead;
  ByteRange range = request->widened;
  if (command == Command::kTrim) {
    kind = RangeGate::Kind::kWrite;
    range = NarrowToSectors(request->range);
  } else if (IsWrite(command)) {
    request->read_modify_write = !IsSectorAligned(request->range);
    kind = request->read_modify_write ? RangeGate::Kind::kReadModifyWrite : RangeGate::Kind::kWrite;
  }
  // Before anything of it is sent, and for as long as it is in the gate.
  if (cache_ != nullptr && kind != RangeGate::Kind::kRead) cache_->WriteBegins(range);
  const RangeGate::Entry entry = gate_.Enter(kind, range, request);
  request->ticket = entry.ticket;
  request->in_gate = true;
  if (entry.ready) Begin(request);
}

void VolumeEngine::RunReady(std::vector<void*>& ready) {
  if (ready.empty()) return;
  const uint64_t now = context_.NowNanos();
  for (void* owner : ready) {
    auto* request = static_cast<Request*>(owner);
    WaitEnded(request, v1::LATENCY_STAGE_ORDER_WAIT, now);
    if (request->phase == Request::Phase::kHeld) {
      Answer(request);
    } else {
      Begin(request);
    }
  }
}

void VolumeEngine::Begin(Request* request) {
  request->phase = Request::Phase::kRunning;
  switch (request->block.command) {
    case Command::kWrite:
      if (request->read_modify_write) return ReadEdges(request);
      return BeginWrite(request);
    case Command::kWriteZeroes:
      if (request->read_modify_write) return ReadEdges(request);
      request->segments.push_back({request->range, v1::IO_OPERATION_TYPE_WRITE_ZEROES, {}});
      break;
    case Command::kTrim:
      request->segments.push_back(
          {NarrowToSectors(request->range),
           request->adopts ? v1::IO_OPERATION_TYPE_ADOPT : v1::IO_OPERATION_TYPE_TRIM,
           {}});
      break;
    case Command::kBlockStatus:
    case Command::kChanges: {
      ByteRange range = request->widened;
      range.end = std::min(range.end, range.begin + kBlockStatusBytes);
      const auto type = request->block.command == Command::kChanges ? v1::IO_OPERATION_TYPE_CHANGES
                                                                    : v1::IO_OPERATION_TYPE_MAP;
      request->segments.push_back({range, type, {}});
      break;
    }
    default:
      request->segments.push_back({request->widened, v1::IO_OPERATION_TYPE_READ, {}});
      break;
  }
  StartSegments(request);
}

void VolumeEngine::BeginWrite(Request* request) {
  request->segments.push_back(
      {request->widened, v1::IO_OPERATION_TYPE_WRITE, std::move(request->block.data)});
  StartSegments(request);
}

// Reads the sectors at the two ends of an unaligned write or zeroing (once, when they are the
// same).
void VolumeEngine::ReadEdges(Request* request) {
  request->phase = Request::Phase::kReadingEdges;
  const ByteRange& wide = request->widened;
  if (request->range.begin != wide.begin || wide.size() == kSectorBytes) {
    request->segments.push_back(
        {{wide.begin, wide.begin + kSectorBytes}, v1::IO_OPERATION_TYPE_READ, {}});
  }
  if (request->range.end != wide.end && wide.size() > kSectorBytes) {
    request->segments.push_back(
        {{wide.end - kSectorBytes, wide.end}, v1::IO_OPERATION_TYPE_READ, {}});
  }
  StartSegments(request);
}

void VolumeEngine::EdgesRead(Request* request) {
  request->phase = Request::Phase::kRunning;
  const ByteRange& wide = request->widened;
  const ByteRange& range = request->range;
  const Payload edges = TakeParts(request->parts, 0, 2 * kSectorBytes);
  request->parts.clear();
  const uint64_t before = range.begin - wide.begin;
  const uint64_t after = wide.end - range.end;
  const Payload head = SubPayload(edges, 0, before);
  const Payload tail = SubPayload(edges, edges.size_bytes() - after, after);
  request->segments.clear();
  request->next_segment = 0;
  if (request->block.command == Command::kWrite) {
    request->block.data = Concatenate(head, request->block.data, tail);
    return BeginWrite(request);
  }
  if (wide.size() <= kZeroesAsDataBytes) {
    request->segments.push_back(
        {wide, v1::IO_OPERATION_TYPE_WRITE, Concatenate(head, ZeroPayload(range.size()), tail)});
    return StartSegments(request);
  }
  const ByteRange inner = NarrowToSectors(range);
  if (before > 0) {
    request->segments.push_back({{wide.begin, inner.begin},
                                 v1::IO_OPERATION_TYPE_WRITE,
                                 Concatenate(head, ZeroPayload(kSectorBytes - before), {})});
  }
  request->segments.push_back({inner, v1::IO_OPERATION_TYPE_WRITE_ZEROES, {}});
  if (after > 0) {
    request->segments.push_back({{inner.end, wide.end},
                                 v1::IO_OPERATION_TYPE_WRITE,
                                 Concatenate(ZeroPayload(kSectorBytes - after), tail, {})});
  }
  StartSegments(request);
}

void VolumeEngine::StartSegments(Request* request) {
  request->next_segment = 0;
  request->cursor = PieceCursor();
  Advance(request);
}

// Sends pieces until enough are on their way; ends the request when nothing is left.
void VolumeEngine::Advance(Request* request) {
  // Holds the request while its pieces are made: one may be done before the next is.
  ++request->outstanding;
  while (request->outstanding <= kOutstandingPieces && request->error == 0) {
    if (request->cursor.done()) {
      if (request->next_segment == request->segments.size()) break;
      const Segment& segment = request->segments[request->next_segment++];
      request->cursor = PieceCursor(segment.range, grant_.fields.chunk_bytes);
      continue;
    }
    const Segment& segment = request->segments[request->next_segment - 1];
    const uint64_t position = request->cursor.position();
    Piece* piece = NewPiece();
    piece->request = request;
    piece->type = segment.type;
    piece->where = request->cursor.Take();
    piece->force_unit_access = request->block.force_unit_access;
    if (segment.type == v1::IO_OPERATION_TYPE_WRITE) {
      AppendSlices(segment.data, position - segment.range.begin, piece->where.length_bytes,
                   &piece->slices);
      for (const grpc::Slice& slice : piece->slices) {
        piece->crc32c = Crc32c({reinterpret_cast<const std::byte*>(slice.begin()), slice.size()},
                               piece->crc32c);
      }
    } else if (IsReadType(segment.type)) {
      if (segment.type == v1::IO_OPERATION_TYPE_CHANGES) {
        const ComparisonBase* base = request->block.base.get();
        piece->crc32c = base != nullptr ? base->crc32c : token::BasePathChecksum({});
      }
      piece->part = request->parts.size();
      request->parts.emplace_back();
    }
    ++request->outstanding;
    if (!ReadFromCache(piece)) SendPiece(piece);
  }
  if (--request->outstanding == 0) SegmentsDone(request);
}

void VolumeEngine::PieceDone(Piece* piece, int error, std::string message) {
  Request* request = piece->request;
  const bool changed = !IsReadType(piece->type) && !piece->force_unit_access;
  if (error == 0 && changed && !std::exchange(request->partly_done, true)) {
    request->done_losses = flushes_.losses();
  }
  if (error != 0 && request->error == 0) {
    request->error = error;
    request->message = std::move(message);
  }
  if (request->outstanding == 1 && error == 0) NoteLegEnd(request, *piece);
  FreePiece(piece);
  --request->outstanding;
  const bool more = request->error == 0 &&
                    (!request->cursor.done() || request->next_segment < request->segments.size());
  if (more && request->outstanding < kOutstandingPieces) {
    Advance(request);
  } else if (request->outstanding == 0) {
    SegmentsDone(request);
  }
}

void VolumeEngine::SegmentsDone(Request* request) {
  if (request->phase == Request::Phase::kReadingEdges && request->error == 0) {
    EdgesRead(request);
    return;
  }
  if (request->partly_done && request->done_losses < flushes_.losses() && request->error == 0) {
    request->error = EIO;
    request->message = "the last replica failed or was restarted: a part of this write may be lost";
  }
  if (request->flush_after && request->error == 0) {
    request->flush_after = false;
    RequestFlush(request);
    return;
  }
  Finish(request);
}

// Leaves the gate. A read that writes have overtaken waits for these before it answers.
void VolumeEngine::Finish(Request* request) {
  std::vector<void*> ready;
  if (request->in_gate) {
    gate_.Leave(request->ticket, &ready);
    request->in_gate = false;
  }
  const Command command = request->block.command;
  if (request->error == 0 && (command == Command::kRead || command == Command::kBlockStatus ||
                              command == Command::kChanges)) {
    const RangeGate::Entry entry = gate_.Enter(RangeGate::Kind::kRead, request->widened, request);
    request->ticket = entry.ticket;
    request->in_gate = true;
    request->phase = Request::Phase::kHeld;
    if (entry.ready) {
      Answer(request);
    } else {
      request->gate_nanos = context_.NowNanos();
    }
  } else {
    Answer(request);
  }
  RunReady(ready);
}

void VolumeEngine::Answer(Request* request) {
  std::vector<void*> ready;
  if (request->in_gate) gate_.Leave(request->ticket, &ready);
  request->in_gate = false;
  if (!request->answered) {
    BlockReply reply = MakeReply(request);
    auto done = std::move(request->block.done);
    stats_.in_flight.Subtract(1);
    context_.counters().in_flight.Subtract(1);
    FreeRequest(request);
    const std::shared_ptr<bool> alive = alive_;
    done(std::move(reply));
    if (!*alive) return;
  } else {
    FreeRequest(request);
  }
  RunReady(ready);
  CheckHold();
  CheckDetached();
}

BlockReply VolumeEngine::MakeReply(Request* request) {
  BlockReply reply;
  reply.error = request->error;
  reply.message = std::move(request->message);
  if (request->adopts) return reply;
  const Command command = request->block.command;
  CommandCounters& counters = context_.counters().commands[static_cast<size_t>(command)];
  counters.requests.Add();
  const uint64_t now = context_.NowNanos();
  const uint64_t micros = (now - request->started_nanos) / 1000;
  counters.Observe(micros);
  if (reply.error != 0) {
    counters.errors.Add();
    stats_.errors.Add();
    return reply;
  }
  counters.bytes.Add(request->block.length_bytes);
  NoteLatency(*request, now);
  switch (command) {
    case Command::kRead:
      reply.data = TakeParts(request->parts, request->range.begin - request->widened.begin,
                             request->range.size());
      stats_.reads.Add();
      stats_.read_bytes.Add(request->range.size());
      stats_.read_micros.Add(micros);
      break;
    case Command::kBlockStatus:
    case Command::kChanges:
      reply.extents = MakeExtents(request);
      break;
    case Command::kWrite:
    case Command::kTrim:
    case Command::kWriteZeroes:
      stats_.writes.Add();
      stats_.write_bytes.Add(request->range.size());
      stats_.write_micros.Add(micros);
      break;
    default:
      break;
  }
  return reply;
}

std::vector<StatusExtent> VolumeEngine::MakeExtents(Request* request) {
  std::vector<StatusExtent> merged;
  uint64_t skip = request->range.begin - request->widened.begin;
  uint64_t left = request->range.size();
  for (const PiecePart& part : request->parts) {
    for (StatusExtent extent : part.extents) {
      const uint64_t skipped = std::min(skip, extent.length_bytes);
      skip -= skipped;
      extent.length_bytes = std::min(extent.length_bytes - skipped, left);
      if (extent.length_bytes == 0) continue;
      left -= extent.length_bytes;
      if (!merged.empty() && merged.back().hole == extent.hole &&
          merged.back().zero == extent.zero && merged.back().changed == extent.changed) {
        merged.back().length_bytes += extent.length_bytes;
      } else {
        merged.push_back(extent);
      }
    }
  }
  if (request->block.one_extent && merged.size() > 1) merged.resize(1);
  return merged;
}

void VolumeEngine::SetGrant(VolumeGrant grant) {
  const bool other = grant.fields.generation != grant_.fields.generation ||
                     grant.fields.grant_id != grant_.fields.grant_id;
  // A renewal of the grant before a snapshot was cut.
  if (grant.fields.generation == grant_.fields.generation &&
      grant.fields.snapshot_sequence < grant_.fields.snapshot_sequence) {
    return;
  }
  if (grant.fields.generation != grant_.fields.generation ||
      grant.fields.volume_size_bytes != grant_.fields.volume_size_bytes) {
    shrunk_to_ = UINT64_MAX;
  }
  if (!other && table_ != nullptr) {
    (void)table_->PutGrant(volume_id(), grant.fields.generation, grant.issued);
  }
  grant_ = std::move(grant);
  if (cache_ != nullptr) cache_->SetIdentity(IdentityInCache());
  grant_blocked_ = false;
  const uint64_t now = context_.NowNanos();
  // Until the new order is recorded as a whole, the next life can't go on with it.
  if (other && table_ != nullptr) record_.AddOutside();
  if (other && !read_only()) {
    flushes_.NewGeneration();
    // What was acknowledged has no place in the new order. Where it was what the map told the loss
    // of, and not durable again, it is lost now.
    for (Group* group : retaining_groups_) {
      if (group->loss_kept) GiveUpUnflushed(*group);
    }
    ReleaseAllWrites();
    for (const auto& group : groups_) {
      if (group != nullptr && group->writer.generation() != grant_.fields.generation) {
        group->writer.Renumber(grant_.fields.generation, now);
      }
    }
  }
  if (other) RecordNewOrder();
  for (const auto& group : groups_) {
    if (group == nullptr || group->writer.idle()) continue;
    group->writer.ForgiveWaiting(now);
    Pump(*group);
  }
  RetryParked();
  // What a round waited for may have been given up with the old order.
  if (other) CheckFlushRound();
  AdoptLimits();
  if (other) EndHold(absl::AbortedError("the volume got another grant meanwhile"));
}

void VolumeEngine::TimeOutRequests(uint64_t now_nanos) {
  const auto limit = static_cast<uint64_t>(context_.options().io_timeout.count());
  if (limit == 0) return;
  std::vector<absl::AnyInvocable<void(BlockReply)>> expired;
  for (Request* request : live_) {
    // Waiting for its limits is no fault.
    if (request->limited) continue;
    if (request->answered || now_nanos - request->admitted_nanos < limit) continue;
    request->answered = true;
    expired.push_back(std::move(request->block.done));
    stats_.in_flight.Subtract(1);
    stats_.errors.Add();
    EngineCounters& counters = context_.counters();
    counters.in_flight.Subtract(1);
    counters.requests_timed_out.Add();
    counters.commands[static_cast<size_t>(request->block.command)].errors.Add();
  }
  const std::string why = expired.empty() ? "" : WaitingFor();
  for (auto& done : expired) {
    BlockReply reply;
    reply.error = EIO;
    reply.message = absl::StrCat("no answer within --io-timeout: ", why);
    done(std::move(reply));
  }
}

void VolumeEngine::Detach(bool drop, absl::AnyInvocable<void()> done) {
  detaching_ = true;
  if (drop) hold_.waiting.clear();  // they are answered below, and never begun
  EndHold(absl::UnavailableError("the volume is being detached"));
  if (cache_ != nullptr && drop) DropCache();
  detached_ = std::move(done);
  if (drop) {
    std::vector<absl::AnyInvocable<void(BlockReply)>> dropped;
    for (Request* request : live_) {
      if (request->answered) continue;
      request->answered = true;
      dropped.push_back(std::move(request->block.done));
      stats_.in_flight.Subtract(1);
      context_.counters().in_flight.Subtract(1);
    }
    for (auto& reply_to : dropped) {
      BlockReply reply;
      reply.error = ESHUTDOWN;
      reply.message = "the volume was detached";
      reply_to(std::move(reply));
    }
    context_.loop().Post(std::move(detached_));
    detached_ = nullptr;
    return;
  }
  // What is answered but not durable is flushed as part of an orderly end.
  if (!flushes_.clean()) {
    BlockRequest flush;
    flush.command = Command::kFlush;
    flush.done = [](BlockReply) {};
    RequestFlush(NewRequest(std::move(flush)));
    return;
  }
  CheckDetached();
}

void VolumeEngine::CheckDetached() {
  if (!detaching_ || detached_ == nullptr || !live_.empty()) return;
  if (!flushes_.clean() && !std::exchange(internal_flush_, true)) {
    BlockRequest flush;
    flush.command = Command::kFlush;
    flush.done = [](BlockReply) {};
    RequestFlush(NewRequest(std::move(flush)));
    return;
  }
  context_.loop().Post(std::move(detached_));
  detached_ = nullptr;
}

void VolumeEngine::Tick(uint64_t now_nanos) {
  const auto timeout = static_cast<uint64_t>(context_.options().replica_timeout.count());
  const auto flush_timeout = static_cast<uint64_t>(context_.options().flush_timeout.count());
  // A grant that nobody could better is tried again: the server may have caught up meanwhile.
  if (grant_blocked_ && now_nanos - grant_blocked_nanos_ > 1'000'000'000) {
    grant_blocked_ = false;
    RetryParked();
    for (const auto& group : groups_) {
      if (group == nullptr || group->writer.idle()) continue;
      group->writer.ForgiveWaiting(now_nanos);
      Pump(*group);
    }
  }
  if (!grant_blocked_) {
    for (const auto& group : groups_) {
      if (group == nullptr || group->writer.idle()) continue;
      const auto* front =
          reinterpret_cast<const Piece*>(group->writer.cookie(group->writer.front_sequence()));
      const uint64_t limit = front->force_unit_access ? flush_timeout : timeout;
      if (now_nanos < limit) continue;
      for (const uint64_t device_id : group->writer.Overdue(now_nanos - limit)) {
        for (const WriterMember& member : group->writer.members()) {
          if (member.device_id == device_id) context_.SuspectServer(member.sds_id);
        }
        Report(*group, device_id, "no answer to a write in time");
      }
    }
  }
  if (flushes_.round_running()) ReportLostAgain(now_nanos);
  TimeOutRequests(now_nanos);
}

std::string VolumeEngine::WaitingFor() const {
  if (live_.empty()) return "";
  if (grant_blocked_) return "a new grant from the MDM";
  for (const auto& group : groups_) {
    if (group == nullptr || group->writer.idle()) continue;
    const std::string id = absl::StrCat("placement group ", group->writer.placement_group_id());
    if (group->writer.below_minimum()) {
      return absl::StrCat(id, ": fewer replicas in sync than the pool demands");
    }
    for (const WriterMember& member : group->writer.members()) {
      if (member.reported || member.hold_until_nanos > 0) {
        return absl::StrCat(id, ": the replica on device ", member.device_id);
      }
    }
  }
  if (!parked_.empty()) return "a replica to read from";
  if (!full_waiting_.empty()) return "space: the pool is full";
  for (const ReplicaName& lost : flushes_.Lost()) {
    return absl::StrCat("a flush: the replica of placement group ", lost.placement_group_id,
                        " on device ", lost.device_id, " may lack writes");
  }
  if (flushes_.round_running()) return "a flush of a server's device";
  if (!throttled_.empty()) return "its limit of operations or bytes a second";
  return "";
}

}  // namespace tessera::sdc
