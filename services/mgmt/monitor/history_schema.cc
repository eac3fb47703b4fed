#include "services/mgmt/monitor/history_schema.h"

namespace tessera::mgmt {

// history_block is ordered by time before series: each flush appends at one end of its level, the
// oldest are deleted at the other, and both touch few pages however many series there are. Blobs
// are as history_codec.h says.
const char kHistorySchema[] = R"sql(
CREATE TABLE monitored_part (
  kind INTEGER NOT NULL,
  component_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  address TEXT NOT NULL,
  PRIMARY KEY (kind, component_id)
) WITHOUT ROWID;

CREATE TABLE history_series (
  series_id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind INTEGER NOT NULL,
  component_id INTEGER NOT NULL,
  volume_id INTEGER NOT NULL,
  figure TEXT NOT NULL,
  name TEXT NOT NULL,
  unit TEXT NOT NULL,
  last_ms INTEGER NOT NULL,
  UNIQUE (kind, component_id, volume_id, figure)
);

CREATE TABLE history_block (
  level INTEGER NOT NULL,
  begin_ms INTEGER NOT NULL,
  series_id INTEGER NOT NULL,
  points BLOB NOT NULL,
  PRIMARY KEY (level, begin_ms, series_id)
) WITHOUT ROWID;

CREATE TABLE history_progress (
  level INTEGER PRIMARY KEY,
  until_ms INTEGER NOT NULL
);
)sql";

}  // namespace tessera::mgmt
