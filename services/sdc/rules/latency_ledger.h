// What the requests of one volume took, by stage, server and device, in windows of ten seconds, for
// ten minutes: docs/decisions/0013-where-latency-goes.md.
//
// Bounded: kWindows windows; in each at most kDevices devices, the rest together as one with the
// ids 0, and kExamples slow requests. Closed windows keep only buckets that have something.
//
// Pure: time is passed in (boot time, nanoseconds). Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_RULES_LATENCY_LEDGER_H_
#define TESSERA_SERVICES_SDC_RULES_LATENCY_LEDGER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "services/common/latency_buckets.h"
#include "tessera/v1/chunk.pb.h"
#include "tessera/v1/latency.pb.h"

namespace tessera::sdc {

// Stages of the client but for CLIENT_QUEUE, which is what is left: QOS_WAIT is the first.
inline constexpr size_t kClientStages = 6;
// Stages on the way and at a server: NETWORK is the first.
inline constexpr size_t kServerStages = 10;
[[nodiscard]] constexpr size_t ClientStage(v1::LatencyStage stage) {
  return static_cast<size_t>(stage) - v1::LATENCY_STAGE_QOS_WAIT;
}
[[nodiscard]] constexpr size_t ServerStage(v1::LatencyStage stage) {
  return static_cast<size_t>(stage) - v1::LATENCY_STAGE_NETWORK;
}

// Where the time between an operation's message and its answer went.
struct AnswerPath {
  uint64_t sds_id = 0;
  uint64_t device_id = 0;
  uint64_t received_nanos = 0;
  std::array<uint32_t, kServerStages> micros{};
};

// `round_trip_nanos` cut by what the server says (null: nothing). `away_nanos` is for how long this
// client had not looked before it found the answer: what may have been spent so is left out, as the
// client's own. `best_transit_nanos` is the least that the way took on this stream so far, and is
// brought up to date.
[[nodiscard]] std::array<uint32_t, kServerStages> CutRoundTrip(uint64_t round_trip_nanos,
                                                               uint64_t away_nanos,
                                                               const v1::StageTimes* times,
                                                               uint64_t* best_transit_nanos);

// A request that was answered.
struct LatencySample {
  v1::LatencyOperation operation = v1::LATENCY_OPERATION_UNSPECIFIED;
  uint64_t total_micros = 0;
  std::array<uint32_t, kClientStages> client_micros{};
  // The answers that were waited for one after another, as a rule one.
  std::span<const AnswerPath> paths;
  // How much later than the median of the others the last one came.
  uint32_t slowest_replica_micros = 0;
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
};
// What is left for CLIENT_QUEUE.
[[nodiscard]] uint64_t ClientQueueMicros(const LatencySample& sample);

class LatencyLedger {
 public:
  static constexpr uint64_t kWindowNanos = 10'000'000'000;
  static constexpr size_t kWindows = 60;
  static constexpr size_t kDevices = 64;
  static constexpr size_t kExamples = 4;

  explicit LatencyLedger(uint64_t now_nanos) : began_nanos_(now_nanos) {}

  // An answer, waited for or not: it says what a stage takes at best.
  void NoteAnswer(v1::LatencyOperation operation, const AnswerPath& path, uint64_t now_nanos);
  void Add(const LatencySample& sample, uint64_t now_nanos);
  // Of the last `window_s` seconds: whole windows, and the present one.
  [[nodiscard]] v1::LatencyFigures Figures(uint32_t window_s, v1::LatencyOperation operation,
                                           uint64_t now_nanos) const;
  [[nodiscard]] size_t MemoryBytes() const;

 private:
  static constexpr size_t kOperations = v1::LatencyOperation_ARRAYSIZE;
  static constexpr size_t kStages = v1::LatencyStage_ARRAYSIZE;
  // At a device: those of a server, and SLOWEST_REPLICA.
  static constexpr size_t kDeviceStages = kServerStages + 1;

  struct Cell {
    uint64_t count = 0;
    uint64_t sum_micros = 0;
    uint64_t max_micros = 0;
    std::array<uint32_t, kLatencyBuckets> buckets{};

    void Add(uint64_t micros);
  };
  // The whole time (as stage 0) and the client's stages.
  using ClientCells = std::array<Cell, kClientStages + 2>;
  using DeviceCells = std::array<Cell, kDeviceStages>;
  struct Device {
    uint64_t sds_id = 0;
    uint64_t device_id = 0;
    std::array<std::unique_ptr<DeviceCells>, kOperations> cells;
  };
  using Least = std::array<std::array<uint32_t, kStages>, kOperations>;
  struct Example {
    v1::LatencyExample shown;
    uint64_t answered_nanos = 0;
  };
  // The window that is being filled.
  struct Open {
    uint64_t number = 0;
    std::array<std::unique_ptr<ClientCells>, kOperations> client;
    std::vector<Device> devices;
    Least least;
    std::vector<Example> examples;
  };
  struct Row {
    v1::LatencyOperation operation = v1::LATENCY_OPERATION_UNSPECIFIED;
    v1::LatencyStage stage = v1::LATENCY_STAGE_UNSPECIFIED;
    uint64_t sds_id = 0;
    uint64_t device_id = 0;
    uint64_t count = 0;
    uint64_t sum_micros = 0;
    uint64_t max_micros = 0;
    uint32_t first_bucket = 0;  // in Closed::buckets
    uint32_t buckets = 0;
  };
  struct Closed {
    uint64_t number = 0;
    std::vector<Row> rows;
    std::vector<std::pair<uint32_t, uint32_t>> buckets;  // which, and how many
    Least least;
    std::vector<Example> examples;
  };

  // The window of the moment; closes the one before.
  Open& At(uint64_t now_nanos);
  [[nodiscard]] static Closed Close(const Open& open);
  [[nodiscard]] static DeviceCells& CellsOf(Open* open, const AnswerPath& path, size_t operation);
  static void KeepIfSlow(Open* open, const LatencySample& sample, uint64_t queue_micros,
                         uint64_t now_nanos);
  struct Sum;
  static void AddTo(const Closed& window, v1::LatencyOperation operation, Sum* sum);
  [[nodiscard]] static v1::LatencyFigures Shown(const Sum& sum, uint64_t now_nanos);

  const uint64_t began_nanos_;
  std::unique_ptr<Open> open_;  // null: nothing yet
  std::deque<Closed> closed_;   // oldest first
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RULES_LATENCY_LEDGER_H_
