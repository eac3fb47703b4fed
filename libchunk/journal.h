// The journal file: a circular log of records (FORMAT.md) in a file that was written once in full.
//
// Invariants
//  - Positions only grow; [tail, head) is live and never longer than the file.
//  - What an append writes, padding included, lies before the page of the tail, one lap on.
//
// Threads: Append, Fits, FreeUpTo and the accessors need the caller's lock (the store's append
// lock); ReadBytes, ReadRecord and Sync may be called from any thread at any time.
#ifndef TESSERA_LIBCHUNK_JOURNAL_H_
#define TESSERA_LIBCHUNK_JOURNAL_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "libchunk/env.h"
#include "libchunk/journal_record.h"

namespace tessera::chunk {

using PayloadSlices = absl::InlinedVector<std::span<const std::byte>, 8>;

struct JournalGeometry {
  uint64_t size_bytes = 0;  // multiple of kBlockBytes
  uint64_t store_id = 0;
};

// Where the next record goes and what it is called.
struct JournalCursor {
  uint64_t position = 0;
  uint64_t next_lsn = 1;
  uint64_t incarnation = 0;
};

struct LiveRecord {
  RecordHeader header;
  std::vector<Operation> operations;
  uint64_t payload_position = 0;
  uint64_t next_position = 0;
};

class Journal {
 public:
  Journal(std::unique_ptr<File> file, const JournalGeometry& geometry);

  // Writes a new journal's zeroes and syncs them.
  [[nodiscard]] static absl::Status Format(File* file, uint64_t size_bytes);

  // Where Append goes on; the live part begins at `tail`.
  void Start(const JournalCursor& head, uint64_t tail);

  // Whether a record of these sizes can be appended now.
  bool Fits(size_t header_bytes, size_t payload_bytes) const;

  // Appends one record whose payload is `slices` (payload_bytes in all); returns the position of
  // the payload. Visible to ReadBytes at once, durable after Sync. An error leaves the journal
  // unusable. Requires Fits.
  [[nodiscard]] absl::StatusOr<uint64_t> Append(RecordBuilder* builder, const PayloadSlices& slices,
                                                size_t payload_bytes, uint64_t durable_lsn);

  void FreeUpTo(uint64_t position) { tail_ = position; }

  // fdatasync of the file.
  [[nodiscard]] absl::Status Sync();

  // Bytes at a position, which must not cross the end of a lap (payloads never do).
  [[nodiscard]] absl::Status ReadBytes(uint64_t position, std::span<std::byte> out) {
    return file_->Read(position % geometry_.size_bytes, out);
  }
  [[nodiscard]] absl::Status ReadBytesCached(uint64_t position, std::span<std::byte> out) {
    return file_->ReadCached(position % geometry_.size_bytes, out);
  }

  // The record at `expected.position` if it is live: named expected.next_lsn and of no older
  // incarnation. NOT_FOUND when there is none, DATA_LOSS when it is there in part: the chain ends
  // here. Other errors are the device's.
  [[nodiscard]] absl::StatusOr<LiveRecord> ReadRecord(const JournalCursor& expected);

  // The greatest durable lsn that an intact record in [begin, end) states, 0 when there is none.
  // What it says stays true for ever, even if the record itself is not part of the chain.
  [[nodiscard]] absl::StatusOr<uint64_t> GreatestDurableLsn(uint64_t begin, uint64_t end);

  const JournalCursor& head() const { return head_; }
  uint64_t tail() const { return tail_; }
  uint64_t used_bytes() const { return head_.position - tail_; }
  uint64_t size_bytes() const { return geometry_.size_bytes; }
  // The greatest payload that one record may have.
  uint64_t payload_bytes_max() const { return geometry_.size_bytes / 4; }
  File* file() { return file_.get(); }

 private:
  struct Spot {
    uint64_t position = 0;   // of the record
    uint64_t end_bytes = 0;  // position after padding
    bool skip = false;       // the lap's rest must be skipped first
  };
  Spot SpotFor(size_t record_bytes) const;
  [[nodiscard]] absl::Status WriteSkip();
  [[nodiscard]] absl::Status WriteRecord(std::span<const std::byte> header,
                                         const PayloadSlices& slices, size_t payload_bytes);

  const std::unique_ptr<File> file_;
  const JournalGeometry geometry_;
  JournalCursor head_;
  uint64_t tail_ = 0;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_JOURNAL_H_
