// Pools that fill up: events when a threshold is passed, and figures for monitoring
// (docs/volumes/space.md).
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_MDM_POOL_CAPACITY_H_
#define TESSERA_SERVICES_MDM_POOL_CAPACITY_H_

#include <set>
#include <string>

#include "services/common/metrics.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "tessera/v1/topology.pb.h"

namespace tessera::mdm {

// Judges the pool and keeps the outcome; a change is an event. `anew`: by other thresholds than
// before, so that nothing of before counts.
void JudgePool(WriteTransaction& transaction, const EventLog& events, const HealthMonitor& health,
               const v1::StoragePool& pool, bool anew);

// Gauges of all pools. `known` holds the names of those that have any: one that is gone shows 0.
void SetPoolGauges(SQLite::Database& db, const HealthMonitor& health, MetricRegistry* metrics,
                   std::set<std::string>* known);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_POOL_CAPACITY_H_
