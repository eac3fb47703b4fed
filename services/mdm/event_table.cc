#include "services/mdm/event_table.h"

#include "services/common/sql.h"

namespace tessera::mdm {
namespace {

v1::Event ReadEvent(Sql& query) {
  v1::Event event;
  event.set_event_id(query.Unsigned(0));
  event.set_time_ms(query.Unsigned(1));
  event.set_severity(static_cast<v1::EventSeverity>(query.Unsigned(2)));
  event.set_code(query.Text(3));
  event.set_message(query.Text(4));
  event.set_kind(static_cast<v1::ComponentKind>(query.Unsigned(5)));
  event.set_component_id(query.Unsigned(6));
  return event;
}

}  // namespace

void AddEvent(WriteTransaction& transaction, const v1::Event& event, uint64_t keep) {
  SQLite::Database& db = transaction.db;
  Sql(db,
      "INSERT INTO event (time_ms, severity, code, message, kind, component_id) VALUES "
      "(?,?,?,?,?,?)",
      event.time_ms(), event.severity(), event.code(), event.message(), event.kind(),
      event.component_id())
      .Run();
  const uint64_t id = LastId(db);
  // Ids have no gaps, so age is distance.
  if (id > keep) Sql(db, "DELETE FROM event WHERE id <= ?", id - keep).Run();
  transaction.changes.events = true;
  ++transaction.changes.event_counts[event.severity()];
}

std::vector<v1::Event> ListEventRows(SQLite::Database& db, const Page& page) {
  return AllRows(Sql(db,
                     "SELECT id, time_ms, severity, code, message, kind, component_id FROM event"
                     " WHERE id > ? ORDER BY id LIMIT ?",
                     page.after_id, page.limit),
                 ReadEvent);
}

}  // namespace tessera::mdm
