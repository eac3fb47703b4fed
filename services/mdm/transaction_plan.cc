#include "services/mdm/transaction_plan.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/placement_hash.h"

namespace tessera::mdm {

absl::Status CheckRange(const VolumeShape& volume, const ByteRange& range) {
  if (range.offset_bytes % kSectorBytes != 0) {
    return InvalidField("offset_bytes",
                        absl::StrCat(range.offset_bytes, " is not a multiple of 512"));
  }
  if (range.length_bytes == 0 || range.length_bytes % kSectorBytes != 0 ||
      range.length_bytes > kTransactionBytesMax) {
    return InvalidField("length_bytes",
                        absl::StrCat(range.length_bytes, " is not a multiple of 512 from 512 to ",
                                     kTransactionBytesMax));
  }
  // Written so that offset + length can't wrap.
  if (range.offset_bytes > volume.size_bytes ||
      range.length_bytes > volume.size_bytes - range.offset_bytes) {
    return WithReason(
        absl::OutOfRangeError(absl::StrCat("bytes ", range.offset_bytes, " + ", range.length_bytes,
                                           " pass the volume's end at ", volume.size_bytes)),
        "PAST_END");
  }
  return absl::OkStatus();
}

std::vector<PlannedPiece> SplitByChunk(const VolumeShape& volume, const ByteRange& range) {
  std::vector<PlannedPiece> pieces;
  std::map<uint64_t, uint64_t> sequences;
  uint64_t offset = range.offset_bytes;
  const uint64_t end = range.offset_bytes + range.length_bytes;
  while (offset < end) {
    PlannedPiece piece;
    piece.volume_offset_bytes = offset;
    piece.chunk_index = offset / volume.chunk_bytes;
    piece.offset_in_chunk_bytes = static_cast<uint32_t>(offset % volume.chunk_bytes);
    piece.length_bytes = static_cast<uint32_t>(
        std::min<uint64_t>(end - offset, volume.chunk_bytes - piece.offset_in_chunk_bytes));
    piece.placement_group_id = PlacementGroupId(
        volume.pool_id,
        PlacementGroupIndex(volume.vtree_id, piece.chunk_index, volume.placement_group_count));
    piece.sequence = ++sequences[piece.placement_group_id];
    offset += piece.length_bytes;
    pieces.push_back(piece);
  }
  return pieces;
}

}  // namespace tessera::mdm
