// Walks over a caller's slices as if they were one run of bytes.
//
// Threads: a value over bytes that the caller keeps alive.
#ifndef TESSERA_LIBCHUNK_SLICE_CURSOR_H_
#define TESSERA_LIBCHUNK_SLICE_CURSOR_H_

#include <cstdint>
#include <span>

#include "libchunk/checksum.h"
#include "libchunk/journal.h"

namespace tessera::chunk {

class SliceCursor {
 public:
  explicit SliceCursor(std::span<const std::span<const std::byte>> slices) : slices_(slices) {}

  // Calls `visit(span)` for the next `count` bytes, piece by piece. Requires that they are there.
  template <typename Visit>
  void Take(size_t count, const Visit& visit) {
    while (count > 0) {
      while (offset_ == slices_.front().size()) {
        slices_ = slices_.subspan(1);
        offset_ = 0;
      }
      const auto piece =
          slices_.front().subspan(offset_, std::min(count, slices_.front().size() - offset_));
      visit(piece);
      offset_ += piece.size();
      count -= piece.size();
    }
  }

  // Continues `checksum` over the next block and adds its slices to *slices, joining neighbours.
  uint32_t TakeBlock(uint32_t checksum, PayloadSlices* slices) {
    Take(kBlockBytes, [&](std::span<const std::byte> piece) {
      checksum = Crc32c(piece, checksum);
      if (!slices->empty() && slices->back().data() + slices->back().size() == piece.data()) {
        slices->back() = {slices->back().data(), slices->back().size() + piece.size()};
      } else {
        slices->push_back(piece);
      }
    });
    return checksum;
  }

 private:
  std::span<const std::span<const std::byte>> slices_;
  size_t offset_ = 0;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_SLICE_CURSOR_H_
