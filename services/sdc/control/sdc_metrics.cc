#include "services/sdc/control/sdc_metrics.h"

#include "absl/strings/str_cat.h"
#include "services/sdc/control/loop_call.h"

namespace tessera::sdc {
namespace {

constexpr std::array<std::string_view, kCommandCount> kNames = {
    "read", "write", "flush", "trim", "write_zeroes", "block_status", "cache", "changes"};
constexpr std::chrono::milliseconds kPatience{500};

std::vector<double> BoundsInSeconds() {
  std::vector<double> bounds;
  for (const uint32_t micros : kDurationBoundsMicros) bounds.push_back(micros * 1e-6);
  return bounds;
}

}  // namespace

std::string_view CommandName(Command command) { return kNames[static_cast<size_t>(command)]; }

SdcMetrics::SdcMetrics(MetricRegistry& registry, EventLoop& loop, const Clock& clock,
                       const IoEngine& engine, const Attachments& attachments, const MdmLink& link,
                       const NbdServer& nbd)
    : registry_(registry),
      loop_(loop),
      clock_(clock),
      engine_(engine),
      attachments_(attachments),
      link_(link),
      nbd_(nbd) {
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < kCommandCount; ++i) {
    const MetricRegistry::Labels labels{{"op", std::string(kNames[i])}};
    PerCommand& command = commands_[i];
    command.requests.counter = &registry.Counter("tessera_sdc_io_requests_total",
                                                 "Requests of applications answered.", labels);
    command.errors.counter = &registry.Counter(
        "tessera_sdc_io_errors_total", "Requests of applications answered with an error.", labels);
    command.bytes.counter = &registry.Counter("tessera_sdc_io_bytes_total",
                                              "Bytes of requests answered without error.", labels);
    command.durations.histogram =
        &registry.Histogram("tessera_sdc_io_duration_seconds",
                            "From a request's arrival to its answer.", labels, BoundsInSeconds());
  }
  registry.AddCollector([this] { Collect(); });
  std::vector<v1::LatencyStage> stages;
  for (size_t i = 1; i < kLatencyStages; ++i) stages.push_back(static_cast<v1::LatencyStage>(i));
  ExportStages(&registry, "tessera_sdc_stage_duration_seconds",
               "Where the time of requests went, of those that had the stage.", stages,
               {&engine.metrics().stages});
}

void SdcMetrics::Follow(const std::string& name, const std::string& help, uint64_t value,
                        const MetricRegistry::Labels& labels, double unit) {
  std::string key = name;
  for (const auto& [label, text] : labels) absl::StrAppend(&key, "|", label, "=", text);
  Follower& follower = followers_[key];
  if (follower.counter == nullptr) follower.counter = &registry_.Counter(name, help, labels);
  follower.Set(value, unit);
}

void SdcMetrics::HistogramFollower::Set(const DurationCounters& from) {
  std::vector<double> increments(seen.size());
  for (size_t i = 0; i < seen.size(); ++i) {
    const uint64_t now = from.durations[i].Get();
    increments[i] = static_cast<double>(now - seen[i]);
    seen[i] = now;
  }
  const uint64_t micros = from.duration_micros.Get();
  histogram->ObserveMultiple(increments, static_cast<double>(micros - micros_seen) * 1e-6);
  micros_seen = micros;
}

void SdcMetrics::Collect() {
  const LoopSample sample = SampleLoop();
  absl::MutexLock lock(&mutex_);
  CollectCommands();
  CollectClock();
  CollectGrants();
  CollectNbd();
  CollectVolumes(sample.volumes);
  for (const ServerSample& server : sample.servers) CollectServer(server);
  if (engine_.read_cache() != nullptr) CollectReadCache(*engine_.read_cache());
  const EngineCounters& counters = engine_.metrics();
  registry_.Gauge("tessera_sdc_io_in_flight", "Requests not answered yet.")
      .Set(static_cast<double>(counters.in_flight.Get()));
  registry_.Gauge("tessera_sdc_mdm_reachable", "The last call to the MDM was answered.")
      .Set(link_.reachable() ? 1 : 0);
  Follow("tessera_sdc_read_retries_total", "Reads sent again or to another replica.",
         counters.read_retries.Get());
  Follow("tessera_sdc_write_repeats_total", "Writes sent to a replica again.",
         counters.write_repeats.Get());
  Follow("tessera_sdc_replica_failures_reported_total", "Replicas reported to the MDM as failed.",
         counters.replicas_reported.Get());
  Follow("tessera_sdc_io_timeouts_total", "Requests failed by --io-timeout.",
         counters.requests_timed_out.Get());
  Follow("tessera_sdc_waits_for_space_total", "Times that a write found the pool full and waited.",
         counters.waits_for_space.Get());
  registry_
      .Gauge("tessera_sdc_unflushed_bytes",
             "Writes kept until a flush has made them durable, with what they cost besides.")
      .Set(static_cast<double>(counters.unflushed_bytes.Get()));
  Follow("tessera_sdc_replicas_caught_up_total",
         "Times that a replica had lost unflushed writes and was sent them again.",
         counters.replicas_caught_up.Get());
  Follow("tessera_sdc_volumes_resumed_total",
         "Volumes that this process went on with when it started.", counters.volumes_resumed.Get());
  Follow("tessera_sdc_writes_resumed_total",
         "Writes of these, unanswered or kept, that the process before had left.",
         counters.writes_resumed.Get());
  Follow("tessera_sdc_writes_outside_total",
         "Writes that found no room in the resume file: a restart meanwhile needs the MDM.",
         counters.writes_outside.Get());
  Follow("tessera_sdc_limited_requests_total", "Requests that waited for their volume's limits.",
         counters.limited.Get());
  Follow("tessera_sdc_limited_wait_seconds_total",
         "How long requests waited for their volume's limits.", counters.limited_wait_micros.Get(),
         {}, 1e-6);
  Follow("tessera_sdc_reconnects_total", "Streams to servers that broke.", engine_.reconnects());
}

