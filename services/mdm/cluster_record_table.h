// Records of the cluster: what servers keep for the MDM, in case that mdm.db is lost
// (docs/REPLICATION.md, "Losing the MDM's database").
//
// mdm.db has only the revision of each record; its content is read from the tables when it is
// wanted. Triggers keep the revisions (cluster_record_schema.cc).
//
// All functions run inside a transaction of MdmStore; exceptions of SQLite pass through to it.
#ifndef TESSERA_SERVICES_MDM_CLUSTER_RECORD_TABLE_H_
#define TESSERA_SERVICES_MDM_CLUSTER_RECORD_TABLE_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <vector>

#include "tessera/v1/cluster_record.pb.h"

namespace tessera::mdm {

// Records of what is gone are kept until there are more than this.
inline constexpr uint64_t kGoneRecordsMax = 10'000;

struct RecordClock {
  uint64_t revision = 0;  // of the last change
  uint64_t floor = 0;     // changes since then can be told one by one
};
[[nodiscard]] RecordClock ReadRecordClock(SQLite::Database& db);
// Both raised to `revision`: whoever has older records gets all of them anew.
void StartRecordsAt(SQLite::Database& db, uint64_t revision);

// Records that changed after the revision, in order of their revisions; a record of what is gone
// has no content.
[[nodiscard]] std::vector<v1::ClusterRecord> ReadRecordsAfter(SQLite::Database& db,
                                                              uint64_t revision);
// Records of all that there is.
[[nodiscard]] std::vector<v1::ClusterRecord> ReadAllRecords(SQLite::Database& db);
// Forgets the oldest records of what is gone beyond `keep`, and raises the floor; returns how many.
uint64_t ForgetGoneRecords(SQLite::Database& db, uint64_t keep = kGoneRecordsMax);

// Remembers the outage lifetime of the grants that are given out from now on: the longest ever.
void RecordOutageLifetime(SQLite::Database& db, uint64_t outage_lifetime_ms);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_CLUSTER_RECORD_TABLE_H_
