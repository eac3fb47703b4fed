#include "libchunk/journal.h"

#include <algorithm>
#include <array>

#include "libchunk/check.h"
#include "libchunk/status_macros.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr std::array<std::byte, kPageBytes> kZeroPage{};
constexpr size_t kScanBytes = 1u << 20;
// A kernel that keeps a file's pages in folios as large as the writes that made them looks at each
// block of a folio at every later write to it. Appends are small: so shall the folios be.
constexpr size_t kFormatBytes = 64u << 10;

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }
uint64_t RoundDown(uint64_t value, uint64_t unit) { return value / unit * unit; }

}  // namespace

Journal::Journal(std::unique_ptr<File> file, const JournalGeometry& geometry)
    : file_(std::move(file)), geometry_(geometry) {
  CHUNK_CHECK(geometry_.size_bytes % kBlockBytes == 0 && geometry_.size_bytes > 0);
}

absl::Status Journal::Format(File* file, uint64_t size_bytes) {
  CHUNK_RETURN_IF_ERROR(file->Allocate(0, size_bytes));
  const std::vector<std::byte> zeroes(kFormatBytes);
  for (uint64_t offset = 0; offset < size_bytes; offset += kFormatBytes) {
    const auto piece = std::span<const std::byte>(zeroes).first(
        std::min<uint64_t>(kFormatBytes, size_bytes - offset));
    CHUNK_RETURN_IF_ERROR(file->Write(offset, std::span(&piece, 1)));
  }
  return file->SyncData();
}

void Journal::Start(const JournalCursor& head, uint64_t tail) {
  CHUNK_CHECK(head.position >= tail && head.position % kSectorBytes == 0);
  head_ = head;
  tail_ = tail;
}

Journal::Spot Journal::SpotFor(size_t record_bytes) const {
  Spot spot;
  spot.position = head_.position;
  const uint64_t lap_end = RoundDown(head_.position, geometry_.size_bytes) + geometry_.size_bytes;
  if (head_.position + record_bytes > lap_end) {
    spot.skip = true;
    spot.position = lap_end;
  }
  spot.end_bytes = RoundUp(spot.position + record_bytes, kPageBytes);
  return spot;
}

bool Journal::Fits(size_t header_bytes, size_t payload_bytes) const {
  const Spot spot = SpotFor(header_bytes + payload_bytes);
  return spot.end_bytes <= RoundDown(tail_, kPageBytes) + geometry_.size_bytes;
}

absl::Status Journal::WriteRecord(std::span<const std::byte> header, const PayloadSlices& slices,
                                  size_t payload_bytes) {
  PayloadSlices all;
  all.push_back(header);
  all.insert(all.end(), slices.begin(), slices.end());
  const uint64_t end = head_.position + header.size() + payload_bytes;
  if (const uint64_t padding = RoundUp(end, kPageBytes) - end; padding > 0) {
    all.push_back(std::span(kZeroPage).first(padding));
  }
  CHUNK_RETURN_IF_ERROR(file_->Write(head_.position % geometry_.size_bytes, all));
  head_.position = RoundUp(end, kSectorBytes);
  ++head_.next_lsn;
  return absl::OkStatus();
}

