// Events in mdm.db: what happened, for people. The newest 100,000 are kept.
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_EVENT_TABLE_H_
#define TESSERA_SERVICES_MDM_EVENT_TABLE_H_

#include <cstdint>
#include <vector>

#include "services/mdm/mdm_store.h"
#include "services/mdm/node_table.h"
#include "tessera/v1/health.pb.h"

namespace tessera::mdm {

inline constexpr uint64_t kEventsMax = 100'000;

// Writes the event with the next id (event.event_id is not read) and drops the oldest beyond
// `keep`.
void AddEvent(WriteTransaction& transaction, const v1::Event& event, uint64_t keep = kEventsMax);
// Oldest first.
[[nodiscard]] std::vector<v1::Event> ListEventRows(SQLite::Database& db, const Page& page);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_EVENT_TABLE_H_
