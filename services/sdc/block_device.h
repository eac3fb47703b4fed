// What the NBD server drives and the volume engine is: an asynchronous block device.
//
// Semantics are those of a disk with a volatile write cache:
//  - Requests may be answered in any order. Requests in flight at once that overlap may take effect
//    in any order, but each block range behaves as if they had run one after another.
//  - A write is visible to every read submitted after its answer. It is durable once a flush that
//  was
//    submitted after its answer, on whatever connection, has been answered, or if it carried `fua`.
//  - Where answered writes may be lost, the next flush of each client fails with EIO: LossCursor.
//  - Any byte offset and length inside the device is accepted; unaligned writes are atomic against
//    their neighbours.
//
// Threads: Submit and the `done` callbacks run on the device's event loop thread (event_loop.h)
// only. `done` is called exactly once for each request and never from inside Submit.
#ifndef TESSERA_SERVICES_SDC_BLOCK_DEVICE_H_
#define TESSERA_SERVICES_SDC_BLOCK_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"

namespace tessera::sdc {

// Bytes in pieces that live as long as `owner`. Never copied on the way between socket and stream.
struct Payload {
  std::vector<std::span<const std::byte>> pieces;
  std::shared_ptr<const void> owner;

  [[nodiscard]] uint64_t size_bytes() const {
    uint64_t total = 0;
    for (const auto& piece : pieces) total += piece.size();
    return total;
  }
};

enum class Command : uint8_t {
  kRead,
  kWrite,
  kFlush,
  kTrim,
  kWriteZeroes,
  kBlockStatus,
  kCache,
  kChanges,  // as kBlockStatus, with what may differ from `base`; not one of NBD's
};

// What kChanges compares with: the volume engine's.
struct ComparisonBase;

struct StatusExtent {
  uint64_t length_bytes = 0;
  bool hole = false;     // takes no space
  bool zero = false;     // reads as zeros
  bool changed = false;  // kChanges: may differ from the base
};

struct BlockReply {
  int error = 0;                      // an errno value of those that NBD can carry, 0 for success
  std::string message;                // for people: why; empty on success
  Payload data;                       // kRead: exactly the bytes asked for
  std::vector<StatusExtent> extents;  // kBlockStatus, kChanges: from the offset on, at least one
};

// How many losses of answered writes a client (an NBD connection) has been told of. Every client
// that had the device open is told of each once, by its next flush: what one hears, another does
// not. So does Linux for every open file: errseq_t, Documentation/core-api/errseq.rst.
struct LossCursor {
  uint64_t told = 0;
  bool closed = false;  // the client has gone: nobody hears its answers any more
};

struct BlockRequest {
  Command command = Command::kRead;
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  bool force_unit_access = false;  // durable before the answer
  bool no_hole = false;            // kWriteZeroes: keep the space allocated
  bool fast_zero = false;          // kWriteZeroes: fail with ENOTSUP unless quicker than a write
  bool one_extent = false;         // kBlockStatus: the first extent only
  Payload data;                    // kWrite
  // kChanges; null: nothing, so that all that takes space differs. Shared by the requests of a
  // list.
  std::shared_ptr<const ComparisonBase> base;
  // kFlush: of the client. Null: one that opens the device with this request.
  std::shared_ptr<LossCursor> client;
  absl::AnyInvocable<void(BlockReply)> done;
};

struct BlockDeviceInfo {
  uint64_t size_bytes = 0;
  uint32_t minimum_block_bytes = 1;
  uint32_t preferred_block_bytes = 4096;
  uint32_t maximum_payload_bytes = 32u << 20;
  bool read_only = false;
  bool multi_connection = true;  // a flush on one connection covers all of them
  std::string description;
};

class BlockDevice {
 public:
  virtual ~BlockDevice() = default;
  [[nodiscard]] virtual BlockDeviceInfo info() const = 0;
  // For a client that opens the device. A loss that nobody has been told of yet is news to it.
  [[nodiscard]] virtual std::shared_ptr<LossCursor> OpenCursor() {
    return std::make_shared<LossCursor>();
  }
  // REQUIRES: the range lies inside the device (the NBD server checks and answers EINVAL/ENOSPC).
  virtual void Submit(BlockRequest request) = 0;
};

// The exports that a server offers. Looked up on the loop thread; an export that goes away has its
// connections closed by the server's owner through NbdServer::CloseExport.
class ExportTable {
 public:
  virtual ~ExportTable() = default;
  [[nodiscard]] virtual std::vector<std::string> Names() const = 0;
  // Null when there is none of that name. An empty name means the default export: the only one, if
  // there is exactly one.
  [[nodiscard]] virtual std::shared_ptr<BlockDevice> Find(const std::string& name) const = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_BLOCK_DEVICE_H_
