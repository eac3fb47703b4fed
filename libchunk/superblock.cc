#include "libchunk/superblock.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "libchunk/checksum.h"
#include "libchunk/coding.h"
#include "libchunk/status_macros.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kMagic = 0x4b4e554843525354;  // "TSRCHUNK"
constexpr uint32_t kFormatVersion = 2;
constexpr uint32_t kFlagClean = 1;
constexpr uint32_t kFlagLossUntold = 2;
constexpr uint32_t kFlagSyncFailed = 4;

constexpr size_t kChecksumOffset = 8;
constexpr size_t kCheckedOffset = 12;
constexpr size_t kSequenceOffset = 16;
constexpr size_t kStoreIdOffset = 24;
constexpr size_t kIncarnationOffset = 32;
constexpr size_t kChunkBytesOffset = 40;
constexpr size_t kFlagsOffset = 44;
constexpr size_t kJournalBytesOffset = 48;
constexpr size_t kBootIdLengthOffset = 72;
constexpr size_t kBootIdOffset = 76;
constexpr size_t kCheckedEnd = 256;
static_assert(kBootIdOffset + kBootIdBytesMax <= kCheckedEnd);

uint32_t ChecksumOf(const SuperblockCopy& copy) {
  return Crc32c(std::span(copy).subspan(kCheckedOffset, kCheckedEnd - kCheckedOffset));
}

}  // namespace

SuperblockCopy EncodeSuperblock(const Superblock& superblock) {
  SuperblockCopy copy{};
  std::byte* bytes = copy.data();
  StoreInteger(bytes, kMagic);
  StoreInteger(bytes + kCheckedOffset, kFormatVersion);
  StoreInteger(bytes + kSequenceOffset, superblock.sequence);
  StoreInteger(bytes + kStoreIdOffset, superblock.store_id);
  StoreInteger(bytes + kIncarnationOffset, superblock.incarnation);
  StoreInteger(bytes + kChunkBytesOffset, superblock.chunk_bytes);
  StoreInteger(bytes + kFlagsOffset, (superblock.clean ? kFlagClean : 0) |
                                         (superblock.loss_untold ? kFlagLossUntold : 0) |
                                         (superblock.sync_failed ? kFlagSyncFailed : 0));
  StoreInteger(bytes + kJournalBytesOffset, superblock.journal_bytes);
  const size_t boot_id_bytes = std::min(superblock.boot_id.size(), kBootIdBytesMax);
  StoreInteger(bytes + kBootIdLengthOffset, static_cast<uint32_t>(boot_id_bytes));
  std::memcpy(bytes + kBootIdOffset, superblock.boot_id.data(), boot_id_bytes);
  StoreInteger(bytes + kChecksumOffset, ChecksumOf(copy));
  return copy;
}

absl::StatusOr<Superblock> DecodeSuperblock(const SuperblockCopy& copy) {
  const std::byte* bytes = copy.data();
  if (LoadInteger<uint64_t>(bytes) != kMagic) {
    return absl::DataLossError("the superblock has no magic number");
  }
  if (LoadInteger<uint32_t>(bytes + kChecksumOffset) != ChecksumOf(copy)) {
    return absl::DataLossError("the superblock's checksum does not fit");
  }
  if (uint32_t version = LoadInteger<uint32_t>(bytes + kCheckedOffset);
      version < 1 || version > kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the store has format version ", version,
                                                      "; this program knows ", kFormatVersion));
  }
  Superblock superblock;
  superblock.sequence = LoadInteger<uint64_t>(bytes + kSequenceOffset);
  superblock.store_id = LoadInteger<uint64_t>(bytes + kStoreIdOffset);
  superblock.incarnation = LoadInteger<uint64_t>(bytes + kIncarnationOffset);
  superblock.chunk_bytes = LoadInteger<uint32_t>(bytes + kChunkBytesOffset);
  const uint32_t flags = LoadInteger<uint32_t>(bytes + kFlagsOffset);
  superblock.clean = (flags & kFlagClean) != 0;
  superblock.sync_failed = (flags & kFlagSyncFailed) != 0;
  superblock.loss_untold = (flags & kFlagLossUntold) != 0;
  superblock.journal_bytes = LoadInteger<uint64_t>(bytes + kJournalBytesOffset);
  const size_t boot_id_bytes =
      std::min<size_t>(LoadInteger<uint32_t>(bytes + kBootIdLengthOffset), kBootIdBytesMax);
  superblock.boot_id.assign(reinterpret_cast<const char*>(bytes + kBootIdOffset), boot_id_bytes);
  return superblock;
}

absl::StatusOr<Superblock> ReadSuperblock(File* file) {
  std::optional<Superblock> newest;
  absl::Status problem;
  for (uint64_t copy_number : {0, 1}) {
    SuperblockCopy copy;
    absl::Status read = file->Read(copy_number * kSuperblockCopyBytes, copy);
    if (absl::IsOutOfRange(read)) read = absl::DataLossError("the superblock is cut short");
    if (!read.ok()) {
      problem.Update(read);
      continue;
    }
    absl::StatusOr<Superblock> decoded = DecodeSuperblock(copy);
    // An unknown version must not be passed over for an older copy.
    if (absl::IsFailedPrecondition(decoded.status())) return decoded.status();
    if (!decoded.ok()) {
      problem.Update(decoded.status());
    } else if (!newest || decoded->sequence > newest->sequence) {
      newest = *std::move(decoded);
    }
  }
  if (!newest) return problem;
  return *newest;
}

absl::Status WriteSuperblock(File* file, Superblock* superblock) {
  ++superblock->sequence;
  const SuperblockCopy copy = EncodeSuperblock(*superblock);
  const std::span<const std::byte> slice(copy);
  CHUNK_RETURN_IF_ERROR(
      file->Write(superblock->sequence % 2 * kSuperblockCopyBytes, std::span(&slice, 1)));
  return file->SyncData();
}

}  // namespace tessera::chunk
