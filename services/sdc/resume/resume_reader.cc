// Taking a table over from an earlier life.
#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/common/crc32c.h"
#include "services/sdc/resume/resume_table.h"

namespace tessera::sdc {
namespace {

using resume::Kind;
using resume::Slot;

Kind KindOf(const Slot& slot) { return static_cast<Kind>(slot.kind.load()); }

absl::Status CheckOrder(const ResumedGroup& group) {
  uint64_t expected =
      group.writes.empty() ? group.front_sequence : group.writes.front().write.sequence;
  if (expected == 0 || expected > group.front_sequence) {
    return absl::DataLossError("writes that are not acknowledged are missing");
  }
  for (const ResumedWrite& write : group.writes) {
    if (write.write.sequence != expected++) {
      return absl::DataLossError(absl::StrCat("write ", expected - 1, " is missing"));
    }
  }
  if (expected < group.front_sequence) {
    return absl::DataLossError("writes that were acknowledged are missing");
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view ResumeTable::DataOf(const Slot& slot) const {
  return {reinterpret_cast<const char*>(base_) + data_begin_ + slot.data_offset, slot.data_bytes};
}

bool ResumeTable::Intact(const Slot& slot) const {
  const auto* bytes = reinterpret_cast<const std::byte*>(&slot);
  const uint32_t check =
      Crc32c({bytes + offsetof(Slot, volume_id), offsetof(Slot, live) - offsetof(Slot, volume_id)});
  if (slot.check != check || slot.data_offset > geometry_.data_bytes ||
      slot.data_bytes > geometry_.data_bytes - slot.data_offset) {
    return false;
  }
  const std::string_view data = DataOf(slot);
  return data.empty() ||
         Crc32c({reinterpret_cast<const std::byte*>(data.data()), data.size()}) == slot.data_crc32c;
}

// Of two that replace each other the one with the higher number counts.
void ResumeTable::TakeNamed(ResumeSlot slot, Named* place) {
  if (place->slot != kNoResumeSlot) {
    const bool older = At(slot).sequence < At(place->slot).sequence;
    FreeSlot(older ? slot : place->slot);
    if (older) return;
  }
  place->slot = slot;
}

absl::Status ResumeTable::Read(ResumedState* state) {
  std::map<uint64_t, std::vector<ResumeSlot>> volumes;
  std::vector<ResumeSlot> free;
  const auto used = static_cast<ResumeSlot>(header().slots_used.load());
  for (ResumeSlot slot = 0; slot < used; ++slot) {
    const Slot& record = At(slot);
    const Kind kind = KindOf(record);
    switch (kind) {
      case Kind::kFree:
        free.push_back(slot);
        break;
      case Kind::kWrite:
      case Kind::kVolume:
      case Kind::kGrant:
      case Kind::kGroup:
        // Which volume's it is can't be trusted when it is damaged: nobody's is whole then.
        if (!Intact(record)) return absl::DataLossError(absl::StrCat("slot ", slot, " is damaged"));
        volumes[record.volume_id].push_back(slot);
        break;
      case Kind::kEntry:
      case Kind::kLayout:
      case Kind::kAddress:
        if (!Intact(record)) return absl::DataLossError(absl::StrCat("slot ", slot, " is damaged"));
        revision_ = std::max(revision_, kind == Kind::kEntry ? 0 : record.sequence);
        TakeNamed(slot, &map_[{kind, record.group_id}]);
        break;
      default:
        return absl::DataLossError(absl::StrCat("slot ", slot, " is of an unknown kind"));
    }
  }
  // The lowest are used first.
  free_slots_.insert(free_slots_.end(), free.rbegin(), free.rend());
  for (auto& [key, named] : map_) {
    const Slot& record = At(named.slot);
    named.block =
        record.data_bytes == 0 ? nullptr : arena_->Take(record.data_offset, record.data_bytes);
    if (named.block == nullptr && record.data_bytes > 0) {
      return absl::DataLossError("two slots have the same place");
    }
    auto& list = key.first == Kind::kEntry    ? state->entries
                 : key.first == Kind::kLayout ? state->layouts
                                              : state->addresses;
    list.emplace_back(DataOf(record));
  }
  for (const auto& [volume_id, slots] : volumes) {
    if (absl::Status read = ReadVolume(volume_id, slots, state); !read.ok()) return read;
  }
  return absl::OkStatus();
}

// An error is one of the whole table; a volume that can't be taken over is among the refused.
absl::Status ResumeTable::ReadVolume(uint64_t volume_id, const std::vector<ResumeSlot>& slots,
                                     ResumedState* state) {
  ResumedVolume volume;
  volume.volume_id = volume_id;
  VolumeSlots places;
  std::map<uint64_t, ResumedGroup> groups;
  std::set<ResumeSlot> all(slots.begin(), slots.end());
  for (const ResumeSlot slot : slots) {
    const Slot& record = At(slot);
    if (KindOf(record) == Kind::kVolume) places.volume = slot;
    if (KindOf(record) == Kind::kGroup) places.groups[record.group_id] = slot;
    if (KindOf(record) != Kind::kGrant) continue;
    revision_ = std::max(revision_, record.sequence);
    const ResumeSlot before = places.grant.slot;
    TakeNamed(slot, &places.grant);
    // One of the two was freed.
    if (before != kNoResumeSlot) all.erase(places.grant.slot == slot ? before : slot);
  }
  const auto refuse = [&](absl::Status why) {
    if (places.volume != kNoResumeSlot) {
      state->refused.emplace_back(std::string(DataOf(At(places.volume))), std::move(why));
    }
    // First what makes the others count.
    if (places.volume != kNoResumeSlot) FreeSlot(places.volume);
    for (const ResumeSlot slot : all) {
      if (slot != places.volume) FreeSlot(slot);
    }
    return absl::OkStatus();
  };
  if (places.volume == kNoResumeSlot) return refuse(absl::OkStatus());
  if (places.grant.slot == kNoResumeSlot) return refuse(absl::DataLossError("it has no grant"));
  const ResumeVolume live(&At(places.volume));
  if (const uint64_t outside = live.Get(resume::kOutside); outside > 0) {
    return refuse(absl::ResourceExhaustedError(
        absl::StrCat(outside, " of its writes found no room in the file")));
  }
  volume.name = DataOf(At(places.volume));
  volume.generation = At(places.grant.slot).generation;
  volume.grant = DataOf(At(places.grant.slot));
  volume.next_counter = live.Get(resume::kNextCounter);
  volume.uncovered = live.Get(resume::kUncovered) != 0;
  volume.losses = live.Get(resume::kLosses);
  volume.heard_losses = live.Get(resume::kHeard);
  for (const auto& [id, slot] : places.groups) {
    Slot& record = At(slot);
    if (record.generation != volume.generation) {
      return refuse(absl::DataLossError("a placement group is of another generation"));
    }
    ResumedGroup& group = groups[id];
    group.placement_group_id = id;
    group.chunk_index = record.chunk_index;
    group.record = ResumeGroup(&record);
    group.front_sequence = group.record.Get(resume::kFront);
    group.unkept_below = group.record.Get(resume::kUnkeptBelow);
    group.known_epoch = group.record.Get(resume::kKnownEpoch);
    group.learners_in_doubt = group.record.Get(resume::kLearnersInDoubt) != 0;
  }
  for (const ResumeSlot slot : slots) {
    const Slot& record = At(slot);
    if (KindOf(record) != Kind::kWrite) continue;
    const auto group = groups.find(record.group_id);
    if (group == groups.end() || record.generation != volume.generation) {
      return refuse(absl::DataLossError("a write is of no group, or of another generation"));
    }
    ResumedWrite write;
    write.slot = slot;
    write.write = {
        volume_id,           record.group_id,    record.generation,
        record.sequence,     record.chunk_index, record.offset_bytes,
        record.length_bytes, record.type,        (record.flags & resume::kForceUnitAccess) != 0,
        record.data_crc32c};
    group->second.writes.push_back(std::move(write));
  }
  for (auto& [id, group] : groups) {
    std::sort(group.writes.begin(), group.writes.end(),
              [](const auto& a, const auto& b) { return a.write.sequence < b.write.sequence; });
    if (absl::Status order = CheckOrder(group); !order.ok()) return refuse(std::move(order));
  }
  // Now that it is taken over.
  const auto take = [this](ResumeSlot slot, std::shared_ptr<ResumeBlock>* block) {
    const Slot& record = At(slot);
    if (record.data_bytes == 0) return true;
    *block = arena_->Take(record.data_offset, record.data_bytes);
    return *block != nullptr;
  };
  bool taken = take(places.volume, &places.name) && take(places.grant.slot, &places.grant.block);
  for (auto& [id, group] : groups) {
    for (ResumedWrite& write : group.writes) taken = taken && take(write.slot, &write.block);
    volume.groups.push_back(std::move(group));
  }
  if (!taken) return absl::DataLossError("two slots have the same place");
  volumes_[volume_id] = std::move(places);
  state->volumes.push_back(std::move(volume));
  return absl::OkStatus();
}

}  // namespace tessera::sdc
