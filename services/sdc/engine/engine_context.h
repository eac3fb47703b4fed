// What volumes need of the engine around them, and what the engine needs of the MDM.
//
// Threads: all calls on the loop thread.
#ifndef TESSERA_SERVICES_SDC_ENGINE_ENGINE_CONTEXT_H_
#define TESSERA_SERVICES_SDC_ENGINE_ENGINE_CONTEXT_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "services/common/stage_histograms.h"
#include "services/sdc/block_device.h"
#include "services/sdc/cache/read_cache.h"
#include "services/sdc/engine/sds_stream.h"
#include "services/sdc/event_loop.h"
#include "services/sdc/resume/resume_table.h"
#include "services/sdc/rules/map_cache.h"

namespace tessera::sdc {

struct EngineOptions {
  std::string own_host_id;
  EventLoop::Duration replica_timeout = std::chrono::seconds(2);
  EventLoop::Duration flush_timeout = std::chrono::seconds(10);
  EventLoop::Duration io_timeout{0};  // 0: requests wait for ever
  // How long a write waits for space when the pool is full, before it fails with ENOSPC.
  EventLoop::Duration full_wait{0};
  // Acknowledged writes of all volumes that are kept until they are durable; when half of it is
  // used, and after `flush_after`, a volume that has some flushes by itself. 0: none are kept, and
  // power loss of the last replica can lose them: docs/REPLICATION.md, "Restarts and power loss".
  uint64_t unflushed_bytes = 128u << 20;
  // Also bounds the memory behind small writes, whose receive buffers are larger than they are.
  EventLoop::Duration flush_after = std::chrono::seconds(5);
  // A client that takes no notice of its limits: for tests of the servers, no flag sets it.
  bool ignore_limits = false;
};

// What is wrong with a grant.
enum class GrantTrouble : uint8_t {
  kRenew,    // expired, or signed under a key that went, or a server has joined the pool
  kAcquire,  // a newer generation exists
};

struct ReplicaReport {
  uint64_t placement_group_id = 0;
  uint64_t epoch = 0;
  uint64_t device_id = 0;
  std::string reason;
};

// The MDM as the engine sees it. Answers come back through IoEngine, later.
class ClusterLink {
 public:
  virtual ~ClusterLink() = default;
  // Answered by IoEngine::ReportsAnswered, or ReportsFailed when the MDM can't be asked.
  virtual void ReportReplicas(std::vector<ReplicaReport> reports) = 0;
  // Answered by IoEngine::SetGrant. Repeated calls while one is under way have no effect.
  virtual void GrantNeeded(uint64_t volume_id, GrantTrouble trouble) = 0;
};

// Counters with one writer, the loop thread, and readers anywhere.
class LoopCounter {
 public:
  void Add(uint64_t amount = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  void Subtract(uint64_t amount) {
    value_.store(value_.load(std::memory_order_relaxed) - amount, std::memory_order_relaxed);
  }
  [[nodiscard]] uint64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

inline constexpr size_t kCommandCount = 8;
// Upper bounds of durations in microseconds: those of services/common/metrics.h DurationBuckets().
inline constexpr std::array<uint32_t, 17> kDurationBoundsMicros = {
    50,     100,     200,     500,     1'000,     2'000,     5'000,     10'000,    20'000,
    50'000, 100'000, 200'000, 500'000, 1'000'000, 2'000'000, 5'000'000, 10'000'000};

// A histogram.
struct DurationCounters {
  LoopCounter duration_micros;
  std::array<LoopCounter, kDurationBoundsMicros.size() + 1> durations;

  void Observe(uint64_t micros) {
    size_t bucket = 0;
    while (bucket < kDurationBoundsMicros.size() && micros > kDurationBoundsMicros[bucket]) {
      ++bucket;
    }
    durations[bucket].Add();
    duration_micros.Add(micros);
  }
};

struct CommandCounters : DurationCounters {
  LoopCounter requests;
  LoopCounter errors;
  LoopCounter bytes;
};

struct EngineCounters {
  std::array<CommandCounters, kCommandCount> commands;  // by Command
  LoopCounter in_flight;                                // gauge: requests
  LoopCounter read_retries;                             // a read sent to another replica, or again
  LoopCounter write_repeats;                            // a write sent again to a replica
  LoopCounter replicas_reported;
  LoopCounter grants_needed;
  LoopCounter requests_timed_out;
  LoopCounter limited;              // requests that had to wait for their volume's limits ..
  LoopCounter limited_wait_micros;  // .. and how long
  LoopCounter waits_for_space;      // writes that found the pool full and wait
  LoopCounter unflushed_bytes;      // gauge: kept until durable
  LoopCounter replicas_caught_up;   // after they had lost what was not flushed
  LoopCounter volumes_resumed;      // from an earlier life of this process
  LoopCounter writes_resumed;       // of these, unacknowledged or kept
  LoopCounter writes_outside;       // found no room in the resume file
  StageHistograms stages;           // of all volumes' requests
};

class EngineContext {
 public:
  virtual ~EngineContext() = default;
  [[nodiscard]] virtual EventLoop& loop() = 0;
  [[nodiscard]] virtual const EngineOptions& options() const = 0;
  [[nodiscard]] virtual const MapCache& map() const = 0;
  // Null while the server's address is not known.
  [[nodiscard]] virtual SdsStream* StreamTo(uint64_t sds_id) = 0;
  virtual void ReportReplica(ReplicaReport report) = 0;
  virtual void GrantNeeded(uint64_t volume_id, GrantTrouble trouble) = 0;
  // Something was not answered in time by the server: when it says nothing at all, everything that
  // waits for it is late.
  virtual void SuspectServer(uint64_t sds_id) = 0;
  [[nodiscard]] virtual EngineCounters& counters() = 0;
  // What the next life of this process is to know; null: nothing.
  [[nodiscard]] virtual ResumeTable* resume() = 0;
  // Null: there is none.
  [[nodiscard]] virtual ReadCache* cache() = 0;
  [[nodiscard]] uint64_t NowNanos() { return static_cast<uint64_t>(loop().Now().count()); }
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_ENGINE_CONTEXT_H_
