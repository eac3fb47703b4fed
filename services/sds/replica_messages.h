// Between the messages of replica.proto and libchunk's types.
//
// Threads: pure functions.
#ifndef TESSERA_SERVICES_SDS_REPLICA_MESSAGES_H_
#define TESSERA_SERVICES_SDS_REPLICA_MESSAGES_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "libchunk/store.h"
#include "services/sds/learner_state.h"
#include "tessera/v1/replica.pb.h"

namespace tessera::sds {

void SetChunkKey(const chunk::ChunkKey& key, v1::ChunkKey* out);
[[nodiscard]] chunk::ChunkKey ChunkKeyOf(const v1::ChunkKey& key);
void SetVersion(const chunk::Version& version, v1::Version* out);
[[nodiscard]] chunk::Version VersionOf(const v1::Version& version);
void SetCursor(const chunk::StreamCursor& cursor, v1::StreamCursor* out);
[[nodiscard]] std::vector<chunk::StreamCursor> CursorsOf(
    const google::protobuf::RepeatedPtrField<v1::StreamCursor>& cursors);
[[nodiscard]] SourceChunk SourceChunkOf(const v1::ChunkVersion& chunk);
// Of a whole chunk's blocks, by their checksums alone: what two replicas of a chunk have under one
// version is equal when this is. Layers that are pruned differ where they need not.
inline constexpr size_t kContentDigestBytes = 16;
[[nodiscard]] std::string ContentDigest(const chunk::ChunkBlocks& blocks);
// Every volume that is in either list.
[[nodiscard]] std::vector<SourceStream> SourceStreamsOf(const v1::BeginCopyResponse& base);

// DATA_LOSS: the message's checksum or shape is wrong. An absent chunk gives an image without
// blocks and with version {0, 0}.
[[nodiscard]] absl::StatusOr<chunk::ChunkImage> ImageOf(const v1::CopyChunksResponse& copied,
                                                        uint64_t placement_group_id,
                                                        uint32_t chunk_bytes);
// The whole chunk; what can't be read is marked as unreadable.
[[nodiscard]] chunk::ChunkImage ImageOf(const chunk::ChunkBlocks& blocks);
// Fills all but the key.
void SetChecksums(const chunk::ChunkBlocks& blocks, v1::ChunkChecksums* out);
// Fills all but the cursors.
void SetImage(const chunk::ChunkImage& image, v1::CopyChunksResponse* out);

// CRC32C of a chunk's whole content, zeros for what is not mapped. nullopt: the image does not have
// all of it, for the layer is pruned, or inherits blocks.
[[nodiscard]] std::optional<uint32_t> ContentCrc32c(const chunk::ChunkImage& image,
                                                    uint32_t chunk_bytes);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_REPLICA_MESSAGES_H_
