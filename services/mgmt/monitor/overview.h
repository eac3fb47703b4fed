// The overview that the console begins with: a snapshot and the active alerts, with a verdict in
// plain words, worst first.
//
// Threads: free functions. Pure.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_OVERVIEW_H_
#define TESSERA_SERVICES_MGMT_MONITOR_OVERVIEW_H_

#include <cstdint>
#include <string>
#include <vector>

#include "services/mgmt/monitor/cluster_snapshot.h"
#include "tessera/v1/alert.pb.h"
#include "tessera/v1/console.pb.h"

namespace tessera::mgmt {

// `alerts`: those that are active or acknowledged, in any order.
[[nodiscard]] v1::GetOverviewResponse MakeOverview(const ClusterSnapshot& snapshot,
                                                   std::vector<v1::Alert> alerts, uint64_t now_ms);

// The sentences alone: at most kSentencesMax, the worst first, and the parts that there are.
inline constexpr size_t kSentencesMax = 4;
[[nodiscard]] std::string VerdictLine(const ClusterSnapshot& snapshot,
                                      const std::vector<v1::Alert>& alerts, uint64_t now_ms);

// "1.5 GiB", "3 min": two figures at most, for sentences.
[[nodiscard]] std::string BytesInWords(uint64_t bytes);
[[nodiscard]] std::string DurationInWords(uint64_t ms);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_OVERVIEW_H_
