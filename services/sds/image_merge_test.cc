#include "services/sds/image_merge.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <map>
#include <random>

namespace tessera::sds {
namespace {

using chunk::kBlockBytes;
using chunk::kSectorBytes;
constexpr uint32_t kChunkBytes = 256u << 10;
constexpr uint32_t kBlocks = kChunkBytes / kBlockBytes;
using Content = std::vector<std::byte>;

chunk::ChunkImage ImageOf(const std::map<uint32_t, std::byte>& blocks, chunk::Version version) {
  chunk::ChunkImage image;
  image.info.version = version;
  image.mapped.resize((kBlocks + 63) / 64);
  for (const auto& [block, fill] : blocks) {
    image.mapped[block / 64] |= uint64_t{1} << (block % 64);
    image.blocks.insert(image.blocks.end(), kBlockBytes, fill);
  }
  return image;
}

// What the chunk is after the plan, as the store would make it.
Content Carry(const chunk::ChunkImage& image, const MergePlan& plan, Content content) {
  if (plan.delete_first) content.assign(kChunkBytes, std::byte{0});
  if (plan.nothing_to_apply) return content;
  size_t next = 0;
  for (uint32_t block = 0; block < kBlocks; ++block) {
    const bool mapped = (image.mapped[block / 64] >> (block % 64) & 1) != 0;
    const bool keep = (plan.merge.keep[block / 64] >> (block % 64) & 1) != 0;
    std::byte* to = content.data() + block * kBlockBytes;
    if (!keep) std::memset(to, 0, kBlockBytes);
    if (mapped && !keep) std::memcpy(to, image.blocks.data() + next, kBlockBytes);
    if (mapped) next += kBlockBytes;
  }
  for (const chunk::ImageMerge::Block& replaced : plan.merge.replaced) {
    CHECK((plan.merge.keep[replaced.block / 64] >> (replaced.block % 64) & 1) == 0);
    std::byte* to = content.data() + replaced.block * kBlockBytes;
    std::memset(to, 0, kBlockBytes);
    if (replaced.content.empty()) continue;
    REQUIRE(replaced.content.size() == kBlockBytes);
    std::memcpy(to, replaced.content.data(), kBlockBytes);
  }
  return content;
}

ReadBlock Reader(const Content& content) {
  return [&content](uint32_t block, std::span<std::byte> out) {
    std::memcpy(out.data(), content.data() + block * kBlockBytes, kBlockBytes);
    return absl::OkStatus();
  };
}

// Of images that have no base.
ReadBlock NoBase() {
  return [](uint32_t, std::span<std::byte>) { return absl::InternalError("there is no base"); };
}

TEST_CASE("Random images and random received sectors merge to what the order says") {
  const uint64_t seed = GENERATE(1u, 2u, 3u, 4u, 5u, 6u);
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 40; ++round) {
    Content here(kChunkBytes, std::byte{0});
    for (size_t i = 0; i < here.size(); i += kSectorBytes) {
      std::memset(here.data() + i, static_cast<int>(random() % 256), kSectorBytes);
    }
    std::map<uint32_t, std::byte> blocks;
    for (uint32_t block = 0; block < kBlocks; ++block) {
      if (random() % 2 == 0) blocks[block] = static_cast<std::byte>(1 + random() % 255);
    }
    ReceivedChunk received;
    received.sectors.resize(kChunkBytes / kSectorBytes / 64);
    received.last = {5, 1 + random() % 10};
    for (int i = 0; i < 20; ++i) {
      const auto offset =
          static_cast<uint32_t>(random() % (kChunkBytes / kSectorBytes)) * kSectorBytes;
      const auto length = static_cast<uint32_t>(
          std::min<uint64_t>((1 + random() % 20) * kSectorBytes, kChunkBytes - offset));
      received.Mark(offset, length);
    }
    Content expected(kChunkBytes, std::byte{0});
    for (const auto& [block, fill] : blocks) {
      std::memset(expected.data() + block * kBlockBytes, static_cast<int>(fill), kBlockBytes);
    }
    for (uint32_t sector = 0; sector < kChunkBytes / kSectorBytes; ++sector) {
      if ((received.sectors[sector / 64] >> (sector % 64) & 1) == 0) continue;
      std::memcpy(expected.data() + sector * kSectorBytes, here.data() + sector * kSectorBytes,
                  kSectorBytes);
    }
    chunk::ChunkInfo info;
    info.version = {5, random() % 20};
    const chunk::ChunkImage image = ImageOf(blocks, {5, 4});
    const auto plan = PlanMerge(image, &received, info, kChunkBytes, Reader(here), NoBase());
    REQUIRE(plan.ok());
    CHECK(plan->merge.version == std::max(chunk::Version{5, 4}, received.last));
    CHECK(plan->delete_first == (info.version > plan->merge.version));
    CHECK(Carry(image, *plan, here) == expected);
  }
}

TEST_CASE("A chunk that looks newer here than the order says gets the order's version") {
  const Content here(kChunkBytes, std::byte{9});
  chunk::ChunkInfo info;
  info.version = {3, 10};
  const auto plan = PlanMerge(ImageOf({{0, std::byte{1}}}, {3, 8}), nullptr, info, kChunkBytes,
                              Reader(here), NoBase());
  REQUIRE(plan.ok());
  CHECK(plan->delete_first);
  CHECK(plan->merge.version == chunk::Version{3, 8});
}

TEST_CASE("A chunk that neither the source nor the stream has is deleted") {
  const Content here(kChunkBytes, std::byte{9});
  chunk::ChunkInfo info;
  info.version = {3, 10};
  const auto plan = PlanMerge(ImageOf({}, {}), nullptr, info, kChunkBytes, Reader(here), NoBase());
  REQUIRE(plan.ok());
  CHECK(plan->delete_first);
  CHECK(plan->nothing_to_apply);
  const auto nothing =
      PlanMerge(ImageOf({}, {}), nullptr, std::nullopt, kChunkBytes, Reader(here), NoBase());
  REQUIRE(nothing.ok());
  CHECK_FALSE(nothing->delete_first);
}

TEST_CASE("A block that can't be read here stops the merge") {
  ReceivedChunk received;
  received.sectors.resize(kChunkBytes / kSectorBytes / 64);
  received.Mark(512, 512);
  const auto plan = PlanMerge(
      ImageOf({}, {3, 8}), &received, std::nullopt, kChunkBytes,
      [](uint32_t, std::span<std::byte>) { return absl::DataLossError("bad block"); }, NoBase());
  CHECK(absl::IsDataLoss(plan.status()));
}

TEST_CASE("A block of which the stream brought a part is put together with the base's") {
  const Content here(kChunkBytes, std::byte{9});
  const Content base(kChunkBytes, std::byte{5});
  chunk::ChunkImage image = ImageOf({{0, std::byte{1}}}, {3, 8});
  image.info.key.layer = 4;
  image.info.base = 2;
  image.inherited.resize(image.mapped.size());
  image.inherited[0] = 0b1110;
  REQUIRE(ImageProblem(image, kChunkBytes).empty());
  ReceivedChunk received;
  received.sectors.resize(kChunkBytes / kSectorBytes / 64);
  received.Mark(kBlockBytes + 512, 512);        // a part of block 1
  received.Mark(2 * kBlockBytes, kBlockBytes);  // all of block 2
  const auto plan =
      PlanMerge(image, &received, std::nullopt, kChunkBytes, Reader(here), Reader(base));
  REQUIRE(plan.ok());
  CHECK(plan->merge.keep[0] == 0b100);
  REQUIRE(plan->merge.replaced.size() == 1);
  CHECK(plan->merge.replaced[0].block == 1);
  Content expected(kBlockBytes, std::byte{5});
  std::fill_n(expected.begin() + 512, 512, std::byte{9});
  CHECK(plan->merge.replaced[0].content == expected);
  // The base lacks it: whoever asked for the image asks for a whole one.
  const auto lacking = PlanMerge(
      image, &received, std::nullopt, kChunkBytes, Reader(here),
      [](uint32_t, std::span<std::byte>) { return absl::NotFoundError("the base lacks it"); });
  CHECK(absl::IsNotFound(lacking.status()));
}

TEST_CASE("Images that inherit in no possible way are seen") {
  chunk::ChunkImage image = ImageOf({{0, std::byte{1}}}, {3, 8});
  image.info.key.layer = 4;
  image.info.base = 2;
  image.inherited.resize(image.mapped.size());
  image.inherited[0] = 0b1110;
  REQUIRE(ImageProblem(image, kChunkBytes).empty());
  SECTION("from nothing") { image.info.base.reset(); }
  SECTION("from itself") { image.info.base = 4; }
  SECTION("what it has") { image.inherited[0] = 1; }
  SECTION("by a map that is cut") {
    image.inherited.clear(), image.inherited.push_back(2);
    image.inherited.push_back(0);
  }
  CHECK_FALSE(ImageProblem(image, kChunkBytes).empty());
}

TEST_CASE("Malformed images from the network are seen") {
  chunk::ChunkImage image = ImageOf({{0, std::byte{1}}}, {1, 1});
  CHECK(ImageProblem(image, kChunkBytes).empty());
  image.blocks.pop_back();
  CHECK_FALSE(ImageProblem(image, kChunkBytes).empty());
  image = ImageOf({}, {1, 1});
  image.mapped.push_back(0);
  CHECK_FALSE(ImageProblem(image, kChunkBytes).empty());
  image.mapped.clear();
  CHECK_FALSE(ImageProblem(image, kChunkBytes).empty());
}

}  // namespace
}  // namespace tessera::sds
