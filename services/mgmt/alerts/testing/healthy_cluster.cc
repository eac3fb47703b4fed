#include "services/mgmt/alerts/testing/healthy_cluster.h"

#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "services/mgmt/alerts/alert_schema.h"

namespace tessera::mgmt {
namespace {

constexpr uint64_t kDeviceBytes = 1'000 * kGiB;

void AddPart(ClusterSnapshot* snapshot, v1::ComponentKind kind, uint64_t id,
             const std::string& name) {
  PolledPart& part = snapshot->parts.emplace_back();
  part.component.set_kind(kind);
  part.component.set_component_id(id);
  part.component.set_name(name);
  part.component.set_state(v1::COMPONENT_STATE_ONLINE);
  part.component.set_answers(true);
  part.component.set_last_answer_ms(snapshot->time_ms);
  part.component.set_poll_micros(800);
  part.component.set_software_version("1.2.0");
  part.component.set_uptime_ms(86'400'000);
  part.component.set_address(absl::StrCat(name, ":5003"));
  part.mdm_time_error_ms = 2;
  if (kind == v1::COMPONENT_KIND_SDS) {
    part.figures = {{"tessera_sds_token_refused_total{reason=\"bad_signature\"}", 0},
                    {"tessera_sds_token_refused_total{reason=\"expired\"}", 3},
                    {"tessera_sds_corrupt_blocks_found_total{by=\"read\"}", 0},
                    {"tessera_sds_corrupt_blocks_found_total{by=\"scrub\"}", 2},
                    {"tessera_sds_corrupt_blocks_repaired_total", 2},
                    {"tessera_sds_corrupt_blocks_unrepairable_total", 0},
                    {"tessera_sds_blocks_different_total", 0},
                    {"tessera_sds_learnings_failed_total", 0}};
  }
  if (kind == v1::COMPONENT_KIND_SDC) {
    part.figures = {{"tessera_sdc_io_timeouts_total", 0},
                    {"tessera_sdc_io_errors_total{op=\"read\"}", 1},
                    {"tessera_sdc_io_errors_total{op=\"write\"}", 0},
                    {"tessera_sdc_io_requests_total{op=\"read\"}", 1'000},
                    {"tessera_sdc_io_requests_total{op=\"write\"}", 1'000},
                    {"tessera_sdc_grant_failures_total", 0},
                    {"tessera_sdc_waits_for_space_total", 0},
                    {"tessera_sdc_mdm_reachable", 1}};
  }
}

void AddServer(ClusterSnapshot* snapshot, v1::ProtectionDomainNode* domain, uint64_t id) {
  v1::Sds* const sds = domain->add_sdss();
  sds->set_sds_id(id);
  sds->set_name(absl::StrCat("sds", id));
  sds->set_state(v1::COMPONENT_STATE_ONLINE);
  sds->set_last_heartbeat_ms(snapshot->time_ms - 1'000);
  v1::Device* const device = sds->add_devices();
  device->set_device_id(10 + id);
  device->set_sds_id(id);
  device->set_pool_id(1);
  device->set_state(v1::COMPONENT_STATE_ONLINE);
  device->set_use(v1::DEVICE_USE_NORMAL);
  device->set_placement_groups(43);
  device->mutable_description()->set_path(absl::StrCat("/dev/disk", id));
  device->mutable_description()->set_capacity_bytes(kDeviceBytes);
  *domain->mutable_pools(0)->add_devices() = *device;
  AddPart(snapshot, v1::COMPONENT_KIND_SDS, id, sds->name());
}

}  // namespace

ClusterSnapshot HealthyCluster(uint64_t start_ms, uint64_t now_ms) {
  ClusterSnapshot snapshot;
  snapshot.time_ms = now_ms;
  snapshot.mdm_answers = true;
  snapshot.mdm_answered_ms = now_ms;
  AddPart(&snapshot, v1::COMPONENT_KIND_MDM, 1, "mdm1");
  v1::Topology* const topology = snapshot.topology.mutable_topology();
  v1::ProtectionDomainNode* const domain = topology->add_protection_domains();
  v1::StoragePool* const pool = domain->add_pools()->mutable_pool();
  pool->set_pool_id(1);
  pool->set_name("fast");
  pool->set_replica_count(2);
  pool->set_min_replicas(1);
  pool->set_redundancy(v1::REDUNDANCY_STATE_HEALTHY);
  for (uint64_t id = 1; id <= 3; ++id) AddServer(&snapshot, domain, id);
  Fill(snapshot, 10);

  v1::Volume& volume = snapshot.volumes.emplace_back();
  volume.set_volume_id(7);
  volume.set_name("data");
  volume.set_pool_name("fast");
  volume.set_size_bytes(100 * kGiB);
  volume.set_byte_budget(50 * kGiB);
  volume.add_mappings()->set_sdc_id(1);
  v1::Sdc* const sdc = topology->add_sdcs();
  sdc->set_sdc_id(1);
  sdc->set_name("client1");
  sdc->set_state(v1::COMPONENT_STATE_ONLINE);
  sdc->set_last_heartbeat_ms(now_ms - 1'000);
  *sdc->add_mappings() = volume.mappings(0);
  AddPart(&snapshot, v1::COMPONENT_KIND_SDC, 1, "client1");

  snapshot.health.set_healthy_placement_groups(64);
  snapshot.figures.set_read_latency_p99_micros(1'000);
  snapshot.figures.set_write_latency_p99_micros(1'500);
  snapshot.figures.set_reads_per_second(500);
  snapshot.figures.set_writes_per_second(300);

  v1::SnapshotSchedule& schedule = snapshot.schedules.emplace_back();
  schedule.set_schedule_id(4);
  schedule.set_name("hourly");
  schedule.set_interval_seconds(3'600);
  schedule.set_last_run_ms(now_ms - now_ms % 3'600'000);
  schedule.set_next_run_ms(now_ms - now_ms % 3'600'000 + 3'600'000);
  snapshot.certificate_expiry_ms["console"] = start_ms + uint64_t{400} * 86'400'000;
  return snapshot;
}

PolledPart& PartOf(ClusterSnapshot& snapshot, v1::ComponentKind kind, uint64_t id) {
  for (PolledPart& part : snapshot.parts) {
    if (part.component.kind() == kind && part.component.component_id() == id) return part;
  }
  throw std::logic_error("no such part");
}

v1::Sds& ServerOf(ClusterSnapshot& snapshot, int index) {
  return *snapshot.topology.mutable_topology()->mutable_protection_domains(0)->mutable_sdss(index);
}

v1::StoragePoolNode& PoolOf(ClusterSnapshot& snapshot) {
  return *snapshot.topology.mutable_topology()->mutable_protection_domains(0)->mutable_pools(0);
}

void SilenceMdm(ClusterSnapshot& snapshot) {
  snapshot.mdm_answers = false;
  snapshot.mdm_error = "connection refused";
  v1::MonitoredComponent& mdm = PartOf(snapshot, v1::COMPONENT_KIND_MDM, 1).component;
  mdm.set_answers(false);
  mdm.set_poll_error("connection refused");
}

void Fill(ClusterSnapshot& snapshot, double percent) {
  v1::StoragePoolNode& pool = PoolOf(snapshot);
  uint64_t used = 0;
  uint64_t capacity = 0;
  for (int i = 0; i < pool.devices_size(); ++i) {
    const auto bytes = static_cast<uint64_t>(static_cast<double>(kDeviceBytes) * percent / 100);
    pool.mutable_devices(i)->mutable_description()->set_used_bytes(bytes);
    ServerOf(snapshot, i).mutable_devices(0)->mutable_description()->set_used_bytes(bytes);
    used += bytes;
    capacity += kDeviceBytes;
  }
  v1::PoolCapacity* const figures = pool.mutable_pool()->mutable_capacity();
  figures->set_raw_capacity_bytes(capacity);
  figures->set_raw_used_bytes(used);
  figures->set_overcommit_percent(7);
  figures->set_provisioned_bytes(100 * kGiB);
}

TestDatabase::TestDatabase() {
  std::string pattern = (std::filesystem::temp_directory_path() / "tessera_alerts_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
  folder_ = pattern;
  Reopen();
}

TestDatabase::~TestDatabase() {
  db_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void TestDatabase::Reopen() {
  db_.reset();
  absl::StatusOr<std::unique_ptr<MgmtDb>> db = MgmtDb::Open(folder_ + "/mgmt.db", {kAlertSchema});
  if (!db.ok()) throw std::runtime_error(db.status().ToString());
  db_ = *std::move(db);
}

std::string TestDatabase::WriteFile(const std::string& name, const std::string& text) const {
  const std::string path = folder_ + "/" + name;
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  ::chmod(path.c_str(), 0600);
  return path;
}

}  // namespace tessera::mgmt