void SdcMetrics::CollectClock() {
  const MdmTimeEstimator::Estimate now = link_.mdm_time().Now();
  if (!now.known) return;
  const double middle =
      (static_cast<double>(now.earliest_ms) + static_cast<double>(now.latest_ms)) / 2;
  registry_.Gauge("tessera_clock_offset_seconds", "Wall clock less MDM time.")
      .Set((static_cast<double>(clock_.WallMillis()) - middle) * 1e-3);
  registry_
      .Gauge("tessera_clock_error_seconds",
             "MDM time, as it is known here, is wrong by at most this.")
      .Set(static_cast<double>(now.latest_ms - now.earliest_ms) * 0.5e-3);
}

void SdcMetrics::CollectGrants() {
  const Attachments::Counters& grants = attachments_.counters();
  Follow("tessera_sdc_grant_renewals_total", "Grants renewed.", grants.renewals.Get());
  Follow("tessera_sdc_grant_acquisitions_total", "Grants acquired.", grants.acquisitions.Get());
  Follow("tessera_sdc_grant_failures_total", "Calls about grants that failed.",
         grants.failures.Get());
}

void SdcMetrics::CollectCommands() {
  for (size_t i = 0; i < kCommandCount; ++i) {
    const CommandCounters& from = engine_.metrics().commands[i];
    PerCommand& to = commands_[i];
    to.requests.Set(from.requests.Get());
    to.errors.Set(from.errors.Get());
    to.bytes.Set(from.bytes.Get());
    to.durations.Set(from);
  }
}

void SdcMetrics::CollectNbd() {
  const NbdServerStats stats = nbd_.stats();
  registry_.Gauge("tessera_sdc_nbd_connections", "NBD connections now.")
      .Set(static_cast<double>(stats.connections_open));
  registry_
      .Gauge("tessera_sdc_nbd_in_flight_bytes", "Bytes of NBD requests between socket and reply.")
      .Set(static_cast<double>(stats.inflight_bytes));
  Follow("tessera_sdc_nbd_connections_accepted_total", "NBD connections accepted.",
         stats.connections_accepted);
  Follow("tessera_sdc_nbd_connections_refused_total", "NBD connections over the limit.",
         stats.connections_refused);
  Follow("tessera_sdc_nbd_connections_broken_total",
         "NBD connections closed because the client broke the protocol.", stats.connections_broken);
  Follow("tessera_sdc_nbd_requests_refused_total", "NBD requests that the server itself refused.",
         stats.requests_refused);
  for (size_t i = 0; i < stats.errors.size(); ++i) {
    Follow("tessera_sdc_nbd_errors_total", "NBD replies with an error, by errno.", stats.errors[i],
           {{"errno", absl::StrCat(NbdServerStats::kErrors[i])}});
  }
}

void SdcMetrics::CollectReadCache(const ReadCache& cache) {
  const ReadCacheFigures& figures = cache.figures();
  registry_.Gauge("tessera_sdc_read_cache_size_bytes", "What the read cache may hold.")
      .Set(static_cast<double>(cache.size_bytes()));
  registry_.Gauge("tessera_sdc_read_cache_used_bytes", "Blocks in the read cache.")
      .Set(static_cast<double>(figures.used_bytes));
  registry_
      .Gauge("tessera_sdc_read_cache_resting",
             "The read cache is not used for a while, after an error of its file.")
      .Set(figures.resting ? 1 : 0);
  Follow("tessera_sdc_read_cache_hits_total", "Reads (by chunk) answered from the read cache.",
         figures.hits);
  Follow("tessera_sdc_read_cache_misses_total", "Reads (by chunk) that it did not have.",
         figures.misses);
  Follow("tessera_sdc_read_cache_hit_bytes_total", "Bytes of hits.", figures.hit_bytes);
  Follow("tessera_sdc_read_cache_admitted_bytes_total", "Bytes put into the read cache.",
         figures.admitted_bytes);
  Follow("tessera_sdc_read_cache_evicted_bytes_total", "Bytes that made room for others.",
         figures.evicted_bytes);
  Follow("tessera_sdc_read_cache_errors_total",
         "Errors of its file, reads of it that took too long, wrong checksums.", figures.errors);
  Follow("tessera_sdc_read_cache_wrong_checksums_total", "Blocks with a wrong checksum.",
         figures.wrong_checksums);
}

