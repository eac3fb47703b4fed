// The memory of a resume file, and the blocks of its data area.
//
// Threads: ResumeMemory and Allocate: one at a time; blocks may be let go on any thread.
#ifndef TESSERA_SERVICES_SDC_RESUME_RESUME_ARENA_H_
#define TESSERA_SERVICES_SDC_RESUME_RESUME_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/sdc/resume/buddy_allocator.h"

namespace tessera::sdc {

// Memory that outlives the process. It is zero when it is new.
class ResumeMemory {
 public:
  virtual ~ResumeMemory() = default;
  [[nodiscard]] virtual std::span<std::byte> bytes() = 0;
  // Makes sure that there is memory behind a range before it is touched. False: there is none.
  [[nodiscard]] virtual bool Back(uint64_t offset, uint64_t length) = 0;
  // Gives back what is behind a range; it reads as zeros from then on.
  virtual void GiveBack(uint64_t offset, uint64_t length) = 0;
};

class ResumeArena;

// Bytes of the data area; nobody else gets them while this exists.
class ResumeBlock {
 public:
  ResumeBlock(std::shared_ptr<ResumeArena> arena, uint64_t offset, std::span<std::byte> bytes)
      : arena_(std::move(arena)), offset_(offset), bytes_(bytes) {}
  ~ResumeBlock();
  ResumeBlock(const ResumeBlock&) = delete;
  ResumeBlock& operator=(const ResumeBlock&) = delete;

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  [[nodiscard]] uint64_t offset() const { return offset_; }

 private:
  const std::shared_ptr<ResumeArena> arena_;  // shared by all blocks: streams may hold some longest
  const uint64_t offset_;
  const std::span<std::byte> bytes_;
};

class ResumeArena : public std::enable_shared_from_this<ResumeArena> {
 public:
  // What is backed and given back at a time.
  static constexpr uint64_t kStepBytes = 256 << 10;

  // The data area is [begin, begin + size) of the memory; `begin` is a multiple of kStepBytes.
  ResumeArena(std::shared_ptr<ResumeMemory> memory, uint64_t begin, uint64_t size_bytes);

  // Null when there is no room. With `reserve` an eighth of the area is left for others.
  [[nodiscard]] std::shared_ptr<ResumeBlock> Allocate(uint64_t bytes, bool reserve);
  // A block that an earlier life had. Null: it is none, or taken.
  [[nodiscard]] std::shared_ptr<ResumeBlock> Take(uint64_t offset, uint64_t bytes);
  // Of the memory, outside the data area too.
  [[nodiscard]] bool Back(uint64_t offset, uint64_t length);
  // Gives back all memory in which no block is.
  void Trim();
  // The same when little of much is used.
  void TrimIfIdle();
  [[nodiscard]] uint64_t used_bytes() const;
  [[nodiscard]] uint64_t size_bytes() const { return size_bytes_; }

 private:
  friend class ResumeBlock;
  void Free(uint64_t offset, uint64_t bytes);
  [[nodiscard]] std::shared_ptr<ResumeBlock> BlockAt(uint64_t offset, uint64_t bytes);

  const std::shared_ptr<ResumeMemory> memory_;  // shared with the blocks' users through this
  const uint64_t begin_;
  const uint64_t size_bytes_;
  std::vector<bool> backed_;  // steps of the memory
  uint64_t backed_bytes_ = 0;
  mutable absl::Mutex mutex_;
  BuddyAllocator blocks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RESUME_RESUME_ARENA_H_
