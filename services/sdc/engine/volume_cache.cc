// Reads from the client's cache, and what is put there: docs/volumes/read-cache.md.
//
// The range gate does half of the work. A read begins when no earlier write of its range is in
// flight; a later one has taken its blocks out of the cache before it was sent, and is waited for
// before the read is answered. What servers give is put into the cache only when no write of the
// range was in the gate from before it was asked for until it is there.
#include <utility>

#include "services/sdc/engine/volume_engine.h"

namespace tessera::sdc {
namespace {

grpc::Slice SliceOf(const CacheBytes& bytes) {
  auto* keeper = new CacheBytes(bytes);
  return grpc::Slice(
      keeper->memory.get(), keeper->size,
      [](void* user_data) { delete static_cast<CacheBytes*>(user_data); }, keeper);
}

}  // namespace

CacheIdentity VolumeEngine::IdentityInCache() const {
  CacheIdentity identity;
  identity.volume_id = grant_.fields.volume_id;
  identity.vtree_id = grant_.fields.vtree_id;
  identity.generation = grant_.fields.generation;
  identity.snapshot_sequence = grant_.fields.snapshot_sequence;
  identity.size_bytes = grant_.fields.volume_size_bytes;
  identity.read_only = read_only();
  return identity;
}

void VolumeEngine::OpenCache(bool resumed) {
  if (context_.cache() != nullptr) cache_ = context_.cache()->Open(IdentityInCache(), resumed);
}

void VolumeEngine::EndCache(bool keep) {
  if (cache_ != nullptr && keep) cache_->Keep();
  cache_.reset();
}

// Answered writes may be lost, of this client or of one before: what a server gives from now on may
// be older than what is cached.
void VolumeEngine::DropCache() {
  if (cache_ != nullptr) cache_->Drop();
}

ByteRange VolumeEngine::RangeInVolume(const Piece& piece) const {
  const uint64_t begin =
      piece.where.chunk_index * grant_.fields.chunk_bytes + piece.where.offset_bytes;
  return {begin, begin + piece.where.length_bytes};
}

// False: it has to be sent to a server.
bool VolumeEngine::ReadFromCache(Piece* piece) {
  if (cache_ == nullptr || piece->request->block.command != Command::kRead) return false;
  piece->began_nanos = context_.NowNanos();
  const bool asked = cache_->Read(
      RangeInVolume(*piece), [this, piece, alive = alive_](const std::optional<CacheBytes>& bytes) {
        if (!*alive) return;
        if (!bytes.has_value()) {
          WantForCache(piece);
          return SendPiece(piece);
        }
        piece->request->parts[piece->part].slices.push_back(SliceOf(*bytes));
        NoteCacheRead(*piece);
        PieceDone(piece, 0, "");
      });
  if (!asked) WantForCache(piece);
  return asked;
}

void VolumeEngine::WantForCache(Piece* piece) {
  if (cache_ == nullptr) return;
  const ByteRange range = RangeInVolume(*piece);
  piece->cache_fill = cache_->BeginFill(range, gate_.HasWrites(range)).value_or(0);
}

// No slices: what the piece brings is not wanted any more.
void VolumeEngine::FillCache(Piece* piece, const std::vector<grpc::Slice>& slices) {
  const uint64_t fill = std::exchange(piece->cache_fill, 0);
  if (fill == 0 || cache_ == nullptr) return;
  if (slices.empty()) return cache_->AbandonFill(fill);
  absl::InlinedVector<std::span<const std::byte>, 4> content;
  for (const grpc::Slice& slice : slices) {
    content.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()), slice.size());
  }
  cache_->EndFill(fill, RangeInVolume(*piece).begin, content);
}

}  // namespace tessera::sdc
