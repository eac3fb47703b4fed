// Cuts the bytes that a client sends into requests, without copying payloads.
//
// The socket is read straight into reference-counted blocks; a write's payload is a list of pieces
// of these blocks, which live until the last holder of the payload lets go. Blocks are small (16
// KiB) until a client fills them, grow to 128 KiB, and for a long payload are as long as what is
// missing of it, up to 1 MiB. Memory beyond one block is allocated as bytes arrive, never on the
// word of a header.
//
// Threads: one caller at a time. Payloads may be released on any thread.
#ifndef TESSERA_SERVICES_SDC_NBD_REQUEST_READER_H_
#define TESSERA_SERVICES_SDC_NBD_REQUEST_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "services/sdc/block_device.h"
#include "services/sdc/nbd/request.h"

namespace tessera::sdc::nbd {

class RequestReader {
 public:
  static constexpr size_t kSmallestBlockBytes = 16 << 10;
  static constexpr size_t kLargestBlockBytes = 128 << 10;
  static constexpr size_t kLargestPayloadBlockBytes = 1 << 20;

  struct Request {
    RequestHeader header;
    Verdict verdict;
  };
  enum class Outcome : uint8_t { kReady, kNeedInput, kBroken };

  // `session` must outlive the reader.
  explicit RequestReader(const Session& session) : session_(session) {}

  // Where to put the next bytes of the stream; never empty, valid until the next call.
  [[nodiscard]] std::span<std::byte> Space();
  // The first `count` bytes of the last Space have been filled.
  void Received(size_t count);
  // For bytes that were read before the reader existed.
  void Append(std::span<const std::byte> bytes);

  // Looks at the next request without taking it. kBroken: `broken_reason()`, and nothing more will
  // come. REQUIRES: no request is begun.
  [[nodiscard]] Outcome Peek(Request& request);
  // Takes the request that Peek has just shown.
  void Begin(const Request& request);
  // True once the begun request is complete; `payload` then has a write's data (empty if refused).
  [[nodiscard]] bool Finish(Payload& payload);

  [[nodiscard]] bool in_request() const { return in_request_; }
  // Part of a request has been received.
  [[nodiscard]] bool MidRequest() const { return in_request_ || Unread() > 0; }
  [[nodiscard]] std::string_view broken_reason() const { return broken_reason_; }
  // Gives memory back that an idle connection does not need.
  void ReleaseIdle();
  [[nodiscard]] size_t block_bytes() const { return block_ == nullptr ? 0 : block_->capacity; }

 private:
  struct Block {
    explicit Block(size_t size) : bytes(new std::byte[size]), capacity(size) {}
    const std::unique_ptr<std::byte[]> bytes;
    const size_t capacity;
  };

  [[nodiscard]] size_t Unread() const { return filled_ - read_; }
  void Replace(size_t capacity);

  const Session& session_;
  std::shared_ptr<Block> block_;  // shared with the payloads cut from it
  size_t filled_ = 0;
  size_t read_ = 0;
  bool block_shared_ = false;  // some payload points into it, so its bytes must not be overwritten
  size_t next_block_bytes_ = kSmallestBlockBytes;

  bool in_request_ = false;
  bool keep_payload_ = false;
  size_t payload_left_bytes_ = 0;
  std::vector<std::span<const std::byte>> pieces_;
  std::vector<std::shared_ptr<Block>> piece_blocks_;  // one for each piece
  std::string_view broken_reason_;
};

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_REQUEST_READER_H_
