// The bad blocks of this server: which are known, when each is tried next, which are lost for now,
// and what the MDM has still to hear of them. A block is in the book from the moment when it is
// found until it reads well again.
//
// Bounded: more blocks than kBlocksMax are not taken (a read or the next scrub finds them again),
// and of changes that nobody fetches the oldest give way and are counted. The caller gives the time
// in milliseconds of a clock that only goes forward.
//
// Threads: none of its own; the owner locks.
#ifndef TESSERA_SERVICES_SDS_CORRUPT_BLOCK_BOOK_H_
#define TESSERA_SERVICES_SDS_CORRUPT_BLOCK_BOOK_H_

#include <compare>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "libchunk/types.h"
#include "tessera/v1/health.pb.h"

namespace tessera::sds {

struct BlockId {
  uint64_t device_id = 0;
  chunk::ChunkKey key;
  uint32_t block = 0;
  friend auto operator<=>(const BlockId&, const BlockId&) = default;
};

struct CorruptBlock {
  BlockId id;
  uint64_t placement_group_id = 0;
  v1::CorruptBlockFinder finder = v1::CORRUPT_BLOCK_FINDER_UNSPECIFIED;
  bool unreadable = false;  // no good copy was found when it was last tried
  std::string reason;       // of that
};

class CorruptBlockBook {
 public:
  static constexpr size_t kBlocksMax = 4'096;
  static constexpr size_t kChangesMax = 1'024;
  static constexpr int kChangesPerReport = 64;
  static constexpr uint64_t kRetryMinMillis = 20;
  static constexpr uint64_t kRetryMaxMillis = 60'000;

  // True when it is news and was taken.
  bool Found(const CorruptBlock& block, uint64_t now_ms);
  [[nodiscard]] bool Contains(const BlockId& id) const { return blocks_.contains(id); }
  [[nodiscard]] bool IsUnreadable(const BlockId& id) const;
  // How often it was tried in vain; 0 of a block that is not in the book.
  [[nodiscard]] uint32_t Tries(const BlockId& id) const;
  // Blocks of one device and placement group that are due, those that waited longest first.
  [[nodiscard]] std::vector<CorruptBlock> Due(uint64_t now_ms, size_t limit) const;
  // When the next one is due; nullopt: the book is empty.
  [[nodiscard]] std::optional<uint64_t> NextDueMillis() const;

  // Outcomes of a try; of a block that is not in the book: nothing.
  void Repaired(const BlockId& id, uint64_t other_device_id);
  void Healed(const BlockId& id);
  // Not decided: tried again, later each time.
  void TryAgain(const BlockId& id, uint64_t now_ms);
  // No good copy. Told once; tried again, later each time.
  void Unreadable(const BlockId& id, const std::string& reason, uint64_t now_ms);
  // Replicas of equal version differ in it; nothing is repaired. Not of a block in the book alone.
  void Different(const BlockId& id, uint64_t placement_group_id, uint64_t other_device_id);
  // Everything is tried at once: another replica may have come.
  void TryAllNow(uint64_t now_ms);

  [[nodiscard]] size_t size() const { return blocks_.size(); }
  [[nodiscard]] size_t unreadable() const { return unreadable_; }

  // What is new, in runs of neighbouring blocks; the same list until it is confirmed. Empty number:
  // nothing.
  struct Report {
    uint64_t number = 0;
    std::vector<v1::CorruptBlocks> changes;
    uint64_t dropped = 0;
  };
  [[nodiscard]] const Report& NextReport();
  void Confirm(uint64_t number);
  // What can't be repaired now, in runs.
  [[nodiscard]] std::vector<v1::CorruptBlocks> UnreadableRuns(size_t limit) const;

 private:
  struct Entry {
    CorruptBlock block;
    uint32_t tries = 0;
    uint64_t due_ms = 0;
  };
  Entry* Find(const BlockId& id);
  void Erase(const BlockId& id);
  void Postpone(Entry* entry, uint64_t now_ms);
  void AddChange(v1::CorruptBlockChange change, const CorruptBlock& block,
                 uint64_t other_device_id);

  std::map<BlockId, Entry> blocks_;
  size_t unreadable_ = 0;
  std::deque<v1::CorruptBlocks> changes_;
  uint64_t dropped_ = 0;
  Report report_;
  uint64_t reports_ = 0;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_CORRUPT_BLOCK_BOOK_H_
