// IoRequest and IoResponse on the wire without copying their payload.
//
// The bytes are plain protobuf (chunk.proto), so that grpcurl and any generated client understand
// them; only the way they are made and taken apart differs: the fields before `payload` go through
// protobuf, the payload stays in the reference-counted slices that gRPC read it into, or is sent
// from the slices that the caller filled. Both sides use gRPC's raw methods with grpc::ByteBuffer
// messages (ChunkService::WithRawCallbackMethod_Io; grpc::TemplatedGenericStubCallback<ByteBuffer,
// ByteBuffer>).
//
// Decoding accepts every valid protobuf encoding: fields in any order, in any number of slices,
// unknown fields, and a repeated `payload` (the last one counts, as protobuf has it). Groups (wire
// types 3 and 4) are refused.
//
// Threads: values; one thread at a time each. Slices may be shared between threads.
#ifndef TESSERA_SERVICES_COMMON_IO_CODEC_H_
#define TESSERA_SERVICES_COMMON_IO_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include "absl/status/status.h"
#include "tessera/v1/chunk.pb.h"

namespace tessera {

// A message without its payload, and the payload's bytes in order. `header.payload` stays empty.
// Decoding into a frame that was used before reuses its memory.
struct IoRequestFrame {
  v1::IoRequest header;
  std::vector<grpc::Slice> payload;
};
struct IoResponseFrame {
  v1::IoResponse header;
  std::vector<grpc::Slice> payload;
  // Not sent: since when each of header.stages waits for its reply to leave, by the server's clock.
  std::vector<uint64_t> done_nanos;
};

// INVALID_ARGUMENT, saying what is wrong, for bytes that are no such message; `frame` is then
// unspecified. The frame's slices keep the buffer's memory alive after the buffer is gone.
[[nodiscard]] absl::Status DecodeIoRequest(const grpc::ByteBuffer& buffer, IoRequestFrame* frame);
[[nodiscard]] absl::Status DecodeIoResponse(const grpc::ByteBuffer& buffer, IoResponseFrame* frame);

// The message as a buffer that shares the payload's slices. The payload must be under 2 GiB.
[[nodiscard]] grpc::ByteBuffer EncodeIoRequest(const IoRequestFrame& frame);
[[nodiscard]] grpc::ByteBuffer EncodeIoResponse(const IoResponseFrame& frame);

// Bytes of all slices.
[[nodiscard]] size_t PayloadBytes(std::span<const grpc::Slice> payload);

// A slice of `size_bytes` unspecified bytes; `*writable` is where to put them, before the slice is
// copied or sent.
[[nodiscard]] grpc::Slice NewPayloadSlice(size_t size_bytes, std::span<std::byte>* writable);

// Hands a payload out piece by piece: the operations of a message take theirs in order.
class PayloadCursor {
 public:
  // `payload` must outlive the cursor and every span taken from it, and not be changed meanwhile.
  explicit PayloadCursor(std::span<const grpc::Slice> payload) : payload_(payload) {}

  // Appends the next `length_bytes` as spans into the slices. False when fewer are left (nothing is
  // then appended or taken).
  [[nodiscard]] bool Take(size_t length_bytes, std::vector<std::span<const std::byte>>* out);
  // As Take, but as slices that share the memory.
  [[nodiscard]] bool TakeSlices(size_t length_bytes, std::vector<grpc::Slice>* out);
  // Copies the next out.size() bytes.
  [[nodiscard]] bool Copy(std::span<std::byte> out);
  // Bytes that nobody took.
  [[nodiscard]] size_t RemainingBytes() const;

 private:
  // Calls visit(slice, begin, end) for each piece of the next `length_bytes`.
  template <typename Visit>
  bool Advance(size_t length_bytes, const Visit& visit);

  std::span<const grpc::Slice> payload_;
  size_t slice_index_ = 0;
  size_t slice_offset_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_IO_CODEC_H_
