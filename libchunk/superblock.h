// The superblock: which store this is, how it is laid out, who had it open last. FORMAT.md has the
// bytes.
//
// Threads: used by Open and Close, which are not concurrent with themselves.
#ifndef TESSERA_LIBCHUNK_SUPERBLOCK_H_
#define TESSERA_LIBCHUNK_SUPERBLOCK_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "libchunk/env.h"

namespace tessera::chunk {

struct Superblock {
  uint64_t sequence = 0;
  uint64_t store_id = 0;
  uint64_t incarnation = 0;
  uint32_t chunk_bytes = 0;
  bool clean = false;
  // Volatile state was lost, and the process that was told may not have lived to act on it.
  bool loss_untold = false;
  // The store failed with a write or sync error: what was not flushed then may be lost.
  bool sync_failed = false;
  uint64_t journal_bytes = 0;
  std::string boot_id;  // cut to 64 bytes when written
};

inline constexpr size_t kSuperblockCopyBytes = 4096;
inline constexpr size_t kBootIdBytesMax = 64;
using SuperblockCopy = std::array<std::byte, kSuperblockCopyBytes>;

SuperblockCopy EncodeSuperblock(const Superblock& superblock);
// DATA_LOSS when the copy is not whole; FAILED_PRECONDITION when its format version is unknown.
absl::StatusOr<Superblock> DecodeSuperblock(const SuperblockCopy& copy);

// The newer valid copy of the two in `file`.
absl::StatusOr<Superblock> ReadSuperblock(File* file);
// Writes the copy whose turn it is, with sequence + 1 (also in *superblock), and syncs it.
absl::Status WriteSuperblock(File* file, Superblock* superblock);

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_SUPERBLOCK_H_
