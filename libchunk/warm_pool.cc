#include "libchunk/warm_pool.h"

#include <algorithm>
#include <iterator>
#include <limits>

namespace tessera::chunk {
namespace {

constexpr int kLooksMax = 64;

}  // namespace

void WarmPool::Add(const DeviceExtent& extent) {
  uint64_t first = extent.first_block;
  uint64_t count = extent.count;
  blocks_ += count;
  auto next = extents_.lower_bound(first);
  if (next != extents_.end() && next->first == first + count) {
    count += next->second.count;
    next = extents_.erase(next);
  }
  if (next != extents_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second.count == first) {
      previous->second = {previous->second.count + count, now_};
      return;
    }
  }
  extents_.insert(next, {first, {count, now_}});
}

void WarmPool::Remove(const DeviceExtent& extent) {
  if (blocks_ == 0) return;
  const uint64_t end = extent.first_block + extent.count;
  auto place = extents_.upper_bound(extent.first_block);
  if (place != extents_.begin()) --place;
  while (place != extents_.end() && place->first < end) {
    const uint64_t first = place->first;
    const Extent found = place->second;
    const uint64_t found_end = first + found.count;
    if (found_end <= extent.first_block) {
      ++place;
      continue;
    }
    place = extents_.erase(place);
    blocks_ -= std::min(found_end, end) - std::max(first, extent.first_block);
    if (first < extent.first_block) {
      extents_[first] = {extent.first_block - first, found.used_at};
    }
    if (found_end > end) extents_[end] = {found_end - end, found.used_at};
    place = extents_.upper_bound(first);
  }
}

std::optional<uint64_t> WarmPool::FindRun(uint64_t from, uint64_t count) const {
  if (blocks_ < count) return std::nullopt;
  auto place = extents_.upper_bound(from);
  if (place != extents_.begin()) {
    const auto around = std::prev(place);
    if (around->first + around->second.count >= from + count) return from;
  }
  const size_t looks = std::min<size_t>(extents_.size(), kLooksMax);
  for (size_t look = 0; look < looks; ++look, ++place) {
    if (place == extents_.end()) place = extents_.begin();
    if (place->second.count >= count) return place->first;
  }
  return std::nullopt;
}

DeviceExtent WarmPool::ExtentAt(uint64_t from) const {
  auto place = extents_.lower_bound(from);
  if (place == extents_.end()) place = extents_.begin();
  return {place->first, place->second.count};
}

WarmPool::Run WarmPool::RunAt(uint64_t from) const {
  const auto next = extents_.upper_bound(from);
  if (next != extents_.begin()) {
    const auto around = std::prev(next);
    const uint64_t end = around->first + around->second.count;
    if (end > from) return {.warm = true, .end = end};
  }
  return {.warm = false,
          .end = next == extents_.end() ? std::numeric_limits<uint64_t>::max() : next->first};
}

std::vector<DeviceExtent> WarmPool::Unused(uint64_t age, uint64_t blocks_max) const {
  std::vector<DeviceExtent> unused;
  for (const auto& [first, extent] : extents_) {
    if (blocks_max == 0) break;
    if (extent.used_at + age > now_) continue;
    const uint64_t count = std::min(blocks_max, extent.count);
    unused.push_back({first, count});
    blocks_max -= count;
  }
  return unused;
}

}  // namespace tessera::chunk
