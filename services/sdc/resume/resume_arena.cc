#include "services/sdc/resume/resume_arena.h"

#include <algorithm>
#include <utility>

namespace tessera::sdc {

ResumeBlock::~ResumeBlock() { arena_->Free(offset_, bytes_.size()); }

ResumeArena::ResumeArena(std::shared_ptr<ResumeMemory> memory, uint64_t begin, uint64_t size_bytes)
    : memory_(std::move(memory)),
      begin_(begin),
      size_bytes_(size_bytes),
      backed_((begin + size_bytes + kStepBytes - 1) / kStepBytes),
      blocks_(size_bytes) {}

std::shared_ptr<ResumeBlock> ResumeArena::BlockAt(uint64_t offset, uint64_t bytes) {
  return std::make_shared<ResumeBlock>(shared_from_this(), offset,
                                       memory_->bytes().subspan(begin_ + offset, bytes));
}

std::shared_ptr<ResumeBlock> ResumeArena::Allocate(uint64_t bytes, bool reserve) {
  uint64_t offset = 0;
  {
    const absl::MutexLock lock(&mutex_);
    const uint64_t limit = reserve ? size_bytes_ - size_bytes_ / 8 : size_bytes_;
    if (blocks_.used_bytes() + BuddyAllocator::BlockBytes(bytes) > limit) return nullptr;
    const std::optional<uint64_t> found = blocks_.Allocate(bytes);
    if (!found.has_value()) return nullptr;
    offset = *found;
  }
  if (!Back(begin_ + offset, bytes)) {
    Free(offset, bytes);
    return nullptr;
  }
  return BlockAt(offset, bytes);
}

std::shared_ptr<ResumeBlock> ResumeArena::Take(uint64_t offset, uint64_t bytes) {
  {
    const absl::MutexLock lock(&mutex_);
    if (!blocks_.Take(offset, bytes)) return nullptr;
  }
  return BlockAt(offset, bytes);
}

bool ResumeArena::Back(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  for (uint64_t step = offset / kStepBytes; step * kStepBytes < end; ++step) {
    if (backed_[step]) continue;
    const uint64_t begin = step * kStepBytes;
    const uint64_t all = memory_->bytes().size();
    if (!memory_->Back(begin, std::min(kStepBytes, all - begin))) return false;
    backed_[step] = true;
    backed_bytes_ += kStepBytes;
  }
  return true;
}

void ResumeArena::Trim() {
  uint64_t run = 0;  // steps in a row
  const uint64_t steps = size_bytes_ / kStepBytes;
  for (uint64_t step = 0; step <= steps; ++step) {
    bool free = false;
    if (step < steps) {
      const absl::MutexLock lock(&mutex_);
      free = blocks_.IsFree(step * kStepBytes, kStepBytes);
    }
    if (free) {
      // Only this thread gives blocks out, so it stays free.
      const uint64_t index = begin_ / kStepBytes + step;
      if (backed_[index]) backed_bytes_ -= kStepBytes;
      backed_[index] = false;
      ++run;
    } else if (run > 0) {
      memory_->GiveBack(begin_ + (step - run) * kStepBytes, run * kStepBytes);
      run = 0;
    }
  }
}

void ResumeArena::TrimIfIdle() {
  constexpr uint64_t kSmallBytes = 16 << 20;
  if (backed_bytes_ > kSmallBytes + 4 * used_bytes()) Trim();
}

void ResumeArena::Free(uint64_t offset, uint64_t bytes) {
  const absl::MutexLock lock(&mutex_);
  blocks_.Free(offset, bytes);
}

uint64_t ResumeArena::used_bytes() const {
  const absl::MutexLock lock(&mutex_);
  return blocks_.used_bytes();
}

}  // namespace tessera::sdc
