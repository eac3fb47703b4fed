#include "services/sdc/forward/shared_volume.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"

namespace tessera::sdc {
namespace {

// Of the engine's own hold, which sees to it that everything is durable. No snapshot has this one.
constexpr uint64_t kYieldHold = UINT64_MAX - 1;
constexpr char kMayBeLost[] =
    "the last replica failed or was restarted before this flush: writes answered earlier may be "
    "lost";

bool IsWrite(Command command) {
  return command == Command::kWrite || command == Command::kTrim ||
         command == Command::kWriteZeroes;
}

// All but `done`.
BlockRequest CopyOf(const BlockRequest& request) {
  BlockRequest copy;
  copy.command = request.command;
  copy.offset_bytes = request.offset_bytes;
  copy.length_bytes = request.length_bytes;
  copy.force_unit_access = request.force_unit_access;
  copy.no_hole = request.no_hole;
  copy.fast_zero = request.fast_zero;
  copy.one_extent = request.one_extent;
  copy.data = request.data;
  copy.client = request.client;
  return copy;
}

BlockReply ReplyOf(int error, std::string message) {
  BlockReply reply;
  reply.error = error;
  reply.message = std::move(message);
  return reply;
}

}  // namespace

SharedVolume::SharedVolume(EventLoop& loop, IoEngine& engine, ForwardStreams& streams, Host& host,
                           uint64_t volume_id, std::string name)
    : loop_(loop),
      io_(engine),
      streams_(streams),
      host_(host),
      volume_id_(volume_id),
      name_(std::move(name)) {}

SharedVolume::~SharedVolume() {
  *alive_ = false;
  Leave();
}

BlockDeviceInfo SharedVolume::info() const {
  BlockDeviceInfo info;
  info.size_bytes = engine_ != nullptr ? engine_->size_bytes() : size_bytes_;
  info.description = absl::StrCat("Tessera volume ", name_, ", shared");
  return info;
}

std::shared_ptr<LossCursor> SharedVolume::OpenCursor() {
  auto cursor = std::make_shared<LossCursor>();
  ForgetClosedClients();
  clients_.push_back({++last_client_id_, cursor, false});
  if (engine_ != nullptr) engine_->AdoptCursor(cursor);
  if (open_) SendPlain(last_client_id_, false);
  return cursor;
}

void SharedVolume::AdoptCursor(const std::shared_ptr<LossCursor>& cursor) {
  if (engine_ != nullptr) engine_->AdoptCursor(cursor);
}

SharedVolume::Client* SharedVolume::FindClient(const LossCursor* cursor) {
  if (cursor == nullptr) return nullptr;
  const auto found = std::find_if(clients_.begin(), clients_.end(), [&](const Client& client) {
    return client.cursor.lock().get() == cursor;
  });
  return found == clients_.end() ? nullptr : &*found;
}

uint64_t SharedVolume::forwarded_to() const {
  return target_.has_value() ? target_->to.sdc_id() : 0;
}

uint64_t SharedVolume::generation() const {
  if (engine_ != nullptr) return engine_->grant().fields.generation;
  return target_.has_value() ? target_->to.generation() : 0;
}

std::string SharedVolume::WaitingFor() const {
  if (entries_.empty()) return "";
  if (yield_.has_value()) return "the right to write to be passed on";
  if (engine_ != nullptr) return engine_->WaitingFor();
  if (!target_.has_value()) return "the MDM to say who writes it";
  return open_ ? "" : absl::StrCat("client ", target_->to.sdc_id(), ", which writes it");
}

// ---- Requests of this client.

void SharedVolume::Submit(BlockRequest request) {
  const uint64_t size = info().size_bytes;
  if (detaching_) return FailLater(std::move(request), ESHUTDOWN, "the volume is being detached");
  if (request.offset_bytes > size || request.length_bytes > size - request.offset_bytes ||
      (request.command == Command::kWrite && request.data.size_bytes() != request.length_bytes)) {
    return FailLater(std::move(request), EINVAL, "the range does not lie inside the volume");
  }
  // Nothing is cached: another client may write.
  if (request.command == Command::kCache) return FailLater(std::move(request), 0, "");
  if (request.command == Command::kChanges) {
    return FailLater(std::move(request), EINVAL, "changes of a shared volume are not listed");
  }
  stats_.in_flight.Add();
  entries_.emplace(++last_tag_, Entry{std::move(request), false});
  Pump();
}

void SharedVolume::FailLater(BlockRequest request, int error, std::string message) {
  if (error != 0) stats_.errors.Add();
  loop_.Post([done = std::move(request.done),
              reply = ReplyOf(error, std::move(message))]() mutable { done(std::move(reply)); });
}

// Gives whoever serves now what it has not got, in order.
void SharedVolume::Pump() {
  if (engine_ == nullptr && !open_) return;
  if (engine_ != nullptr && (yield_.has_value() || engine_leaving_)) return;
  for (auto next = entries_.lower_bound(next_unsent_); next != entries_.end(); ++next) {
    const auto& [tag, entry] = *next;
    if (engine_ != nullptr) {
      SubmitToEngine(tag, entry);
    } else if (!SendRequest(tag, entry)) {
      return;  // the window is full
    }
    next_unsent_ = tag + 1;
  }
}

void SharedVolume::SubmitToEngine(uint64_t tag, const Entry& entry) {
  BlockRequest request = CopyOf(entry.block);
  ++in_engine_;
  request.done = [this, alive = alive_, era = era_, tag](BlockReply reply) {
    if (!*alive || era != era_) return;
    --in_engine_;
    Answer(tag, std::move(reply));
    if (*alive) CheckYield();
  };
  engine_->Submit(std::move(request));
}

void SharedVolume::Answer(uint64_t tag, BlockReply reply) {
  const auto found = entries_.find(tag);
  if (found == entries_.end()) return;
  Entry entry = std::move(found->second);
  entries_.erase(found);
  if (entry.block.command == Command::kFlush) {
    Client* client = FindClient(entry.block.client.get());
    if (client != nullptr && std::exchange(client->owed, false) && reply.error == 0) {
      reply = ReplyOf(EIO, kMayBeLost);
    }
  }
  Count(entry.block, reply);
  const std::shared_ptr<bool> alive = alive_;
  entry.block.done(std::move(reply));
  if (*alive) CheckDetached();
}

void SharedVolume::Count(const BlockRequest& request, const BlockReply& reply) {
  stats_.in_flight.Subtract(1);
  if (reply.error != 0) {
    stats_.errors.Add();
  } else if (request.command == Command::kRead) {
    stats_.reads.Add();
    stats_.read_bytes.Add(request.length_bytes);
  } else if (IsWrite(request.command)) {
    stats_.writes.Add();
    stats_.write_bytes.Add(request.length_bytes);
  }
}

// ---- Changing sides.

void SharedVolume::SetGrant(VolumeGrant grant) {
  size_bytes_ = grant.fields.volume_size_bytes;
  const bool same =
      engine_ != nullptr && engine_->grant().fields.generation == grant.fields.generation;
  // At its end nothing of others is in the engine any more: it may go on in a new order.
  if (same || engine_leaving_) return io_.SetGrant(name_, std::move(grant), /*cached=*/false);
  next_grant_ = std::move(grant);
  next_target_.reset();
  Switch();
}

void SharedVolume::SetTarget(const v1::ForwardTarget& target, uint64_t own_sdc_id) {
  size_bytes_ = target.volume_size_bytes();
  if (target_.has_value() && target_->to.sdc_id() == target.sdc_id() &&
      target_->to.generation() == target.generation()) {
    target_->to = target;
    if (open_) {
      SendHello();
    } else if (stream_ == nullptr) {
      ConnectSoon();
    }
    return;
  }
  next_target_ = Target{target, own_sdc_id};
  next_grant_.reset();
  // What it still had to flush is another's business now.
  if (engine_leaving_) return Detach(true, std::exchange(detached_, nullptr));
  Switch();
}

void SharedVolume::Adopt(std::shared_ptr<VolumeEngine> engine) {
  size_bytes_ = engine->grant().fields.volume_size_bytes;
  engine_ = std::move(engine);
}

void SharedVolume::Switch() {
  Leave();
  if (dropping_engine_) return;
  if (io_.FindVolume(volume_id_) == nullptr) return Install();
  dropping_engine_ = true;
  io_.Detach(volume_id_, true, [this, alive = alive_] {
    if (!*alive) return;
    dropping_engine_ = false;
    Install();
  });
}

// From here on nobody is served. What was not answered is given to the next one.
void SharedVolume::Leave() {
  ++era_;
  next_unsent_ = 1;
  if (engine_ != nullptr) {
    const uint64_t losses = engine_->GiveUpGeneration();
    for (Client& client : clients_) {
      const auto cursor = client.cursor.lock();
      client.owed |= cursor != nullptr && cursor->told < losses;
    }
    EndPeers(losses);
    engine_ = nullptr;
    in_engine_ = 0;
  }
  EndYield(absl::AbortedError("the volume got another grant meanwhile"));
  DropStream();
  if (tick_.has_value()) loop_.Cancel(*std::exchange(tick_, std::nullopt));
  target_.reset();
}

void SharedVolume::EndPeers(uint64_t losses) {
  for (const auto& peer : std::exchange(peers_, {})) {
    if (peer->ended) continue;
    bool owed = false;
    for (const auto& cursor : peer->peer->cursors()) owed |= cursor->told < losses;
    peer->peer->NotWriter(owed);
  }
}

void SharedVolume::Install() {
  if (next_grant_.has_value()) {
    io_.SetGrant(name_, *std::exchange(next_grant_, std::nullopt), /*cached=*/false);
    engine_ = io_.FindVolume(volume_id_);
    for (const Client& client : clients_) {
      if (const auto cursor = client.cursor.lock()) engine_->AdoptCursor(cursor);
    }
    LogInfo("this client writes a shared volume",
            {{"volume", volume_id_}, {"generation", generation()}, {"waiting", entries_.size()}});
    Pump();
  } else if (next_target_.has_value()) {
    target_ = std::exchange(next_target_, std::nullopt);
    LogInfo("another client writes a shared volume", {{"volume", volume_id_},
                                                      {"generation", generation()},
                                                      {"sdc", target_->to.sdc_id()},
                                                      {"waiting", entries_.size()}});
    heard_ = loop_.Now();
    broke_ = false;
    Connect();
    ArmTick();
  }
  CheckDetached();
}

// ---- The end.

void SharedVolume::Detach(bool drop, absl::AnyInvocable<void()> done) {
  detached_ = std::move(done);
  if (drop) {
    detaching_ = true;
    next_grant_.reset();
    next_target_.reset();
    Leave();
    for (auto& [tag, entry] : std::exchange(entries_, {})) {
      const BlockReply reply = ReplyOf(ESHUTDOWN, "the volume was detached");
      Count(entry.block, reply);
      entry.block.done(reply);
    }
    io_.Detach(volume_id_, true, std::exchange(detached_, nullptr));
    return;
  }
  if (!std::exchange(detaching_, true) && engine_ == nullptr) {
    // What others answered for this client is to be durable, too.
    BlockRequest flush;
    flush.command = Command::kFlush;
    flush.done = [](BlockReply) {};
    stats_.in_flight.Add();
    entries_.emplace(++last_tag_, Entry{std::move(flush), true});
    Pump();
  }
  EndYield(absl::UnavailableError("the volume is being detached"));
  CheckDetached();
}

void SharedVolume::CheckDetached() {
  if (!detaching_ || detached_ == nullptr || engine_leaving_ || dropping_engine_) return;
  if (!entries_.empty() || in_engine_ > 0) return;
  if (engine_ == nullptr) {
    Leave();
    loop_.Post(std::exchange(detached_, nullptr));
    return;
  }
  // The engine flushes, and may need a grant for that: it stays until then.
  EndPeers(engine_->losses());
  engine_leaving_ = true;
  io_.Detach(volume_id_, false, [this, alive = alive_] {
    if (!*alive) return;
    engine_leaving_ = false;
    Leave();
    if (detached_ != nullptr) std::exchange(detached_, nullptr)();
  });
}

// ---- Other clients.

bool SharedVolume::Serves(uint64_t generation) const {
  return engine_ != nullptr && !detaching_ && engine_->grant().fields.generation == generation;
}

void SharedVolume::AddPeer(std::shared_ptr<ForwardPeer> peer) {
  // Of one client the newest stream counts.
  std::vector<std::shared_ptr<Peer>> before = peers_;
  for (const auto& other : before) {
    if (other->sdc_id != peer->sdc_id() || other->ended) continue;
    const std::shared_ptr<ForwardPeer> ending = other->peer;
    RemovePeer(ending.get());
    ending->NotWriter(false);
  }
  auto added = std::make_shared<Peer>();
  added->sdc_id = peer->sdc_id();
  added->peer = std::move(peer);
  peers_.push_back(std::move(added));
}

void SharedVolume::RemovePeer(const ForwardPeer* peer) {
  const auto found = std::find_if(peers_.begin(), peers_.end(),
                                  [&](const auto& known) { return known->peer.get() == peer; });
  if (found == peers_.end()) return;
  (*found)->ended = true;
  (*found)->waiting.clear();
  (*found)->peer = nullptr;
  if ((*found)->in_engine == 0) peers_.erase(found);
  PumpPeers();
}

// What a client sends again on its next stream must not run beside what it sent before: the one
// that is done later would undo what came after the answer to the other.
bool SharedVolume::MayBegin(const Peer& peer) const {
  if (yield_.has_value() || detaching_) return false;
  return std::none_of(peers_.begin(), peers_.end(), [&](const auto& other) {
    return other->ended && other->sdc_id == peer.sdc_id && other->in_engine > 0;
  });
}

void SharedVolume::SubmitFor(const ForwardPeer* from, uint64_t tag, BlockRequest request) {
  const auto found = std::find_if(peers_.begin(), peers_.end(),
                                  [&](const auto& peer) { return peer->peer.get() == from; });
  if (found == peers_.end()) return;
  const std::shared_ptr<Peer> peer = *found;
  if (!peer->waiting.empty() || !MayBegin(*peer)) {
    peer->waiting.emplace_back(tag, std::move(request));
    return;
  }
  BeginForPeer(peer, tag, std::move(request));
}

void SharedVolume::BeginForPeer(const std::shared_ptr<Peer>& peer, uint64_t tag,
                                BlockRequest request) {
  ++in_engine_;
  ++peer->in_engine;
  request.done = [this, alive = alive_, era = era_, peer, tag](BlockReply reply) {
    if (!*alive || era != era_) return;
    --in_engine_;
    --peer->in_engine;
    if (!peer->ended) {
      peer->peer->Answer(tag, std::move(reply));
    } else if (peer->in_engine == 0) {
      std::erase(peers_, peer);
      PumpPeers();
    }
    CheckYield();
    CheckDetached();
  };
  engine_->Submit(std::move(request));
}

void SharedVolume::PumpPeers() {
  if (engine_ == nullptr) return;
  for (const auto& peer : std::vector<std::shared_ptr<Peer>>(peers_)) {
    while (!peer->waiting.empty() && MayBegin(*peer)) {
      auto [tag, request] = std::move(peer->waiting.front());
      peer->waiting.pop_front();
      BeginForPeer(peer, tag, std::move(request));
    }
  }
}

// ---- Passing the right on.

void SharedVolume::Yield(uint64_t generation, EventLoop::Duration longest,
                         absl::AnyInvocable<void(absl::Status)> done) {
  if (engine_ == nullptr && !next_grant_.has_value()) return done(absl::OkStatus());
  if (engine_ == nullptr || engine_->grant().fields.generation != generation) {
    return done(absl::FailedPreconditionError(
        absl::StrCat("it is not the writer of generation ", generation)));
  }
  if (detaching_) return done(absl::UnavailableError("the volume is being detached"));
  if (yield_.has_value()) return done(absl::AbortedError("the right is being passed on already"));
  yield_.emplace();
  yield_->done = std::move(done);
  yield_->give_up = loop_.After(longest / 2, [this] {
    if (yielded()) return;
    const std::string why = engine_->WaitingFor();
    EndYield(absl::DeadlineExceededError(
        absl::StrCat("requests were not done in time", why.empty() ? "" : ": it waits for ", why)));
  });
  yield_->end = loop_.After(longest, [this] {
    // Nothing came. Whether the right is somebody else's by now, the MDM knows, or the servers do.
    host_.GrantDoubted(volume_id_);
    EndYield(absl::DeadlineExceededError("nobody took the right to write"));
  });
  CheckYield();
}

void SharedVolume::CheckYield() {
  if (!yield_.has_value() || yield_->holding || in_engine_ > 0) return;
  yield_->holding = true;
  engine_->HoldWrites(kYieldHold, std::chrono::seconds(10),
                      [this, alive = alive_, era = era_](const absl::Status& held) {
                        if (!*alive || era != era_ || !yield_.has_value()) return;
                        if (!held.ok()) return EndYield(held);
                        if (yield_->done != nullptr) std::exchange(yield_->done, nullptr)(held);
                      });
}

void SharedVolume::EndYield(const absl::Status& why) {
  if (!yield_.has_value()) return;
  Yielding ended = *std::exchange(yield_, std::nullopt);
  loop_.Cancel(ended.give_up);
  loop_.Cancel(ended.end);
  if (engine_ != nullptr && ended.holding) engine_->ReleaseHold(kYieldHold);
  if (ended.done != nullptr) ended.done(why);
  Pump();
  PumpPeers();
}

}  // namespace tessera::sdc
