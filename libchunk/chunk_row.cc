#include "libchunk/chunk_row.h"

#include "absl/strings/str_cat.h"
#include "libchunk/checksum.h"
#include "libchunk/coding.h"

namespace tessera::chunk {
namespace {

constexpr uint8_t kMapVersion = 1;
constexpr uint8_t kMapVersionOfLayers = 2;  // with base and inherited blocks
constexpr uint8_t kMapPruned = 1;
constexpr size_t kDeviceBlockBytes = 5;
constexpr uint32_t kExtentBlocksMax = 0xffff;

struct MapExtent {
  uint64_t device_block;
  uint16_t count;
};

std::vector<MapExtent> ExtentsOf(const ChunkRow& row) {
  std::vector<MapExtent> extents;
  for (const BlockPlace& place : row.blocks) {
    if (!place.mapped()) continue;
    if (!extents.empty() && extents.back().count < kExtentBlocksMax &&
        extents.back().device_block + extents.back().count == place.device_block()) {
      ++extents.back().count;
    } else {
      extents.push_back({place.device_block(), 1});
    }
  }
  return extents;
}

uint32_t RowChecksum(const ChunkKey& key, const ChunkSummary& summary,
                     std::span<const std::byte> map) {
  std::vector<std::byte> prefix;
  ByteWriter writer(&prefix);
  for (uint64_t word : {key.vtree_id, key.chunk_index, key.layer, summary.placement_group_id,
                        summary.version.generation, summary.version.sequence}) {
    writer.Put(word);
  }
  writer.Put<uint8_t>(summary.incomplete ? 1 : 0);
  return Crc32c(map, Crc32c(prefix));
}

absl::Status Damaged(const ChunkKey& key, const char* what) {
  return absl::DataLossError(absl::StrCat("the row of chunk ", key.vtree_id, "/", key.chunk_index,
                                          "/", key.layer, " is damaged: ", what));
}

void PutBits(ByteWriter* writer, uint32_t count, const auto& bit_of) {
  for (uint32_t first = 0; first < count; first += 8) {
    uint8_t bits = 0;
    for (uint32_t i = first; i < count && i < first + 8; ++i) {
      bits |= static_cast<uint8_t>((bit_of(i) ? 1 : 0) << (i - first));
    }
    writer->Put(bits);
  }
}

bool BitOfBytes(std::span<const std::byte> bytes, uint32_t index) {
  return (static_cast<uint8_t>(bytes[index / 8]) >> (index % 8) & 1) != 0;
}

}  // namespace

void ChunkRow::Count() {
  summary.mapped_blocks = 0;
  for (const BlockPlace& place : blocks) summary.mapped_blocks += place.mapped() ? 1 : 0;
  summary.own_blocks = summary.mapped_blocks - inherited.Count();
}

std::vector<std::byte> EncodeMap(const ChunkKey& key, const ChunkRow& row) {
  std::vector<std::byte> map;
  map.reserve(64 + row.blocks.size() / 8 + size_t{row.summary.mapped_blocks} * 5);
  ByteWriter writer(&map);
  const bool has_layers = row.summary.base.has_value() || row.summary.pruned;
  writer.Put(has_layers ? kMapVersionOfLayers : kMapVersion);
  const auto block_count = static_cast<uint32_t>(row.blocks.size());
  if (has_layers) {
    writer.Put<uint8_t>(row.summary.pruned ? kMapPruned : 0);
    writer.Put(row.summary.base.value_or(kNoBase));
    PutBits(&writer, block_count, [&](uint32_t block) { return row.inherited[block]; });
  }
  PutBits(&writer, block_count, [&](uint32_t block) { return row.blocks[block].mapped(); });
  const std::vector<MapExtent> extents = ExtentsOf(row);
  writer.Put(static_cast<uint32_t>(extents.size()));
  for (const MapExtent& extent : extents) {
    writer.Put(extent.device_block, kDeviceBlockBytes);
    writer.Put(extent.count);
  }
  for (const BlockPlace& place : row.blocks) {
    if (place.mapped()) writer.Put(place.checksum());
  }
  writer.Put(RowChecksum(key, row.summary, map));
  return map;
}

absl::Status DecodeMap(const ChunkKey& key, uint32_t block_count, std::span<const std::byte> map,
                       ChunkRow* row) {
  if (map.size() < sizeof(uint32_t)) return Damaged(key, "the map is too short");
  const auto body = map.first(map.size() - sizeof(uint32_t));
  if (LoadInteger<uint32_t>(map.data() + body.size()) != RowChecksum(key, row->summary, body)) {
    return Damaged(key, "its checksum does not fit");
  }
  ByteReader reader(body);
  const auto version = reader.Get<uint8_t>();
  if (version != kMapVersion && version != kMapVersionOfLayers) {
    return Damaged(key, "unknown version");
  }
  std::span<const std::byte> inherited;
  if (version == kMapVersionOfLayers) {
    row->summary.pruned = (reader.Get<uint8_t>() & kMapPruned) != 0;
    const auto base = reader.Get<uint64_t>();
    if (base != kNoBase) row->summary.base = base;
    inherited = reader.GetBytes((block_count + 7) / 8);
    row->inherited = BlockBits(block_count);
  }
  const std::span<const std::byte> presence = reader.GetBytes((block_count + 7) / 8);
  std::vector<uint64_t> places;
  const uint32_t extent_count = reader.Get<uint32_t>();
  for (uint32_t i = 0; i < extent_count && reader.ok(); ++i) {
    const uint64_t first = reader.Get<uint64_t>(kDeviceBlockBytes);
    const uint16_t count = reader.Get<uint16_t>();
    for (uint32_t j = 0; j < count; ++j) places.push_back(first + j);
    if (places.size() > block_count) return Damaged(key, "more places than blocks");
  }
  row->blocks.assign(block_count, BlockPlace());
  size_t next = 0;
  for (uint32_t block = 0; block < block_count && reader.ok(); ++block) {
    const bool is_inherited = !inherited.empty() && BitOfBytes(inherited, block);
    if (!BitOfBytes(presence, block)) {
      if (is_inherited) return Damaged(key, "it inherits a block that is not mapped");
      continue;
    }
    if (is_inherited) row->inherited.Set(block, true);
    if (next == places.size()) return Damaged(key, "fewer places than blocks");
    row->blocks[block] = BlockPlace(places[next++], reader.Get<uint32_t>());
  }
  if (!reader.ok() || reader.remaining() != 0 || next != places.size()) {
    return Damaged(key, "its lengths do not fit");
  }
  if (!row->summary.base && row->inherited.Count() > 0) return Damaged(key, "it has no base");
  if (row->summary.base && *row->summary.base >= key.layer) {
    return Damaged(key, "its base is not below it");
  }
  row->Count();
  return absl::OkStatus();
}

}  // namespace tessera::chunk
