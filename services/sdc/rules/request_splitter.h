// Cuts a byte range of a volume into pieces that each lie in one chunk and are whole sectors.
//
// A piece is what one replica operation covers. Ends that are not on a sector boundary are widened
// to one: a read drops the extra bytes, a write fills them by reading first (the range gate keeps
// neighbours out meanwhile), a zeroing or trim zeroes them by such a write.
//
// Threads: pure functions and values.
#ifndef TESSERA_SERVICES_SDC_RULES_REQUEST_SPLITTER_H_
#define TESSERA_SERVICES_SDC_RULES_REQUEST_SPLITTER_H_

#include <algorithm>
#include <cstdint>

namespace tessera::sdc {

// The unit of replica operations.
inline constexpr uint64_t kSectorBytes = 512;

// Half open: [begin, end).
struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;

  [[nodiscard]] uint64_t size() const { return end - begin; }
  [[nodiscard]] bool empty() const { return begin >= end; }
  [[nodiscard]] bool Overlaps(const ByteRange& other) const {
    return begin < other.end && other.begin < end;
  }
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

[[nodiscard]] inline bool IsSectorAligned(const ByteRange& range) {
  return (range.begin | range.end) % kSectorBytes == 0;
}

// The smallest range of whole sectors around `range`.
[[nodiscard]] inline ByteRange WidenToSectors(const ByteRange& range) {
  return {range.begin / kSectorBytes * kSectorBytes,
          (range.end + kSectorBytes - 1) / kSectorBytes * kSectorBytes};
}

// The largest range of whole sectors inside `range`; empty when there is none.
[[nodiscard]] inline ByteRange NarrowToSectors(const ByteRange& range) {
  const uint64_t begin = (range.begin + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
  const uint64_t end = range.end / kSectorBytes * kSectorBytes;
  return {begin, std::max(begin, end)};
}

// A part of a request inside one chunk.
struct ChunkPiece {
  uint64_t chunk_index = 0;
  uint32_t offset_bytes = 0;  // in the chunk
  uint32_t length_bytes = 0;

  friend bool operator==(const ChunkPiece&, const ChunkPiece&) = default;
};

// Takes the pieces of a range one by one, in address order.
class PieceCursor {
 public:
  PieceCursor() = default;
  // REQUIRES: chunk_bytes > 0.
  PieceCursor(const ByteRange& range, uint32_t chunk_bytes)
      : next_(range.begin), end_(range.end), chunk_bytes_(chunk_bytes) {}

  [[nodiscard]] bool done() const { return next_ >= end_; }
  // Where in the volume the next piece begins.
  [[nodiscard]] uint64_t position() const { return next_; }

  // REQUIRES: !done().
  [[nodiscard]] ChunkPiece Take() {
    const uint64_t offset = next_ % chunk_bytes_;
    const uint64_t length = std::min<uint64_t>(end_ - next_, chunk_bytes_ - offset);
    const ChunkPiece piece{next_ / chunk_bytes_, static_cast<uint32_t>(offset),
                           static_cast<uint32_t>(length)};
    next_ += length;
    return piece;
  }

 private:
  uint64_t next_ = 0;
  uint64_t end_ = 0;
  uint32_t chunk_bytes_ = 1;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RULES_REQUEST_SPLITTER_H_
