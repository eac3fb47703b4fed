#include "services/sds/corrupt_block_book.h"

#include <algorithm>
#include <utility>

#include "services/sds/replica_messages.h"

namespace tessera::sds {
namespace {

v1::CorruptBlocks RunOf(v1::CorruptBlockChange change, const CorruptBlock& block,
                        uint64_t other_device_id) {
  v1::CorruptBlocks run;
  run.set_change(change);
  run.set_device_id(block.id.device_id);
  run.set_placement_group_id(block.placement_group_id);
  SetChunkKey(block.id.key, run.mutable_key());
  run.set_first_block(block.id.block);
  run.set_block_count(1);
  run.set_finder(block.finder);
  run.set_other_device_id(other_device_id);
  if (change == v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE) run.set_reason(block.reason);
  return run;
}

// Whether `next` goes on where `run` ends, and is the same in everything else.
bool Continues(const v1::CorruptBlocks& run, const v1::CorruptBlocks& next) {
  return run.change() == next.change() && run.device_id() == next.device_id() &&
         run.placement_group_id() == next.placement_group_id() &&
         ChunkKeyOf(run.key()) == ChunkKeyOf(next.key()) &&
         run.first_block() + run.block_count() == next.first_block() &&
         run.finder() == next.finder() && run.other_device_id() == next.other_device_id() &&
         run.reason() == next.reason();
}

}  // namespace

CorruptBlockBook::Entry* CorruptBlockBook::Find(const BlockId& id) {
  const auto found = blocks_.find(id);
  return found == blocks_.end() ? nullptr : &found->second;
}

void CorruptBlockBook::Erase(const BlockId& id) {
  const auto found = blocks_.find(id);
  if (found == blocks_.end()) return;
  if (found->second.block.unreadable) --unreadable_;
  blocks_.erase(found);
}

bool CorruptBlockBook::IsUnreadable(const BlockId& id) const {
  const auto found = blocks_.find(id);
  return found != blocks_.end() && found->second.block.unreadable;
}

uint32_t CorruptBlockBook::Tries(const BlockId& id) const {
  const auto found = blocks_.find(id);
  return found == blocks_.end() ? 0 : found->second.tries;
}

bool CorruptBlockBook::Found(const CorruptBlock& block, uint64_t now_ms) {
  if (blocks_.contains(block.id) || blocks_.size() >= kBlocksMax) return false;
  if (block.unreadable) ++unreadable_;
  blocks_[block.id] = {.block = block, .due_ms = now_ms};
  // One that an earlier life knew as lost was told then.
  if (!block.unreadable) AddChange(v1::CORRUPT_BLOCK_CHANGE_FOUND, block, 0);
  return true;
}

std::vector<CorruptBlock> CorruptBlockBook::Due(uint64_t now_ms, size_t limit) const {
  const Entry* first = nullptr;
  for (const auto& [id, entry] : blocks_) {
    if (first == nullptr || entry.due_ms < first->due_ms) first = &entry;
  }
  std::vector<CorruptBlock> due;
  if (first == nullptr || first->due_ms > now_ms) return due;
  for (const auto& [id, entry] : blocks_) {
    if (entry.due_ms > now_ms || id.device_id != first->block.id.device_id ||
        entry.block.placement_group_id != first->block.placement_group_id) {
      continue;
    }
    due.push_back(entry.block);
    if (due.size() == limit) break;
  }
  return due;
}

std::optional<uint64_t> CorruptBlockBook::NextDueMillis() const {
  std::optional<uint64_t> next;
  for (const auto& [id, entry] : blocks_) next = std::min(next.value_or(UINT64_MAX), entry.due_ms);
  return next;
}

void CorruptBlockBook::Repaired(const BlockId& id, uint64_t other_device_id) {
  const Entry* entry = Find(id);
  if (entry == nullptr) return;
  AddChange(v1::CORRUPT_BLOCK_CHANGE_REPAIRED, entry->block, other_device_id);
  Erase(id);
}

void CorruptBlockBook::Healed(const BlockId& id) {
  const Entry* entry = Find(id);
  if (entry == nullptr) return;
  AddChange(v1::CORRUPT_BLOCK_CHANGE_HEALED, entry->block, 0);
  Erase(id);
}

void CorruptBlockBook::Postpone(Entry* entry, uint64_t now_ms) {
  const uint64_t delay = kRetryMinMillis << std::min(entry->tries, 12u);
  entry->due_ms = now_ms + std::min(delay, kRetryMaxMillis);
  ++entry->tries;
}

void CorruptBlockBook::TryAgain(const BlockId& id, uint64_t now_ms) {
  if (Entry* entry = Find(id)) Postpone(entry, now_ms);
}

void CorruptBlockBook::Unreadable(const BlockId& id, const std::string& reason, uint64_t now_ms) {
  Entry* entry = Find(id);
  if (entry == nullptr) return;
  const bool news = !entry->block.unreadable;
  entry->block.unreadable = true;
  entry->block.reason = reason;
  if (news) {
    ++unreadable_;
    // Once nobody has it there is no hurry.
    entry->tries = std::max(entry->tries, 6u);
    AddChange(v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE, entry->block, 0);
  }
  Postpone(entry, now_ms);
}

void CorruptBlockBook::Different(const BlockId& id, uint64_t placement_group_id,
                                 uint64_t other_device_id) {
  AddChange(v1::CORRUPT_BLOCK_CHANGE_DIFFERENT,
            {.id = id,
             .placement_group_id = placement_group_id,
             .finder = v1::CORRUPT_BLOCK_FINDER_SCRUB},
            other_device_id);
}

void CorruptBlockBook::TryAllNow(uint64_t now_ms) {
  for (auto& [id, entry] : blocks_) entry.due_ms = std::min(entry.due_ms, now_ms);
}

void CorruptBlockBook::AddChange(v1::CorruptBlockChange change, const CorruptBlock& block,
                                 uint64_t other_device_id) {
  v1::CorruptBlocks run = RunOf(change, block, other_device_id);
  // The last few: found and repaired go turn about.
  const size_t looked = std::min<size_t>(changes_.size(), 4);
  for (size_t i = changes_.size() - looked; i < changes_.size(); ++i) {
    if (!Continues(changes_[i], run)) continue;
    changes_[i].set_block_count(changes_[i].block_count() + 1);
    return;
  }
  if (changes_.size() == kChangesMax) {
    changes_.pop_front();
    ++dropped_;
  }
  changes_.push_back(std::move(run));
}

const CorruptBlockBook::Report& CorruptBlockBook::NextReport() {
  if (report_.number != 0 || (changes_.empty() && dropped_ == 0)) return report_;
  report_.number = ++reports_;
  report_.dropped = std::exchange(dropped_, 0);
  while (!changes_.empty() && report_.changes.size() < kChangesPerReport) {
    report_.changes.push_back(std::move(changes_.front()));
    changes_.pop_front();
  }
  return report_;
}

void CorruptBlockBook::Confirm(uint64_t number) {
  if (number == report_.number) report_ = {};
}

std::vector<v1::CorruptBlocks> CorruptBlockBook::UnreadableRuns(size_t limit) const {
  std::vector<v1::CorruptBlocks> runs;
  for (const auto& [id, entry] : blocks_) {
    if (!entry.block.unreadable) continue;
    v1::CorruptBlocks run = RunOf(v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE, entry.block, 0);
    if (!runs.empty() && Continues(runs.back(), run)) {
      runs.back().set_block_count(runs.back().block_count() + 1);
    } else if (runs.size() < limit) {
      runs.push_back(std::move(run));
    } else {
      break;
    }
  }
  return runs;
}

}  // namespace tessera::sds
