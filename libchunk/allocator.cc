#include "libchunk/allocator.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libchunk/check.h"
#include "libchunk/status_macros.h"

namespace tessera::chunk {
namespace {

constexpr size_t kIdleBitmapsMax = 64;

}  // namespace

Allocator::Allocator(uint64_t total_blocks, const std::vector<uint32_t>& free_of_group,
                     Loader loader)
    : total_blocks_(std::max(total_blocks, free_of_group.size() * kGroupBlocks)),
      loader_(std::move(loader)) {
  groups_.resize((total_blocks_ + kGroupBlocks - 1) / kGroupBlocks);
  for (size_t i = 0; i < free_of_group.size(); ++i) {
    groups_[i].free_blocks = free_of_group[i];
    space_.in_use_blocks += kGroupBlocks - free_of_group[i];
  }
  space_.limit_blocks = total_blocks_;
}

bool Allocator::Reserve(uint64_t count) {
  absl::MutexLock lock(&mutex_);
  if (space_.in_use_blocks + space_.reserved_blocks + count >
      std::min(space_.limit_blocks, total_blocks_)) {
    return false;
  }
  space_.reserved_blocks += count;
  return true;
}

void Allocator::Unreserve(uint64_t count) {
  absl::MutexLock lock(&mutex_);
  CHUNK_CHECK(space_.reserved_blocks >= count);
  space_.reserved_blocks -= count;
}

void Allocator::SetLimit(uint64_t limit_blocks) {
  absl::MutexLock lock(&mutex_);
  space_.limit_blocks = limit_blocks;
}

uint32_t Allocator::EndOfGroup(uint64_t group_number) const {
  return static_cast<uint32_t>(
      std::min<uint64_t>(kGroupBlocks, total_blocks_ - group_number * kGroupBlocks));
}

absl::StatusOr<Allocator::Group*> Allocator::Load(uint64_t group_number) {
  CHUNK_CHECK(group_number < groups_.size());
  Group& group = groups_[group_number];
  if (group.bitmap == nullptr) {
    CHUNK_ASSIGN_OR_RETURN(GroupBitmap bitmap, loader_(group_number));
    if (bitmap.CountFree() != group.free_blocks) {
      return absl::DataLossError(absl::StrCat("free space of group ", group_number,
                                              ": the bitmap has ", bitmap.CountFree(),
                                              " free blocks, its row says ", group.free_blocks));
    }
    group.bitmap = std::make_unique<GroupBitmap>(std::move(bitmap));
  }
  return &group;
}

void Allocator::Take(uint64_t group_number, const FreeRun& run, DeviceExtents* extents) {
  Group& group = groups_[group_number];
  CHUNK_CHECK(group.bitmap->Assign(run.first, run.count, true) == run.count);
  group.free_blocks -= run.count;
  group.uncommitted += run.count;
  const uint64_t first = group_number * kGroupBlocks + run.first;
  cursor_ = first + run.count;
  if (!extents->empty() && extents->back().first_block + extents->back().count == first) {
    extents->back().count += run.count;
  } else {
    extents->push_back({first, run.count});
  }
}

absl::StatusOr<uint64_t> Allocator::TakeFromGroup(uint64_t group_number, uint32_t from,
                                                  uint32_t count_min, uint64_t count,
                                                  DeviceExtents* extents) {
  if (groups_[group_number].free_blocks < count_min) return 0;
  CHUNK_ASSIGN_OR_RETURN(Group * group, Load(group_number));
  const uint32_t end = EndOfGroup(group_number);
  uint64_t taken = 0;
  while (taken < count) {
    const FreeRun run = group->bitmap->FindRun(
        from, end, count_min,
        static_cast<uint32_t>(std::min<uint64_t>(count - taken, kGroupBlocks)));
    if (run.count == 0) break;
    Take(group_number, run, extents);
    taken += run.count;
    from = run.first + run.count;
  }
  return taken;
}

absl::StatusOr<DeviceExtents> Allocator::Allocate(uint64_t count, std::optional<uint64_t> near) {
  absl::MutexLock lock(&mutex_);
  CHUNK_CHECK(space_.reserved_blocks >= count);
  DeviceExtents extents;
  uint64_t remaining = count;
  absl::Status status;
  const auto take = [&](uint64_t group_number, uint32_t from, uint64_t count_min, uint64_t limit) {
    absl::StatusOr<uint64_t> taken = TakeFromGroup(
        group_number, from, static_cast<uint32_t>(std::min<uint64_t>(count_min, kGroupBlocks)),
        limit, &extents);
    status.Update(taken.status());
    if (taken.ok()) remaining -= *taken;
  };
  if (near && *near < total_blocks_) {
    absl::StatusOr<Group*> group = Load(*near / kGroupBlocks);
    status.Update(group.status());
    const uint32_t first = *near % kGroupBlocks;
    if (group.ok() && !(*group)->bitmap->InUse(first)) {
      take(*near / kGroupBlocks, first, 1, std::min<uint64_t>(remaining, 1));
      while (remaining > 0 && cursor_ % kGroupBlocks != 0 && cursor_ < total_blocks_ &&
             !(*group)->bitmap->InUse(cursor_ % kGroupBlocks)) {
        take(*near / kGroupBlocks, cursor_ % kGroupBlocks, 1, 1);
      }
    }
  }
  // First a single run, from the cursor on and then anywhere; then whatever is free.
  const uint64_t start = cursor_ < total_blocks_ ? cursor_ : 0;
  const uint64_t start_group = start / kGroupBlocks;
  for (uint64_t i = 0; i <= groups_.size() && remaining > 0 && status.ok(); ++i) {
    const uint64_t group_number = (start_group + i) % groups_.size();
    take(group_number, i == 0 ? start % kGroupBlocks : 0, remaining, remaining);
  }
  for (uint64_t i = 0; i < groups_.size() && remaining > 0 && status.ok(); ++i) {
    take((start_group + i) % groups_.size(), 0, 1, remaining);
  }
  space_.in_use_blocks += count - remaining;
  space_.reserved_blocks -= count - remaining;
  if (!status.ok()) {
    ReleaseLocked(extents);
    space_.reserved_blocks += count - remaining;
    return status;
  }
  CHUNK_CHECK(remaining == 0);
  return extents;
}

absl::Status Allocator::MarkInUse(const DeviceExtent& extent) {
  absl::MutexLock lock(&mutex_);
  if (extent.first_block >= total_blocks_ || extent.count > total_blocks_ - extent.first_block) {
    return absl::DataLossError(
        absl::StrCat("the journal names device block ", extent.first_block, " of ", total_blocks_));
  }
  absl::Status status;
  ForEachGroupPart(extent, [&](uint64_t group_number, uint32_t first, uint32_t count) {
    absl::StatusOr<Group*> group = Load(group_number);
    status.Update(group.status());
    if (!group.ok()) return;
    const uint32_t changed = (*group)->bitmap->Assign(first, count, true);
    (*group)->free_blocks -= changed;
    (*group)->uncommitted += changed;
    space_.in_use_blocks += changed;
    if (changed != count) {
      status.Update(absl::DataLossError(
          absl::StrCat("the journal writes to device blocks in use, at ", extent.first_block)));
    }
  });
  return status;
}

void Allocator::Committed(std::span<const DeviceExtent> extents) {
  absl::MutexLock lock(&mutex_);
  for (const DeviceExtent& extent : extents) {
    ForEachGroupPart(extent, [&](uint64_t group_number, uint32_t, uint32_t count) {
      CHUNK_CHECK(groups_[group_number].uncommitted >= count);
      groups_[group_number].uncommitted -= count;
    });
  }
}

absl::Status Allocator::HoldFreed(std::span<const DeviceExtent> extents) {
  absl::MutexLock lock(&mutex_);
  // Everything is loaded before anything is counted: an error leaves nothing held.
  absl::Status status;
  for (const DeviceExtent& extent : extents) {
    ForEachGroupPart(extent, [&](uint64_t group_number, uint32_t, uint32_t) {
      status.Update(Load(group_number).status());
    });
  }
  CHUNK_RETURN_IF_ERROR(status);
  for (const DeviceExtent& extent : extents) {
    ForEachGroupPart(extent, [&](uint64_t group_number, uint32_t, uint32_t count) {
      groups_[group_number].uncommitted += count;
    });
  }
  return absl::OkStatus();
}

void Allocator::ReleaseLocked(std::span<const DeviceExtent> extents) {
  for (const DeviceExtent& extent : extents) {
    ForEachGroupPart(extent, [&](uint64_t group_number, uint32_t first, uint32_t count) {
      Group& group = groups_[group_number];
      CHUNK_CHECK(group.bitmap != nullptr && group.uncommitted >= count);
      CHUNK_CHECK(group.bitmap->Assign(first, count, false) == count);
      group.free_blocks += count;
      group.uncommitted -= count;
      space_.in_use_blocks -= count;
    });
  }
}

void Allocator::Release(std::span<const DeviceExtent> extents) {
  absl::MutexLock lock(&mutex_);
  ReleaseLocked(extents);
}

void Allocator::ReturnToReserved(std::span<const DeviceExtent> extents) {
  absl::MutexLock lock(&mutex_);
  ReleaseLocked(extents);
  for (const DeviceExtent& extent : extents) space_.reserved_blocks += extent.count;
}

void Allocator::Trim() {
  absl::MutexLock lock(&mutex_);
  size_t idle = 0;
  for (Group& group : groups_) {
    if (group.bitmap == nullptr || group.uncommitted > 0) continue;
    if (++idle > kIdleBitmapsMax || group.free_blocks == 0) group.bitmap.reset();
  }
}

Allocator::Space Allocator::space() {
  absl::MutexLock lock(&mutex_);
  return space_;
}

}  // namespace tessera::chunk
