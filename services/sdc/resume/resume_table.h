// What this life of the client keeps for the next one: attached volumes with their grants, the
// order and content of writes that are not both answered and durable, and the map. FORMAT.md has
// the bytes and the crash model.
//
// Everything is stored when a call returns. A call that finds no room says so; when it was about
// the map or a volume's standing the table closes itself: nothing in it counts any more, and a
// restart is one without resume.
//
// Threads: one at a time; blocks may be let go on any thread.
#ifndef TESSERA_SERVICES_SDC_RESUME_RESUME_TABLE_H_
#define TESSERA_SERVICES_SDC_RESUME_RESUME_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/sdc/resume/resume_arena.h"
#include "services/sdc/resume/resume_format.h"

namespace tessera::sdc {

// Whose table it is. One of another owner is not taken over.
struct ResumeOwner {
  std::string boot_id;
  std::string node_uuid;
  uint64_t incarnation = 0;  // grows by one with each start of the client
};

struct ResumeGeometry {
  uint64_t slot_count = 0;
  uint64_t data_bytes = 0;  // a power of two

  [[nodiscard]] uint64_t TotalBytes() const;
  // Room for so many bytes of kept writes and for what is in flight beside them.
  [[nodiscard]] static ResumeGeometry For(uint64_t unflushed_bytes);
};

// The number of a slot, for whoever has something in it.
using ResumeSlot = uint32_t;
inline constexpr ResumeSlot kNoResumeSlot = UINT32_MAX;

struct ResumeWrite {
  uint64_t volume_id = 0;
  uint64_t placement_group_id = 0;
  uint64_t generation = 0;
  uint64_t sequence = 0;
  uint64_t chunk_index = 0;
  uint32_t offset_bytes = 0;
  uint32_t length_bytes = 0;
  uint32_t type = 0;  // IoOperationType
  bool force_unit_access = false;
  uint32_t data_crc32c = 0;
};

// A volume's live values.
class ResumeVolume {
 public:
  ResumeVolume() = default;
  explicit ResumeVolume(resume::Slot* slot) : slot_(slot) {}
  void SetNextCounter(uint64_t value) { Set(resume::kNextCounter, value); }
  // Writes that are sent although they are not in the table. While there are any, the volume
  // can't be taken over.
  void AddOutside() { Set(resume::kOutside, Get(resume::kOutside) + 1); }
  void RemoveOutside() { Set(resume::kOutside, Get(resume::kOutside) - 1); }
  void SetUncovered(bool value) { Set(resume::kUncovered, value ? 1 : 0); }
  void SetLosses(uint64_t value) { Set(resume::kLosses, value); }
  void SetHeard(uint64_t value) { Set(resume::kHeard, value); }
  [[nodiscard]] uint64_t Get(resume::VolumeLive which) const {
    return slot_->live[which].load(std::memory_order_relaxed);
  }

 private:
  void Set(resume::VolumeLive which, uint64_t value) {
    slot_->live[which].store(value, std::memory_order_release);
  }
  resume::Slot* slot_ = nullptr;
};

// The same of a (volume, placement group).
class ResumeGroup {
 public:
  ResumeGroup() = default;
  explicit ResumeGroup(resume::Slot* slot) : slot_(slot) {}
  [[nodiscard]] bool valid() const { return slot_ != nullptr; }
  // Nothing where there is no record.
  void Set(resume::GroupLive which, uint64_t value) {
    if (slot_ == nullptr || Get(which) == value) return;
    slot_->live[which].store(value, std::memory_order_release);
  }
  [[nodiscard]] uint64_t Get(resume::GroupLive which) const {
    return slot_->live[which].load(std::memory_order_relaxed);
  }

 private:
  friend class ResumeTable;
  resume::Slot* slot_ = nullptr;
};

struct ResumedState;

class ResumeTable {
 public:
  // An empty one. REQUIRES: the memory is zero and has geometry.TotalBytes(). Null: there is no
  // memory behind it.
  [[nodiscard]] static std::unique_ptr<ResumeTable> Create(std::shared_ptr<ResumeMemory> memory,
                                                           const ResumeOwner& owner,
                                                           const ResumeGeometry& geometry);
  // Goes on with what an earlier life left: `state` is what can be taken over. FAILED_PRECONDITION:
  // it is another owner's, another version's, closed, or not of the start just before this one.
  // DATA_LOSS: damaged. It is to be emptied and created anew then.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<ResumeTable>> TakeOver(
      std::shared_ptr<ResumeMemory> memory, const ResumeOwner& owner, ResumedState* state);

  // A volume is attached: its next counter is 1, and what was answered before is not covered.
  // False: there is no room; the table is closed.
  [[nodiscard]] bool PutVolume(uint64_t volume_id, const std::string& name, uint64_t generation,
                               std::string_view grant);
  // A better grant of one that is.
  bool PutGrant(uint64_t volume_id, uint64_t generation, std::string_view grant);
  [[nodiscard]] ResumeVolume Volume(uint64_t volume_id);
  // The volume begins to use a placement group.
  [[nodiscard]] ResumeGroup PutGroup(uint64_t volume_id, uint64_t placement_group_id,
                                     uint64_t generation, uint64_t chunk_index, uint64_t epoch);
  // Nothing of the volume counts any more. Its writes are still to be released.
  void ForgetVolume(uint64_t volume_id);

