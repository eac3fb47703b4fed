#include "libchunk/journal_record.h"

#include <cstring>

#include "libchunk/checksum.h"
#include "libchunk/coding.h"

namespace tessera::chunk {
namespace {

constexpr size_t kCheckedOffset = 8;
constexpr uint32_t kOperationBlocksMax = 1u << 20;

bool CarriesChecksums(OperationKind kind) {
  return kind == OperationKind::kJournalBlocks || kind == OperationKind::kDirectBlocks;
}

bool CarriesBase(OperationKind kind) { return kind == OperationKind::kInheritBlocks; }

bool Plausible(const OperationHeader& header) {
  return header.kind >= OperationKind::kOpened && header.kind <= OperationKind::kInheritBlocks &&
         header.block_count <= kOperationBlocksMax && header.extent_count <= header.block_count;
}

}  // namespace

size_t EncodedBytes(const Operation& operation) {
  return sizeof(OperationHeader) + operation.checksums.size() * sizeof(uint32_t) +
         operation.extents.size() * sizeof(DeviceExtent) +
         (CarriesBase(operation.header.kind) ? sizeof(uint64_t) : 0);
}

void RecordBuilder::Clear() {
  bytes_.resize(sizeof(RecordHeader));
  operation_count_ = 0;
}

void RecordBuilder::Add(const Operation& operation) {
  OperationHeader header = operation.header;
  header.extent_count = static_cast<uint32_t>(operation.extents.size());
  const size_t checksum_bytes = operation.checksums.size() * sizeof(uint32_t);
  const size_t extent_bytes = operation.extents.size() * sizeof(DeviceExtent);
  size_t at = bytes_.size();
  const size_t base_bytes = CarriesBase(header.kind) ? sizeof(operation.base) : 0;
  bytes_.resize(at + sizeof(header) + base_bytes + checksum_bytes + extent_bytes);
  std::memcpy(bytes_.data() + at, &header, sizeof(header));
  at += sizeof(header);
  if (base_bytes > 0) std::memcpy(bytes_.data() + at, &operation.base, base_bytes);
  at += base_bytes;
  if (checksum_bytes > 0)
    std::memcpy(bytes_.data() + at, operation.checksums.data(), checksum_bytes);
  at += checksum_bytes;
  if (extent_bytes > 0) std::memcpy(bytes_.data() + at, operation.extents.data(), extent_bytes);
  ++operation_count_;
}

std::span<const std::byte> RecordBuilder::Finish(RecordHeader header) {
  header.header_bytes = static_cast<uint32_t>(bytes_.size());
  header.operation_count = operation_count_;
  std::memcpy(bytes_.data(), &header, sizeof(header));
  header.checksum = Crc32c(std::span(bytes_).subspan(kCheckedOffset));
  std::memcpy(bytes_.data() + offsetof(RecordHeader, checksum), &header.checksum, sizeof(uint32_t));
  return bytes_;
}

bool ParseRecordHeader(std::span<const std::byte> bytes, uint64_t store_id, uint64_t position,
                       RecordHeader* header) {
  if (bytes.size() < sizeof(RecordHeader)) return false;
  std::memcpy(header, bytes.data(), sizeof(RecordHeader));
  return header->magic == kRecordMagic && header->store_id == store_id &&
         header->position == position && header->version >= 1 &&
         header->version <= kRecordVersion && header->header_bytes >= sizeof(RecordHeader) &&
         header->header_bytes <= kRecordHeaderBytesMax && header->payload_bytes % kBlockBytes == 0;
}

absl::StatusOr<std::vector<Operation>> ParseOperations(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  RecordHeader header;
  const std::span<const std::byte> head = reader.GetBytes(sizeof(RecordHeader));
  if (!reader.ok()) return absl::DataLossError("the record is cut short");
  std::memcpy(&header, head.data(), sizeof(header));
  if (header.header_bytes != bytes.size() ||
      header.checksum != Crc32c(bytes.subspan(kCheckedOffset))) {
    return absl::DataLossError("the record's checksum does not fit");
  }
  std::vector<Operation> operations;
  uint64_t payload_bytes = 0;
  for (uint32_t i = 0; i < header.operation_count; ++i) {
    const std::span<const std::byte> source = reader.GetBytes(sizeof(OperationHeader));
    if (!reader.ok()) return absl::DataLossError("the record's operations are cut short");
    Operation& operation = operations.emplace_back();
    std::memcpy(&operation.header, source.data(), sizeof(OperationHeader));
    if (!Plausible(operation.header)) return absl::DataLossError("an operation makes no sense");
    if (CarriesBase(operation.header.kind)) operation.base = reader.Get<uint64_t>();
    if (CarriesChecksums(operation.header.kind)) {
      const auto checksums = reader.GetBytes(operation.header.block_count * sizeof(uint32_t));
      const auto extents = reader.GetBytes(operation.header.extent_count * sizeof(DeviceExtent));
      if (!reader.ok()) return absl::DataLossError("an operation's checksums are cut short");
      operation.checksums.resize(operation.header.block_count);
      operation.extents.resize(operation.header.extent_count);
      if (!checksums.empty()) {
        std::memcpy(operation.checksums.data(), checksums.data(), checksums.size());
      }
      if (!extents.empty()) std::memcpy(operation.extents.data(), extents.data(), extents.size());
    }
    if (operation.header.kind == OperationKind::kJournalBlocks) {
      payload_bytes += uint64_t{operation.header.block_count} * kBlockBytes;
    }
  }
  if (!reader.ok() || reader.remaining() != 0 || payload_bytes != header.payload_bytes) {
    return absl::DataLossError("the record's lengths do not fit its operations");
  }
  return operations;
}

}  // namespace tessera::chunk
