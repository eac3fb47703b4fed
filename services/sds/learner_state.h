// What a learner knows about one placement group while it catches up (docs/REPLICATION.md,
// Learning).
//
// Three questions are answered here, without network, disk or clock:
//  - Order: may this write be taken? Until the source's cursors (the base) are known, the first
//  write of
//    each stream is taken at whatever sequence; from then on only the next.
//  - Contents: which chunks equal the source's (verified), which must be copied (pending), and
//  which
//    sectors the stream brought since the learner joined, which no copied image may overwrite.
//  - Completeness: did a write reach the source that can never reach this learner? A new generation
//  ends
//    the old writer, and the tail that only the source has taken of it would be missing here. So a
//    change of generation is accepted only where the source refused the older one before the base
//    was read; otherwise `failure()` says to start over in a new epoch.
//
// Chunks are classified in key order, all layers of one at once: all keys up to `position` are
// verified or pending, later ones are neither. A layer that neither side had when the listing
// passed its key is verified from its first write on, because every write of it has come, or will
// come, by the stream, and because it is made from what is verified: where a layer below it in the
// chunk is pending, it is made from nothing, and is pending itself.
//
// What was made here from a layer that is not verified is not verified either. So what has to make
// room for that layer's image can be copied again.
//
// Threads: one at a time (the placement group's worker).
#ifndef TESSERA_SERVICES_SDS_LEARNER_STATE_H_
#define TESSERA_SERVICES_SDS_LEARNER_STATE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libchunk/store.h"
#include "libchunk/types.h"
#include "services/sds/replica_rules.h"

namespace tessera::sds {

// One volume at the source when the base was read.
struct SourceStream {
  uint64_t volume_id = 0;
  chunk::Version last;  // {0, 0}: it never wrote to this placement group
  uint64_t lowest_generation =
      0;  // that the source still took then; 0: it had never heard of the volume
};

// One chunk of the source's listing.
struct SourceChunk {
  chunk::ChunkKey key;
  chunk::Version version;
  bool incomplete = false;     // the version proves nothing
  std::string content_digest;  // empty: not asked for
};

// Sectors of one chunk that came by the stream since the learner joined.
struct ReceivedChunk {
  std::vector<uint64_t> sectors;  // one bit a 512-byte sector, least significant first
  uint64_t volume_id = 0;         // whose writes they are: a layer has one writer
  chunk::Version first;           // of the first write received
  chunk::Version last;            // of the last one

  void Mark(uint32_t offset_bytes, uint32_t length_bytes);
  // The eight bits of one 4 KiB block.
  [[nodiscard]] uint8_t SectorsOfBlock(uint32_t block) const;
};

// Why a source does not have a chunk that is to be copied.
enum class Absence : uint8_t {
  kNeverMade,  // its first write is still to come there, and is here: it began as zeros
  kGone,       // it was deleted or dropped there: nobody sees it
  kNotYet,     // one of the two, or it will be made from a layer below: ask again
};
// `received`: null when the stream brought nothing of it. `before`, `after`: the source's cursor in
// the stream of the writer, before the source was asked and when it answered.
[[nodiscard]] Absence JudgeAbsence(const chunk::ChunkKey& key, const ReceivedChunk* received,
                                   const chunk::Version& before, const chunk::Version& after);

struct LearnerProgress {
  uint64_t chunks_compared = 0;
  uint64_t chunks_copied = 0;
  uint64_t bytes_copied = 0;
};

class LearnerState {
 public:
  LearnerState(uint64_t epoch, uint32_t chunk_bytes) : epoch_(epoch), chunk_bytes_(chunk_bytes) {}

  [[nodiscard]] uint64_t epoch() const { return epoch_; }
  [[nodiscard]] uint32_t chunk_bytes() const { return chunk_bytes_; }
  [[nodiscard]] const LearnerProgress& progress() const { return progress_; }
  // Why learning can't succeed in this epoch; empty while it can.
  [[nodiscard]] const std::string& failure() const { return failure_; }
  void Fail(const std::string& reason);

  // ---- Order
  // As sds::JudgeOrder under the learner's rules. May set failure().
  [[nodiscard]] OrderJudgement JudgeOrder(uint64_t volume_id, const chunk::Version& cursor,
                                          const chunk::Version& version);
  // The judged write is being taken.
  void OnTaken(uint64_t volume_id, const chunk::Version& version);
  // The volume's lowest generation was raised here.
  void OnGenerationRaised(uint64_t volume_id, uint64_t generation);
  // The source's streams, and this replica's cursors. Returns the cursors to set before the next
  // write is judged. ABORTED: start over in a new epoch. Again with a known base: changes nothing.
  [[nodiscard]] absl::StatusOr<std::vector<chunk::StreamCursor>> SetBase(
      uint64_t placement_group_id, std::span<const SourceStream> source,
      std::span<const chunk::StreamCursor> own);
  [[nodiscard]] bool base_known() const { return base_known_; }

