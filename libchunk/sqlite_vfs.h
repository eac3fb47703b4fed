// An SQLite VFS whose files are an Env's: the store's database lives and dies with the same
// simulated disk as its journal.
//
//   absl::StatusOr<std::unique_ptr<SqliteVfs>> vfs = SqliteVfs::Register(env);
//   SQLite::Database database(path, flags, busy_timeout_ms, (*vfs)->name());
//
// What it promises to SQLite:
//  - Locks exclude other connections through the same SqliteVfs only: a main database has one
//    connection at a time (others get SQLITE_BUSY). Between processes Env::LockFolder must do it.
//  - No shared memory (sqlite3_io_methods version 1): WAL needs `PRAGMA locking_mode=EXCLUSIVE`
//  before
//    the database is first read or written.
//  - A file opened with SQLITE_OPEN_CREATE is durable by name from then on, new or not; xSync is
//    SyncData; a deletion is durable when SQLite asks for it.
//  - Files without a name (sorters, statement journals) live in memory.
//  - RESOURCE_EXHAUSTED becomes SQLITE_FULL, other errors the SQLITE_IOERR_* of the call. The cause
//  in
//    words is kept: see last_error().
//  - SQLITE_IOCAP_POWERSAFE_OVERWRITE: by the crash model of env.h a write changes only its own
//  sectors.
//
// Threads: any. Destroy it after the last connection through it has closed, before its Env.
// Source: https://www.sqlite.org/vfs.html and the comments on sqlite3_vfs in sqlite3.h.
#ifndef TESSERA_LIBCHUNK_SQLITE_VFS_H_
#define TESSERA_LIBCHUNK_SQLITE_VFS_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libchunk/env.h"

namespace tessera::chunk {

class SqliteVfs {
 public:
  struct Registration;  // of sqlite_vfs.cc

  // INTERNAL when SQLite refuses. `env` must outlive the result.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<SqliteVfs>> Register(Env* env);
  ~SqliteVfs();  // unregisters
  SqliteVfs(const SqliteVfs&) = delete;
  SqliteVfs& operator=(const SqliteVfs&) = delete;

  // To be given to sqlite3_open_v2; unique in the process.
  [[nodiscard]] const std::string& name() const;
  // The last error that the Env gave to SQLite through this VFS; OK when there was none.
  [[nodiscard]] absl::Status last_error() const;

 private:
  explicit SqliteVfs(std::unique_ptr<Registration> registration);
  const std::unique_ptr<Registration> registration_;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_SQLITE_VFS_H_
