#include "tools/cli/image_file.h"

#include <array>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/crc32c.h"
#include "services/common/status_macros.h"

namespace tessera::cli {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are copied as they are");

constexpr std::string_view kImageMagic = "TSRIMAGE";
constexpr std::string_view kRecordMagic = "TSIR";
constexpr uint32_t kVersion = 1;
constexpr size_t kPreambleBytes = 12;
constexpr size_t kFixedBytes = 32;
constexpr size_t kChecksumAt = 4, kKindAt = 8, kPayloadBytesAt = 12, kOffsetAt = 16, kLengthAt = 24;
constexpr uint32_t kMessageBytesMax = 65'536;

enum RecordKind : uint32_t { kHeader = 1, kData = 2, kZero = 3, kTrailer = 4 };

using Fixed = std::array<std::byte, kFixedBytes>;

template <typename Number>
void StoreNumber(Fixed& fixed, size_t at, Number number) {
  std::memcpy(fixed.data() + at, &number, sizeof(number));
}

template <typename Number>
Number Get(std::span<const std::byte> bytes, size_t at) {
  Number number;
  std::memcpy(&number, bytes.data() + at, sizeof(number));
  return number;
}

uint32_t ChecksumOf(const Fixed& fixed, std::span<const std::byte> payload, uint32_t seed) {
  return Crc32c(payload, Crc32c(std::span(fixed).subspan(kKindAt), seed));
}

std::span<const std::byte> BytesOf(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

// ---- Writing ---------------------------------------------------------------------------------

absl::Status ImageWriter::Put(std::span<const std::byte> bytes) {
  hash_.Add(bytes);
  return sink_->Write(bytes);
}

absl::Status ImageWriter::AddRecord(uint32_t kind, uint64_t offset_bytes, uint64_t length_bytes,
                                    std::span<const std::byte> payload) {
  Fixed fixed{};
  std::memcpy(fixed.data(), kRecordMagic.data(), kRecordMagic.size());
  StoreNumber(fixed, kKindAt, kind);
  StoreNumber(fixed, kPayloadBytesAt, static_cast<uint32_t>(payload.size()));
  StoreNumber(fixed, kOffsetAt, offset_bytes);
  StoreNumber(fixed, kLengthAt, length_bytes);
  const uint32_t checksum = ChecksumOf(fixed, payload, seed_);
  StoreNumber(fixed, kChecksumAt, checksum);
  if (kind == kHeader) seed_ = checksum;
  TESSERA_RETURN_IF_ERROR(Put(fixed));
  return Put(payload);
}

absl::Status ImageWriter::Begin(const v1::VolumeImageHeader& header) {
  TESSERA_RETURN_IF_ERROR(Put(BytesOf(kImageMagic)));
  TESSERA_RETURN_IF_ERROR(Put(std::as_bytes(std::span(&kVersion, 1))));
  return AddRecord(kHeader, 0, 0, BytesOf(header.SerializeAsString()));
}

absl::Status ImageWriter::AddData(uint64_t offset_bytes, std::span<const std::byte> content) {
  totals_.set_records(totals_.records() + 1);
  totals_.set_data_bytes(totals_.data_bytes() + content.size());
  return AddRecord(kData, offset_bytes, content.size(), content);
}

absl::Status ImageWriter::AddZero(uint64_t offset_bytes, uint64_t length_bytes) {
  totals_.set_records(totals_.records() + 1);
  totals_.set_zero_bytes(totals_.zero_bytes() + length_bytes);
  return AddRecord(kZero, offset_bytes, length_bytes, {});
}

absl::StatusOr<v1::VolumeImageTrailer> ImageWriter::End() {
  totals_.set_sha256(hash_.Digest());
  TESSERA_RETURN_IF_ERROR(AddRecord(kTrailer, 0, 0, BytesOf(totals_.SerializeAsString())));
  return totals_;
}

// ---- Reading ---------------------------------------------------------------------------------

absl::Status ImageReader::Damaged(const std::string& what) const {
  return absl::DataLossError(absl::StrCat("the image is damaged: record ", record_number_,
                                          " at byte ", record_position_, ": ", what));
}

absl::Status ImageReader::Take(std::span<std::byte> bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    TESSERA_ASSIGN_OR_RETURN(const size_t count, source_->Read(bytes.subspan(done)));
    if (count == 0) {
      return absl::DataLossError(absl::StrCat("the image is cut off at byte ", position_ + done,
                                              ": record ", record_number_, " at byte ",
                                              record_position_, " is not whole"));
    }
    done += count;
  }
  position_ += done;
  hash_.Add(bytes);
  return absl::OkStatus();
}

absl::StatusOr<ImageReader::RawRecord> ImageReader::ReadRecord() {
  record_position_ = position_;
  before_record_ = hash_.Digest();
  Fixed fixed;
  TESSERA_RETURN_IF_ERROR(Take(fixed));
  if (std::memcmp(fixed.data(), kRecordMagic.data(), kRecordMagic.size()) != 0) {
    return Damaged("no record begins here");
  }
  RawRecord raw;
  raw.kind = Get<uint32_t>(fixed, kKindAt);
  raw.offset_bytes = Get<uint64_t>(fixed, kOffsetAt);
  raw.length_bytes = Get<uint64_t>(fixed, kLengthAt);
  const auto payload_bytes = Get<uint32_t>(fixed, kPayloadBytesAt);
  // Before it is checked: no more is taken than any record may have.
  if (payload_bytes > kImageDataBytesMax) {
    return Damaged(absl::StrCat("it claims to have ", payload_bytes, " bytes"));
  }
  raw.payload.resize(payload_bytes);
  TESSERA_RETURN_IF_ERROR(Take(std::as_writable_bytes(std::span(raw.payload))));
  raw.checksum = Get<uint32_t>(fixed, kChecksumAt);
  if (ChecksumOf(fixed, BytesOf(raw.payload), seed_) != raw.checksum)
    return Damaged("its checksum is wrong");
  return raw;
}

absl::StatusOr<v1::VolumeImageHeader> ImageReader::Begin() {
  std::array<std::byte, kPreambleBytes> preamble;
  const absl::Status taken = Take(preamble);
  const bool is_image = std::memcmp(preamble.data(), kImageMagic.data(), kImageMagic.size()) == 0;
  if (absl::IsDataLoss(taken) || (taken.ok() && !is_image)) {
    return absl::InvalidArgumentError("this is no image of a volume: it does not begin as one");
  }
  TESSERA_RETURN_IF_ERROR(taken);
  const auto version = Get<uint32_t>(preamble, kImageMagic.size());
  if (version != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat("the image has format version ", version,
                                                   "; this program reads version ", kVersion));
  }
  TESSERA_ASSIGN_OR_RETURN(const RawRecord raw, ReadRecord());
  seed_ = raw.checksum;
  if (raw.kind != kHeader || raw.offset_bytes != 0 || raw.length_bytes != 0 ||
      raw.payload.size() > kMessageBytesMax || !header_.ParseFromString(raw.payload)) {
    return Damaged("it is no header");
  }
  const bool incremental = header_.kind() == v1::VOLUME_IMAGE_KIND_INCREMENTAL;
  if ((!incremental && header_.kind() != v1::VOLUME_IMAGE_KIND_FULL) ||
      header_.block_bytes() != kImageBlockBytes || header_.size_bytes() % kImageBlockBytes != 0 ||
      header_.has_base() != incremental) {
    return Damaged("the header has values that make no sense together");
  }
  return header_;
}

