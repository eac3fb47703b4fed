#include "services/sds/replica_messages.h"

#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libchunk/checksum.h"
#include "services/common/crc32c.h"
#include "services/common/sha256.h"
#include "services/sds/image_merge.h"

namespace tessera::sds {
namespace {

std::string BytesOf(std::span<const uint64_t> words) {
  std::string bytes;
  for (const uint64_t word : words) {
    for (int shift = 0; shift < 64; shift += 8) bytes.push_back(static_cast<char>(word >> shift));
  }
  return bytes;
}

std::vector<uint64_t> WordsOf(const std::string& bytes) {
  std::vector<uint64_t> words(bytes.size() / sizeof(uint64_t));
  for (size_t i = 0; i < words.size() * sizeof(uint64_t); ++i) {
    words[i / 8] |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (i % 8 * 8);
  }
  return words;
}

}  // namespace

void SetChunkKey(const chunk::ChunkKey& key, v1::ChunkKey* out) {
  out->set_vtree_id(key.vtree_id);
  out->set_chunk_index(key.chunk_index);
  out->set_snapshot_sequence(key.layer);
}

chunk::ChunkKey ChunkKeyOf(const v1::ChunkKey& key) {
  return {.vtree_id = key.vtree_id(),
          .chunk_index = key.chunk_index(),
          .layer = key.snapshot_sequence()};
}

void SetVersion(const chunk::Version& version, v1::Version* out) {
  out->set_generation(version.generation);
  out->set_sequence(version.sequence);
}

chunk::Version VersionOf(const v1::Version& version) {
  return {.generation = version.generation(), .sequence = version.sequence()};
}

void SetCursor(const chunk::StreamCursor& cursor, v1::StreamCursor* out) {
  out->set_volume_id(cursor.stream.volume_id);
  out->set_placement_group_id(cursor.stream.placement_group_id);
  SetVersion(cursor.last, out->mutable_last());
}

std::vector<chunk::StreamCursor> CursorsOf(
    const google::protobuf::RepeatedPtrField<v1::StreamCursor>& cursors) {
  std::vector<chunk::StreamCursor> result;
  for (const v1::StreamCursor& cursor : cursors) {
    result.push_back({.stream = {.volume_id = cursor.volume_id(),
                                 .placement_group_id = cursor.placement_group_id()},
                      .last = VersionOf(cursor.last())});
  }
  return result;
}

SourceChunk SourceChunkOf(const v1::ChunkVersion& chunk) {
  return {.key = ChunkKeyOf(chunk.key()),
          .version = VersionOf(chunk.version()),
          .incomplete = chunk.incomplete(),
          .content_digest = chunk.content_digest()};
}

std::string ContentDigest(const chunk::ChunkBlocks& blocks) {
  const chunk::BlockChecksum checksum(blocks.info.key);
  std::vector<uint8_t> bytes;
  const auto add = [&bytes](uint32_t value) {
    for (int shift = 0; shift < 32; shift += 8)
      bytes.push_back(static_cast<uint8_t>(value >> shift));
  };
  for (size_t i = 0; i < blocks.states.size(); ++i) {
    const chunk::BlockState& state = blocks.states[i];
    const uint32_t block = blocks.first_block + static_cast<uint32_t>(i);
    if (state.presence != chunk::BlockPresence::kMapped) continue;
    // Zeros may be written out on one replica and unmapped on another.
    if (state.checksum == checksum.OfZeros(block)) continue;
    add(block);
    add(state.checksum);
  }
  Sha256 hash;
  hash.Add(std::as_bytes(std::span(bytes)));
  return hash.Digest().substr(0, kContentDigestBytes);
}

std::vector<SourceStream> SourceStreamsOf(const v1::BeginCopyResponse& base) {
  std::map<uint64_t, SourceStream> streams;
  for (const v1::StreamCursor& cursor : base.cursors()) {
    streams[cursor.volume_id()].last = VersionOf(cursor.last());
  }
  for (const v1::VolumeGeneration& lowest : base.lowest_generations()) {
    streams[lowest.volume_id()].lowest_generation = lowest.generation();
  }
  std::vector<SourceStream> result;
  for (auto& [volume_id, stream] : streams) {
    stream.volume_id = volume_id;
    result.push_back(stream);
  }
  return result;
}

absl::StatusOr<chunk::ChunkImage> ImageOf(const v1::CopyChunksResponse& copied,
                                          uint64_t placement_group_id, uint32_t chunk_bytes) {
  chunk::ChunkImage image;
  image.info.key = ChunkKeyOf(copied.key());
  image.info.placement_group_id = placement_group_id;
  if (copied.absent()) {
    image.mapped.resize((chunk_bytes / chunk::kBlockBytes + 63) / 64);
    return image;
  }
  image.info.version = VersionOf(copied.version());
  const auto bytes = std::as_bytes(std::span(copied.blocks()));
  if (Crc32c(bytes) != copied.blocks_crc32c()) {
    return absl::DataLossError("a copied chunk was damaged on its way");
  }
  if (copied.mapped().size() % sizeof(uint64_t) != 0) {
    return absl::DataLossError("a copied chunk's block map is cut off");
  }
  image.mapped = WordsOf(copied.mapped());
  if (!copied.unreadable().empty()) {
    if (copied.unreadable().size() != copied.mapped().size()) {
      return absl::DataLossError("a copied chunk's map of lost blocks is cut off");
    }
    image.unreadable = WordsOf(copied.unreadable());
    for (size_t i = 0; i < image.mapped.size(); ++i) image.unreadable[i] &= image.mapped[i];
  }
  image.blocks.assign(bytes.begin(), bytes.end());
  image.info.pruned = copied.pruned();
  if (copied.has_base_layer()) {
    if (copied.inherited().size() % sizeof(uint64_t) != 0) {
      return absl::DataLossError("a copied chunk's map of inherited blocks is cut off");
    }
    image.info.base = copied.base_layer();
    image.inherited = WordsOf(copied.inherited());
    // Without a map nothing is shared, and there is no need to know the base.
    if (image.inherited.empty()) image.info.base.reset();
  }
  if (const std::string problem = ImageProblem(image, chunk_bytes); !problem.empty()) {
    return absl::DataLossError(absl::StrCat("a copied chunk is malformed: ", problem));
  }
  image.info.mapped_bytes = image.blocks.size();
  return image;
}

void SetImage(const chunk::ChunkImage& image, v1::CopyChunksResponse* out) {
  SetChunkKey(image.info.key, out->mutable_key());
  SetVersion(image.info.version, out->mutable_version());
  out->set_mapped(BytesOf(image.mapped));
  out->set_unreadable(BytesOf(image.unreadable));
  out->set_pruned(image.info.pruned);
  if (image.info.base.has_value() && !image.inherited.empty()) {
    out->set_base_layer(*image.info.base);
    out->set_inherited(BytesOf(image.inherited));
  }
  out->set_blocks(image.blocks.data(), image.blocks.size());
  out->set_blocks_crc32c(Crc32c(image.blocks));
}

chunk::ChunkImage ImageOf(const chunk::ChunkBlocks& blocks) {
  chunk::ChunkImage image;
  image.info = blocks.info;
  image.info.base.reset();
  image.mapped.resize((blocks.states.size() + 63) / 64);
  std::vector<uint64_t> lost(image.mapped.size());
  bool any_lost = false;
  for (size_t i = 0; i < blocks.states.size(); ++i) {
    if (blocks.states[i].presence != chunk::BlockPresence::kMapped) continue;
    const uint64_t bit = uint64_t{1} << (i % 64);
    image.mapped[i / 64] |= bit;
    if (!blocks.states[i].readable) lost[i / 64] |= bit;
    any_lost |= !blocks.states[i].readable;
    const auto content =
        std::span(blocks.content).subspan(i * chunk::kBlockBytes, chunk::kBlockBytes);
    image.blocks.insert(image.blocks.end(), content.begin(), content.end());
  }
  if (any_lost) image.unreadable = std::move(lost);
  image.info.mapped_bytes = image.blocks.size();
  return image;
}

void SetChecksums(const chunk::ChunkBlocks& blocks, v1::ChunkChecksums* out) {
  SetVersion(blocks.info.version, out->mutable_version());
  out->set_incomplete(blocks.info.incomplete);
  out->set_pruned(blocks.info.pruned);
  std::vector<uint64_t> mapped((blocks.states.size() + 63) / 64);
  for (size_t i = 0; i < blocks.states.size(); ++i) {
    if (blocks.states[i].presence != chunk::BlockPresence::kMapped) continue;
    mapped[i / 64] |= uint64_t{1} << (i % 64);
    out->add_checksums(blocks.states[i].checksum);
  }
  out->set_mapped(BytesOf(mapped));
}

std::optional<uint32_t> ContentCrc32c(const chunk::ChunkImage& image, uint32_t chunk_bytes) {
  if (image.info.pruned || !image.inherited.empty()) return std::nullopt;
  static constexpr std::byte kZeros[chunk::kBlockBytes] = {};
  const std::span<const std::byte> blocks(image.blocks);
  size_t next = 0;
  uint32_t crc = 0;
  for (uint32_t block = 0; block < chunk_bytes / chunk::kBlockBytes; ++block) {
    const bool mapped = (image.mapped[block / 64] >> (block % 64) & 1) != 0;
    crc = Crc32c(mapped ? blocks.subspan(next, chunk::kBlockBytes) : std::span(kZeros), crc);
    if (mapped) next += chunk::kBlockBytes;
  }
  return crc;
}

}  // namespace tessera::sds
