#include "libchunk/sim_file_image.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "libchunk/types.h"

namespace tessera::chunk {
namespace {

// Beyond this the kernel would have written back long ago: the oldest calls become durable.
constexpr uint64_t kUnsyncedBytesMax = 64u << 20;
// A longer range is compared by copying the whole file instead of page by page.
constexpr uint64_t kListedPagesMax = 1024;

// Calls visit(offset, length) for the pieces of a range between multiples of `unit`.
template <typename Visit>
void ForEachPiece(uint64_t offset, uint64_t length_bytes, uint64_t unit, Visit visit) {
  const uint64_t end = offset + length_bytes;
  while (offset < end) {
    const uint64_t piece = std::min(end - offset, unit - offset % unit);
    visit(offset, piece);
    offset += piece;
  }
}

}  // namespace

SparsePages::Page& SparsePages::PageAt(uint64_t number) {
  std::unique_ptr<Page>& page = pages_[number];
  if (page == nullptr) page = std::make_unique<Page>();
  return *page;
}

void SparsePages::Read(uint64_t offset, std::span<std::byte> out) const {
  std::byte* target = out.data();
  ForEachPiece(offset, out.size(), kPageBytes, [&](uint64_t at, uint64_t length) {
    const auto found = pages_.find(at / kPageBytes);
    if (found == pages_.end()) {
      std::memset(target, 0, length);
    } else {
      std::memcpy(target, found->second->data() + at % kPageBytes, length);
    }
    target += length;
  });
}

void SparsePages::Write(uint64_t offset, std::span<const std::byte> bytes) {
  const std::byte* source = bytes.data();
  ForEachPiece(offset, bytes.size(), kPageBytes, [&](uint64_t at, uint64_t length) {
    std::memcpy(PageAt(at / kPageBytes).data() + at % kPageBytes, source, length);
    source += length;
  });
}

void SparsePages::Clear(uint64_t offset, uint64_t length_bytes) {
  const uint64_t page_count = length_bytes / kPageBytes + 2;
  if (page_count > pages_.size()) {  // a wide hole in a small file
    std::vector<uint64_t> covered;
    const uint64_t end = offset + length_bytes;
    for (const auto& [number, page] : pages_) {
      const uint64_t begin = number * kPageBytes;
      if (begin + kPageBytes <= offset || begin >= end) continue;
      const uint64_t from = std::max(begin, offset) - begin;
      const uint64_t to = std::min(begin + kPageBytes, end) - begin;
      if (to - from == kPageBytes) {
        covered.push_back(number);
      } else {
        std::memset(page->data() + from, 0, to - from);
      }
    }
    for (const uint64_t number : covered) pages_.erase(number);
    return;
  }
  ForEachPiece(offset, length_bytes, kPageBytes, [&](uint64_t at, uint64_t length) {
    const auto found = pages_.find(at / kPageBytes);
    if (found == pages_.end()) return;
    if (length == kPageBytes) {
      pages_.erase(found);
    } else {
      std::memset(found->second->data() + at % kPageBytes, 0, length);
    }
  });
}

void SparsePages::Reserve(uint64_t offset, uint64_t length_bytes) {
  ForEachPiece(offset, length_bytes, kPageBytes,
               [&](uint64_t at, uint64_t) { PageAt(at / kPageBytes); });
}

void SparsePages::CopyPage(uint64_t number, const SparsePages& other) {
  const auto found = other.pages_.find(number);
  if (found == other.pages_.end()) {
    pages_.erase(number);
  } else {
    PageAt(number) = *found->second;
  }
}

void SparsePages::CopyAll(const SparsePages& other) {
  pages_.clear();
  for (const auto& [number, page] : other.pages_) pages_[number] = std::make_unique<Page>(*page);
}

uint64_t SparsePages::CountAbsent(uint64_t offset, uint64_t length_bytes) const {
  uint64_t absent = 0;
  ForEachPiece(offset, length_bytes, kPageBytes,
               [&](uint64_t at, uint64_t) { absent += pages_.contains(at / kPageBytes) ? 0 : 1; });
  return absent;
}

bool SimulatedFileImage::Read(uint64_t offset, std::span<std::byte> out) const {
  if (offset + out.size() > size_bytes_) return false;
  pages_.Read(offset, out);
  return true;
}

void SimulatedFileImage::Write(uint64_t offset, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  pages_.Write(offset, bytes);
  size_bytes_ = std::max(size_bytes_, offset + bytes.size());
  Remember({Kind::kWrite, offset, bytes.size(), {bytes.begin(), bytes.end()}});
}

void SimulatedFileImage::Allocate(uint64_t offset, uint64_t length_bytes) {
  pages_.Reserve(offset, length_bytes);
  size_bytes_ = std::max(size_bytes_, offset + length_bytes);
  Remember({Kind::kAllocate, offset, length_bytes, {}});
}

void SimulatedFileImage::PunchHole(uint64_t offset, uint64_t length_bytes) {
  pages_.Clear(offset, length_bytes);
  Remember({Kind::kPunchHole, offset, length_bytes, {}});
}

void SimulatedFileImage::Truncate(uint64_t size_bytes) {
  if (size_bytes < size_bytes_) pages_.Clear(size_bytes, size_bytes_ - size_bytes);
  size_bytes_ = size_bytes;
  Remember({Kind::kTruncate, size_bytes, 0, {}});
}

void SimulatedFileImage::Remember(Call call) {
  unsynced_bytes_ += call.data.size();
  unsynced_.push_back(std::move(call));
  while (unsynced_bytes_ > kUnsyncedBytesMax) {
    ApplyDurably(unsynced_.front(), [] { return true; });
    unsynced_bytes_ -= unsynced_.front().data.size();
    unsynced_.pop_front();
  }
}

template <typename Keep>
void SimulatedFileImage::ApplyDurably(const Call& call, Keep keep) {
  const uint64_t end = call.offset + call.length_bytes;
  switch (call.kind) {
    case Kind::kWrite:
      ForEachPiece(call.offset, call.length_bytes, kSectorBytes, [&](uint64_t at, uint64_t length) {
        if (!keep()) return;
        durable_pages_.Write(at, {call.data.data() + (at - call.offset), length});
        durable_size_bytes_ = std::max(durable_size_bytes_, at + length);
      });
      if (keep()) durable_size_bytes_ = std::max(durable_size_bytes_, end);
      break;
    case Kind::kAllocate:
      durable_pages_.Reserve(call.offset, call.length_bytes);
      durable_size_bytes_ = std::max(durable_size_bytes_, end);
      break;
    case Kind::kPunchHole:
      durable_pages_.Clear(call.offset, call.length_bytes);
      break;
    case Kind::kTruncate:
      if (call.offset < durable_size_bytes_) {
        durable_pages_.Clear(call.offset, durable_size_bytes_ - call.offset);
      }
      durable_size_bytes_ = call.offset;
      break;
  }
}

void SimulatedFileImage::Sync() {
  for (const Call& call : unsynced_) {
    if (call.kind == Kind::kWrite) {  // ApplyDurably in one piece
      durable_pages_.Write(call.offset, call.data);
      durable_size_bytes_ = std::max(durable_size_bytes_, call.offset + call.length_bytes);
    } else {
      ApplyDurably(call, [] { return true; });
    }
  }
  unsynced_.clear();
  unsynced_bytes_ = 0;
}

void SimulatedFileImage::ApplySome(LossStyle style, SeededRandom& random) {
  const uint64_t prefix = random.Below(unsynced_.size() + 1);
  // A few losses in many and many in a few: both ends find bugs that an even coin does not.
  const uint64_t kept_of_16 = random.Between(1, 15);
  uint64_t index = 0;
  for (const Call& call : unsynced_) {
    const auto whole = [] { return true; };
    const auto some = [&] { return random.Chance(kept_of_16, 16); };
    // A call other than a write is kept or lost whole, and so is a write that must not tear.
    const auto one_coin = [&](bool keep) {
      if (keep) ApplyDurably(call, whole);
    };
    switch (style) {
      case LossStyle::kLoseAll:
        break;
      case LossStyle::kKeepAll:
        ApplyDurably(call, whole);
        break;
      case LossStyle::kSectors:
        call.kind == Kind::kWrite ? ApplyDurably(call, some) : one_coin(some());
        break;
      case LossStyle::kWholeCalls:
        one_coin(some());
        break;
      case LossStyle::kPrefix:
        if (index < prefix) {
          ApplyDurably(call, whole);
        } else if (index == prefix) {
          call.kind == Kind::kWrite ? ApplyDurably(call, some) : one_coin(some());
        }
        break;
      case LossStyle::kHoles:
        if (random.Chance(15, 16)) {
          ApplyDurably(call, whole);
        } else if (call.kind == Kind::kWrite && random.Chance(1, 2)) {
          ApplyDurably(call, some);
        }
        break;
    }
    ++index;
  }
}

void SimulatedFileImage::NoteDivergence() {
  for (const Call& call : unsynced_) {
    const uint64_t first = call.offset / SparsePages::kPageBytes;
    const uint64_t last = (call.offset + call.length_bytes) / SparsePages::kPageBytes;
    if (call.kind == Kind::kTruncate || last - first > kListedPagesMax) {
      diverged_anywhere_ = true;
      return;
    }
    for (uint64_t number = first; number <= last; ++number) diverged_pages_.insert(number);
  }
}

void SimulatedFileImage::FailSync(SeededRandom& random) {
  NoteDivergence();
  ApplySome(static_cast<LossStyle>(random.Below(kLossStyleCount)), random);
  unsynced_.clear();
  unsynced_bytes_ = 0;
}

void SimulatedFileImage::LosePower(LossStyle style, SeededRandom& random) {
  NoteDivergence();
  ApplySome(style, random);
  unsynced_.clear();
  unsynced_bytes_ = 0;
  // Kept sectors past a size that was lost are not part of the file.
  if (diverged_anywhere_) {
    pages_.CopyAll(durable_pages_);
  } else {
    for (const uint64_t number : diverged_pages_) pages_.CopyPage(number, durable_pages_);
  }
  size_bytes_ = durable_size_bytes_;
  diverged_pages_.clear();
  diverged_anywhere_ = false;
}

void SimulatedFileImage::Flip(uint64_t offset, std::byte mask) {
  for (SparsePages* pages : {&pages_, &durable_pages_}) {
    std::byte value;
    pages->Read(offset, {&value, 1});
    value ^= mask;
    pages->Write(offset, {&value, 1});
  }
}

}  // namespace tessera::chunk
