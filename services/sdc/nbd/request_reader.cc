#include "services/sdc/nbd/request_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tessera::sdc::nbd {
namespace {

// A shorter rest of a block is not worth a system call, unless it completes what is being read.
constexpr size_t kWorthwhileSpaceBytes = 4096;

}  // namespace

// Makes a new block the current one, taking the unread bytes (part of a header) along.
void RequestReader::Replace(size_t capacity) {
  auto block = std::make_shared<Block>(std::max(capacity, Unread() + kRequestBytes));
  const size_t kept = Unread();
  if (kept > 0) std::memcpy(block->bytes.get(), block_->bytes.get() + read_, kept);
  block_ = std::move(block);
  read_ = 0;
  filled_ = kept;
  block_shared_ = false;
}

std::span<std::byte> RequestReader::Space() {
  const size_t missing = in_request_ && payload_left_bytes_ > 0
                             ? payload_left_bytes_
                             : kRequestBytes - std::min(kRequestBytes, Unread());
  if (block_ != nullptr && Unread() == 0 && !block_shared_) read_ = filled_ = 0;
  const size_t space = block_ == nullptr ? 0 : block_->capacity - filled_;
  if (space == 0 || space < std::min(missing, kWorthwhileSpaceBytes) ||
      (filled_ == 0 && block_->capacity < next_block_bytes_)) {
    Replace(std::max(next_block_bytes_, std::min(missing, kLargestPayloadBlockBytes)));
  }
  return {block_->bytes.get() + filled_, block_->capacity - filled_};
}

void RequestReader::Received(size_t count) {
  filled_ += count;
  // A client that fills whole blocks gets longer ones, for fewer system calls.
  if (filled_ == block_->capacity) {
    next_block_bytes_ = std::min(4 * next_block_bytes_, kLargestBlockBytes);
  }
}

void RequestReader::Append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  if (block_ == nullptr || block_->capacity - filled_ < bytes.size()) {
    Replace(std::max(next_block_bytes_, Unread() + bytes.size()));
  }
  std::memcpy(block_->bytes.get() + filled_, bytes.data(), bytes.size());
  filled_ += bytes.size();
}

RequestReader::Outcome RequestReader::Peek(Request& request) {
  if (!broken_reason_.empty()) return Outcome::kBroken;
  if (Unread() < kRequestBytes) return Outcome::kNeedInput;
  const std::span<const std::byte, kRequestBytes> bytes(block_->bytes.get() + read_, kRequestBytes);
  const std::optional<RequestHeader> header = DecodeRequest(bytes);
  if (!header.has_value()) {
    broken_reason_ = "wrong magic before a request";
    return Outcome::kBroken;
  }
  request.header = *header;
  request.verdict = Judge(*header, session_);
  if (request.verdict.action == Verdict::Action::kBreak) {
    broken_reason_ = request.verdict.message;
    return Outcome::kBroken;
  }
  return Outcome::kReady;
}

void RequestReader::Begin(const Request& request) {
  read_ += kRequestBytes;
  in_request_ = true;
  payload_left_bytes_ = PayloadBytes(request.header);
  keep_payload_ = request.verdict.action == Verdict::Action::kSubmit;
}

bool RequestReader::Finish(Payload& payload) {
  const size_t taken = std::min(payload_left_bytes_, Unread());
  if (taken > 0) {
    if (keep_payload_) {
      const std::span<const std::byte> bytes(block_->bytes.get() + read_, taken);
      if (!piece_blocks_.empty() && piece_blocks_.back() == block_) {
        pieces_.back() = {pieces_.back().data(), pieces_.back().size() + taken};
      } else {
        pieces_.push_back(bytes);
        piece_blocks_.push_back(block_);
      }
      block_shared_ = true;
    }
    read_ += taken;
    payload_left_bytes_ -= taken;
  }
  if (payload_left_bytes_ > 0) return false;
  in_request_ = false;
  payload.pieces = std::exchange(pieces_, {});
  if (piece_blocks_.size() == 1) {
    payload.owner = std::move(piece_blocks_.front());
    piece_blocks_.clear();
  } else if (!piece_blocks_.empty()) {
    payload.owner =
        std::make_shared<std::vector<std::shared_ptr<Block>>>(std::exchange(piece_blocks_, {}));
  } else {
    payload.owner = nullptr;
  }
  return true;
}

void RequestReader::ReleaseIdle() {
  if (MidRequest()) return;
  block_.reset();
  read_ = filled_ = 0;
  block_shared_ = false;
  next_block_bytes_ = kSmallestBlockBytes;
}

}  // namespace tessera::sdc::nbd
