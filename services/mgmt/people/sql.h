// A prepared statement with typed binding: how the tables of people talk to SQLite.
//
//   Sql query(db, "SELECT name FROM user_account WHERE id = ?", user_id);
//   while (query.Next()) names.push_back(query.Text(0));
//
// SQLite's exceptions pass through: MgmtDb turns them into statuses.
//
// Threads: those of its connection, one at a time.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_SQL_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_SQL_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <cstdint>
#include <string>
#include <type_traits>

namespace tessera::mgmt {

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
  [[nodiscard]] bool Bool(int column) { return Unsigned(column) != 0; }
  // Text or bytes.
  [[nodiscard]] std::string Text(int column) { return statement_.getColumn(column).getString(); }

 private:
  template <typename Value>
  void Bind(int index, const Value& value) {
    if constexpr (std::is_enum_v<Value> || std::is_integral_v<Value>) {
      statement_.bind(index, static_cast<int64_t>(value));
    } else if constexpr (std::is_same_v<Value, Blob>) {
      statement_.bind(index, value.bytes.data(), static_cast<int>(value.bytes.size()));
    } else {
      statement_.bind(index, std::string(value));
    }
  }

  SQLite::Statement statement_;
};

// The id that the last INSERT was given.
[[nodiscard]] inline uint64_t LastId(SQLite::Database& db) {
  return static_cast<uint64_t>(db.getLastInsertRowid());
}

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_SQL_H_
