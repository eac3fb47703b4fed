// The working state of one request of an application, and of its pieces. Only volume_engine*.cc use
// it.
//
// A request runs its segments one after another; a segment is one kind of replica operation over a
// range of whole sectors, cut into pieces at chunk ends, at most kOutstandingPieces of them at a
// time.
//
// Threads: loop thread.
#ifndef TESSERA_SERVICES_SDC_ENGINE_VOLUME_REQUEST_H_
#define TESSERA_SERVICES_SDC_ENGINE_VOLUME_REQUEST_H_

#include <grpcpp/support/slice.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "libtoken/base_path.h"
#include "libtoken/token.h"
#include "services/sdc/block_device.h"
#include "services/sdc/resume/resume_table.h"
#include "services/sdc/rules/latency_ledger.h"
#include "services/sdc/rules/range_gate.h"
#include "services/sdc/rules/request_splitter.h"
#include "tessera/v1/chunk.pb.h"

namespace tessera::sdc {

// A path of layers of the volume's vtree.
struct ComparisonBase {
  explicit ComparisonBase(std::vector<token::PathPart> path)
      : parts(std::move(path)), crc32c(token::BasePathChecksum(parts)) {}
  const std::vector<token::PathPart> parts;
  const uint32_t crc32c;  // what tokens bind
};

struct Segment {
  ByteRange range;
  v1::IoOperationType type = v1::IO_OPERATION_TYPE_UNSPECIFIED;
  Payload data;  // writes
};

// What one piece brought back.
struct PiecePart {
  absl::InlinedVector<grpc::Slice, 1> slices;
  std::vector<StatusExtent> extents;
};

struct Request {
  enum class Phase : uint8_t {
    kThrottled,
    kHeldBack,  // a write, by a snapshot
    kAtGate,
    kReadingEdges,
    kRunning,
    kFlushing,
    kHeld,  // a read, by writes that have overtaken it
  };

  BlockRequest block;
  ByteRange range;    // asked for
  ByteRange widened;  // in whole sectors
  Phase phase = Phase::kThrottled;
  uint64_t started_nanos = 0;
  uint64_t admitted_nanos = 0;  // when it had passed the volume's limits
  bool limited = false;         // it waits for these
  size_t live_index = 0;
  RangeGate::Ticket ticket = 0;
  bool in_gate = false;
  bool taken_write = false;  // counts in VolumeEngine::writes_taken_
  bool read_modify_write = false;
  bool answered = false;     // its time was over; what is left runs for the order's sake
  bool flush_after = false;  // its writes are to be made durable before the answer
  bool internal = false;     // a flush that no application asked for
  bool adopts = false;       // no write: the range's chunks get layers of the volume's branch
  uint64_t told_losses = 0;  // a later loss may be one of what it promises
  bool partly_done = false;  // a write: some pieces have been acknowledged, ..
  uint64_t done_losses = 0;  // .. the first after so many losses: a later one may be of that piece

  absl::InlinedVector<Segment, 1> segments;
  size_t next_segment = 0;  // the one after that of `cursor`
  PieceCursor cursor;
  uint32_t outstanding = 0;
  absl::InlinedVector<PiecePart, 1> parts;  // of reads, in address order

  // Where its time went (volume_latency.cc).
  uint64_t gate_nanos = 0;   // since when it waits for what it waits for
  uint64_t flush_nanos = 0;  // when it asked for a flush
  std::array<uint32_t, kClientStages> client_micros{};
  absl::InlinedVector<AnswerPath, 1> paths;  // one after another
  uint32_t slowest_replica_micros = 0;

  int error = 0;
  std::string message;
};

[[nodiscard]] inline bool IsWriteType(v1::IoOperationType type) {
  return type == v1::IO_OPERATION_TYPE_WRITE || type == v1::IO_OPERATION_TYPE_WRITE_ZEROES ||
         type == v1::IO_OPERATION_TYPE_TRIM || type == v1::IO_OPERATION_TYPE_ADOPT;
}

// What is set for each piece, or asked for at each answer, is in its first cache line: it comes to
// a processor that did much else meanwhile.
struct alignas(64) Piece {
  // Three replicas, and one that is being made.
  static constexpr size_t kAnswersNoted = 4;

  Request* request = nullptr;
  v1::IoOperationType type = v1::IO_OPERATION_TYPE_UNSPECIFIED;
  uint32_t crc32c = 0;  // what its token binds
  ChunkPiece where;
  bool force_unit_access = false;
  bool cuts_bad_block = false;  // a write: a replica could not take it
  bool outside = false;         // a write, of the resume file: it found no room
  ResumeSlot slot = kNoResumeSlot;
  uint64_t began_nanos = 0;      // when it was sent first, or might have been; 0: not yet
  uint32_t answers = 0;          // that were noted; `path` is that of the last
  uint32_t retry_micros = 0;     // of the last answer, if there was one
  uint32_t sends = 0;            // of a read
  uint32_t checksum_errors = 0;  // of a read
  // When the answers came, from `began_nanos` on.
  alignas(64) std::array<uint32_t, kAnswersNoted> answered_micros{};
  // Reads.
  // After `where`, still to be read block by block: no replica had the whole range.
  uint32_t rest_bytes = 0;
  size_t part = 0;
  uint64_t cache_fill = 0;  // what is read is wanted by the cache; 0: it is not
  absl::InlinedVector<uint64_t, 2> tried_device_ids;
  // Writes.
  absl::InlinedVector<grpc::Slice, 2> slices;
  AnswerPath path;
};

// The bytes [begin, begin + length) of a payload as slices that keep its owner alive.
void AppendSlices(const Payload& payload, uint64_t begin, uint64_t length,
                  absl::InlinedVector<grpc::Slice, 2>* slices);

// The bytes [begin, begin + length) of parts that follow each other, as one payload. The parts are
// used up.
[[nodiscard]] Payload TakeParts(absl::InlinedVector<PiecePart, 1>& parts, uint64_t begin,
                                uint64_t length);

// Payloads one after another.
[[nodiscard]] Payload Concatenate(const Payload& first, const Payload& second,
                                  const Payload& third);
// The first / last bytes of one.
[[nodiscard]] Payload SubPayload(const Payload& payload, uint64_t begin, uint64_t length);
// Bytes that are zero, from memory that lives for ever. REQUIRES: length <= 1 MiB.
[[nodiscard]] Payload ZeroPayload(uint64_t length);

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_VOLUME_REQUEST_H_
