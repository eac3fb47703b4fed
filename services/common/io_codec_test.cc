// What EncodeIo* makes must be protobuf for everybody else, and whatever protobuf allows must be
// understood by DecodeIo*. The generated classes are the reference on both sides.
#include "services/common/io_codec.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <string>

#include "services/common/crc32c.h"

namespace tessera {
namespace {

std::string Flatten(std::span<const grpc::Slice> slices) {
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

std::string Flatten(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  REQUIRE(buffer.Dump(&slices).ok());
  return Flatten(slices);
}

// The bytes as a buffer of slices of `slice_bytes` each.
grpc::ByteBuffer Cut(const std::string& bytes, size_t slice_bytes) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += slice_bytes) {
    slices.emplace_back(bytes.substr(at, slice_bytes));
  }
  if (slices.empty()) slices.emplace_back();
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string RandomBytes(std::mt19937_64* random, size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>((*random)());
  return bytes;
}

v1::IoRequest SampleRequest(std::mt19937_64* random, int operations, size_t payload_bytes) {
  v1::IoRequest request;
  request.add_grants(RandomBytes(random, 100));
  auto* entry = request.add_placement_groups();
  entry->set_placement_group(RandomBytes(random, 20));
  for (int i = 0; i < operations; ++i) {
    auto* operation = request.add_operations();
    operation->set_tag((*random)());
    operation->set_type(v1::IO_OPERATION_TYPE_WRITE);
    operation->set_signature(RandomBytes(random, 16));
    operation->set_data_crc32c(static_cast<uint32_t>((*random)()));
  }
  request.set_payload(RandomBytes(random, payload_bytes));
  return request;
}

void RequireEqual(const IoRequestFrame& frame, v1::IoRequest expected) {
  const std::string payload = expected.payload();
  expected.clear_payload();
  REQUIRE(frame.header.SerializeAsString() == expected.SerializeAsString());
  REQUIRE(Flatten(frame.payload) == payload);
}

TEST_CASE("A request cut into slices of any size is decoded as protobuf decodes it") {
  const uint64_t seed = GENERATE(1u, 2u, 3u);
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  const v1::IoRequest request = SampleRequest(&random, 3, 9000);
  const std::string bytes = request.SerializeAsString();
  IoRequestFrame frame;
  for (const size_t slice_bytes :
       {size_t{1}, size_t{2}, size_t{7}, size_t{64}, size_t{4096}, bytes.size()}) {
    INFO("slices of " << slice_bytes);
    REQUIRE(DecodeIoRequest(Cut(bytes, slice_bytes), &frame).ok());
    RequireEqual(frame, request);
  }
}

TEST_CASE("An encoded request is what protobuf parses, and shares the payload's memory") {
  std::mt19937_64 random(4);
  v1::IoRequest request = SampleRequest(&random, 2, 0);
  IoRequestFrame frame;
  frame.header = request;
  std::span<std::byte> writable;
  frame.payload.push_back(NewPayloadSlice(8192, &writable));
  std::fill(writable.begin(), writable.end(), std::byte{7});
  frame.payload.emplace_back(std::string("tail"));
  const grpc::ByteBuffer buffer = EncodeIoRequest(frame);
  request.set_payload(std::string(8192, '\7') + "tail");
  v1::IoRequest parsed;
  REQUIRE(parsed.ParseFromString(Flatten(buffer)));
  REQUIRE(parsed.SerializeAsString() == request.SerializeAsString());
  std::vector<grpc::Slice> slices;
  REQUIRE(buffer.Dump(&slices).ok());
  const auto shares = [&](const grpc::Slice& slice) {
    return reinterpret_cast<const std::byte*>(slice.begin()) == writable.data();
  };
  REQUIRE(std::any_of(slices.begin(), slices.end(), shares));
}

TEST_CASE("Fields may come in any order, repeated and unknown, and the last payload counts") {
  v1::IoRequest first;
  first.set_payload("to be replaced");
  v1::IoRequest second;
  second.add_operations()->set_tag(1);
  second.set_payload("payload");
  v1::IoRequest third;
  third.add_operations()->set_tag(2);
  // Unknown fields 100 to 103, of wire types 0, 1, 2 and 5.
  const std::string unknown = std::string("\xa0\x06\x05", 3) + std::string("\xa9\x06", 2) +
                              std::string(8, 'x') +
                              std::string(
                                  "\xb2\x06\x03"
                                  "abc",
                                  6) +
                              std::string("\xbd\x06", 2) + std::string(4, 'y');
  const std::string bytes =
      first.SerializeAsString() + unknown + second.SerializeAsString() + third.SerializeAsString();
  v1::IoRequest reference;
  REQUIRE(reference.ParseFromString(bytes));
  IoRequestFrame frame;
  for (const size_t slice_bytes : {size_t{1}, size_t{5}, bytes.size()}) {
    REQUIRE(DecodeIoRequest(Cut(bytes, slice_bytes), &frame).ok());
    REQUIRE(frame.header.operations_size() == 2);
    REQUIRE(Flatten(frame.payload) == "payload");
    RequireEqual(frame, reference);
  }
}

TEST_CASE("Malformed messages are refused, at every length they are cut to") {
  std::mt19937_64 random(5);
  const std::string bytes = SampleRequest(&random, 1, 300).SerializeAsString();
  IoRequestFrame frame;
  for (size_t length = 1; length < bytes.size(); ++length) {
    v1::IoRequest reference;
    const std::string cut = bytes.substr(0, length);
    INFO("cut to " << length);
    REQUIRE(DecodeIoRequest(Cut(cut, 16), &frame).ok() == reference.ParseFromString(cut));
  }
  const auto code = [&](const std::string& text) {
    return DecodeIoRequest(Cut(text, 1), &frame).code();
  };
  REQUIRE(code(std::string("\x00\x01", 2)) == absl::StatusCode::kInvalidArgument);  // field 0
  REQUIRE(code("\x0b\x0c") == absl::StatusCode::kInvalidArgument);                  // a group
  REQUIRE(code(std::string(11, '\xff')) == absl::StatusCode::kInvalidArgument);     // endless tag
  REQUIRE(code("\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01") ==
          absl::StatusCode::kInvalidArgument);  // payload of 2^64 - 1 bytes
}

TEST_CASE("Random bytes never crash the decoder, and it accepts nothing that protobuf refuses") {
  const uint64_t seed = 6;
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  const std::string good = SampleRequest(&random, 2, 64).SerializeAsString();
  IoRequestFrame frame;
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = good;
    const int flips = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < flips; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    v1::IoRequest reference;
    const bool accepted = DecodeIoRequest(Cut(bytes, 1 + random() % 40), &frame).ok();
    if (accepted) {
      REQUIRE(reference.ParseFromString(bytes));
      RequireEqual(frame, reference);
    }
  }
}

TEST_CASE("An empty message and an empty payload survive the way there and back") {
  IoResponseFrame frame;
  frame.payload.emplace_back(std::string("left over"));
  REQUIRE(DecodeIoResponse(grpc::ByteBuffer(), &frame).code() ==
          absl::StatusCode::kInvalidArgument);
  REQUIRE(DecodeIoResponse(Cut("", 1), &frame).ok());
  REQUIRE(frame.payload.empty());
  frame.header.add_results()->set_tag(9);
  IoResponseFrame again;
  REQUIRE(DecodeIoResponse(EncodeIoResponse(frame), &again).ok());
  REQUIRE(again.header.results(0).tag() == 9);
  REQUIRE(PayloadBytes(again.payload) == 0);
}

TEST_CASE("A payload cursor hands out exactly the bytes, once, and says when too few are left") {
  const std::string text = "abcdefghijklmnopqrstuvwxyz";
  std::vector<grpc::Slice> slices;
  for (const char* piece : {"abc", "", "defghijklmnopqrstuvwxy", "z"}) {
    slices.emplace_back(std::string(piece));
  }
  PayloadCursor cursor(slices);
  std::vector<std::span<const std::byte>> spans;
  REQUIRE(cursor.Take(5, &spans));
  std::string taken;
  for (const auto& span : spans) {
    taken.append(reinterpret_cast<const char*>(span.data()), span.size());
  }
  REQUIRE(taken == "abcde");
  std::vector<grpc::Slice> parts;
  REQUIRE(cursor.TakeSlices(3, &parts));
  REQUIRE(Flatten(parts) == "fgh");
  REQUIRE(cursor.RemainingBytes() == text.size() - 8);
  REQUIRE_FALSE(cursor.Take(text.size(), &spans));
  std::string rest(text.size() - 8, '\0');
  REQUIRE(cursor.Copy(std::as_writable_bytes(std::span(rest))));
  REQUIRE(rest == text.substr(8));
  REQUIRE(cursor.RemainingBytes() == 0);
  REQUIRE_FALSE(cursor.Take(1, &spans));
  REQUIRE(cursor.Take(0, &spans));
}

TEST_CASE("CRC32C has the values of RFC 3720, whole or in pieces") {
  const std::vector<std::byte> zeros(32, std::byte{0});
  const std::vector<std::byte> ones(32, std::byte{0xff});
  REQUIRE(Crc32c(zeros) == 0x8a9136aau);
  REQUIRE(Crc32c(ones) == 0x62a8ab43u);
  REQUIRE(Crc32c(std::span(zeros).subspan(7), Crc32c(std::span(zeros).first(7))) == 0x8a9136aau);
  const std::vector<std::span<const std::byte>> pieces{
      std::span(ones).first(1), {}, std::span(ones).subspan(1)};
  REQUIRE(Crc32c(pieces) == 0x62a8ab43u);
}

}  // namespace
}  // namespace tessera
