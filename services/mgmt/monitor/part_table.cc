#include "services/mgmt/monitor/part_table.h"

#include "services/common/status_macros.h"

namespace tessera::mgmt {

absl::StatusOr<std::vector<KnownPart>> LoadParts(MgmtDb* db) {
  std::vector<KnownPart> parts;
  TESSERA_RETURN_IF_ERROR(db->Read([&](SQLite::Database& database) {
    SQLite::Statement rows(database,
                           "SELECT kind, component_id, name, address FROM monitored_part "
                           "ORDER BY kind, component_id");
    while (rows.executeStep()) {
      parts.push_back({static_cast<v1::ComponentKind>(rows.getColumn(0).getInt()),
                       static_cast<uint64_t>(rows.getColumn(1).getInt64()),
                       rows.getColumn(2).getString(), rows.getColumn(3).getString()});
    }
    return absl::OkStatus();
  }));
  return parts;
}

absl::Status SaveParts(MgmtDb* db, const std::vector<KnownPart>& parts) {
  return db->Write([&](SQLite::Database& database) {
    database.exec("DELETE FROM monitored_part");
    SQLite::Statement insert(database, "INSERT INTO monitored_part VALUES (?, ?, ?, ?)");
    for (const KnownPart& part : parts) {
      insert.reset();
      insert.bind(1, static_cast<int>(part.kind));
      insert.bind(2, static_cast<int64_t>(part.component_id));
      insert.bind(3, part.name);
      insert.bind(4, part.address);
      insert.exec();
    }
    return absl::OkStatus();
  });
}

}  // namespace tessera::mgmt
