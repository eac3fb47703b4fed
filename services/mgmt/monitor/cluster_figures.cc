#include "services/mgmt/monitor/cluster_figures.h"

namespace tessera::mgmt {
namespace {

double Figure(const PolledPart& part, const std::string& name) {
  const auto found = part.figures.find(name);
  return found == part.figures.end() ? 0 : found->second;
}

uint64_t Micros(const Distribution& distribution, double fraction) {
  return static_cast<uint64_t>(distribution.Percentile(fraction).value_or(0) * 1e6);
}

void AddDevices(const google::protobuf::RepeatedPtrField<v1::Sds>& servers,
                v1::ClusterFigures* figures) {
  for (const v1::Sds& server : servers) {
    for (const v1::Device& device : server.devices()) {
      figures->set_capacity_bytes(figures->capacity_bytes() +
                                  device.description().capacity_bytes());
      figures->set_used_bytes(figures->used_bytes() + device.description().used_bytes());
    }
  }
}

void AddVolumes(const ClusterSnapshot& snapshot, v1::ClusterFigures* figures) {
  for (const v1::Volume& volume : snapshot.volumes) {
    figures->set_volumes(figures->volumes() + 1);
    figures->set_provisioned_bytes(figures->provisioned_bytes() + volume.size_bytes());
  }
  uint64_t degraded = 0;
  uint64_t unavailable = 0;
  for (const v1::VolumeHealth& health : snapshot.volume_health) {
    const bool gone = health.verdict() == v1::VOLUME_VERDICT_UNAVAILABLE ||
                      health.verdict() == v1::VOLUME_VERDICT_DAMAGED;
    ++(gone ? unavailable : degraded);
  }
  figures->set_volumes_degraded(degraded);
  figures->set_volumes_unavailable(unavailable);
  const uint64_t unwell = degraded + unavailable;
  figures->set_volumes_healthy(figures->volumes() > unwell ? figures->volumes() - unwell : 0);
}

struct ClusterSeries {
  std::string_view figure;
  std::string_view unit;
  bool of_mdm;  // else of the parts, whether the MDM answers or not
  double (*value)(const v1::ClusterFigures&);
};

#define TESSERA_CLUSTER_SERIES(field, unit, of_mdm)                                            \
  ClusterSeries {                                                                              \
#field, unit, of_mdm,                                                                      \
        [](const v1::ClusterFigures& figures) { return static_cast<double>(figures.field()); } \
  }
constexpr ClusterSeries kClusterSeries[] = {
    TESSERA_CLUSTER_SERIES(capacity_bytes, kBytes, true),
    TESSERA_CLUSTER_SERIES(used_bytes, kBytes, true),
    TESSERA_CLUSTER_SERIES(provisioned_bytes, kBytes, true),
    TESSERA_CLUSTER_SERIES(volumes, kCount, true),
    TESSERA_CLUSTER_SERIES(snapshots, kCount, true),
    TESSERA_CLUSTER_SERIES(volumes_healthy, kCount, true),
    TESSERA_CLUSTER_SERIES(volumes_degraded, kCount, true),
    TESSERA_CLUSTER_SERIES(volumes_unavailable, kCount, true),
    TESSERA_CLUSTER_SERIES(reads_per_second, kOperationsPerSecond, false),
    TESSERA_CLUSTER_SERIES(writes_per_second, kOperationsPerSecond, false),
    TESSERA_CLUSTER_SERIES(read_bytes_per_second, kBytesPerSecond, false),
    TESSERA_CLUSTER_SERIES(write_bytes_per_second, kBytesPerSecond, false),
    TESSERA_CLUSTER_SERIES(read_latency_p50_micros, kMicroseconds, false),
    TESSERA_CLUSTER_SERIES(read_latency_p99_micros, kMicroseconds, false),
    TESSERA_CLUSTER_SERIES(write_latency_p50_micros, kMicroseconds, false),
    TESSERA_CLUSTER_SERIES(write_latency_p99_micros, kMicroseconds, false),
    TESSERA_CLUSTER_SERIES(rebuild_remaining_bytes, kBytes, true),
};
#undef TESSERA_CLUSTER_SERIES

void AddPartSamples(const PolledPart& part, std::vector<SeriesSample>* samples) {
  const v1::MonitoredComponent& component = part.component;
  if (!component.answers()) return;
  const auto add = [&](std::string_view series, std::string_view unit) {
    const auto found = part.figures.find(std::string(series));
    if (found == part.figures.end()) return;
    samples->push_back({{component.kind(), component.component_id(), 0, series},
                        component.name(),
                        unit,
                        found->second});
  };
  for (const FigureRule& rule : FigureRules()) {
    if (rule.kind == v1::COMPONENT_KIND_UNSPECIFIED || rule.kind == component.kind()) {
      add(rule.series, rule.unit);
    }
  }
  for (const PercentileRule& rule : PercentileRules()) {
    if (rule.kind != component.kind()) continue;
    add(rule.p50_series, kMicroseconds);
    add(rule.p99_series, kMicroseconds);
  }
}

}  // namespace

v1::ClusterFigures SumUp(const ClusterSnapshot& snapshot, const Distribution& reads,
                         const Distribution& writes) {
  v1::ClusterFigures figures;
  for (const auto& domain : snapshot.topology.topology().protection_domains()) {
    AddDevices(domain.sdss(), &figures);
  }
  AddDevices(snapshot.topology.topology().unassigned_sdss(), &figures);
  AddVolumes(snapshot, &figures);
  for (const PolledPart& part : snapshot.parts) {
    if (part.component.kind() == v1::COMPONENT_KIND_MDM) {
      figures.set_snapshots(static_cast<uint64_t>(Figure(part, "tessera_mdm_snapshots")));
    }
    if (part.component.kind() != v1::COMPONENT_KIND_SDC || !part.component.answers()) continue;
    figures.set_reads_per_second(figures.reads_per_second() + Figure(part, "reads_per_second"));
    figures.set_writes_per_second(figures.writes_per_second() + Figure(part, "writes_per_second"));
    figures.set_read_bytes_per_second(figures.read_bytes_per_second() +
                                      Figure(part, "read_bytes_per_second"));
    figures.set_write_bytes_per_second(figures.write_bytes_per_second() +
                                       Figure(part, "write_bytes_per_second"));
  }
  figures.set_read_latency_p50_micros(Micros(reads, 0.5));
  figures.set_read_latency_p99_micros(Micros(reads, 0.99));
  figures.set_write_latency_p50_micros(Micros(writes, 0.5));
  figures.set_write_latency_p99_micros(Micros(writes, 0.99));
  for (const v1::Operation& operation : snapshot.operations) {
    const bool repair = operation.kind() == v1::OPERATION_KIND_REBUILD ||
                        operation.kind() == v1::OPERATION_KIND_RESYNC;
    if (!repair || operation.bytes_total() < operation.bytes_done()) continue;
    figures.set_rebuild_remaining_bytes(figures.rebuild_remaining_bytes() +
                                        operation.bytes_total() - operation.bytes_done());
  }
  return figures;
}

std::vector<SeriesSample> SamplesOf(const ClusterSnapshot& snapshot) {
  static constexpr std::string_view kCluster = "cluster";
  std::vector<SeriesSample> samples;
  for (const PolledPart& part : snapshot.parts) AddPartSamples(part, &samples);
  for (const v1::Volume& volume : snapshot.volumes) {
    const auto rates = snapshot.volume_rates.find(volume.volume_id());
    if (rates == snapshot.volume_rates.end()) continue;
    for (size_t i = 0; i < kVolumeSeries; ++i) {
      const VolumeRule& rule = VolumeRules()[i];
      samples.push_back({{v1::COMPONENT_KIND_UNSPECIFIED, 0, volume.volume_id(), rule.series},
                         volume.name(),
                         rule.unit,
                         rates->second[i]});
    }
  }
  for (const ClusterSeries& series : kClusterSeries) {
    if (series.of_mdm && !snapshot.mdm_answers) continue;
    samples.push_back({{v1::COMPONENT_KIND_UNSPECIFIED, 0, 0, series.figure},
                       kCluster,
                       series.unit,
                       series.value(snapshot.figures)});
  }
  return samples;
}

}  // namespace tessera::mgmt
