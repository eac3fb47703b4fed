// Space of free blocks: kept warm for the next writes, given back to the file system when it is not
// wanted, found again after a crash (FORMAT.md, "Space of free blocks").
#include <algorithm>

#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

// A hole of this size (4 MiB) holds up writers of the file for well under a millisecond or two.
constexpr uint64_t kPunchBlocks = 1024;
// Given back in one interval (64 MiB), and runs looked at by the sweep.
constexpr uint64_t kTidyBlocksMax = 16'384;
constexpr int kSweepRunsMax = 2048;

}  // namespace

absl::Status StoreImpl::Punch(std::span<const DeviceExtent> extents) {
  // On a device nobody reads zeros there: a hole is for what may use the space otherwise.
  if (parts_.device != nullptr && !parts_.data->HolesGiveSpaceBack()) return absl::OkStatus();
  for (const DeviceExtent& extent : extents) {
    for (uint64_t done = 0; done < extent.count; done += kPunchBlocks) {
      const uint64_t count = std::min(kPunchBlocks, extent.count - done);
      absl::Status punched =
          parts_.data->PunchHole((extent.first_block + done) * kBlockBytes, count * kBlockBytes);
      if (!punched.ok()) return Fail(punched);
    }
  }
  return absl::OkStatus();
}

absl::Status StoreImpl::ReleaseBlocks(std::span<const DeviceExtent> extents) {
  const std::vector<DeviceExtent> rest = allocator_->ReleaseWarm(extents);
  // Before they can be given out again: a hole punched later would hit new data.
  CHUNK_RETURN_IF_ERROR(Punch(rest));
  allocator_->Release(rest);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> StoreImpl::GiveBackWarm(Allocator::Which which, uint64_t blocks_max) {
  uint64_t given = 0;
  while (given < blocks_max) {
    absl::StatusOr<std::vector<DeviceExtent>> held =
        allocator_->HoldWarm(which, std::min(kPunchBlocks, blocks_max - given));
    if (!held.ok()) return Fail(held.status());
    if (held->empty()) break;
    absl::Status punched = Punch(*held);
    allocator_->ReleaseHeld(*held);
    CHUNK_RETURN_IF_ERROR(punched);
    for (const DeviceExtent& extent : *held) given += extent.count;
  }
  return given;
}

absl::Status StoreImpl::PlanSweep() {
#ifdef TESSERA_PLANT_SKIP_SWEEP  // see check_planted_bugs.sh
  return absl::OkStatus();
#endif
  if (parts_.device != nullptr) return absl::OkStatus();  // its space is the store's in any case
  CHUNK_ASSIGN_OR_RETURN(const uint64_t allocated_bytes, parts_.data->AllocatedBytes());
  if (allocated_bytes <= allocator_->space().in_use_blocks * kBlockBytes) return absl::OkStatus();
  CHUNK_ASSIGN_OR_RETURN(const uint64_t size_bytes, parts_.data->Size());
  absl::MutexLock lock(&checkpoint_mutex_);
  sweep_next_ = 0;
  sweep_end_ = (size_bytes + kBlockBytes - 1) / kBlockBytes;
  return absl::OkStatus();
}

absl::Status StoreImpl::Sweep() {
  for (int run = 0; run < kSweepRunsMax && sweep_next_ < sweep_end_; ++run) {
    absl::StatusOr<DeviceExtent> held = allocator_->HoldCold(&sweep_next_, sweep_end_);
    if (!held.ok()) return Fail(held.status());
    if (held->count == 0) break;
    absl::Status punched = Punch(std::span(&*held, 1));
    allocator_->ReleaseHeld(std::span(&*held, 1));
    CHUNK_RETURN_IF_ERROR(punched);
  }
  allocator_->Trim();
  return absl::OkStatus();
}

absl::Status StoreImpl::TidySpace() {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  allocator_->AgeWarm();
  CHUNK_RETURN_IF_ERROR(GiveBackWarm(Allocator::Which::kUnused, kTidyBlocksMax).status());
  return Sweep();
}

}  // namespace tessera::chunk
