// Sums over the cluster, and a round's samples for the history.
//
// Threads: free functions. Pure.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_CLUSTER_FIGURES_H_
#define TESSERA_SERVICES_MGMT_MONITOR_CLUSTER_FIGURES_H_

#include <string>
#include <vector>

#include "services/mgmt/monitor/cluster_snapshot.h"
#include "services/mgmt/monitor/history_store.h"
#include "services/mgmt/monitor/part_meter.h"

namespace tessera::mgmt {

// Of the snapshot's parts, topology, volumes and operations. `reads` and `writes`: latencies of all
// clients together.
[[nodiscard]] v1::ClusterFigures SumUp(const ClusterSnapshot& snapshot, const Distribution& reads,
                                       const Distribution& writes);

// Of the parts that answered, the volumes and the cluster. Their views are of the snapshot.
[[nodiscard]] std::vector<SeriesSample> SamplesOf(const ClusterSnapshot& snapshot);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_CLUSTER_FIGURES_H_
