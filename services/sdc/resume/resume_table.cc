#include "services/sdc/resume/resume_table.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "services/common/crc32c.h"

namespace tessera::sdc {
namespace {

using resume::Kind;
using resume::Slot;

uint64_t DataBegin(uint64_t slot_count) {
  constexpr uint64_t kStep = ResumeArena::kStepBytes;
  const uint64_t end = resume::kPageBytes + slot_count * sizeof(Slot);
  return (end + kStep - 1) / kStep * kStep;
}

uint32_t CheckOf(const Slot& slot) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&slot);
  return Crc32c(
      {bytes + offsetof(Slot, volume_id), offsetof(Slot, live) - offsetof(Slot, volume_id)});
}

uint32_t CheckOf(const resume::Header& header) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&header);
  return Crc32c({bytes + offsetof(resume::Header, slot_count),
                 offsetof(resume::Header, slots_used) - offsetof(resume::Header, slot_count)});
}

template <size_t kSize>
std::array<char, kSize> Padded(const std::string& text) {
  std::array<char, kSize> bytes{};
  std::copy_n(text.begin(), std::min(text.size(), kSize), bytes.begin());
  return bytes;
}

}  // namespace

uint64_t ResumeGeometry::TotalBytes() const { return DataBegin(slot_count) + data_bytes; }

ResumeGeometry ResumeGeometry::For(uint64_t unflushed_bytes) {
  // The smallest writes cost 768 bytes of the limit: 512, and 256 for themselves. Some of the rest
  // is for the map.
  constexpr uint64_t kOtherSlots = 256 << 10;
  constexpr uint64_t kInFlightBytes = 256 << 20;
  constexpr uint64_t kLargestBytes = uint64_t{32} << 30;
  unflushed_bytes = std::min(unflushed_bytes, kLargestBytes - kInFlightBytes);
  ResumeGeometry geometry;
  geometry.slot_count = unflushed_bytes / 512 + kOtherSlots;
  // A block is up to twice as long as what is in it.
  geometry.data_bytes = std::bit_ceil(2 * (unflushed_bytes + kInFlightBytes));
  return geometry;
}

ResumeTable::ResumeTable(std::shared_ptr<ResumeMemory> memory, const ResumeGeometry& geometry)
    : memory_(std::move(memory)),
      geometry_(geometry),
      base_(memory_->bytes().data()),
      slots_(reinterpret_cast<Slot*>(base_ + resume::kPageBytes)),
      data_begin_(DataBegin(geometry.slot_count)),
      arena_(std::make_shared<ResumeArena>(memory_, data_begin_, geometry.data_bytes)) {}

std::unique_ptr<ResumeTable> ResumeTable::Create(std::shared_ptr<ResumeMemory> memory,
                                                 const ResumeOwner& owner,
                                                 const ResumeGeometry& geometry) {
  std::unique_ptr<ResumeTable> table(new ResumeTable(std::move(memory), geometry));
  if (!table->arena_->Back(0, resume::kPageBytes)) return nullptr;
  resume::Header& header = table->header();
  header.version = resume::kFormatVersion;
  header.slot_count = geometry.slot_count;
  header.data_bytes = geometry.data_bytes;
  header.boot_id = Padded<sizeof(header.boot_id)>(owner.boot_id);
  header.node_uuid = Padded<sizeof(header.node_uuid)>(owner.node_uuid);
  header.check = CheckOf(header);
  header.incarnation.store(owner.incarnation, std::memory_order_relaxed);
  header.magic.store(resume::kMagic, std::memory_order_release);
  return table;
}

absl::StatusOr<std::unique_ptr<ResumeTable>> ResumeTable::TakeOver(
    std::shared_ptr<ResumeMemory> memory, const ResumeOwner& owner, ResumedState* state) {
  const std::span<std::byte> bytes = memory->bytes();
  if (bytes.size() < resume::kPageBytes) return absl::DataLossError("it is too short");
  const auto& header = *reinterpret_cast<const resume::Header*>(bytes.data());
  if (header.magic.load(std::memory_order_acquire) != resume::kMagic) {
    return absl::DataLossError("it does not begin as such a file does");
  }
  if (header.version != resume::kFormatVersion) {
    return absl::FailedPreconditionError("it is of another version of this program");
  }
  if (header.check != CheckOf(header)) return absl::DataLossError("its header is damaged");
  if (header.boot_id != Padded<sizeof(header.boot_id)>(owner.boot_id)) {
    return absl::FailedPreconditionError("the host has booted since");
  }
  if (header.node_uuid != Padded<sizeof(header.node_uuid)>(owner.node_uuid)) {
    return absl::FailedPreconditionError("it is another client's");
  }
  if (header.incarnation.load() + 1 != owner.incarnation) {
    return absl::FailedPreconditionError("the client has run without it since");
  }
  if (header.closed.load() != 0) {
    return absl::FailedPreconditionError("not everything found room in it");
  }
  const ResumeGeometry geometry{header.slot_count, header.data_bytes};
  const bool sane = std::has_single_bit(geometry.data_bytes) &&
                    geometry.data_bytes >= BuddyAllocator::kUnitBytes &&
                    geometry.slot_count <= bytes.size() / sizeof(Slot) &&
                    geometry.TotalBytes() == bytes.size() &&
                    header.slots_used.load() <= geometry.slot_count;
  if (!sane) return absl::DataLossError("its size is not what its header says");
  std::unique_ptr<ResumeTable> table(new ResumeTable(std::move(memory), geometry));
  if (absl::Status read = table->Read(state); !read.ok()) return read;
  table->Trim();
  table->header().incarnation.store(owner.incarnation, std::memory_order_release);
  return table;
}

