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

absl::StatusOr<MergePlan> PlanMerge(chunk::ChunkImage image, const ReceivedChunk* received,
                                    const std::optional<chunk::ChunkInfo>& here,
                                    uint32_t chunk_bytes, const ReadBlock& read_block) {
  const uint32_t blocks = chunk_bytes / kBlockBytes;
  MergePlan plan;
  const chunk::Version result_version =
      received == nullptr ? image.info.version : std::max(image.info.version, received->last);
  if (result_version == chunk::Version{} && received == nullptr) {
    plan.delete_first = here.has_value();
    plan.nothing_to_apply = true;
    return plan;
  }
  plan.delete_first = here.has_value() && here->version > result_version;
  plan.image.info = image.info;
  plan.image.info.version = result_version;
  plan.image.info.incomplete = false;
  plan.image.mapped.resize((blocks + 63) / 64);
  plan.keep.resize((blocks + 63) / 64);
  size_t next_block_offset = 0;
  std::vector<std::byte> local(kBlockBytes);
  for (uint32_t block = 0; block < blocks; ++block) {
    const bool in_image = TestBit(image.mapped, block);
    const std::byte* from_source = nullptr;
    if (in_image) {
      from_source = image.blocks.data() + next_block_offset;
      next_block_offset += kBlockBytes;
    }
    const uint8_t sectors = received == nullptr ? 0 : received->SectorsOfBlock(block);
    if (sectors == 0xff && !plan.delete_first) {
      SetBit(&plan.keep, block);
      continue;
    }
    const bool lost = !image.unreadable.empty() && TestBit(image.unreadable, block);
    if (lost && sectors != 0xff) {
      // A part of a block is no block.
      plan.image.unreadable.resize(plan.image.mapped.size());
      SetBit(&plan.image.mapped, block);
      SetBit(&plan.image.unreadable, block);
      plan.image.blocks.resize(plan.image.blocks.size() + kBlockBytes);
      continue;
    }
    if (sectors != 0) {
      TESSERA_RETURN_IF_ERROR(read_block(block, local));
      std::vector<std::byte> merged(kBlockBytes);
      if (in_image) std::memcpy(merged.data(), from_source, kBlockBytes);
      OverlaySectors(sectors, local, merged);
      // A block that reads as zeros takes no space.
      const auto is_zero = [](std::byte byte) { return byte == std::byte{0}; };
      if (std::all_of(merged.begin(), merged.end(), is_zero)) continue;
      SetBit(&plan.image.mapped, block);
      plan.image.blocks.insert(plan.image.blocks.end(), merged.begin(), merged.end());
    } else if (in_image) {
      SetBit(&plan.image.mapped, block);
      plan.image.blocks.insert(plan.image.blocks.end(), from_source, from_source + kBlockBytes);
    }
  }
  return plan;
}

std::string ImageProblem(const chunk::ChunkImage& image, uint32_t chunk_bytes) {
  const uint32_t blocks = chunk_bytes / kBlockBytes;
  if (image.mapped.size() != (blocks + 63) / 64) {
    return absl::StrCat("the block map has ", image.mapped.size(), " words, not ",
                        (blocks + 63) / 64);
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
