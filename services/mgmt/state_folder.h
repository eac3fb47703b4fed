// The state folder of the management service: its lock, its database, and the file with the
// one-time password.
//
// Threads: Open from one; afterwards as MgmtDb.
#ifndef TESSERA_SERVICES_MGMT_STATE_FOLDER_H_
#define TESSERA_SERVICES_MGMT_STATE_FOLDER_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/mgmt/mgmt_db.h"

namespace tessera::mgmt {

class StateFolder {
 public:
  // Makes the folder where there is none. FAILED_PRECONDITION: another process uses it; errors of
  // MgmtDb::Open.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<StateFolder>> Open(const std::string& path);
  ~StateFolder();
  StateFolder(const StateFolder&) = delete;
  StateFolder& operator=(const StateFolder&) = delete;

  [[nodiscard]] MgmtDb* db() const { return db_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  // In `one_time_password`, for nobody else's eyes.
  [[nodiscard]] absl::Status KeepOneTimePassword(const std::string& password) const;
  // It was used.
  void ForgetOneTimePassword() const;

 private:
  StateFolder(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}

  const std::string path_;
  const int lock_;  // an open file: the lock goes with the process, however that ends
  std::unique_ptr<MgmtDb> db_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_STATE_FOLDER_H_
