// Space in an area of fixed size: blocks of kUnitBytes times a power of two, aligned to their size;
// two free halves become one block again (Knowlton, 1965). What is given out lies low in the area
// when it can, so that as little of it as possible is ever touched.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_RESUME_BUDDY_ALLOCATOR_H_
#define TESSERA_SERVICES_SDC_RESUME_BUDDY_ALLOCATOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

namespace tessera::sdc {

class BuddyAllocator {
 public:
  static constexpr uint64_t kUnitBytes = 512;

  // REQUIRES: a power of two, from kUnitBytes to 1 TiB.
  explicit BuddyAllocator(uint64_t size_bytes);

  // What a block for so many bytes takes.
  [[nodiscard]] static uint64_t BlockBytes(uint64_t bytes);

  // Where a block for so many bytes begins; nothing when there is none. REQUIRES: bytes > 0.
  [[nodiscard]] std::optional<uint64_t> Allocate(uint64_t bytes);
  // Takes exactly the block that Allocate(bytes) gave at `offset` once. False: it is no such place,
  // or not free.
  [[nodiscard]] bool Take(uint64_t offset, uint64_t bytes);
  // REQUIRES: Allocate(bytes) returned `offset`, or Take took it.
  void Free(uint64_t offset, uint64_t bytes);

  // Whether nothing of a block of this size and place is given out.
  [[nodiscard]] bool IsFree(uint64_t offset, uint64_t bytes) const;

  [[nodiscard]] uint64_t size_bytes() const { return uint64_t{kUnitBytes} << top_; }
  [[nodiscard]] uint64_t used_bytes() const { return used_bytes_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr size_t kOrders = 32;
  struct CallocDeleter {
    void operator()(void* memory) const;
  };
  template <typename T>
  using Zeroed = std::unique_ptr<T[], CallocDeleter>;  // untouched pages cost nothing
  template <typename T>
  static Zeroed<T> MakeZeroed(size_t count);

  [[nodiscard]] static uint32_t OrderOf(uint64_t bytes);
  void Push(uint32_t unit, uint32_t order);
  void Remove(uint32_t unit, uint32_t order);
  // Gives back what a block is larger than wanted, upper halves first.
  void Split(uint32_t unit, uint32_t order, uint32_t wanted, uint32_t keep);

  uint32_t top_ = 0;  // the order of the whole area
  std::array<uint32_t, kOrders> first_{};
  // By unit, of units that begin a free block: its order + 1, and its neighbours in the list.
  Zeroed<uint8_t> free_order_;
  Zeroed<uint32_t> next_;
  Zeroed<uint32_t> previous_;
  uint64_t used_bytes_ = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RESUME_BUDDY_ALLOCATOR_H_