absl::StatusOr<ImageRecord> ImageReader::Next() {
  ++record_number_;
  TESSERA_ASSIGN_OR_RETURN(RawRecord raw, ReadRecord());
  if (raw.kind == kTrailer) return ReadTrailer(raw);
  const uint64_t payload_bytes = raw.kind == kData ? raw.length_bytes : 0;
  if ((raw.kind != kData && raw.kind != kZero) || raw.payload.size() != payload_bytes) {
    return Damaged("it is of no kind that there is");
  }
  const uint64_t size = header_.size_bytes();
  if (raw.offset_bytes % kImageBlockBytes != 0 || raw.length_bytes % kImageBlockBytes != 0 ||
      raw.length_bytes == 0 || raw.offset_bytes < end_bytes_ || raw.offset_bytes > size ||
      raw.length_bytes > size - raw.offset_bytes) {
    return Damaged(absl::StrCat("its range, ", raw.length_bytes, " bytes from ", raw.offset_bytes,
                                " on, is not one that may come here"));
  }
  end_bytes_ = raw.offset_bytes + raw.length_bytes;
  totals_.set_records(totals_.records() + 1);
  ImageRecord record;
  record.offset_bytes = raw.offset_bytes;
  record.length_bytes = raw.length_bytes;
  if (raw.kind == kZero) {
    record.kind = ImageRecord::Kind::kZero;
    totals_.set_zero_bytes(totals_.zero_bytes() + raw.length_bytes);
  } else {
    record.kind = ImageRecord::Kind::kData;
    record.content = std::move(raw.payload);
    totals_.set_data_bytes(totals_.data_bytes() + raw.length_bytes);
  }
  return record;
}

absl::StatusOr<ImageRecord> ImageReader::ReadTrailer(const RawRecord& raw) {
  if (raw.offset_bytes != 0 || raw.length_bytes != 0 || raw.payload.size() > kMessageBytesMax ||
      !trailer_.ParseFromString(raw.payload)) {
    return Damaged("it is no trailer");
  }
  if (trailer_.records() != totals_.records() || trailer_.data_bytes() != totals_.data_bytes() ||
      trailer_.zero_bytes() != totals_.zero_bytes()) {
    return Damaged(absl::StrCat("the trailer counts ", trailer_.records(), " records with ",
                                trailer_.data_bytes(), " and ", trailer_.zero_bytes(),
                                " bytes, there were ", totals_.records(), " with ",
                                totals_.data_bytes(), " and ", totals_.zero_bytes()));
  }
  if (trailer_.sha256() != before_record_) {
    return Damaged("the trailer has the digest of something else");
  }
  std::byte more;
  TESSERA_ASSIGN_OR_RETURN(const size_t count, source_->Read(std::span(&more, 1)));
  if (count > 0) {
    return absl::DataLossError(
        absl::StrCat("the image is damaged: something follows its trailer, at byte ", position_));
  }
  return ImageRecord();
}

}  // namespace tessera::cli
