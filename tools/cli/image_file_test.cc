// Images of volumes: what is written is read, and nothing else passes for an image.
#include "tools/cli/image_file.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/crc32c.h"

namespace tessera::cli {
namespace {

constexpr uint64_t kB = kImageBlockBytes;

class MemorySink final : public ByteSink {
 public:
  absl::Status Write(std::span<const std::byte> bytes) override {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  }
  std::string text;
};

// Gives a few bytes at a time, as a pipe may.
class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::string bytes) : text_(std::move(bytes)) {}
  absl::StatusOr<size_t> Read(std::span<std::byte> bytes) override {
    const size_t count = std::min({bytes.size(), text_.size() - at_, size_t{3'001}});
    std::memcpy(bytes.data(), text_.data() + at_, count);
    at_ += count;
    return count;
  }

 private:
  const std::string text_;
  size_t at_ = 0;
};

v1::VolumeImageHeader Header(v1::VolumeImageKind kind = v1::VOLUME_IMAGE_KIND_INCREMENTAL) {
  v1::VolumeImageHeader header;
  header.set_image_id("one");
  header.set_kind(kind);
  header.set_size_bytes(100 * kB);
  header.set_block_bytes(kB);
  header.mutable_source()->set_volume_id(7);
  if (kind == v1::VOLUME_IMAGE_KIND_INCREMENTAL) header.mutable_base()->set_volume_id(6);
  return header;
}

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string MakeImage(const v1::VolumeImageHeader& header = Header()) {
  MemorySink sink;
  ImageWriter writer(&sink);
  REQUIRE(writer.Begin(header).ok());
  REQUIRE(writer.AddData(2 * kB, Bytes(std::string(3 * kB, 'a'))).ok());
  REQUIRE(writer.AddZero(5 * kB, 40 * kB).ok());
  REQUIRE(writer.AddData(99 * kB, Bytes(std::string(kB, 'b'))).ok());
  const auto trailer = writer.End();
  REQUIRE(trailer.ok());
  CHECK(trailer->records() == 3);
  CHECK(trailer->data_bytes() == 4 * kB);
  CHECK(trailer->zero_bytes() == 40 * kB);
  return sink.text;
}

// What a reader makes of it, record by record; and how it ended.
struct Read {
  absl::Status status;
  std::string text;
};
Read ReadAll(const std::string& image) {
  MemorySource source(image);
  ImageReader reader(&source);
  Read read;
  const auto header = reader.Begin();
  if (!header.ok()) return {header.status(), ""};
  read.text = header->image_id();
  for (;;) {
    const auto record = reader.Next();
    if (!record.ok()) {
      read.status = record.status();
      return read;
    }
    if (record->kind == ImageRecord::Kind::kEnd) {
      absl::StrAppend(&read.text, " end ", reader.trailer().records());
      return read;
    }
    const bool data = record->kind == ImageRecord::Kind::kData;
    absl::StrAppend(&read.text, " ", data ? record->content.substr(0, 1) : "0",
                    record->offset_bytes / kB, "+", record->length_bytes / kB);
    if (data) REQUIRE(record->content == std::string(record->length_bytes, record->content[0]));
  }
}

// Sets bytes of a record and makes its checksum fit again.
std::string Forge(std::string image, size_t record_at, size_t field_at, uint64_t value,
                  size_t width) {
  uint32_t payload_bytes = 0, seed = 0;
  std::memcpy(image.data() + record_at + field_at, &value, width);
  std::memcpy(&payload_bytes, image.data() + record_at + 12, 4);
  if (record_at != 12) std::memcpy(&seed, image.data() + 16, 4);
  const uint32_t checksum = Crc32c(Bytes(image.substr(record_at + 8, 24 + payload_bytes)), seed);
  std::memcpy(image.data() + record_at + 4, &checksum, 4);
  return image;
}

TEST_CASE("what is written is read again, and is what the format says") {
  const std::string image = MakeImage();
  const Read read = ReadAll(image);
  CHECK(read.status == absl::OkStatus());
  CHECK(read.text == "one a2+3 05+40 b99+1 end 3");
  CHECK(image.substr(0, 12) == std::string("TSRIMAGE\1\0\0\0", 12));
  CHECK(image.substr(12, 4) == "TSIR");
  CHECK(image.substr(20, 4) == std::string("\1\0\0\0", 4));
  const uint32_t checksum =
      Crc32c(Bytes(image.substr(20, 24 + static_cast<uint8_t>(image[24]))), 0);
  CHECK(std::memcmp(image.data() + 16, &checksum, 4) == 0);
  MemorySink empty;
  ImageWriter writer(&empty);
  REQUIRE(writer.Begin(Header(v1::VOLUME_IMAGE_KIND_FULL)).ok());
  REQUIRE(writer.End().ok());
  CHECK(ReadAll(empty.text).text == "one end 0");
}

TEST_CASE("a flipped bit anywhere is found, and nothing of its record is returned") {
  const std::string image = MakeImage();
  const std::string whole = ReadAll(image).text;
  for (size_t at = 0; at < image.size(); at += at < 400 || at + 400 > image.size() ? 1 : 97) {
    std::string other = image;
    other[at] = static_cast<char>(other[at] ^ 1 << at % 8);
    const Read read = ReadAll(other);
    INFO("byte " << at << ": " << read.status);
    REQUIRE_FALSE(read.status.ok());
    REQUIRE(whole.starts_with(read.text));
    REQUIRE(read.text.find("end") == std::string::npos);
  }
}

TEST_CASE("an image that is cut off anywhere, or has something after it, is not whole") {
  const std::string image = MakeImage();
  for (size_t length = 0; length < image.size();
       length += length < 400 || length + 400 > image.size() ? 1 : 97) {
    const Read read = ReadAll(image.substr(0, length));
    INFO("cut at " << length << ": " << read.status);
    REQUIRE_FALSE(read.status.ok());
    REQUIRE(read.text.find("end") == std::string::npos);
  }
  CHECK(absl::IsDataLoss(ReadAll(image + "x").status));
  CHECK(absl::IsDataLoss(ReadAll(image + image).status));
  CHECK(absl::IsInvalidArgument(ReadAll("").status));
  CHECK(absl::IsInvalidArgument(ReadAll("#!/bin/sh\nsome text that is long enough").status));
  std::string later = image;
  later[8] = 2;
  CHECK(absl::IsInvalidArgument(ReadAll(later).status));
}

TEST_CASE("errors name record and byte") {
  std::string image = MakeImage();
  const size_t second = 12 + 32 + static_cast<uint8_t>(image[24]);
  image[second + 40] = 'x';
  const std::string message(ReadAll(image).status.message());
  CHECK(message.find(absl::StrCat("record 1 at byte ", second)) != std::string::npos);
}

TEST_CASE("records that are whole and make no sense are refused") {
  const std::string image = MakeImage();
  const size_t data = 12 + 32 + static_cast<uint8_t>(image[24]);
  const size_t zero = data + 32 + 3 * kB;
  const auto refused = [&](const std::string& other) {
    const Read read = ReadAll(other);
    INFO(read.status);
    CHECK(absl::IsDataLoss(read.status));
  };
  refused(Forge(image, data, 8, 5, 4));            // a kind that there is not
  refused(Forge(image, data, 8, 1, 4));            // a header in the middle
  refused(Forge(image, data, 16, 2 * kB + 1, 8));  // no whole block
  refused(Forge(image, data, 16, 98 * kB, 8));     // beyond the end
  refused(Forge(image, data, 16, ~uint64_t{kB - 1}, 8));
  refused(Forge(image, data, 24, 2 * kB, 8));  // other bytes than it says
  refused(Forge(image, zero, 24, 0, 8));       // nothing
  refused(Forge(image, zero, 24, ~uint64_t{kB - 1}, 8));
  refused(Forge(image, zero, 16, 4 * kB, 8));  // into the one before
  refused(Forge(image, zero, 12, 1u << 30, 4).substr(0, zero + 32));
  // Well-formed, and not what the trailer counted, or hashed.
  refused(Forge(image, zero, 24, 39 * kB, 8));
  refused(Forge(image, zero, 16, 6 * kB, 8));
  // A record of another image.
  v1::VolumeImageHeader other = Header();
  other.set_image_id("two");
  std::string mixed = image;
  mixed.replace(data, 32 + 3 * kB, MakeImage(other), data, 32 + 3 * kB);
  refused(mixed);
}

TEST_CASE("headers that make no sense are refused") {
  const auto refused = [](const v1::VolumeImageHeader& header) {
    MemorySink sink;
    ImageWriter writer(&sink);
    REQUIRE(writer.Begin(header).ok());
    REQUIRE(writer.End().ok());
    CHECK(absl::IsDataLoss(ReadAll(sink.text).status));
  };
  v1::VolumeImageHeader header = Header();
  header.set_kind(v1::VOLUME_IMAGE_KIND_UNSPECIFIED);
  refused(header);
  header = Header();
  header.set_block_bytes(512);
  refused(header);
  header = Header();
  header.set_size_bytes(5000);
  refused(header);
  header = Header();
  header.clear_base();
  refused(header);
  header = Header();
  header.set_kind(v1::VOLUME_IMAGE_KIND_FULL);
  refused(header);
}

}  // namespace
}  // namespace tessera::cli
