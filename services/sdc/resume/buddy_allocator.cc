#include "services/sdc/resume/buddy_allocator.h"

#include <bit>
#include <cstdlib>
#include <new>

namespace tessera::sdc {

void BuddyAllocator::CallocDeleter::operator()(void* memory) const { std::free(memory); }

template <typename T>
BuddyAllocator::Zeroed<T> BuddyAllocator::MakeZeroed(size_t count) {
  void* memory = std::calloc(count, sizeof(T));
  if (memory == nullptr) throw std::bad_alloc();
  return Zeroed<T>(static_cast<T*>(memory));
}

BuddyAllocator::BuddyAllocator(uint64_t size_bytes)
    : top_(static_cast<uint32_t>(std::bit_width(size_bytes / kUnitBytes)) - 1),
      free_order_(MakeZeroed<uint8_t>(size_bytes / kUnitBytes)),
      next_(MakeZeroed<uint32_t>(size_bytes / kUnitBytes)),
      previous_(MakeZeroed<uint32_t>(size_bytes / kUnitBytes)) {
  first_.fill(kNone);
  Push(0, top_);
}

uint64_t BuddyAllocator::BlockBytes(uint64_t bytes) { return kUnitBytes << OrderOf(bytes); }

uint32_t BuddyAllocator::OrderOf(uint64_t bytes) {
  const uint64_t units = (bytes + kUnitBytes - 1) / kUnitBytes;
  return static_cast<uint32_t>(std::bit_width(std::bit_ceil(units))) - 1;
}

void BuddyAllocator::Push(uint32_t unit, uint32_t order) {
  free_order_[unit] = static_cast<uint8_t>(order + 1);
  previous_[unit] = kNone;
  next_[unit] = first_[order];
  if (first_[order] != kNone) previous_[first_[order]] = unit;
  first_[order] = unit;
}

void BuddyAllocator::Remove(uint32_t unit, uint32_t order) {
  free_order_[unit] = 0;
  if (previous_[unit] == kNone) {
    first_[order] = next_[unit];
  } else {
    next_[previous_[unit]] = next_[unit];
  }
  if (next_[unit] != kNone) previous_[next_[unit]] = previous_[unit];
}

void BuddyAllocator::Split(uint32_t unit, uint32_t order, uint32_t wanted, uint32_t keep) {
  while (order > wanted) {
    --order;
    const uint32_t upper = unit + (uint32_t{1} << order);
    if (keep < upper) {
      Push(upper, order);
    } else {
      Push(unit, order);
      unit = upper;
    }
  }
}

std::optional<uint64_t> BuddyAllocator::Allocate(uint64_t bytes) {
  if (bytes > size_bytes()) return std::nullopt;
  const uint32_t wanted = OrderOf(bytes);
  for (uint32_t order = wanted; order <= top_; ++order) {
    const uint32_t unit = first_[order];
    if (unit == kNone) continue;
    Remove(unit, order);
    Split(unit, order, wanted, unit);
    used_bytes_ += kUnitBytes << wanted;
    return unit * kUnitBytes;
  }
  return std::nullopt;
}

bool BuddyAllocator::Take(uint64_t offset, uint64_t bytes) {
  if (bytes == 0 || bytes > size_bytes() || offset >= size_bytes()) return false;
  const uint32_t wanted = OrderOf(bytes);
  if (offset % (kUnitBytes << wanted) != 0) return false;
  const auto unit = static_cast<uint32_t>(offset / kUnitBytes);
  for (uint32_t order = wanted; order <= top_; ++order) {
    const uint32_t begin = unit >> order << order;
    if (free_order_[begin] != order + 1) continue;
    Remove(begin, order);
    Split(begin, order, wanted, unit);
    used_bytes_ += kUnitBytes << wanted;
    return true;
  }
  return false;
}

bool BuddyAllocator::IsFree(uint64_t offset, uint64_t bytes) const {
  const auto unit = static_cast<uint32_t>(offset / kUnitBytes);
  for (uint32_t order = OrderOf(bytes); order <= top_; ++order) {
    if (free_order_[unit >> order << order] == order + 1) return true;
  }
  return false;
}

void BuddyAllocator::Free(uint64_t offset, uint64_t bytes) {
  uint32_t order = OrderOf(bytes);
  auto unit = static_cast<uint32_t>(offset / kUnitBytes);
  used_bytes_ -= kUnitBytes << order;
  while (order < top_) {
    const uint32_t buddy = unit ^ (uint32_t{1} << order);
    if (free_order_[buddy] != order + 1) break;
    Remove(buddy, order);
    unit &= ~(uint32_t{1} << order);
    ++order;
  }
  Push(unit, order);
}

}  // namespace tessera::sdc
