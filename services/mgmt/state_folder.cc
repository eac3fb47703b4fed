#include "services/mgmt/state_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"
#include "services/common/wait.h"
#include "services/mgmt/alerts/alert_schema.h"
#include "services/mgmt/monitor/history_schema.h"
#include "services/mgmt/people/people_schema.h"

namespace tessera::mgmt {
namespace {

// A predecessor that was just killed may take a moment to be gone.
constexpr absl::Duration kLockPatience = absl::Seconds(2);
constexpr absl::Duration kLockPause = absl::Milliseconds(50);

absl::StatusOr<int> Lock(const std::string& folder) {
  const std::string file = folder + "/lock";
  const int descriptor = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (descriptor < 0) return absl::ErrnoToStatus(errno, absl::StrCat("open ", file));
  const absl::Time deadline = absl::Now() + kLockPatience;
  while (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    if (absl::Now() >= deadline) {
      close(descriptor);
      return absl::FailedPreconditionError(
          absl::StrCat("another tessera-mgmt uses ", folder, ": stop it first"));
    }
    Pause(kLockPause);
  }
  return descriptor;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateFolder>> StateFolder::Open(const std::string& path) {
  TESSERA_RETURN_IF_ERROR(PrepareStateFolder(path));
  TESSERA_ASSIGN_OR_RETURN(const int lock, Lock(path));
  std::unique_ptr<StateFolder> folder(new StateFolder(path, lock));
  // Their order is the database's schema version: new migrations come last.
  TESSERA_ASSIGN_OR_RETURN(
      folder->db_, MgmtDb::Open(path + "/mgmt.db", {kPeopleSchema, kHistorySchema, kAlertSchema}));
  return folder;
}

StateFolder::~StateFolder() {
  db_.reset();
  close(lock_);
}

absl::Status StateFolder::KeepOneTimePassword(const std::string& password) const {
  return WriteFileAtomically(path_ + "/one_time_password", password + "\n", 0600);
}

void StateFolder::ForgetOneTimePassword() const {
  (void)unlink((path_ + "/one_time_password").c_str());
}

}  // namespace tessera::mgmt
