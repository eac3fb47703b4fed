// One NBD connection with several operations in flight on random blocks, and the history of them.
//
// When the connection goes away, or an operation takes longer than the timeout, what was in flight
// has an open end, and the worker connects again, to the next of its URIs, until it is told to
// stop.
//
// Threads: Run in its own; the Shared state from any.
#ifndef TESSERA_TOOLS_VERIFY_IO_NBD_WORKER_H_
#define TESSERA_TOOLS_VERIFY_IO_NBD_WORKER_H_

#include <libnbd.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "tools/verify_io/history.h"
#include "tools/verify_io/pause_meter.h"

namespace tessera::verify_io {

struct WorkerOptions {
  uint64_t writer = 1;  // unique in the run, from 1
  uint64_t seed = 1;
  uint32_t depth = 16;
  uint64_t first_block = 0;
  uint64_t block_count = 16384;
  uint32_t blocks_per_operation_max = 4;
  uint32_t write_percent = 60;
  uint32_t durable_percent = 2;        // of writes: with FUA
  uint32_t flush_every = 200;          // operations; 0: never
  uint64_t operations_per_second = 0;  // 0: no limit
  uint64_t operation_timeout_ms = 60'000;
};

// What the workers of a run have in common.
struct Shared {
  std::mutex mutex;
  std::vector<std::string> uris;        // guarded by mutex
  std::map<int, uint64_t> errors;       // by errno; guarded by mutex
  std::vector<std::string> bad_blocks;  // torn and misdirected; guarded by mutex
  uint64_t bad_block_count = 0;         // guarded by mutex
  std::atomic<uint64_t> reconnects{0};
  std::atomic<uint32_t> connected{0};
  std::atomic<bool> stop{false};  // finish what is in flight, then end
  std::atomic<bool> hold{false};  // finish what is in flight, then rest
  std::atomic<uint32_t> resting{0};
};

[[nodiscard]] Moment Now();

class NbdWorker {
 public:
  // `shared` must outlive it.
  NbdWorker(const WorkerOptions& options, Shared* shared);
  ~NbdWorker();
  // Until told to stop. Then reads every block it is responsible for once more.
  void Run();
  // Reads `count` blocks from `first`, each once, as part of the history. After Run.
  bool ReadAll(uint64_t first, uint64_t count, uint64_t deadline_ms);

  [[nodiscard]] const History& history() const { return history_; }
  [[nodiscard]] PauseMeter& pauses() { return pauses_; }

 private:
  struct Slot {
    enum class Kind { kFree, kRead, kWrite, kDurableWrite, kFlush };
    Kind kind = Kind::kFree;
    NbdWorker* worker = nullptr;
    uint64_t block = 0;
    uint32_t blocks = 0;
    uint64_t sequence = 0;
    Moment start = 0;
    bool answered = false;
    int error = 0;
    std::vector<std::byte> buffer;
  };
  // How an operation ended.
  enum class Outcome { kDone, kFailed, kUnknown };

  bool Connect();
  void Disconnect();
  bool Poll(int timeout_ms);
  void StartNext(Slot* slot);
  void Issue(Slot* slot);
  void CollectAnswers();
  void End(Slot* slot, Outcome outcome);
  void Record(const Slot& slot, Outcome outcome, Moment end);
  void NoteBlock(const Slot& slot, uint32_t index, Moment end);
  [[nodiscard]] bool InFlight() const;
  [[nodiscard]] bool Overdue() const;
  [[nodiscard]] bool MayStart(Moment now);
  static int OnAnswered(void* slot, int* error);

  const WorkerOptions options_;
  Shared* const shared_;
  std::mt19937_64 random_;
  nbd_handle* nbd_ = nullptr;
  bool reported_connected_ = false;
  size_t next_uri_ = 0;
  std::vector<Slot> slots_;
  uint64_t next_sequence_ = 1;
  uint64_t started_ = 0;
  Moment rate_origin_ = 0;
  uint64_t rate_started_ = 0;
  History history_;
  PauseMeter pauses_;
};

}  // namespace tessera::verify_io

#endif  // TESSERA_TOOLS_VERIFY_IO_NBD_WORKER_H_
