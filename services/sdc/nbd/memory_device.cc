#include "services/sdc/nbd/memory_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tessera::sdc::nbd {
namespace {

// Cuts a range at page boundaries: visit(page, offset in the page, length).
template <typename Visit>
void ForEachPage(uint64_t offset_bytes, uint64_t length_bytes, Visit visit) {
  while (length_bytes > 0) {
    const uint64_t inside = offset_bytes % MemoryDevice::kPageBytes;
    const uint64_t length = std::min(length_bytes, MemoryDevice::kPageBytes - inside);
    visit(offset_bytes / MemoryDevice::kPageBytes, inside, length);
    offset_bytes += length;
    length_bytes -= length;
  }
}

}  // namespace

void MemoryDevice::Submit(BlockRequest request) {
  BlockReply reply;
  if (const int error = fault_ ? fault_(request) : 0; error != 0) {
    reply.error = error;
    reply.message = "an injected fault";
  } else {
    reply = Execute(request);
  }
  pending_.push_back({std::move(request.done), std::move(reply)});
  if (held_ || std::exchange(answer_posted_, true)) return;
  loop_.Post([self = shared_from_this()] { self->AnswerPending(); });
}

void MemoryDevice::AnswerPending() {
  answer_posted_ = false;
  if (held_) return;
  for (Answer& answer : std::exchange(pending_, {})) answer.done(std::move(answer.reply));
}

void MemoryDevice::Release(bool reversed) {
  held_ = false;
  if (reversed) std::reverse(pending_.begin(), pending_.end());
  AnswerPending();
}

BlockReply MemoryDevice::Execute(BlockRequest& request) {
  BlockReply reply;
  if (request.force_unit_access) ++forced_writes_;
  switch (request.command) {
    case Command::kRead:
      reply.data = Read(request.offset_bytes, request.length_bytes);
      break;
    case Command::kWrite:
      Write(request.offset_bytes, request.data);
      break;
    case Command::kTrim:
      Zero(request.offset_bytes, request.length_bytes, false);
      break;
    case Command::kWriteZeroes:
      Zero(request.offset_bytes, request.length_bytes, request.no_hole);
      break;
    case Command::kBlockStatus:
      reply.extents = Status(request.offset_bytes, request.length_bytes);
      break;
    case Command::kFlush:
      ++flushes_;
      break;
    case Command::kCache:
      break;
    case Command::kChanges:
      reply.error = EINVAL;  // no NBD client can ask
      break;
  }
  return reply;
}

Payload MemoryDevice::Read(uint64_t offset_bytes, uint64_t length_bytes) const {
  std::shared_ptr<std::byte[]> bytes(new std::byte[length_bytes]);
  std::byte* to = bytes.get();
  ForEachPage(offset_bytes, length_bytes, [&](uint64_t page, uint64_t inside, uint64_t length) {
    const auto found = pages_.find(page);
    if (found == pages_.end()) {
      std::memset(to, 0, length);
    } else {
      std::memcpy(to, found->second->data() + inside, length);
    }
    to += length;
  });
  Payload payload;
  payload.pieces.emplace_back(bytes.get(), length_bytes);
  payload.owner = std::move(bytes);
  return payload;
}

void MemoryDevice::Write(uint64_t offset_bytes, const Payload& data) {
  for (const auto& piece : data.pieces) {
    const std::byte* from = piece.data();
    ForEachPage(offset_bytes, piece.size(), [&](uint64_t page, uint64_t inside, uint64_t length) {
      std::memcpy(Allocate(page).data() + inside, from, length);
      from += length;
    });
    offset_bytes += piece.size();
  }
}

void MemoryDevice::Zero(uint64_t offset_bytes, uint64_t length_bytes, bool keep_allocated) {
  ForEachPage(offset_bytes, length_bytes, [&](uint64_t page, uint64_t inside, uint64_t length) {
    const bool last_page_part = page * kPageBytes + inside + length == info_.size_bytes;
    if (!keep_allocated && inside == 0 && (length == kPageBytes || last_page_part)) {
      pages_.erase(page);
    } else if (keep_allocated || pages_.contains(page)) {
      std::memset(Allocate(page).data() + inside, 0, length);
    }
  });
}

std::vector<StatusExtent> MemoryDevice::Status(uint64_t offset_bytes, uint64_t length_bytes) const {
  std::vector<StatusExtent> extents;
  ForEachPage(offset_bytes, length_bytes, [&](uint64_t page, uint64_t, uint64_t length) {
    const bool hole = !pages_.contains(page);
    if (!extents.empty() && extents.back().hole == hole) {
      extents.back().length_bytes += length;
    } else {
      extents.push_back({length, hole, hole});
    }
  });
  return extents;
}

MemoryDevice::Page& MemoryDevice::Allocate(uint64_t page) {
  std::unique_ptr<Page>& slot = pages_[page];
  if (slot == nullptr) slot = std::make_unique<Page>(kPageBytes);
  return *slot;
}

}  // namespace tessera::sdc::nbd
