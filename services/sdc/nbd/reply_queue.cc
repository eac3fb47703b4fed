#include "services/sdc/nbd/reply_queue.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace tessera::sdc::nbd {
namespace {

// Enough for any map that a client asks for in one go; it may ask again from where the reply ends.
constexpr size_t kMaximumExtents = 16384;
constexpr size_t kMaximumMessageBytes = 1024;
// Sent entries are dropped from the front of the queue when there are this many of them.
constexpr size_t kCompactEntries = 256;

Payload OwnedBytes(std::string bytes) {
  Payload payload;
  auto owner = std::make_shared<const std::string>(std::move(bytes));
  payload.pieces.push_back(std::as_bytes(std::span(*owner)));
  payload.owner = std::move(owner);
  return payload;
}

void StoreChunkHeader(std::byte* to, ReplyChunk type, uint64_t cookie, uint32_t length_bytes) {
  StoreBig<uint32_t>(to, kStructuredReplyMagic);
  StoreBig<uint16_t>(to + 4, kReplyFlagDone);
  StoreBig<uint16_t>(to + 6, static_cast<uint16_t>(type));
  StoreBig<uint64_t>(to + 8, cookie);
  StoreBig<uint32_t>(to + 16, length_bytes);
}

}  // namespace

ReplyQueue::Entry& ReplyQueue::Push(Payload data, uint64_t charged_bytes) {
  Entry& entry = entries_.emplace_back();
  entry.data = std::move(data);
  entry.charged_bytes = charged_bytes;
  return entry;
}

void ReplyQueue::Seal(Entry& entry, size_t header_bytes) {
  entry.header_bytes = static_cast<uint8_t>(header_bytes);
  entry.size_bytes = header_bytes + entry.data.size_bytes();
  size_bytes_ += entry.size_bytes;
}

void ReplyQueue::AddRaw(std::string bytes) {
  if (bytes.empty()) return;
  Entry& entry = Push(OwnedBytes(std::move(bytes)), 0);
  entry.is_reply = false;
  Seal(entry, 0);
}

void ReplyQueue::AddSimple(uint64_t cookie, int error, Payload data, uint64_t charged_bytes) {
  Entry& entry = Push(std::move(data), charged_bytes);
  StoreBig<uint32_t>(entry.header.data(), kSimpleReplyMagic);
  StoreBig<uint32_t>(entry.header.data() + 4, static_cast<uint32_t>(error));
  StoreBig<uint64_t>(entry.header.data() + 8, cookie);
  Seal(entry, kSimpleReplyBytes);
}

void ReplyQueue::AddReadChunk(uint64_t cookie, uint64_t offset_bytes, Payload data,
                              uint64_t charged_bytes) {
  Entry& entry = Push(std::move(data), charged_bytes);
  const auto length = static_cast<uint32_t>(sizeof(uint64_t) + entry.data.size_bytes());
  StoreChunkHeader(entry.header.data(), ReplyChunk::kOffsetData, cookie, length);
  StoreBig<uint64_t>(entry.header.data() + kStructuredReplyBytes, offset_bytes);
  Seal(entry, kStructuredReplyBytes + sizeof(uint64_t));
}

void ReplyQueue::AddStructuredDone(uint64_t cookie) {
  Entry& entry = Push({}, 0);
  StoreChunkHeader(entry.header.data(), ReplyChunk::kNone, cookie, 0);
  Seal(entry, kStructuredReplyBytes);
}