  // A write with its content, before it is sent. kNoResumeSlot: there is no room. `block`: where
  // the content is from now on; null when it has none.
  [[nodiscard]] ResumeSlot PutWrite(const ResumeWrite& write,
                                    std::span<const std::span<const std::byte>> pieces,
                                    std::shared_ptr<ResumeBlock>* block);
  void ReleaseWrite(ResumeSlot slot);
  // Under a new generation. REQUIRES: the volume has writes outside meanwhile.
  void MoveWrite(ResumeSlot slot, uint64_t generation, uint64_t sequence);
  static void MoveGroup(ResumeGroup group, uint64_t generation);

  // The map. False: no room; the table is closed.
  bool PutEntry(uint64_t placement_group_id, uint64_t epoch, std::string_view bytes);
  bool PutLayout(uint64_t pool_id, std::string_view bytes);
  bool PutAddress(uint64_t sds_id, std::string_view bytes);

  // Half of what is there for writes is used.
  [[nodiscard]] bool pressed() const { return arena_->used_bytes() > arena_->size_bytes() / 2; }
  [[nodiscard]] bool closed() const { return closed_; }
  // Gives memory back that is not needed now: all of it, or when it is worth it.
  void Trim() { arena_->Trim(); }
  void TrimIfIdle() { arena_->TrimIfIdle(); }
  [[nodiscard]] uint64_t used_bytes() const { return arena_->used_bytes(); }

 private:
  using Key = std::pair<resume::Kind, uint64_t>;
  struct Named {
    ResumeSlot slot = kNoResumeSlot;
    std::shared_ptr<ResumeBlock> block;
  };
  struct VolumeSlots {
    ResumeSlot volume = kNoResumeSlot;
    std::shared_ptr<ResumeBlock> name;
    Named grant;
    std::map<uint64_t, ResumeSlot> groups;
  };

  ResumeTable(std::shared_ptr<ResumeMemory> memory, const ResumeGeometry& geometry);
  [[nodiscard]] resume::Header& header() { return *reinterpret_cast<resume::Header*>(base_); }
  [[nodiscard]] resume::Slot& At(ResumeSlot slot) { return slots_[slot]; }
  [[nodiscard]] ResumeSlot NewSlot();
  void Commit(ResumeSlot slot, resume::Kind kind);
  void FreeSlot(ResumeSlot slot);
  [[nodiscard]] std::shared_ptr<ResumeBlock> PutData(resume::Slot* slot, std::string_view bytes);
  bool PutNamed(Named* place, resume::Kind kind, uint64_t volume_id, uint64_t group_id,
                uint64_t generation, uint64_t sequence, std::string_view bytes);
  bool Close();
  static void Move(resume::Slot* slot, uint64_t generation, uint64_t sequence);

  // Taking over: resume_reader.cc.
  absl::Status Read(ResumedState* state);
  [[nodiscard]] bool Intact(const resume::Slot& slot) const;
  void TakeNamed(ResumeSlot slot, Named* place);
  absl::Status ReadVolume(uint64_t volume_id, const std::vector<ResumeSlot>& slots,
                          ResumedState* state);
  [[nodiscard]] std::string_view DataOf(const resume::Slot& slot) const;

  const std::shared_ptr<ResumeMemory> memory_;  // shared with blocks that outlive the table
  const ResumeGeometry geometry_;
  std::byte* const base_;
  resume::Slot* const slots_;
  const uint64_t data_begin_;
  const std::shared_ptr<ResumeArena> arena_;  // shared with blocks that outlive the table
  std::vector<ResumeSlot> free_slots_;
  std::map<uint64_t, VolumeSlots> volumes_;
  std::map<Key, Named> map_;
  uint64_t revision_ = 0;
  bool closed_ = false;
};

// ---- What was taken over.

struct ResumedWrite {
  ResumeWrite write;
  ResumeSlot slot = kNoResumeSlot;
  std::shared_ptr<ResumeBlock> block;  // null: a write without data
};

struct ResumedGroup {
  uint64_t placement_group_id = 0;
  uint64_t chunk_index = 0;
  ResumeGroup record;
  uint64_t front_sequence = 0;
  uint64_t unkept_below = 0;
  uint64_t known_epoch = 0;
  bool learners_in_doubt = false;
  // In order, without gaps; those below the front are acknowledged, and the last one before it is
  // among them when there are any.
  std::vector<ResumedWrite> writes;
};

struct ResumedVolume {
  uint64_t volume_id = 0;
  std::string name;
  uint64_t generation = 0;
  std::string grant;
  uint64_t next_counter = 0;
  bool uncovered = false;
  uint64_t losses = 0;
  uint64_t heard_losses = 0;
  std::vector<ResumedGroup> groups;
};

struct ResumedState {
  std::vector<ResumedVolume> volumes;
  std::vector<std::pair<std::string, absl::Status>> refused;  // names of volumes, and why
  std::vector<std::string> entries;
  std::vector<std::string> layouts;
  std::vector<std::string> addresses;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RESUME_RESUME_TABLE_H_
