#include "libchunk/chunk_row.h"

#include <catch2/catch.hpp>

namespace tessera::chunk {
namespace {

constexpr uint32_t kBlocks = 256;
constexpr ChunkKey kKey{7, 8, 9};

ChunkRow MakeRow() {
  ChunkRow row;
  row.summary = {.exists = true, .incomplete = true, .placement_group_id = 3, .version = {4, 5}};
  row.blocks.assign(kBlocks, BlockPlace());
  for (uint32_t block = 10; block < 50; ++block)
    row.blocks[block] = BlockPlace(1000 + block, block);
  row.blocks[255] = BlockPlace(BlockPlace::kUnmapped - 1, 0xffffffff);
  row.summary.mapped_blocks = 41;
  return row;
}

TEST_CASE("A map survives its encoding") {
  const ChunkRow row = MakeRow();
  ChunkRow decoded;
  decoded.summary = row.summary;
  decoded.summary.mapped_blocks = 0;
  const std::vector<std::byte> map = EncodeMap(kKey, row);
  REQUIRE(map.size() == 1 + 32 + 4 + 2 * 7 + 41 * 4 + 4);
  REQUIRE(DecodeMap(kKey, kBlocks, map, &decoded).ok());
  REQUIRE(decoded.summary.mapped_blocks == 41);
  for (uint32_t block = 0; block < kBlocks; ++block) {
    REQUIRE(decoded.At(block).mapped() == row.At(block).mapped());
    REQUIRE(decoded.At(block).device_block() == row.At(block).device_block());
    REQUIRE(decoded.At(block).checksum() == row.At(block).checksum());
  }
}

TEST_CASE("Any flipped bit of a map, and any other key or column, is found") {
  const ChunkRow row = MakeRow();
  const std::vector<std::byte> map = EncodeMap(kKey, row);
  const auto decode = [&](const ChunkKey& key, const ChunkSummary& summary,
                          const std::vector<std::byte>& bytes) {
    ChunkRow decoded;
    decoded.summary = summary;
    return DecodeMap(key, kBlocks, bytes, &decoded);
  };
  for (size_t i = 0; i < map.size(); ++i) {
    std::vector<std::byte> damaged = map;
    damaged[i] ^= std::byte{0x10};
    REQUIRE(absl::IsDataLoss(decode(kKey, row.summary, damaged)));
    REQUIRE(absl::IsDataLoss(
        decode(kKey, row.summary, std::vector<std::byte>(map.begin(), map.begin() + i))));
  }
  REQUIRE(absl::IsDataLoss(decode({7, 8, 10}, row.summary, map)));
  ChunkSummary other = row.summary;
  other.version.sequence = 6;
  REQUIRE(absl::IsDataLoss(decode(kKey, other, map)));
  other = row.summary;
  other.incomplete = false;
  REQUIRE(absl::IsDataLoss(decode(kKey, other, map)));
}

TEST_CASE("A row that does not exist maps nothing") { REQUIRE_FALSE(ChunkRow().At(5).mapped()); }

}  // namespace
}  // namespace tessera::chunk
