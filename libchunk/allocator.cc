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
                     Loader loader, uint64_t end_block)
    : total_blocks_(
          std::min(std::max(total_blocks, free_of_group.size() * kGroupBlocks), end_block)),
      loader_(std::move(loader)) {
  groups_.resize(std::max((total_blocks_ + kGroupBlocks - 1) / kGroupBlocks, free_of_group.size()));
  for (size_t i = 0; i < free_of_group.size(); ++i) {
    groups_[i].free_blocks = free_of_group[i];
    space_.in_use_blocks += kGroupBlocks - free_of_group[i];
  }
  space_.limit_blocks = total_blocks_;
}

uint64_t Allocator::Limit() const { return std::min(space_.limit_blocks, total_blocks_); }

uint64_t Allocator::WarmMax() const {
  const uint64_t taken = space_.in_use_blocks + space_.reserved_blocks;
  return std::min(kWarmBlocksMax, (Limit() - std::min(Limit(), taken)) / 2);
}

bool Allocator::Reserve(uint64_t count) {
  absl::MutexLock lock(&mutex_);
  if (space_.in_use_blocks + space_.reserved_blocks + count > Limit()) return false;
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
  warm_.Remove({first, run.count});
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

absl::Status Allocator::TakeExtent(const DeviceExtent& extent, DeviceExtents* extents) {
  absl::Status status;
  const uint64_t cursor = cursor_;
  ForEachGroupPart(extent, [&](uint64_t group_number, uint32_t first, uint32_t count) {
    if (status.ok()) status = Load(group_number).status();
    if (status.ok()) Take(group_number, {first, count}, extents);
  });
  cursor_ = cursor;
  return status;
}

absl::Status Allocator::TakeNear(uint64_t near, uint64_t* remaining, DeviceExtents* extents) {
  if (near >= total_blocks_) return absl::OkStatus();
  CHUNK_ASSIGN_OR_RETURN(Group * group, Load(near / kGroupBlocks));
  const uint32_t first = near % kGroupBlocks;
  if (group->bitmap->InUse(first)) return absl::OkStatus();
  const FreeRun run =
      group->bitmap->FindRun(first, EndOfGroup(near / kGroupBlocks), 1,
                             static_cast<uint32_t>(std::min<uint64_t>(*remaining, kGroupBlocks)));
  Take(near / kGroupBlocks, run, extents);
  *remaining -= run.count;
  return absl::OkStatus();
}

absl::Status Allocator::TakeWarm(uint64_t* remaining, DeviceExtents* extents) {
  if (const auto run = warm_.FindRun(warm_cursor_, *remaining)) {
    CHUNK_RETURN_IF_ERROR(TakeExtent({*run, *remaining}, extents));
    warm_cursor_ = *run + *remaining;
    *remaining = 0;
    return absl::OkStatus();
  }
  // So many cold blocks may take more space than there is: then scattered warm ones will do.
  const uint64_t room = Limit() - std::min(Limit(), space_.in_use_blocks);
  const uint64_t wanted = *remaining + warm_.blocks();
  uint64_t excess = std::min(*remaining, wanted - std::min(wanted, room));
  while (excess > 0 && warm_.blocks() > 0) {
    const DeviceExtent next = warm_.ExtentAt(warm_cursor_);
    const uint64_t count = std::min(next.count, excess);
    CHUNK_RETURN_IF_ERROR(TakeExtent({next.first_block, count}, extents));
    warm_cursor_ = next.first_block + count;
    *remaining -= count;
    excess -= count;
  }
  return absl::OkStatus();
}

absl::Status Allocator::TakeAny(uint64_t* remaining, DeviceExtents* extents) {
  // First a single run, from the cursor on and then anywhere; then whatever is free.
  const uint64_t start = cursor_ < total_blocks_ ? cursor_ : 0;
  const uint64_t start_group = start / kGroupBlocks;
  for (uint64_t i = 0; i <= groups_.size() && *remaining > 0; ++i) {
    const auto whole = static_cast<uint32_t>(std::min<uint64_t>(*remaining, kGroupBlocks));
    CHUNK_ASSIGN_OR_RETURN(const uint64_t taken,
                           TakeFromGroup((start_group + i) % groups_.size(),
                                         static_cast<uint32_t>(i == 0 ? start % kGroupBlocks : 0),
                                         whole, *remaining, extents));
    *remaining -= taken;
  }
  for (uint64_t i = 0; i < groups_.size() && *remaining > 0; ++i) {
    CHUNK_ASSIGN_OR_RETURN(const uint64_t taken, TakeFromGroup((start_group + i) % groups_.size(),
                                                               0, 1, *remaining, extents));
    *remaining -= taken;
  }
  return absl::OkStatus();
}

absl::StatusOr<DeviceExtents> Allocator::Allocate(uint64_t count, std::optional<uint64_t> near) {
  absl::MutexLock lock(&mutex_);
  CHUNK_CHECK(space_.reserved_blocks >= count);
  DeviceExtents extents;
  uint64_t remaining = count;
  absl::Status status;
  const auto account = [&](const auto& take) {
    const uint64_t before = remaining;
    if (status.ok() && remaining > 0) status = take();
    space_.in_use_blocks += before - remaining;
  };
  for (;;) {
    if (near) account([&] { return TakeNear(*near, &remaining, &extents); });
    account([&] { return TakeWarm(&remaining, &extents); });
    account([&] { return TakeAny(&remaining, &extents); });
    if (remaining == 0 || !status.ok() || space_.held_blocks == 0) break;
    mutex_.Await(absl::Condition(
        +[](Allocator* allocator)
             ABSL_NO_THREAD_SAFETY_ANALYSIS { return allocator->space_.held_blocks == 0; },
        this));
  }
  if (!status.ok()) {
    // A step that failed in the middle has taken more than it counted.
    Free(extents);
    space_.in_use_blocks -= count - remaining;
    return status;
  }
  CHUNK_CHECK(remaining == 0);
  space_.reserved_blocks -= count;
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

uint64_t Allocator::Free(std::span<const DeviceExtent> extents) {
  uint64_t freed = 0;
  for (const DeviceExtent& extent : extents) {
    ForEachGroupPart(extent, [&](uint64_t group_number, uint32_t first, uint32_t count) {
      Group& group = groups_[group_number];
      CHUNK_CHECK(group.bitmap != nullptr && group.uncommitted >= count);
      CHUNK_CHECK(group.bitmap->Assign(first, count, false) == count);
      group.free_blocks += count;
      group.uncommitted -= count;
    });
    freed += extent.count;
  }
  return freed;
}

void Allocator::Release(std::span<const DeviceExtent> extents) {
  absl::MutexLock lock(&mutex_);
  space_.in_use_blocks -= Free(extents);
}

std::vector<DeviceExtent> Allocator::ReleaseWarm(std::span<const DeviceExtent> extents) {
  absl::MutexLock lock(&mutex_);
  std::vector<DeviceExtent> rest;
  for (const DeviceExtent& extent : extents) {
    const uint64_t max = WarmMax();
    const uint64_t room = max - std::min(max, warm_.blocks());
    const uint64_t keep = warm_.extents() >= kWarmExtentsMax ? 0 : std::min(room, extent.count);
    const DeviceExtent kept{extent.first_block, keep};
    if (keep > 0) {
      space_.in_use_blocks -= Free(std::span(&kept, 1));
      warm_.Add(kept);
    }
    if (keep < extent.count) rest.push_back({extent.first_block + keep, extent.count - keep});
  }
  return rest;
}

void Allocator::ReturnToReserved(std::span<const DeviceExtent> extents) {
  absl::MutexLock lock(&mutex_);
  const uint64_t freed = Free(extents);
  space_.in_use_blocks -= freed;
  space_.reserved_blocks += freed;
  for (const DeviceExtent& extent : extents) warm_.Add(extent);
}

void Allocator::AgeWarm() {
  absl::MutexLock lock(&mutex_);
  warm_.Age();
}

absl::StatusOr<std::vector<DeviceExtent>> Allocator::HoldWarm(Which which, uint64_t blocks_max) {
  absl::MutexLock lock(&mutex_);
  const uint64_t max = WarmMax();
  const bool too_many = warm_.blocks() > max || warm_.extents() > kWarmExtentsMax;
  std::vector<DeviceExtent> unused = warm_.Unused(kWarmAgeMax, blocks_max);
  if (which == Which::kAll) {
    unused = warm_.Unused(0, blocks_max);
  } else if (unused.empty() && too_many) {
    const uint64_t excess = warm_.blocks() > max ? warm_.blocks() - max : warm_.blocks() / 2;
    unused = warm_.Unused(0, std::min(blocks_max, excess));
  }
  DeviceExtents held;
  for (const DeviceExtent& extent : unused) {
    absl::Status taken = TakeExtent(extent, &held);
    if (!taken.ok()) {
      Free(held);
      return taken;
    }
  }
  for (const DeviceExtent& extent : held) space_.held_blocks += extent.count;
  return std::vector<DeviceExtent>(held.begin(), held.end());
}

absl::StatusOr<DeviceExtent> Allocator::HoldCold(uint64_t* from, uint64_t end) {
  absl::MutexLock lock(&mutex_);
  end = std::min(end, total_blocks_);
  while (*from < end) {
    const uint64_t group_number = *from / kGroupBlocks;
    const uint64_t group_first = group_number * kGroupBlocks;
    if (groups_[group_number].free_blocks == 0) {
      *from = group_first + kGroupBlocks;
      continue;
    }
    CHUNK_ASSIGN_OR_RETURN(Group * group, Load(group_number));
    const auto group_end =
        static_cast<uint32_t>(std::min<uint64_t>(kGroupBlocks, end - group_first));
    const FreeRun run = group->bitmap->FindRun(*from % kGroupBlocks, group_end, 1, kGroupBlocks);
    if (run.count == 0) {
      *from = group_first + kGroupBlocks;
      continue;
    }
    const uint64_t first = group_first + run.first;
    const WarmPool::Run temperature = warm_.RunAt(first);
    *from = std::min(first + run.count, temperature.end);
    if (temperature.warm) continue;
    DeviceExtents held;
    CHUNK_RETURN_IF_ERROR(TakeExtent({first, *from - first}, &held));
    space_.held_blocks += held.front().count;
    return held.front();
  }
  return DeviceExtent{};
}

void Allocator::ReleaseHeld(std::span<const DeviceExtent> extents) {
  absl::MutexLock lock(&mutex_);
  space_.held_blocks -= Free(extents);
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
  Space space = space_;
  space.warm_blocks = warm_.blocks();
  return space;
}

}  // namespace tessera::chunk
