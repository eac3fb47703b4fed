#include "services/sdc/rules/latency_ledger.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "services/common/latency_explainer.h"

namespace tessera::sdc {
namespace {

constexpr size_t kQueue = kClientStages + 1;  // of ClientCells

v1::LatencyStage DeviceStage(size_t index) {
  return index == kServerStages
             ? v1::LATENCY_STAGE_SLOWEST_REPLICA
             : static_cast<v1::LatencyStage>(v1::LATENCY_STAGE_NETWORK + static_cast<int>(index));
}

// Of ClientCells: the whole time has no stage.
v1::LatencyStage StageOfClientCell(size_t index) { return static_cast<v1::LatencyStage>(index); }
static_assert(v1::LATENCY_STAGE_QOS_WAIT == 1);
static_assert(v1::LATENCY_STAGE_CLIENT_QUEUE == kQueue);
static_assert(v1::LATENCY_STAGE_NETWORK == kQueue + 1);
static_assert(v1::LATENCY_STAGE_SLOWEST_REPLICA == v1::LATENCY_STAGE_NETWORK + kServerStages);

uint32_t Micros(uint64_t nanos) {
  return static_cast<uint32_t>(std::min<uint64_t>(nanos / 1000, UINT32_MAX));
}

void AddStage(v1::LatencyStage stage, const AnswerPath* path, uint64_t micros,
              v1::LatencyExample* example) {
  if (micros == 0) return;
  v1::LatencyExampleStage* added = example->add_stages();
  added->set_stage(stage);
  if (path != nullptr) {
    added->set_sds_id(path->sds_id);
    added->set_device_id(path->device_id);
  }
  added->set_micros(micros);
}

}  // namespace

std::array<uint32_t, kServerStages> CutRoundTrip(uint64_t round_trip_nanos, uint64_t away_nanos,
                                                 const v1::StageTimes* times,
                                                 uint64_t* best_transit_nanos) {
  std::array<uint32_t, kServerStages> cut{};
  const uint32_t whole = Micros(round_trip_nanos);
  uint32_t left = whole;
  if (times != nullptr) {
    const std::pair<v1::LatencyStage, uint32_t> said[] = {
        {v1::LATENCY_STAGE_SERVER_QUEUE, times->queue_micros()},
        {v1::LATENCY_STAGE_TOKEN_CHECK, times->token_micros()},
        {v1::LATENCY_STAGE_LIMIT_HELD, times->held_micros()},
        {v1::LATENCY_STAGE_JOURNAL, times->journal_micros()},
        {v1::LATENCY_STAGE_MEMORY_READ, times->memory_micros()},
        {v1::LATENCY_STAGE_DISK_READ, times->disk_micros()},
        {v1::LATENCY_STAGE_FLUSH_WAIT, times->flush_wait_micros()},
        {v1::LATENCY_STAGE_FLUSH_SYNC, times->flush_sync_micros()},
        {v1::LATENCY_STAGE_REPLY_QUEUE, times->reply_micros()}};
    for (const auto& [stage, micros] : said) {
      // Two clocks: a server may say more than there was.
      const uint32_t part = std::min(micros, left);
      cut[ServerStage(stage)] = part;
      left -= part;
    }
  }
  const uint64_t transit = uint64_t{left} * 1000;
  *best_transit_nanos = std::min(*best_transit_nanos, transit);
  uint32_t beyond_best = left - Micros(*best_transit_nanos);
  const uint32_t at_server = times == nullptr ? 0 : std::min(times->away_micros(), beyond_best);
  beyond_best -= at_server;
  const uint32_t at_client = std::min(Micros(away_nanos), beyond_best);
  cut[ServerStage(v1::LATENCY_STAGE_SERVER_QUEUE)] += at_server;
  cut[ServerStage(v1::LATENCY_STAGE_NETWORK)] = left - at_server - at_client;
  return cut;
}

uint64_t ClientQueueMicros(const LatencySample& sample) {
  uint64_t known = 0;
  for (const uint32_t micros : sample.client_micros) known += micros;
  for (const AnswerPath& path : sample.paths) {
    for (const uint32_t micros : path.micros) known += micros;
  }
  return sample.total_micros - std::min(sample.total_micros, known);
}

void LatencyLedger::Cell::Add(uint64_t micros) {
  ++count;
  sum_micros += micros;
  max_micros = std::max(max_micros, micros);
  ++buckets[LatencyBucketOf(micros)];
}

LatencyLedger::Open& LatencyLedger::At(uint64_t now_nanos) {
  const uint64_t number = now_nanos / kWindowNanos;
  if (open_ != nullptr && open_->number == number) return *open_;
  if (open_ != nullptr) closed_.push_back(Close(*open_));
  while (!closed_.empty() && closed_.front().number + kWindows <= number) closed_.pop_front();
  open_ = std::make_unique<Open>();
  open_->number = number;
  for (auto& stages : open_->least) stages.fill(UINT32_MAX);
  return *open_;
}

LatencyLedger::DeviceCells& LatencyLedger::CellsOf(Open* open, const AnswerPath& path,
                                                   size_t operation) {
  auto& devices = open->devices;
  auto found = std::find_if(devices.begin(), devices.end(), [&path](const Device& device) {
    return device.device_id == path.device_id && device.sds_id == path.sds_id;
  });
  if (found == devices.end()) {
    const bool full = devices.size() >= kDevices;
    // The last one stands for all that there is no room for.
    if (!full) devices.push_back({});
    found = devices.end() - 1;
    found->sds_id = full || devices.size() == kDevices ? 0 : path.sds_id;
    found->device_id = full || devices.size() == kDevices ? 0 : path.device_id;
  }
  std::unique_ptr<DeviceCells>& cells = found->cells[operation];
  if (cells == nullptr) cells = std::make_unique<DeviceCells>();
  return *cells;
}

void LatencyLedger::NoteAnswer(v1::LatencyOperation operation, const AnswerPath& path,
                               uint64_t now_nanos) {
  auto& least = At(now_nanos).least[static_cast<size_t>(operation)];
  for (size_t i = 0; i < kServerStages; ++i) {
    uint32_t& of_stage = least[v1::LATENCY_STAGE_NETWORK + i];
    of_stage = std::min(of_stage, path.micros[i]);
  }
}

void LatencyLedger::Add(const LatencySample& sample, uint64_t now_nanos) {
  Open& open = At(now_nanos);
  const auto operation = static_cast<size_t>(sample.operation);
  std::unique_ptr<ClientCells>& client = open.client[operation];
  if (client == nullptr) client = std::make_unique<ClientCells>();
  auto& least = open.least[operation];
  (*client)[0].Add(sample.total_micros);
  for (size_t i = 0; i < kClientStages; ++i) {
    const uint32_t micros = sample.client_micros[i];
    least[i + 1] = std::min(least[i + 1], micros);
    if (micros > 0) (*client)[i + 1].Add(micros);
  }
  const uint64_t queue = ClientQueueMicros(sample);
  least[kQueue] = static_cast<uint32_t>(std::min<uint64_t>(least[kQueue], queue));
  if (queue > 0) (*client)[kQueue].Add(queue);
  for (const AnswerPath& path : sample.paths) {
    DeviceCells& cells = CellsOf(&open, path, operation);
    for (size_t i = 0; i < kServerStages; ++i) {
      if (path.micros[i] > 0) cells[i].Add(path.micros[i]);
    }
  }
  if (sample.slowest_replica_micros > 0 && !sample.paths.empty()) {
    CellsOf(&open, sample.paths.back(), operation)[kServerStages].Add(
        sample.slowest_replica_micros);
  }
  KeepIfSlow(&open, sample, queue, now_nanos);
}

void LatencyLedger::KeepIfSlow(Open* open, const LatencySample& sample, uint64_t queue_micros,
                               uint64_t now_nanos) {
  auto& examples = open->examples;
  if (examples.size() >= kExamples) {
    const auto fastest =
        std::min_element(examples.begin(), examples.end(), [](const Example& a, const Example& b) {
          return a.shown.total_micros() < b.shown.total_micros();
        });
    if (sample.total_micros <= fastest->shown.total_micros()) return;
    examples.erase(fastest);
  }
  Example& kept = examples.emplace_back();
  kept.answered_nanos = now_nanos;
  kept.shown.set_operation(sample.operation);
  kept.shown.set_total_micros(sample.total_micros);
  kept.shown.set_offset_bytes(sample.offset_bytes);
  kept.shown.set_length_bytes(sample.length_bytes);
  for (size_t i = 0; i < kClientStages; ++i) {
    AddStage(StageOfClientCell(i + 1), nullptr, sample.client_micros[i], &kept.shown);
  }
  AddStage(v1::LATENCY_STAGE_CLIENT_QUEUE, nullptr, queue_micros, &kept.shown);
  for (const AnswerPath& path : sample.paths) {
    for (size_t i = 0; i < kServerStages; ++i) {
      AddStage(DeviceStage(i), &path, path.micros[i], &kept.shown);
    }
  }
}

LatencyLedger::Closed LatencyLedger::Close(const Open& open) {
  Closed closed;
  closed.number = open.number;
  closed.least = open.least;
  closed.examples = open.examples;
  const auto pack = [&closed](size_t operation, v1::LatencyStage stage, const Device* device,
                              const Cell& cell) {
    if (cell.count == 0) return;
    Row& row = closed.rows.emplace_back();
    row.operation = static_cast<v1::LatencyOperation>(operation);
    row.stage = stage;
    if (device != nullptr) {
      row.sds_id = device->sds_id;
      row.device_id = device->device_id;
    }
    row.count = cell.count;
    row.sum_micros = cell.sum_micros;
    row.max_micros = cell.max_micros;
    row.first_bucket = static_cast<uint32_t>(closed.buckets.size());
    for (uint32_t i = 0; i < kLatencyBuckets; ++i) {
      if (cell.buckets[i] > 0) closed.buckets.emplace_back(i, cell.buckets[i]);
    }
    row.buckets = static_cast<uint32_t>(closed.buckets.size()) - row.first_bucket;
  };
  for (size_t operation = 0; operation < kOperations; ++operation) {
    if (open.client[operation] != nullptr) {
      for (size_t i = 0; i < open.client[operation]->size(); ++i) {
        pack(operation, StageOfClientCell(i), nullptr, (*open.client[operation])[i]);
      }
    }
    for (const Device& device : open.devices) {
      if (device.cells[operation] == nullptr) continue;
      for (size_t i = 0; i < kDeviceStages; ++i) {
        pack(operation, DeviceStage(i), &device, (*device.cells[operation])[i]);
      }
    }
  }
  closed.rows.shrink_to_fit();
  closed.buckets.shrink_to_fit();
  return closed;
}

// What windows add up to.
struct LatencyLedger::Sum {
  using Key = std::tuple<v1::LatencyOperation, v1::LatencyStage, uint64_t, uint64_t>;
  std::map<Key, Cell> cells;
  Least least;
  std::vector<Example> examples;
};

void LatencyLedger::AddTo(const Closed& window, v1::LatencyOperation operation, Sum* sum) {
  const auto asked = [operation](v1::LatencyOperation of) {
    return operation == v1::LATENCY_OPERATION_UNSPECIFIED || of == operation;
  };
  for (const Row& row : window.rows) {
    if (!asked(row.operation)) continue;
    Cell& cell = sum->cells[{row.operation, row.stage, row.sds_id, row.device_id}];
    cell.count += row.count;
    cell.sum_micros += row.sum_micros;
    cell.max_micros = std::max(cell.max_micros, row.max_micros);
    for (uint32_t i = row.first_bucket; i < row.first_bucket + row.buckets; ++i) {
      cell.buckets[window.buckets[i].first] += window.buckets[i].second;
    }
  }
  for (size_t of = 0; of < kOperations; ++of) {
    for (size_t stage = 0; stage < kStages; ++stage) {
      sum->least[of][stage] = std::min(sum->least[of][stage], window.least[of][stage]);
    }
  }
  for (const Example& example : window.examples) {
    if (asked(example.shown.operation())) sum->examples.push_back(example);
  }
}

v1::LatencyFigures LatencyLedger::Shown(const Sum& sum, uint64_t now_nanos) {
  v1::LatencyFigures figures;
  for (const auto& [key, cell] : sum.cells) {
    const auto& [operation, stage, sds_id, device_id] = key;
    const bool whole = stage == v1::LATENCY_STAGE_UNSPECIFIED;
    v1::LatencyRow* row = whole ? figures.add_requests() : figures.add_rows();
    row->set_operation(operation);
    row->set_stage(stage);
    row->set_sds_id(sds_id);
    row->set_device_id(device_id);
    row->set_count(cell.count);
    row->set_sum_micros(cell.sum_micros);
    const uint32_t least = sum.least[static_cast<size_t>(operation)][static_cast<size_t>(stage)];
    row->set_least_micros(least == UINT32_MAX ? 0 : least);
    row->set_max_micros(cell.max_micros);
    for (uint32_t i = 0; i < kLatencyBuckets; ++i) {
      if (cell.buckets[i] == 0) continue;
      row->add_buckets(i);
      row->add_bucket_counts(cell.buckets[i]);
    }
  }
  for (const Example& example : sum.examples) {
    v1::LatencyExample* shown = figures.add_slowest();
    *shown = example.shown;
    shown->set_age_ms((now_nanos - std::min(now_nanos, example.answered_nanos)) / 1'000'000);
  }
  SortSlowest(&figures);
  return figures;
}

v1::LatencyFigures LatencyLedger::Figures(uint32_t window_s, v1::LatencyOperation operation,
                                          uint64_t now_nanos) const {
  const uint64_t number = now_nanos / kWindowNanos;
  const uint64_t seconds = kWindowNanos / 1'000'000'000;
  // Before the present one.
  const uint64_t windows = std::min<uint64_t>((window_s + seconds - 1) / seconds, kWindows - 1);
  const uint64_t first = number - std::min(number, windows);
  Sum sum;
  for (auto& stages : sum.least) stages.fill(UINT32_MAX);
  for (const Closed& window : closed_) {
    if (window.number >= first) AddTo(window, operation, &sum);
  }
  if (open_ != nullptr && open_->number >= first) AddTo(Close(*open_), operation, &sum);
  v1::LatencyFigures figures = Shown(sum, now_nanos);
  const uint64_t since = std::max(began_nanos_, first * kWindowNanos);
  figures.set_covered_ms((now_nanos - std::min(now_nanos, since)) / 1'000'000);
  return figures;
}

size_t LatencyLedger::MemoryBytes() const {
  size_t bytes = sizeof(*this);
  if (open_ != nullptr) {
    bytes += sizeof(Open) + open_->devices.capacity() * sizeof(Device);
    for (const auto& cells : open_->client) bytes += cells != nullptr ? sizeof(ClientCells) : 0;
    for (const Device& device : open_->devices) {
      for (const auto& cells : device.cells) bytes += cells != nullptr ? sizeof(DeviceCells) : 0;
    }
    for (const Example& example : open_->examples) bytes += example.shown.SpaceUsedLong();
  }
  for (const Closed& window : closed_) {
    bytes += sizeof(Closed) + window.rows.capacity() * sizeof(Row) +
             window.buckets.capacity() * sizeof(window.buckets[0]);
    for (const Example& example : window.examples) bytes += example.shown.SpaceUsedLong();
  }
  return bytes;
}

}  // namespace tessera::sdc
