#include "services/sds/image_merge.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"

namespace tessera::sds {
namespace {

using chunk::kBlockBytes;
using chunk::kSectorBytes;

bool TestBit(std::span<const uint64_t> bits, uint32_t index) {
  return (bits[index / 64] >> (index % 64) & 1) != 0;
}
void SetBit(std::vector<uint64_t>* bits, uint32_t index) {
  (*bits)[index / 64] |= uint64_t{1} << (index % 64);
}

void OverlaySectors(uint8_t sectors, std::span<const std::byte> from, std::span<std::byte> to) {
  for (uint32_t sector = 0; sector < 8; ++sector) {
    if ((sectors >> sector & 1) == 0) continue;
    std::memcpy(to.data() + sector * kSectorBytes, from.data() + sector * kSectorBytes,
                kSectorBytes);
  }
}

}  // namespace

absl::StatusOr<MergePlan> PlanMerge(const chunk::ChunkImage& image, const ReceivedChunk* received,
                                    const std::optional<chunk::ChunkInfo>& here,
                                    uint32_t chunk_bytes, const ReadBlock& read_block,
                                    const ReadBlock& read_base) {
  MergePlan plan;
  plan.merge.version =
      received == nullptr ? image.info.version : std::max(image.info.version, received->last);
  if (plan.merge.version == chunk::Version{} && received == nullptr) {
    plan.delete_first = here.has_value();
    plan.nothing_to_apply = true;
    return plan;
  }
  plan.delete_first = here.has_value() && here->version > plan.merge.version;
  if (received == nullptr) return plan;
  const uint32_t blocks = chunk_bytes / kBlockBytes;
  plan.merge.keep.resize((blocks + 63) / 64);
  size_t offset_in_image = 0;
  for (uint32_t block = 0; block < blocks; ++block) {
    const size_t from_source = offset_in_image;
    const bool in_image = TestBit(image.mapped, block);
    if (in_image) offset_in_image += kBlockBytes;
    const uint8_t sectors = received->SectorsOfBlock(block);
    if (sectors == 0) continue;
    if (sectors == 0xff && !plan.delete_first) {
      SetBit(&plan.merge.keep, block);
      continue;
    }
    // A part of a block is no block.
    const bool lost = !image.unreadable.empty() && TestBit(image.unreadable, block);
    if (lost && sectors != 0xff) continue;
    std::vector<std::byte> local(kBlockBytes);
    TESSERA_RETURN_IF_ERROR(read_block(block, local));
    std::vector<std::byte> merged(kBlockBytes);
    if (in_image) std::memcpy(merged.data(), image.blocks.data() + from_source, kBlockBytes);
    const bool inherits = !image.inherited.empty() && TestBit(image.inherited, block);
    if (inherits && sectors != 0xff) TESSERA_RETURN_IF_ERROR(read_base(block, merged));
    OverlaySectors(sectors, local, merged);
    // A block that reads as zeros takes no space.
    const auto is_zero = [](std::byte byte) { return byte == std::byte{0}; };
    if (std::all_of(merged.begin(), merged.end(), is_zero)) merged.clear();
    plan.merge.replaced.push_back({block, std::move(merged)});
  }
  return plan;
}

std::string ImageProblem(const chunk::ChunkImage& image, uint32_t chunk_bytes) {
  const uint32_t blocks = chunk_bytes / kBlockBytes;
  if (image.mapped.size() != (blocks + 63) / 64) {
    return absl::StrCat("the block map has ", image.mapped.size(), " words, not ",
                        (blocks + 63) / 64);
  }
  if (!image.inherited.empty()) {
    if (!image.info.base.has_value() || *image.info.base >= image.info.key.layer) {
      return "it inherits from no layer, or not from one below it";
    }
    if (image.inherited.size() != image.mapped.size()) return "the map of inherited blocks is cut";
    for (size_t i = 0; i < image.mapped.size(); ++i) {
      if ((image.mapped[i] & image.inherited[i]) != 0) return "it has blocks that it inherits";
    }
    if (blocks % 64 != 0 && (image.inherited.back() >> (blocks % 64)) != 0) {
      return "it inherits blocks past the chunk's end";
    }
  }
  uint64_t mapped = 0;
  for (const uint64_t word : image.mapped) mapped += static_cast<uint64_t>(std::popcount(word));
  if (blocks % 64 != 0 && (image.mapped.back() >> (blocks % 64)) != 0) {
    return "the block map names blocks past the chunk's end";
  }
  if (image.blocks.size() != mapped * kBlockBytes) {
    return absl::StrCat(image.blocks.size(), " bytes for ", mapped, " mapped blocks");
  }
  return "";
}

}  // namespace tessera::sds