// ---- Slots.

ResumeSlot ResumeTable::NewSlot() {
  if (closed_) return kNoResumeSlot;
  if (!free_slots_.empty()) {
    const ResumeSlot slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
  }
  const uint64_t used = header().slots_used.load(std::memory_order_relaxed);
  if (used == geometry_.slot_count) return kNoResumeSlot;
  if (!arena_->Back(resume::kPageBytes + used * sizeof(Slot), sizeof(Slot))) return kNoResumeSlot;
  header().slots_used.store(used + 1, std::memory_order_release);
  return static_cast<ResumeSlot>(used);
}

void ResumeTable::Commit(ResumeSlot slot, Kind kind) {
  At(slot).check = CheckOf(At(slot));
  At(slot).kind.store(static_cast<uint32_t>(kind), std::memory_order_release);
}

void ResumeTable::FreeSlot(ResumeSlot slot) {
  At(slot).kind.store(0, std::memory_order_release);
  // What the slot and its block are used for next is stored after that.
  std::atomic_signal_fence(std::memory_order_seq_cst);
  free_slots_.push_back(slot);
}

bool ResumeTable::Close() {
  closed_ = true;
  header().closed.store(1, std::memory_order_release);
  return false;
}

std::shared_ptr<ResumeBlock> ResumeTable::PutData(Slot* slot, std::string_view bytes) {
  slot->data_offset = 0;
  slot->data_bytes = static_cast<uint32_t>(bytes.size());
  slot->data_crc32c = 0;
  if (bytes.empty()) return nullptr;
  auto block = arena_->Allocate(bytes.size(), false);
  if (block == nullptr) return nullptr;
  std::memcpy(block->bytes().data(), bytes.data(), bytes.size());
  slot->data_offset = block->offset();
  slot->data_crc32c = Crc32c(block->bytes());
  return block;
}

namespace {

// Everything but the data.
void Fill(Slot* slot, Kind kind, uint64_t volume_id, uint64_t group_id, uint64_t generation,
          uint64_t sequence) {
  slot->volume_id = volume_id;
  slot->group_id = group_id;
  slot->generation = generation;
  slot->sequence = sequence;
  slot->chunk_index = 0;
  slot->offset_bytes = slot->length_bytes = slot->type = slot->flags = 0;
  const bool volume = kind == Kind::kVolume;
  for (auto& live : slot->live) live.store(0, std::memory_order_relaxed);
  slot->live[resume::kNextCounter].store(volume ? 1 : 0, std::memory_order_relaxed);
  slot->live[resume::kUncovered].store(volume ? 1 : 0, std::memory_order_relaxed);
}

}  // namespace

bool ResumeTable::PutNamed(Named* place, Kind kind, uint64_t volume_id, uint64_t group_id,
                           uint64_t generation, uint64_t sequence, std::string_view bytes) {
  if (closed_) return false;
  const ResumeSlot slot = NewSlot();
  if (slot == kNoResumeSlot) return Close();
  Fill(&At(slot), kind, volume_id, group_id, generation, sequence);
  auto block = PutData(&At(slot), bytes);
  if (block == nullptr && !bytes.empty()) {
    free_slots_.push_back(slot);
    return Close();
  }
  Commit(slot, kind);
  if (place->slot != kNoResumeSlot) FreeSlot(place->slot);
  *place = {slot, std::move(block)};
  return true;
}

// ---- Volumes.

bool ResumeTable::PutVolume(uint64_t volume_id, const std::string& name, uint64_t generation,
                            std::string_view grant) {
  ForgetVolume(volume_id);
  VolumeSlots volume;
  // The grant first: a volume that counts has one.
  if (!PutNamed(&volume.grant, Kind::kGrant, volume_id, 0, generation, ++revision_, grant)) {
    return false;
  }
  Named record;
  if (!PutNamed(&record, Kind::kVolume, volume_id, 0, 0, 0, name)) return false;
  volume.volume = record.slot;
  volume.name = std::move(record.block);
  volumes_[volume_id] = std::move(volume);
  return true;
}

