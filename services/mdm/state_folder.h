// The MDM's state folder: mdm.db, secrets.key, join_token, and the credentials of operators.
#ifndef TESSERA_SERVICES_MDM_STATE_FOLDER_H_
#define TESSERA_SERVICES_MDM_STATE_FOLDER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/mdm_time.h"
#include "services/mdm/node_directory.h"

namespace tessera::mdm {

// Holds the folder against a second MDM.
class FolderLock {
 public:
  FolderLock() = default;
  explicit FolderLock(int descriptor) : descriptor_(descriptor) {}
  FolderLock(FolderLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FolderLock& operator=(FolderLock&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~FolderLock();

 private:
  int descriptor_ = -1;
};

// FAILED_PRECONDITION while another process has the folder's lock.
[[nodiscard]] absl::StatusOr<FolderLock> LockFolder(const std::string& path);

struct StateFolder {
  FolderLock lock;
  std::unique_ptr<MdmStore> store;
  std::unique_ptr<ClusterKeys> keys;
  std::shared_ptr<NodeDirectory> nodes;  // shared with the authenticators
  std::unique_ptr<MdmTime> time;
  std::string cluster_uuid;
  std::string join_token;
  uint64_t incarnation = 0;  // of this MDM: grows with each start
};

// Makes what is missing at the first start. Only one MDM may use a folder at a time:
// FAILED_PRECONDITION while another holds its lock. FAILED_PRECONDITION, too, when secrets.key is
// there and mdm.db is not: then the database is lost, and an empty one would be another cluster's.
// `join_token_file`: where the join token is read from; empty: it is kept in the folder.
[[nodiscard]] absl::StatusOr<StateFolder> OpenStateFolder(const std::string& path,
                                                          const std::string& join_token_file,
                                                          const Clock* clock,
                                                          MetricRegistry* metrics);

// MDM time as mdm.db has it.
[[nodiscard]] PersistedTime ReadTime(SQLite::Database& db);
void WriteTime(SQLite::Database& db, const PersistedTime& time);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_STATE_FOLDER_H_
