// The journal's records: their bytes (FORMAT.md), made by RecordBuilder and read by ParseRecord.
//
// Threads: values; a RecordBuilder belongs to one thread.
#ifndef TESSERA_LIBCHUNK_JOURNAL_RECORD_H_
#define TESSERA_LIBCHUNK_JOURNAL_RECORD_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "libchunk/types.h"

namespace tessera::chunk {

inline constexpr uint32_t kRecordMagic = 0x4a525354;  // "TSRJ"
// Version 1 had no kInheritBlocks.
inline constexpr uint32_t kRecordVersion = 2;
// More operations than fit in this go into a further record.
inline constexpr uint32_t kRecordHeaderBytesMax = 256u << 10;

struct RecordHeader {
  uint32_t magic = kRecordMagic;
  uint32_t checksum = 0;
  uint64_t store_id = 0;
  uint64_t position = 0;
  uint64_t lsn = 0;
  uint64_t incarnation = 0;
  uint64_t durable_lsn = 0;
  uint32_t header_bytes = 0;
  uint32_t payload_bytes = 0;
  uint32_t operation_count = 0;
  uint32_t version = kRecordVersion;
};
static_assert(sizeof(RecordHeader) == 64);

enum class OperationKind : uint8_t {
  kOpened = 1,
  kSkip = 2,
  kJournalBlocks = 3,
  kDirectBlocks = 4,
  kZeroBlocks = 5,
  kDeleteChunk = 6,
  kSetCursor = 7,
  kDropVtreeCursors = 8,
  kDropGroupCursors = 9,
  kInheritBlocks = 10,
};

inline constexpr uint8_t kOperationIncomplete = 1;
inline constexpr uint8_t kOperationKeepCursor = 2;
inline constexpr uint8_t kOperationGreaterVersion = 4;
inline constexpr uint8_t kOperationClearIncomplete = 8;
inline constexpr uint8_t kOperationPruned = 16;

struct OperationHeader {
  OperationKind kind = OperationKind::kOpened;
  uint8_t flags = 0;
  uint16_t zero = 0;
  uint32_t first_block = 0;
  uint32_t block_count = 0;
  uint32_t extent_count = 0;
  ChunkKey key;
  StreamId stream;
  Version version;
};
static_assert(sizeof(OperationHeader) == 72);

struct DeviceExtent {
  uint64_t first_block = 0;
  uint64_t count = 0;
};
static_assert(sizeof(DeviceExtent) == 16);

// One operation with what hangs on it.
struct Operation {
  OperationHeader header;
  absl::InlinedVector<uint32_t, 8> checksums;  // block_count of them for Journal- and DirectBlocks
  absl::InlinedVector<DeviceExtent, 2> extents;  // DirectBlocks
  uint64_t base = kNoBase;                       // InheritBlocks: the layer, kNoBase: none
};

// Whether the operation changes the chunk of its key.
inline bool NamesChunk(const Operation& operation) {
  return (operation.header.kind >= OperationKind::kJournalBlocks &&
          operation.header.kind <= OperationKind::kDeleteChunk) ||
         operation.header.kind == OperationKind::kInheritBlocks;
}

// Whether the operation puts the content of a bad block back.
inline bool IsRepair(const Operation& operation) {
  constexpr uint8_t kFlags = kOperationKeepCursor | kOperationGreaterVersion;
  return operation.header.kind == OperationKind::kJournalBlocks && operation.header.flags == kFlags;
}

// Collects the operations of one record. Reused from record to record to save allocations.
class RecordBuilder {
 public:
  RecordBuilder() { Clear(); }

  void Clear();
  void Add(const Operation& operation);
  // Fills in the record header (lengths and checksum are computed) and returns header and
  // operations; valid until the next call.
  std::span<const std::byte> Finish(RecordHeader header);

  uint32_t operation_count() const { return operation_count_; }
  size_t size_bytes() const { return bytes_.size(); }

 private:
  std::vector<std::byte> bytes_;
  uint32_t operation_count_ = 0;
};

// Bytes that `operation` takes in a record's header part.
size_t EncodedBytes(const Operation& operation);

// Whether `bytes` (at least a RecordHeader) could begin a record at `position` of this store:
// everything but the checksum. Fills *header.
bool ParseRecordHeader(std::span<const std::byte> bytes, uint64_t store_id, uint64_t position,
                       RecordHeader* header);

// The operations of a record whose header part is `bytes` (header.header_bytes of them). DATA_LOSS
// when the checksum or any length does not fit.
absl::StatusOr<std::vector<Operation>> ParseOperations(std::span<const std::byte> bytes);

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_JOURNAL_RECORD_H_
