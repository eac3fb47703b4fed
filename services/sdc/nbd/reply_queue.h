// Replies on their way to a client: encoded headers, and payloads that are sent from where they
// lie.
//
// Entries are kept in order; Gather names the bytes that come next for one sendmsg, Sent takes away
// what the socket took. Nothing is allocated for a reply apart from growth of the queue, the text
// of an error and the list of a block status.
//
// Source: doc/proto.md of the NBD project, "Simple reply message", "Structured reply chunk
// message". Threads: one caller at a time.
#ifndef TESSERA_SERVICES_SDC_NBD_REPLY_QUEUE_H_
#define TESSERA_SERVICES_SDC_NBD_REPLY_QUEUE_H_

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "services/sdc/block_device.h"
#include "services/sdc/nbd/protocol.h"

namespace tessera::sdc::nbd {

class ReplyQueue {
 public:
  // What has left the queue: replies that were sent whole, and the bytes charged for them.
  struct Released {
    uint32_t replies = 0;
    uint64_t charged_bytes = 0;
  };

  // Bytes that are no reply to a request (the handshake).
  void AddRaw(std::string bytes);

  // The functions below add one whole reply each; `charged_bytes` comes back from Sent.
  void AddSimple(uint64_t cookie, int error, Payload data, uint64_t charged_bytes);
  // A structured read reply in one chunk. REQUIRES: `data` is not empty.
  void AddReadChunk(uint64_t cookie, uint64_t offset_bytes, Payload data, uint64_t charged_bytes);
  // A structured reply without content.
  void AddStructuredDone(uint64_t cookie);
  void AddStructuredError(uint64_t cookie, int error, std::string_view message,
                          std::optional<uint64_t> offset_bytes, uint64_t charged_bytes);
  // Extents of base:allocation, cut to `length_bytes` in all; neighbours alike become one.
  void AddBlockStatus(uint64_t cookie, uint32_t length_bytes, bool one_extent,
                      std::span<const StatusExtent> extents);

  [[nodiscard]] bool empty() const { return first_ == entries_.size(); }
  [[nodiscard]] uint64_t size_bytes() const { return size_bytes_; }
  // Fills `vectors` with what is to be sent next; the number used. Valid until the next change.
  [[nodiscard]] size_t Gather(std::span<iovec> vectors) const;
  // `count` bytes have been sent. Payloads sent whole are let go.
  Released Sent(size_t count);
  void Clear();

 private:
  // The longest header is that of an error with an offset, which follows its text: 20 + 4 + 2.
  static constexpr size_t kHeaderCapacity = 32;
  struct Entry {
    std::array<std::byte, kHeaderCapacity> header;
    uint8_t header_bytes = 0;
    bool is_reply = true;
    uint64_t size_bytes = 0;
    uint64_t charged_bytes = 0;
    Payload data;
  };

  Entry& Push(Payload data, uint64_t charged_bytes);
  void Seal(Entry& entry, size_t header_bytes);

  std::vector<Entry> entries_;  // those before first_ are sent
  size_t first_ = 0;
  uint64_t first_sent_bytes_ = 0;  // of entries_[first_]
  uint64_t size_bytes_ = 0;        // unsent
};

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_REPLY_QUEUE_H_
