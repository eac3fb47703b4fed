// A prepared statement with typed binding: the only way tables of parts talk to SQLite.
//
//   Sql query(db, "SELECT name FROM pool WHERE id = ?", pool_id);
//   while (query.Next()) names.push_back(query.Text(0));
//
// SQLite's exceptions pass through: SqliteDb turns them into statuses (sqlite_db.h).
//
// Threads: those of its connection, one at a time.
#ifndef TESSERA_SERVICES_COMMON_SQL_H_
#define TESSERA_SERVICES_COMMON_SQL_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

namespace tessera {

// Bytes that are bound as a BLOB.
struct Blob {
  const std::string& bytes;
};

class Sql {
 public:
  template <typename... Arguments>
  Sql(SQLite::Database& db, const char* text, const Arguments&... arguments)
      : statement_(db, text) {
    int index = 0;
    (Bind(++index, arguments), ...);
  }

  [[nodiscard]] bool Next() { return statement_.executeStep(); }
  // Runs a change; returns how many rows it touched.
  int Run() { return statement_.exec(); }

  [[nodiscard]] uint64_t Unsigned(int column) {
    return static_cast<uint64_t>(statement_.getColumn(column).getInt64());
  }
  [[nodiscard]] uint32_t Unsigned32(int column) { return static_cast<uint32_t>(Unsigned(column)); }
  [[nodiscard]] bool Bool(int column) { return Unsigned(column) != 0; }
  [[nodiscard]] std::string Text(int column) { return statement_.getColumn(column).getString(); }

 private:
  template <typename Value>
  void Bind(int index, const Value& value) {
    if constexpr (std::is_enum_v<Value> || std::is_integral_v<Value>) {
      statement_.bind(index, static_cast<int64_t>(value));
    } else if constexpr (std::is_same_v<Value, Blob>) {
      statement_.bind(index, value.bytes.data(), static_cast<int>(value.bytes.size()));
    } else if constexpr (std::is_same_v<Value, std::optional<uint64_t>>) {
      // Absent is NULL: a foreign key that points nowhere.
      if (value.has_value()) {
        statement_.bind(index, static_cast<int64_t>(*value));
      } else {
        statement_.bind(index);
      }
    } else {
      statement_.bind(index, std::string(value));
    }
  }

  SQLite::Statement statement_;
};

// An id column that refers to a row, or to none: 0 outside, NULL inside.
[[nodiscard]] inline std::optional<uint64_t> Reference(uint64_t id) {
  return id == 0 ? std::nullopt : std::optional<uint64_t>(id);
}

// The first row that a query finds, or all of them.
template <typename Row>
[[nodiscard]] std::optional<Row> OneRow(Sql query, Row (*read)(Sql&)) {
  if (!query.Next()) return std::nullopt;
  return read(query);
}
template <typename Row>
[[nodiscard]] std::vector<Row> AllRows(Sql query, Row (*read)(Sql&)) {
  std::vector<Row> rows;
  while (query.Next()) rows.push_back(read(query));
  return rows;
}

// The id that the last INSERT was given.
[[nodiscard]] inline uint64_t LastId(SQLite::Database& db) {
  return static_cast<uint64_t>(db.getLastInsertRowid());
}

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_SQL_H_