SdcMetrics::LoopSample SdcMetrics::SampleLoop() const {
  const auto sample = AskLoop<LoopSample>(loop_, kPatience, [this](auto answer) {
    LoopSample taken;
    for (const auto& volume : engine_.Volumes()) {
      if (taken.volumes.size() == kVolumesShown) break;
      const VolumeStats& stats = volume->stats();
      taken.volumes.push_back({absl::StrCat(volume->volume_id()), volume->name(), stats.reads.Get(),
                               stats.writes.Get(), stats.read_bytes.Get(), stats.write_bytes.Get(),
                               stats.read_micros.Get(), stats.write_micros.Get(),
                               stats.limited_wait_micros.Get(), stats.errors.Get(),
                               stats.in_flight.Get()});
    }
    engine_.ForEachStream([&taken](const SdsStream& stream) {
      taken.servers.push_back(
          {absl::StrCat(stream.sds_id()), stream.open(), stream.in_flight(), stream.counters()});
    });
    answer(std::move(taken));
  });
  return sample.ok() ? *sample : LoopSample{};  // a busy loop: the next scrape catches up
}

void SdcMetrics::CollectVolumes(const std::vector<VolumeSample>& volumes) {
  constexpr char kInfo[] = "tessera_volume_info";
  constexpr char kInfoHelp[] = "1 while the volume is attached; says which name its id has.";
  std::set<std::pair<std::string, std::string>> gone = std::exchange(attached_, {});
  for (const VolumeSample& volume : volumes) {
    const auto labels = [&volume](const char* op) {
      return MetricRegistry::Labels{{"volume", volume.id}, {"op", op}};
    };
    const MetricRegistry::Labels label{{"volume", volume.id}};
    constexpr char kRequests[] = "tessera_volume_io_requests_total";
    constexpr char kBytes[] = "tessera_volume_io_bytes_total";
    constexpr char kSeconds[] = "tessera_volume_io_seconds_total";
    Follow(kRequests, "Requests answered, by volume.", volume.reads, labels("read"));
    Follow(kRequests, "Requests answered, by volume.", volume.writes, labels("write"));
    Follow(kBytes, "Bytes of requests, by volume.", volume.read_bytes, labels("read"));
    Follow(kBytes, "Bytes of requests, by volume.", volume.write_bytes, labels("write"));
    Follow(kSeconds, "Time that requests took, by volume.", volume.read_micros, labels("read"),
           1e-6);
    Follow(kSeconds, "Time that requests took, by volume.", volume.write_micros, labels("write"),
           1e-6);
    Follow("tessera_volume_io_errors_total", "Requests that failed, by volume.", volume.errors,
           label);
    Follow("tessera_volume_throttled_seconds_total",
           "How long requests waited for the volume's limits.", volume.limited_micros, label, 1e-6);
    registry_.Gauge("tessera_volume_in_flight", "Requests not answered yet, by volume.", label)
        .Set(static_cast<double>(volume.in_flight));
    registry_.Gauge(kInfo, kInfoHelp, {{"volume", volume.id}, {"name", volume.name}}).Set(1);
    attached_.emplace(volume.id, volume.name);
    gone.erase({volume.id, volume.name});
  }
  for (const auto& [id, name] : gone) {
    registry_.Gauge(kInfo, kInfoHelp, {{"volume", id}, {"name", name}}).Set(0);
  }
}

void SdcMetrics::CollectServer(const ServerSample& server) {
  const MetricRegistry::Labels label{{"sds", server.id}};
  registry_
      .Gauge("tessera_sdc_server_connected", "1 while the stream to the server is open.", label)
      .Set(server.connected ? 1 : 0);
  registry_
      .Gauge("tessera_sdc_server_in_flight", "Operations that the server has not answered.", label)
      .Set(static_cast<double>(server.in_flight));
  const auto follow = [&](const char* op, const SdsStream::Answers& answers) {
    const MetricRegistry::Labels labels{{"sds", server.id}, {"op", op}};
    Follow("tessera_sdc_server_operations_total", "Operations answered, by server.",
           answers.operations, labels);
    Follow("tessera_sdc_server_seconds_total",
           "Time from an operation's leaving to its answer, by server.", answers.micros, labels,
           1e-6);
    Follow("tessera_sdc_server_store_seconds_total",
           "Of that, the time in the server's store, as the server says.", answers.store_micros,
           labels, 1e-6);
  };
  follow("read", server.counters.reads);
  follow("write", server.counters.writes);
  follow("flush", server.counters.flushes);
}

}  // namespace tessera::sdc
