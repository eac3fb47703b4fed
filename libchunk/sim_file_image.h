// The bytes of one simulated file: as programs see them, and as the medium holds them.
//
// The medium holds the durable image; every call since the last Sync waits in a list. A loss of
// power decides for each of them, from a seed, whether it reached the medium: a write sector by
// sector (and its size by itself), the other calls as a whole. What was kept is replayed in order,
// so that an overwritten sector can come back with any of its values.
//
// Threads: none; its disk (sim_disk.h) locks.
#ifndef TESSERA_LIBCHUNK_SIM_FILE_IMAGE_H_
#define TESSERA_LIBCHUNK_SIM_FILE_IMAGE_H_

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "libchunk/seeded_random.h"

namespace tessera::chunk {

// How a loss of power treats the calls that were not synced.
enum class LossStyle : uint8_t {
  kLoseAll,     // none of them reached the medium
  kKeepAll,     // all did: the kernel had just written back
  kSectors,     // each sector of each write by itself
  kWholeCalls,  // each call by itself, whole
  kPrefix,      // the calls up to one, and that one in part
  kHoles,       // nearly all: about one call in sixteen is missing or torn
};
inline constexpr int kLossStyleCount = 6;

// A sparse array of bytes in pages; absent pages read as zeros.
class SparsePages {
 public:
  static constexpr uint64_t kPageBytes = 4096;
  using Page = std::array<std::byte, kPageBytes>;

  void Read(uint64_t offset, std::span<std::byte> out) const;
  void Write(uint64_t offset, std::span<const std::byte> bytes);
  // Zeros the range and frees the pages that it covers wholly.
  void Clear(uint64_t offset, uint64_t length_bytes);
  // Makes absent pages of the range present.
  void Reserve(uint64_t offset, uint64_t length_bytes);
  // Makes page `number` equal to that of `other`.
  void CopyPage(uint64_t number, const SparsePages& other);
  void CopyAll(const SparsePages& other);
  // Pages of the range that are absent.
  [[nodiscard]] uint64_t CountAbsent(uint64_t offset, uint64_t length_bytes) const;
  [[nodiscard]] uint64_t allocated_bytes() const { return pages_.size() * kPageBytes; }

 private:
  Page& PageAt(uint64_t number);

  absl::flat_hash_map<uint64_t, std::unique_ptr<Page>> pages_;
};

class SimulatedFileImage {
 public:
  // False when the file ends before the range does.
  [[nodiscard]] bool Read(uint64_t offset, std::span<std::byte> out) const;
  void Write(uint64_t offset, std::span<const std::byte> bytes);
  void Allocate(uint64_t offset, uint64_t length_bytes);
  void PunchHole(uint64_t offset, uint64_t length_bytes);
  void Truncate(uint64_t size_bytes);

  // Everything so far is durable.
  void Sync();
  // As Linux after a failed fsync: pages are marked clean, so that no later Sync writes them, and
  // an unknown part of them has reached the medium. Reads go on seeing all of it until power is
  // lost.
  void FailSync(SeededRandom& random);
  void LosePower(LossStyle style, SeededRandom& random);

  // Damages the medium: flips the bits of `mask` in the byte at `offset`, for readers too.
  void Flip(uint64_t offset, std::byte mask);

  [[nodiscard]] uint64_t size_bytes() const { return size_bytes_; }
  [[nodiscard]] uint64_t allocated_bytes() const { return pages_.allocated_bytes(); }
  [[nodiscard]] uint64_t CountAbsentPages(uint64_t offset, uint64_t length_bytes) const {
    return pages_.CountAbsent(offset, length_bytes);
  }
  [[nodiscard]] uint64_t unsynced_calls() const { return unsynced_.size(); }

 private:
  enum class Kind : uint8_t { kWrite, kAllocate, kPunchHole, kTruncate };
  struct Call {
    Kind kind;
    uint64_t offset = 0;
    uint64_t length_bytes = 0;
    std::vector<std::byte> data;  // kWrite only
  };

  void Remember(Call call);
  // Applies the call to the medium: of a write the sectors and the size that `keep()` grants, one
  // question each.
  template <typename Keep>
  void ApplyDurably(const Call& call, Keep keep);
  void ApplySome(LossStyle style, SeededRandom& random);
  // Notes the pages where the medium may differ from what programs see.
  void NoteDivergence();

  SparsePages pages_;
  uint64_t size_bytes_ = 0;
  SparsePages durable_pages_;
  uint64_t durable_size_bytes_ = 0;
  std::deque<Call> unsynced_;
  uint64_t unsynced_bytes_ = 0;
  absl::flat_hash_set<uint64_t> diverged_pages_;  // by failed syncs
  bool diverged_anywhere_ = false;                // too many to list
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_SIM_FILE_IMAGE_H_