absl::Status Journal::WriteSkip() {
  RecordBuilder builder;
  Operation skip;
  skip.header.kind = OperationKind::kSkip;
  builder.Add(skip);
  RecordHeader header;
  header.store_id = geometry_.store_id;
  header.position = head_.position;
  header.lsn = head_.next_lsn;
  header.incarnation = head_.incarnation;
  const uint64_t lap_end = RoundDown(head_.position, geometry_.size_bytes) + geometry_.size_bytes;
  CHUNK_RETURN_IF_ERROR(WriteRecord(builder.Finish(header), {}, 0));
  head_.position = lap_end;
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Journal::Append(RecordBuilder* builder, const PayloadSlices& slices,
                                         size_t payload_bytes, uint64_t durable_lsn) {
  const size_t header_bytes = builder->size_bytes();
  const Spot spot = SpotFor(header_bytes + payload_bytes);
  CHUNK_CHECK(spot.end_bytes <= RoundDown(tail_, kPageBytes) + geometry_.size_bytes);
  if (spot.skip) CHUNK_RETURN_IF_ERROR(WriteSkip());
  RecordHeader header;
  header.store_id = geometry_.store_id;
  header.position = head_.position;
  header.lsn = head_.next_lsn;
  header.incarnation = head_.incarnation;
  header.durable_lsn = durable_lsn;
  header.payload_bytes = static_cast<uint32_t>(payload_bytes);
  const uint64_t payload_position = head_.position + header_bytes;
  CHUNK_RETURN_IF_ERROR(WriteRecord(builder->Finish(header), slices, payload_bytes));
  return payload_position;
}

absl::StatusOr<LiveRecord> Journal::ReadRecord(const JournalCursor& expected) {
  const uint64_t offset = expected.position % geometry_.size_bytes;
  const uint64_t lap_rest = geometry_.size_bytes - offset;
  std::vector<std::byte> bytes(std::min<uint64_t>(kPageBytes, lap_rest));
  CHUNK_RETURN_IF_ERROR(file_->Read(offset, bytes));
  LiveRecord record;
  const RecordHeader& header = record.header;
  if (!ParseRecordHeader(bytes, geometry_.store_id, expected.position, &record.header) ||
      header.lsn != expected.next_lsn || header.incarnation < expected.incarnation ||
      uint64_t{header.header_bytes} + header.payload_bytes > lap_rest) {
    return absl::NotFoundError("no live record");
  }
  const size_t have = std::min<size_t>(bytes.size(), header.header_bytes);
  bytes.resize(header.header_bytes);
  if (have < bytes.size()) {
    CHUNK_RETURN_IF_ERROR(file_->Read(offset + have, std::span(bytes).subspan(have)));
  }
  absl::StatusOr<std::vector<Operation>> operations = ParseOperations(bytes);
  if (!operations.ok()) return operations.status();
  record.operations = *std::move(operations);
  record.payload_position = expected.position + header.header_bytes;
  const bool skip =
      !record.operations.empty() && record.operations[0].header.kind == OperationKind::kSkip;
  record.next_position =
      skip ? expected.position + lap_rest
           : RoundUp(record.payload_position + header.payload_bytes, kSectorBytes);
  return record;
}

absl::StatusOr<uint64_t> Journal::GreatestDurableLsn(uint64_t begin, uint64_t end) {
  uint64_t greatest = 0;
  std::vector<std::byte> piece;
  for (uint64_t position = begin; position < end;) {
    const uint64_t offset = position % geometry_.size_bytes;
    const uint64_t length =
        std::min({uint64_t{kScanBytes}, geometry_.size_bytes - offset, end - position});
    piece.resize(length);
    CHUNK_RETURN_IF_ERROR(file_->Read(offset, piece));
    for (uint64_t at = 0; at + sizeof(RecordHeader) <= length; at += kSectorBytes) {
      RecordHeader header;
      if (!ParseRecordHeader(std::span(piece).subspan(at), geometry_.store_id, position + at,
                             &header) ||
          header.durable_lsn <= greatest) {
        continue;
      }
      absl::StatusOr<LiveRecord> record = ReadRecord(
          {.position = position + at, .next_lsn = header.lsn, .incarnation = header.incarnation});
      if (record.ok()) {
        greatest = header.durable_lsn;
      } else if (!absl::IsNotFound(record.status()) && !absl::IsDataLoss(record.status())) {
        return record.status();
      }
    }
    position += length;
  }
  return greatest;
}

absl::Status Journal::Sync() {
#ifdef TESSERA_PLANT_SKIP_FSYNC  // see check_planted_bugs.sh
  return absl::OkStatus();
#else
  return file_->SyncData();
#endif
}

}  // namespace tessera::chunk
