// What one round of polls found: the input of the console's overview, of the history and of the
// alert rules. A plain value; whoever gets it owns it.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_CLUSTER_SNAPSHOT_H_
#define TESSERA_SERVICES_MGMT_MONITOR_CLUSTER_SNAPSHOT_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tessera/v1/console.pb.h"
#include "tessera/v1/health.pb.h"
#include "tessera/v1/operation.pb.h"
#include "tessera/v1/schedule.pb.h"
#include "tessera/v1/topology.pb.h"
#include "tessera/v1/volume.pb.h"

namespace tessera::mgmt {

// One part that was polled: the MDM, an SDS, an SDC, or MGMT itself.
struct PolledPart {
  v1::MonitoredComponent component;
  // Figures of its last answer by name, as in MonitoringService; rates and percentiles that the
  // poller made of the last two answers are among them ("read_bytes_per_second", …). Empty when it
  // has never answered. They are of `component.last_answer_ms`.
  std::map<std::string, double> figures;
  // By how much it may be wrong about MDM time.
  uint64_t mdm_time_error_ms = 0;
};

struct ClusterSnapshot {
  uint64_t time_ms = 0;  // wall clock, when the round ended
  std::vector<PolledPart> parts;
  v1::ClusterFigures figures;

  // From the MDM, as of mdm_answered_ms (0: never answered).
  bool mdm_answers = false;
  uint64_t mdm_answered_ms = 0;
  std::string mdm_error;  // why not
  // Without the pools' volumes: these are below.
  v1::GetTopologyResponse topology;
  v1::GetClusterHealthResponse health;
  std::vector<v1::VolumeHealth> volume_health;  // only volumes that are not healthy
  std::vector<v1::Volume> volumes;              // no snapshots, and none in the trash
  std::vector<v1::Operation> operations;        // those that have not ended
  std::vector<v1::SnapshotSchedule> schedules;

  // What clients do to each volume, by id, a second: reads, writes, bytes read, bytes written.
  std::map<uint64_t, std::array<double, 4>> volume_rates;

  // MGMT's own: when certificates that it knows of end, by what they are for.
  std::map<std::string, uint64_t> certificate_expiry_ms;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_CLUSTER_SNAPSHOT_H_
