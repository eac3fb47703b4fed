// How a chunk copied from the source and what the stream brought here become one chunk.
//
// The stream's sectors are newer than the image's wherever both have one: an image is applied only
// after this replica has taken everything that the image contains. Sectors are 512 bytes, images
// and the store work in blocks of 4 KiB; a block of which the stream brought a part is put together
// here.
//
// Threads: pure functions; `read_block` is called in the caller's thread.
#ifndef TESSERA_SERVICES_SDS_IMAGE_MERGE_H_
#define TESSERA_SERVICES_SDS_IMAGE_MERGE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libchunk/store.h"
#include "services/sds/learner_state.h"

namespace tessera::sds {

// What to do with the store so that the chunk becomes right.
struct MergePlan {
  // Delete the chunk first: its version here looks newer than that of the result, because of writes
  // that the order does not have. Equal versions must mean equal bytes, so such a version may not
  // stay.
  bool delete_first = false;
  // There is no such chunk in the order: only delete.
  bool nothing_to_apply = false;
  // For Store::ApplyStaged.
  chunk::ImageMerge merge;
};

// Reads one block as it is in a layer here.
using ReadBlock = std::function<absl::Status(uint32_t block, std::span<std::byte> out)>;

// `image`: the source's, without blocks and with version {0, 0} when it has no such chunk.
// `received`: null when the stream brought nothing. `here`: the chunk as it is, if it is.
// `read_base`: of the layer that the image has as base. Errors are those of the two.
[[nodiscard]] absl::StatusOr<MergePlan> PlanMerge(const chunk::ChunkImage& image,
                                                  const ReceivedChunk* received,
                                                  const std::optional<chunk::ChunkInfo>& here,
                                                  uint32_t chunk_bytes, const ReadBlock& read_block,
                                                  const ReadBlock& read_base);

// Why an image from the network can't be one of a chunk of this size; empty when it can.
[[nodiscard]] std::string ImageProblem(const chunk::ChunkImage& image, uint32_t chunk_bytes);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_IMAGE_MERGE_H_
