#include "services/mdm/state_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/sql.h"
#include "services/common/status_macros.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {
namespace {

constexpr size_t kJoinTokenBytes = 32;
constexpr size_t kJoinTokenLettersMin = 16;
constexpr absl::Duration kLockPatience = absl::Seconds(2);

absl::StatusOr<std::string> LoadJoinToken(const std::string& folder, const std::string& given) {
  const std::string path = given.empty() ? absl::StrCat(folder, "/join_token") : given;
  absl::StatusOr<std::string> content = ReadFile(path);
  if (!given.empty() && !content.ok()) return Annotate(content.status(), "--join-token-file");
  if (absl::IsNotFound(content.status())) {
    std::array<uint8_t, kJoinTokenBytes> bytes{};
    token::RandomBytes(bytes);
    const std::string fresh = ToHex({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    TESSERA_RETURN_IF_ERROR(WriteFileAtomically(path, fresh + "\n", 0600));
    LogInfo("join token made", {{"path", path}});
    return fresh;
  }
  TESSERA_RETURN_IF_ERROR(content.status());
  const std::string join_token(absl::StripAsciiWhitespace(*content));
  if (join_token.size() < kJoinTokenLettersMin) {
    return absl::DataLossError(absl::StrCat(
        path, " holds no join token, which has at least ", kJoinTokenLettersMin,
        " letters: ", given.empty() ? "remove it for a new one" : "write one into it"));
  }
  return join_token;
}

// A first start makes mdm.db before secrets.key.
absl::Status CheckNotLost(const std::string& folder) {
  const std::string database = absl::StrCat(folder, "/mdm.db");
  const std::string secrets = absl::StrCat(folder, "/secrets.key");
  if (access(secrets.c_str(), F_OK) != 0 || access(database.c_str(), F_OK) == 0) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(database, " is missing, but there is ", secrets,
                   ": restore it, or make it anew from the servers with `tessera mdm rebuild "
                   "--from-sds`; for a new "
                   "cluster, remove secrets.key, too"));
}

absl::Status WriteOperatorTokens(const std::string& folder, const ClusterKeys& keys) {
  for (const std::string& kind : NodeDirectory::OperatorKinds()) {
    const std::string bearer = absl::StrCat(kind, ".0.", keys.NodeSecret(kind, 0, ""), "\n");
    const std::string path = absl::StrCat(folder, "/", kind, "_token");
    const absl::StatusOr<std::string> present = ReadFile(path);
    if (present.ok() && *present == bearer) continue;
    TESSERA_RETURN_IF_ERROR(WriteFileAtomically(path, bearer, 0600));
  }
  return absl::OkStatus();
}

}  // namespace

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

// The lock is the open file: it goes with the process, however that ends.
absl::StatusOr<FolderLock> LockFolder(const std::string& path) {
  const std::string file = absl::StrCat(path, "/lock");
  const int descriptor = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", file));
  FolderLock lock(descriptor);
  // A predecessor that was just killed may take a moment to be gone.
  const absl::Time deadline = absl::Now() + kLockPatience;
  while (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    if (absl::Now() >= deadline) {
      return absl::FailedPreconditionError(absl::StrCat("another tessera-mdm uses ", path));
    }
    absl::SleepFor(absl::Milliseconds(50));
  }
  return lock;
}

PersistedTime ReadTime(SQLite::Database& db) {
  PersistedTime time;
  time.boot_id = GetSetting(db, "time_boot_id");
  if (!absl::SimpleAtoi(GetSetting(db, "time_boot_offset_ms"), &time.boot_offset_ms)) {
    time.boot_id.clear();
  }
  time.latest_ms = GetNumber(db, "time_latest_ms");
  return time;
}

void WriteTime(SQLite::Database& db, const PersistedTime& time) {
  PutSetting(db, "time_boot_id", time.boot_id);
  PutSetting(db, "time_boot_offset_ms", absl::StrCat(time.boot_offset_ms));
  PutNumber(db, "time_latest_ms", time.latest_ms);
}

absl::StatusOr<StateFolder> OpenStateFolder(const std::string& path,
                                            const std::string& join_token_file, const Clock* clock,
                                            MetricRegistry* metrics) {
  TESSERA_RETURN_IF_ERROR(PrepareStateFolder(path));
  StateFolder state;
  TESSERA_ASSIGN_OR_RETURN(state.lock, LockFolder(path));
  TESSERA_RETURN_IF_ERROR(CheckNotLost(path));
  TESSERA_ASSIGN_OR_RETURN(state.store, MdmStore::Open(absl::StrCat(path, "/mdm.db"), metrics));
  bool has_nodes = false;
  PersistedTime persisted;
  TESSERA_RETURN_IF_ERROR(state.store->Read([&](SQLite::Database& db) {
    has_nodes = Sql(db, "SELECT 1 FROM sds UNION ALL SELECT 1 FROM sdc LIMIT 1").Next();
    persisted = ReadTime(db);
    return absl::OkStatus();
  }));
  TESSERA_ASSIGN_OR_RETURN(state.keys,
                           ClusterKeys::Open(absl::StrCat(path, "/secrets.key"), has_nodes));
  TESSERA_ASSIGN_OR_RETURN(state.join_token, LoadJoinToken(path, join_token_file));
  TESSERA_RETURN_IF_ERROR(WriteOperatorTokens(path, *state.keys));
  state.nodes = std::make_shared<NodeDirectory>(state.keys.get());
  state.time = std::make_unique<MdmTime>(clock, BootId(), persisted);
  TESSERA_RETURN_IF_ERROR(state.store->Write([&](WriteTransaction& transaction) {
    SQLite::Database& db = transaction.db;
    state.cluster_uuid = GetSetting(db, "cluster_uuid");
    if (state.cluster_uuid.empty()) {
      state.cluster_uuid = NewUuid();
      PutSetting(db, "cluster_uuid", state.cluster_uuid);
    }
    state.incarnation = GetNumber(db, "incarnation") + 1;
    PutNumber(db, "incarnation", state.incarnation);
    WriteTime(db, state.time->Persist());
    return absl::OkStatus();
  }));
  return state;
}

}  // namespace tessera::mdm
