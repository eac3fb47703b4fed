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

SdcMetrics::SdcMetrics(MetricRegistry& registry, EventLoop& loop, const IoEngine& engine,
                       const Attachments& attachments, const MdmLink& link, const NbdServer& nbd)
    : registry_(registry),
      loop_(loop),
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
    command.durations =
        &registry.Histogram("tessera_sdc_io_duration_seconds",
                            "From a request's arrival to its answer.", labels, BoundsInSeconds());
    command.buckets_seen.resize(kDurationBoundsMicros.size() + 1);
  }
  registry.AddCollector([this] { Collect(); });
}

void SdcMetrics::Follow(const std::string& name, const std::string& help, uint64_t value,
                        const MetricRegistry::Labels& labels, double unit) {
  std::string key = name;
  for (const auto& [label, text] : labels) absl::StrAppend(&key, "|", label, "=", text);
  Follower& follower = followers_[key];
  if (follower.counter == nullptr) follower.counter = &registry_.Counter(name, help, labels);
  follower.Set(value, unit);
}

void SdcMetrics::Collect() {
  absl::MutexLock lock(&mutex_);
  CollectCommands();
  CollectNbd();
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
  const Attachments::Counters& grants = attachments_.counters();
  Follow("tessera_sdc_grant_renewals_total", "Grants renewed.", grants.renewals.Get());
  Follow("tessera_sdc_grant_acquisitions_total", "Grants acquired.", grants.acquisitions.Get());
  Follow("tessera_sdc_grant_failures_total", "Calls about grants that failed.",
         grants.failures.Get());
  CollectVolumes();
}

void SdcMetrics::CollectCommands() {
  for (size_t i = 0; i < kCommandCount; ++i) {
    const CommandCounters& from = engine_.metrics().commands[i];
    PerCommand& to = commands_[i];
    to.requests.Set(from.requests.Get());
    to.errors.Set(from.errors.Get());
    to.bytes.Set(from.bytes.Get());
    std::vector<double> increments(to.buckets_seen.size());
    for (size_t b = 0; b < increments.size(); ++b) {
      const auto now = static_cast<double>(from.durations[b].Get());
      increments[b] = now - to.buckets_seen[b];
      to.buckets_seen[b] = now;
    }
    const uint64_t micros = from.duration_micros.Get();
    to.durations->ObserveMultiple(increments, static_cast<double>(micros - to.micros_seen) * 1e-6);
    to.micros_seen = micros;
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

void SdcMetrics::CollectVolumes() {
  const auto samples = AskLoop<std::vector<VolumeSample>>(loop_, kPatience, [this](auto answer) {
    std::vector<VolumeSample> taken;
    for (const auto& volume : engine_.Volumes()) {
      if (taken.size() == kVolumesShown) break;
      const VolumeStats& stats = volume->stats();
      taken.push_back({absl::StrCat(volume->volume_id()), stats.reads.Get(), stats.writes.Get(),
                       stats.read_bytes.Get(), stats.write_bytes.Get(), stats.errors.Get(),
                       stats.in_flight.Get()});
    }
    answer(std::move(taken));
  });
  if (!samples.ok()) return;  // a busy loop: the next scrape catches up
  for (const VolumeSample& volume : *samples) {
    const auto labels = [&volume](const char* op) {
      return MetricRegistry::Labels{{"volume", volume.id}, {"op", op}};
    };
    constexpr char kRequests[] = "tessera_volume_io_requests_total";
    constexpr char kBytes[] = "tessera_volume_io_bytes_total";
    Follow(kRequests, "Requests answered, by volume.", volume.reads, labels("read"));
    Follow(kRequests, "Requests answered, by volume.", volume.writes, labels("write"));
    Follow(kBytes, "Bytes of requests, by volume.", volume.read_bytes, labels("read"));
    Follow(kBytes, "Bytes of requests, by volume.", volume.write_bytes, labels("write"));
    Follow("tessera_volume_io_errors_total", "Requests that failed, by volume.", volume.errors,
           {{"volume", volume.id}});
  }
}

}  // namespace tessera::sdc
