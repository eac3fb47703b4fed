// A volume's image as a stream of records, written and read in one pass:
// docs/volumes/image-format.md.
//
// Threads: one.
#ifndef TESSERA_TOOLS_CLI_IMAGE_FILE_H_
#define TESSERA_TOOLS_CLI_IMAGE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/sha256.h"
#include "tessera/v1/volume_image.pb.h"

namespace tessera::cli {

inline constexpr uint64_t kImageBlockBytes = 4096;
inline constexpr uint64_t kImageDataBytesMax = 1 << 20;  // of one record

// Where an image goes.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  // All of it, or an error.
  [[nodiscard]] virtual absl::Status Write(std::span<const std::byte> bytes) = 0;
};
// Where one comes from.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // At least one byte, 0 at the end.
  [[nodiscard]] virtual absl::StatusOr<size_t> Read(std::span<std::byte> bytes) = 0;
};

// Writes an image. Calls in order: Begin, AddData and AddZero by ascending ranges of whole blocks,
// End. REQUIRES: all of it as the format has it.
class ImageWriter {
 public:
  explicit ImageWriter(ByteSink* sink) : sink_(sink) {}

  [[nodiscard]] absl::Status Begin(const v1::VolumeImageHeader& header);
  // At most kImageDataBytesMax.
  [[nodiscard]] absl::Status AddData(uint64_t offset_bytes, std::span<const std::byte> content);
  [[nodiscard]] absl::Status AddZero(uint64_t offset_bytes, uint64_t length_bytes);
  // The trailer that was written.
  [[nodiscard]] absl::StatusOr<v1::VolumeImageTrailer> End();

 private:
  [[nodiscard]] absl::Status AddRecord(uint32_t kind, uint64_t offset_bytes, uint64_t length_bytes,
                                       std::span<const std::byte> payload);
  [[nodiscard]] absl::Status Put(std::span<const std::byte> bytes);

  ByteSink* const sink_;
  Sha256 hash_;
  uint32_t seed_ = 0;
  v1::VolumeImageTrailer totals_;
};

struct ImageRecord {
  enum class Kind { kData, kZero, kEnd };
  Kind kind = Kind::kEnd;
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  std::string content;  // kData
};

// Reads an image and checks every byte of it. What it returns was checked; whether the image is
// whole is known when kEnd comes. Errors: DATA_LOSS (damaged or cut off: which record, at which
// byte), INVALID_ARGUMENT (no image, or of another version), the source's own.
class ImageReader {
 public:
  explicit ImageReader(ByteSource* source) : source_(source) {}

  // First and once.
  [[nodiscard]] absl::StatusOr<v1::VolumeImageHeader> Begin();
  // kEnd: the trailer fits, and nothing follows it.
  [[nodiscard]] absl::StatusOr<ImageRecord> Next();
  // After kEnd.
  [[nodiscard]] const v1::VolumeImageTrailer& trailer() const { return trailer_; }

 private:
  struct RawRecord {
    uint32_t kind = 0;
    uint32_t checksum = 0;
    uint64_t offset_bytes = 0;
    uint64_t length_bytes = 0;
    std::string payload;
  };

  [[nodiscard]] absl::StatusOr<RawRecord> ReadRecord();
  [[nodiscard]] absl::StatusOr<ImageRecord> ReadTrailer(const RawRecord& raw);
  // Exactly so many bytes, or what is wrong.
  [[nodiscard]] absl::Status Take(std::span<std::byte> bytes);
  [[nodiscard]] absl::Status Damaged(const std::string& what) const;

  ByteSource* const source_;
  Sha256 hash_;
  uint32_t seed_ = 0;
  uint64_t position_ = 0;         // in the image
  uint64_t record_position_ = 0;  // of the record being read
  uint64_t record_number_ = 0;    // 0: the header
  uint64_t end_bytes_ = 0;        // of the last range
  std::string before_record_;     // the digest of all before it
  v1::VolumeImageHeader header_;
  v1::VolumeImageTrailer totals_;
  v1::VolumeImageTrailer trailer_;
};

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_IMAGE_FILE_H_
