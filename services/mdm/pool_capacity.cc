#include "services/mdm/pool_capacity.h"

#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/mdm/capacity_rules.h"
#include "services/mdm/space_table.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {

void JudgePool(WriteTransaction& transaction, const EventLog& events, const HealthMonitor& health,
               const v1::StoragePool& pool, bool anew) {
  SQLite::Database& db = transaction.db;
  const v1::CapacityState before = ReadCapacityState(db, pool.pool_id());
  const v1::PoolCapacity capacity = TopologyReader(db, health).CapacityOf(pool);
  const v1::CapacityState now =
      JudgeCapacity(anew ? v1::CAPACITY_STATE_UNSPECIFIED : before, capacity.raw_used_bytes(),
                    capacity.raw_capacity_bytes(), pool.capacity_policy());
  if (now == before || now == v1::CAPACITY_STATE_UNSPECIFIED) return;
  WriteCapacityState(db, pool.pool_id(), now);
  transaction.changes.topology = true;
  const std::string what = absl::StrCat("pool ", pool.name(), " is ", capacity.used_percent(),
                                        " % full: ", capacity.raw_used_bytes(), " of ",
                                        capacity.raw_capacity_bytes(), " bytes");
  if (now == v1::CAPACITY_STATE_CRITICAL) {
    events.Record(transaction, v1::EVENT_SEVERITY_ERROR, "pool_capacity_critical", {},
                  absl::StrCat(what, ": add devices, delete or trim"));
  } else if (now == v1::CAPACITY_STATE_WARNING) {
    events.Record(transaction, v1::EVENT_SEVERITY_WARNING, "pool_capacity_warning", {}, what);
  } else if (before != v1::CAPACITY_STATE_UNSPECIFIED) {
    events.Record(transaction, v1::EVENT_SEVERITY_INFO, "pool_capacity_normal", {}, what);
  }
}

void SetPoolGauges(SQLite::Database& db, const HealthMonitor& health, MetricRegistry* metrics,
                   std::set<std::string>* known) {
  const auto set = [&](const std::string& pool, const v1::PoolCapacity& capacity) {
    const auto gauge = [&](const char* name, const char* help, uint64_t value) {
      metrics->Gauge(name, help, {{"pool", pool}}).Set(static_cast<double>(value));
    };
    gauge("tessera_mdm_pool_capacity_bytes", "What the pool's devices can hold, all copies.",
          capacity.raw_capacity_bytes());
    gauge("tessera_mdm_pool_used_bytes", "What they use, with journals and metadata.",
          capacity.raw_used_bytes());
    gauge("tessera_mdm_pool_data_bytes", "Of that, blocks of volumes and snapshots.",
          capacity.raw_data_bytes());
    gauge("tessera_mdm_pool_provisioned_bytes", "Sizes of the pool's volumes.",
          capacity.provisioned_bytes());
    gauge("tessera_mdm_pool_available_bytes", "What new thick volumes may take.",
          capacity.available_bytes());
    for (const auto& [state, name] :
         std::initializer_list<std::pair<v1::CapacityState, const char*>>{
             {v1::CAPACITY_STATE_NORMAL, "normal"},
             {v1::CAPACITY_STATE_WARNING, "warning"},
             {v1::CAPACITY_STATE_CRITICAL, "critical"}}) {
      metrics
          ->Gauge("tessera_mdm_pool_capacity_state",
                  "1 for the state that the pool is in by its thresholds; none while not known.",
                  {{"pool", pool}, {"state", name}})
          .Set(capacity.state() == state ? 1 : 0);
    }
  };
  std::set<std::string> gone = *known;
  for (const v1::StoragePool& pool : ListPoolRows(db)) {
    set(pool.name(), TopologyReader(db, health).CapacityOf(pool));
    gone.erase(pool.name());
    known->insert(pool.name());
  }
  for (const std::string& name : gone) set(name, {});
}

}  // namespace tessera::mdm