bool ResumeTable::PutGrant(uint64_t volume_id, uint64_t generation, std::string_view grant) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) return false;
  return PutNamed(&found->second.grant, Kind::kGrant, volume_id, 0, generation, ++revision_, grant);
}

ResumeVolume ResumeTable::Volume(uint64_t volume_id) {
  return ResumeVolume(&At(volumes_.at(volume_id).volume));
}

ResumeGroup ResumeTable::PutGroup(uint64_t volume_id, uint64_t placement_group_id,
                                  uint64_t generation, uint64_t chunk_index, uint64_t epoch) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) return ResumeGroup();
  const ResumeSlot slot = NewSlot();
  if (slot == kNoResumeSlot) {
    Close();
    return ResumeGroup();
  }
  Slot& record = At(slot);
  Fill(&record, Kind::kGroup, volume_id, placement_group_id, generation, 0);
  record.chunk_index = chunk_index;
  (void)PutData(&record, {});
  record.live[resume::kFront].store(1, std::memory_order_relaxed);
  record.live[resume::kKnownEpoch].store(epoch, std::memory_order_relaxed);
  Commit(slot, Kind::kGroup);
  found->second.groups[placement_group_id] = slot;
  return ResumeGroup(&record);
}

void ResumeTable::ForgetVolume(uint64_t volume_id) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) return;
  // First what makes the others count.
  FreeSlot(found->second.volume);
  FreeSlot(found->second.grant.slot);
  for (const auto& [group, slot] : found->second.groups) FreeSlot(slot);
  volumes_.erase(found);
}

// ---- Writes.

ResumeSlot ResumeTable::PutWrite(const ResumeWrite& write,
                                 std::span<const std::span<const std::byte>> pieces,
                                 std::shared_ptr<ResumeBlock>* block) {
  uint64_t bytes = 0;
  for (const auto piece : pieces) bytes += piece.size();
  const ResumeSlot slot = NewSlot();
  if (slot == kNoResumeSlot) return kNoResumeSlot;
  Slot& record = At(slot);
  Fill(&record, Kind::kWrite, write.volume_id, write.placement_group_id, write.generation,
       write.sequence);
  record.chunk_index = write.chunk_index;
  record.offset_bytes = write.offset_bytes;
  record.length_bytes = write.length_bytes;
  record.type = write.type;
  record.flags = write.force_unit_access ? resume::kForceUnitAccess : 0;
  record.data_offset = 0;
  record.data_bytes = static_cast<uint32_t>(bytes);
  record.data_crc32c = write.data_crc32c;
  block->reset();
  if (bytes > 0) {
    *block = arena_->Allocate(bytes, true);
    if (*block == nullptr) {
      free_slots_.push_back(slot);
      return kNoResumeSlot;
    }
    record.data_offset = (*block)->offset();
    std::byte* to = (*block)->bytes().data();
    for (const auto piece : pieces) {
      std::memcpy(to, piece.data(), piece.size());
      to += piece.size();
    }
  }
  Commit(slot, Kind::kWrite);
  return slot;
}

void ResumeTable::ReleaseWrite(ResumeSlot slot) { FreeSlot(slot); }

void ResumeTable::Move(Slot* slot, uint64_t generation, uint64_t sequence) {
  // Free meanwhile: a slot that is half changed would look damaged.
  const uint32_t kind = slot->kind.exchange(0);
  slot->generation = generation;
  slot->sequence = sequence;
  slot->check = CheckOf(*slot);
  slot->kind.store(kind, std::memory_order_release);
}

void ResumeTable::MoveWrite(ResumeSlot slot, uint64_t generation, uint64_t sequence) {
  Move(&At(slot), generation, sequence);
}

void ResumeTable::MoveGroup(ResumeGroup group, uint64_t generation) {
  Move(group.slot_, generation, 0);
}

// ---- The map.

bool ResumeTable::PutEntry(uint64_t placement_group_id, uint64_t epoch, std::string_view bytes) {
  return PutNamed(&map_[{Kind::kEntry, placement_group_id}], Kind::kEntry, 0, placement_group_id, 0,
                  epoch, bytes);
}

bool ResumeTable::PutLayout(uint64_t pool_id, std::string_view bytes) {
  return PutNamed(&map_[{Kind::kLayout, pool_id}], Kind::kLayout, 0, pool_id, 0, ++revision_,
                  bytes);
}

bool ResumeTable::PutAddress(uint64_t sds_id, std::string_view bytes) {
  return PutNamed(&map_[{Kind::kAddress, sds_id}], Kind::kAddress, 0, sds_id, 0, ++revision_,
                  bytes);
}

}  // namespace tessera::sdc
