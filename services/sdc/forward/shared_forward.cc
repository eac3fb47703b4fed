// A shared volume whose requests go to the client that writes it.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "services/common/logging.h"
#include "services/sdc/forward/shared_volume.h"

namespace tessera::sdc {
namespace {

// When nothing was said for so long, the writer is asked whether it is there.
constexpr EventLoop::Duration kPing = std::chrono::milliseconds(500);
constexpr EventLoop::Duration kConnectPause = std::chrono::milliseconds(50);
constexpr uint32_t kHole = 1;  // NBD's base:allocation
constexpr uint32_t kZero = 2;

v1::ForwardCommand CommandOf(Command command) {
  switch (command) {
    case Command::kRead:
      return v1::FORWARD_COMMAND_READ;
    case Command::kWrite:
      return v1::FORWARD_COMMAND_WRITE;
    case Command::kWriteZeroes:
      return v1::FORWARD_COMMAND_WRITE_ZEROES;
    case Command::kTrim:
      return v1::FORWARD_COMMAND_TRIM;
    case Command::kFlush:
      return v1::FORWARD_COMMAND_FLUSH;
    case Command::kBlockStatus:
      return v1::FORWARD_COMMAND_BLOCK_STATUS;
    // Not forwarded: Submit.
    case Command::kCache:
    case Command::kChanges:
      break;
  }
  return v1::FORWARD_COMMAND_UNSPECIFIED;
}

// What a request takes of the window.
uint64_t ChargeOf(const BlockRequest& request) {
  const bool data = request.command == Command::kRead || request.command == Command::kWrite;
  return kForwardRequestBytes + (data ? request.length_bytes : 0);
}

BlockReply ReplyTo(const BlockRequest& request, v1::ForwardResponse response) {
  BlockReply reply;
  reply.error = static_cast<int>(response.error());
  reply.message = response.message();
  if (reply.error != 0) return reply;
  if (request.command == Command::kRead) {
    auto data = std::make_shared<const std::string>(std::move(*response.mutable_data()));
    if (data->size() != request.length_bytes) {
      reply.error = EIO;
      reply.message = "the client that writes the volume answered with another length";
      return reply;
    }
    reply.data.pieces.push_back(std::as_bytes(std::span(*data)));
    reply.data.owner = std::move(data);
  }
  for (const v1::ForwardExtent& extent : response.extents()) {
    reply.extents.push_back(
        {extent.length_bytes(), (extent.flags() & kHole) != 0, (extent.flags() & kZero) != 0});
    if (request.one_extent) break;
  }
  return reply;
}

}  // namespace

void SharedVolume::Connect() {
  connected_ = loop_.Now();
  open_ = false;
  stream_ = streams_.Open(target_->to.endpoints().control(), this);
  SendHello();
}

void SharedVolume::ConnectSoon() {
  if (connect_timer_.has_value() || stream_ != nullptr || !target_.has_value()) return;
  const EventLoop::Duration due = connected_ + kConnectPause;
  const EventLoop::Duration now = loop_.Now();
  connect_timer_ = loop_.After(due > now ? due - now : EventLoop::Duration::zero(), [this] {
    connect_timer_.reset();
    if (stream_ == nullptr && target_.has_value()) Connect();
  });
}

void SharedVolume::DropStream() {
  if (connect_timer_.has_value()) loop_.Cancel(*std::exchange(connect_timer_, std::nullopt));
  if (stream_ != nullptr) std::exchange(stream_, nullptr)->Close();
  open_ = false;
  next_unsent_ = 1;
}

void SharedVolume::SendHello() {
  v1::ForwardRequest request;
  v1::ForwardHello* hello = request.mutable_hello();
  hello->set_volume_id(volume_id_);
  hello->set_generation(target_->to.generation());
  hello->set_sdc_id(target_->own_sdc_id);
  hello->set_expiry_ms(target_->to.expiry_ms());
  hello->set_ticket(target_->to.ticket());
  said_ = loop_.Now();
  stream_->Write(std::move(request));
}

// Of a connection, or of none: whether the writer is there.
void SharedVolume::SendPlain(uint64_t connection_id, bool closed) {
  v1::ForwardRequest request;
  request.set_connection_id(connection_id);
  request.set_connection_closed(closed);
  said_ = loop_.Now();
  stream_->Write(std::move(request));
}

bool SharedVolume::SendRequest(uint64_t tag, const Entry& entry) {
  const BlockRequest& block = entry.block;
  const uint64_t charge = ChargeOf(block);
  if (window_used_ > 0 && window_used_ + charge > window_bytes_) return false;
  window_used_ += charge;
  v1::ForwardRequest request;
  request.set_tag(tag);
  request.set_command(CommandOf(block.command));
  request.set_offset_bytes(block.offset_bytes);
  request.set_length_bytes(block.length_bytes);
  request.set_force_unit_access(block.force_unit_access);
  request.set_no_hole(block.no_hole);
  if (const Client* client = FindClient(block.client.get())) request.set_connection_id(client->id);
  std::string* data = request.mutable_data();
  data->reserve(block.data.size_bytes());
  for (const auto piece : block.data.pieces) {
    data->append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  said_ = loop_.Now();
  stream_->Write(std::move(request));
  return true;
}

void SharedVolume::StreamReceived(v1::ForwardResponse response) {
  heard_ = loop_.Now();
  if (response.not_writer()) {
    // It may not have the right yet, or not any more.
    if (response.error() == EIO) {
      for (Client& client : clients_) client.owed = true;
    }
    DropStream();
    broke_ = true;
    host_.TargetNeeded(volume_id_, 0);
    return;
  }
  if (response.tag() == 0) {
    if (open_ || response.window_bytes() == 0) return;
    open_ = true;
    broke_ = false;
    window_bytes_ = response.window_bytes();
    window_used_ = 0;
    ForgetClosedClients();
    for (const Client& client : clients_) SendPlain(client.id, false);
    Pump();
    return;
  }
  const auto found = entries_.find(response.tag());
  if (found == entries_.end() || found->first >= next_unsent_) return;
  const BlockRequest& request = found->second.block;
  window_used_ -= std::min(window_used_, ChargeOf(request));
  const uint64_t tag = response.tag();
  BlockReply reply = ReplyTo(request, std::move(response));
  const std::shared_ptr<bool> alive = alive_;
  Answer(tag, std::move(reply));
  if (*alive) Pump();
}

void SharedVolume::StreamEnded(const std::string&) {
  stream_ = nullptr;
  open_ = false;
  broke_ = true;
  next_unsent_ = 1;
  ConnectSoon();
}

void SharedVolume::ForgetClosedClients() {
  std::erase_if(clients_, [this](const Client& client) {
    const auto cursor = client.cursor.lock();
    if (cursor != nullptr && !cursor->closed) return false;
    if (open_) SendPlain(client.id, true);
    return true;
  });
}

void SharedVolume::ArmTick() {
  if (tick_.has_value()) return;
  tick_ = loop_.After(kTick, [this] {
    tick_.reset();
    if (!target_.has_value()) return;
    ArmTick();
    Tick();
  });
}

void SharedVolume::Tick() {
  const EventLoop::Duration now = loop_.Now();
  const bool silent = now - heard_ >= kSilence;
  if (open_) {
    if (!silent) {
      ForgetClosedClients();
      if (now - said_ >= kPing || now - heard_ >= kPing) SendPlain(0, false);
      return;
    }
    LogWarning("the client that writes a shared volume says nothing",
               {{"volume", volume_id_}, {"sdc", target_->to.sdc_id()}});
    DropStream();
    broke_ = true;
  }
  // One that does not get anywhere is not waited for.
  if (stream_ != nullptr && now - connected_ >= kSilence) DropStream();
  ConnectSoon();
  if (silent) return host_.TargetNeeded(volume_id_, target_->to.generation());
  if (broke_) host_.TargetNeeded(volume_id_, 0);
}

}  // namespace tessera::sdc