void ReplyQueue::AddStructuredError(uint64_t cookie, int error, std::string_view message,
                                    std::optional<uint64_t> offset_bytes, uint64_t charged_bytes) {
  message = message.substr(0, kMaximumMessageBytes);
  std::string tail(message);
  if (offset_bytes.has_value()) AppendBig<uint64_t>(tail, *offset_bytes);
  constexpr size_t kErrorFieldsBytes = sizeof(uint32_t) + sizeof(uint16_t);
  const auto length = static_cast<uint32_t>(kErrorFieldsBytes + tail.size());
  Entry& entry = Push(tail.empty() ? Payload() : OwnedBytes(std::move(tail)), charged_bytes);
  StoreChunkHeader(entry.header.data(),
                   offset_bytes.has_value() ? ReplyChunk::kErrorOffset : ReplyChunk::kError, cookie,
                   length);
  std::byte* const fields = entry.header.data() + kStructuredReplyBytes;
  StoreBig<uint32_t>(fields, static_cast<uint32_t>(error));
  StoreBig<uint16_t>(fields + sizeof(uint32_t), static_cast<uint16_t>(message.size()));
  Seal(entry, kStructuredReplyBytes + kErrorFieldsBytes);
}

void ReplyQueue::AddBlockStatus(uint64_t cookie, uint32_t length_bytes, bool one_extent,
                                std::span<const StatusExtent> extents) {
  struct Run {
    uint64_t length_bytes;
    uint32_t state;
  };
  const size_t limit = one_extent ? 1 : kMaximumExtents;
  std::vector<Run> runs;
  uint64_t left = length_bytes;
  for (const StatusExtent& extent : extents) {
    const uint64_t length = std::min(extent.length_bytes, left);
    if (length == 0) continue;
    const uint32_t state = (extent.hole ? kStateHole : 0) | (extent.zero ? kStateZero : 0);
    if (!runs.empty() && runs.back().state == state) {
      runs.back().length_bytes += length;
    } else if (runs.size() == limit) {
      break;
    } else {
      runs.push_back({length, state});
    }
    left -= length;
  }
  // A device that knows nothing: all of it may be data.
  if (runs.empty()) runs.push_back({length_bytes, 0});
  std::string data;
  AppendBig<uint32_t>(data, kBaseAllocationId);
  for (const Run& run : runs) {
    AppendBig<uint32_t>(data, static_cast<uint32_t>(run.length_bytes));
    AppendBig<uint32_t>(data, run.state);
  }
  const auto length = static_cast<uint32_t>(data.size());
  Entry& entry = Push(OwnedBytes(std::move(data)), 0);
  StoreChunkHeader(entry.header.data(), ReplyChunk::kBlockStatus, cookie, length);
  Seal(entry, kStructuredReplyBytes);
}

size_t ReplyQueue::Gather(std::span<iovec> vectors) const {
  size_t used = 0;
  uint64_t skip = first_sent_bytes_;
  const auto add = [&](const std::byte* bytes, size_t size) {
    if (skip >= size) {
      skip -= size;
      return;
    }
    vectors[used++] = {const_cast<std::byte*>(bytes) + skip, size - skip};
    skip = 0;
  };
  for (size_t i = first_; i < entries_.size() && used < vectors.size(); ++i) {
    const Entry& entry = entries_[i];
    add(entry.header.data(), entry.header_bytes);
    for (const auto& piece : entry.data.pieces) {
      if (used == vectors.size()) break;
      add(piece.data(), piece.size());
    }
  }
  return used;
}

ReplyQueue::Released ReplyQueue::Sent(size_t count) {
  Released released;
  size_bytes_ -= count;
  first_sent_bytes_ += count;
  while (first_ < entries_.size() && first_sent_bytes_ >= entries_[first_].size_bytes) {
    Entry& entry = entries_[first_];
    first_sent_bytes_ -= entry.size_bytes;
    released.replies += entry.is_reply ? 1 : 0;
    released.charged_bytes += entry.charged_bytes;
    entry.data = {};
    ++first_;
  }
  if (first_ == entries_.size()) {
    entries_.clear();
    first_ = 0;
  } else if (first_ >= kCompactEntries) {
    entries_.erase(entries_.begin(), entries_.begin() + static_cast<ptrdiff_t>(first_));
    first_ = 0;
  }
  return released;
}

void ReplyQueue::Clear() {
  std::vector<Entry>().swap(entries_);  // gives the memory back
  first_ = 0;
  first_sent_bytes_ = 0;
  size_bytes_ = 0;
}

}  // namespace tessera::sdc::nbd