  // ---- Contents
  [[nodiscard]] bool IsVerified(const chunk::ChunkKey& key) const;
  // A write to the chunk is about to be applied. True: it leaves a whole chunk, in place or made
  // from the newest layer below it; else it is to be marked incomplete, and made from nothing.
  // `is_here` tells whether there is such a chunk; it is asked only where that matters.
  [[nodiscard]] bool BeginWrite(const chunk::ChunkKey& key, const std::function<bool()>& is_here);
  // A taken write is in the store. Remembered unless the chunk is verified.
  void OnApplied(const chunk::ChunkKey& key, uint64_t volume_id, uint32_t offset_bytes,
                 uint32_t length_bytes, const chunk::Version& version);
  // The listing reached `up_to` (none: its end), with all layers of each chunk. `source` and `own`
  // are all chunks of both sides after the last position and up to it, in key order. Returns the
  // chunks to drop here, in that order: the source lacks them.
  [[nodiscard]] std::vector<chunk::ChunkKey> Classify(std::optional<chunk::ChunkKey> up_to,
                                                      std::span<const SourceChunk> source,
                                                      std::span<const chunk::ChunkInfo> own);
  // The last key classified; none before the first. Where an interrupted listing goes on.
  [[nodiscard]] const std::optional<chunk::ChunkKey>& position() const { return position_; }
  [[nodiscard]] bool listing_done() const { return listing_done_; }
  // At most `limit` chunks to copy, in key order.
  [[nodiscard]] std::vector<chunk::ChunkKey> Pending(size_t limit) const;
  [[nodiscard]] bool IsPending(const chunk::ChunkKey& key) const { return pending_.contains(key); }
  [[nodiscard]] size_t pending_count() const { return pending_.size(); }
  // Null when the stream brought nothing of the chunk.
  [[nodiscard]] const ReceivedChunk* Received(const chunk::ChunkKey& key) const;
  // True when layers here may have been made from this one, which is pending.
  [[nodiscard]] bool IsBase(const chunk::ChunkKey& key) const { return bases_.contains(key); }
  // There are none any more.
  void OnRoomMade(const chunk::ChunkKey& key) { bases_.erase(key); }
  // The chunk now is what the order says at this learner's cursor.
  void OnCopied(const chunk::ChunkKey& key, uint64_t bytes);
  // The vtree is deleted: nothing of it is wanted any more.
  void ForgetVtree(uint64_t vtree_id);

  // Everything is verified.
  [[nodiscard]] bool Done() const {
    return base_known_ && listing_done_ && pending_.empty() && failure_.empty();
  }

 private:
  struct Stream {
    bool moved = false;              // it took a write since the learner joined
    chunk::Version first;            // that write
    chunk::Version base;             // the source's cursor, once the base is known
    uint64_t source_lowest = 0;      // SourceStream::lowest_generation
    uint64_t raised_to = 0;          // the only generation it was raised to since joining
    bool raised_repeatedly = false;  // to several
  };
  // The writes of all generations before `generation` that the source can have are known to be
  // covered.
  [[nodiscard]] bool OlderGenerationsCovered(const Stream& stream, const chunk::Version& cursor,
                                             uint64_t generation) const;
  [[nodiscard]] bool FirstWriteFits(const Stream& stream) const;
  [[nodiscard]] bool AnyPendingBelow(const chunk::ChunkKey& key) const;
  // What to do with layers of one chunk that the source lacks: adds to `drop`.
  void SettleOwnOnly(std::span<const chunk::ChunkInfo> layers,
                     std::span<const chunk::ChunkKey> own_only, std::vector<chunk::ChunkKey>* drop);

  const uint64_t epoch_;
  const uint32_t chunk_bytes_;
  std::string failure_;
  LearnerProgress progress_;
  bool base_known_ = false;
  std::map<uint64_t, Stream> streams_;  // by volume
  std::optional<chunk::ChunkKey> position_;
  bool listing_done_ = false;
  std::set<chunk::ChunkKey> pending_;
  std::set<chunk::ChunkKey> bases_;  // pending ones that others here were made from
  std::map<chunk::ChunkKey, ReceivedChunk> received_;  // chunks that are not verified
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_LEARNER_STATE_H_
