// sdc_local.db: who this client is and what it has attached, across restarts.
//
// Kept: the node's uuid, name, id and secret; the incarnation, which grows with each start;
// attached volumes with the last grant of each. The file has mode 0600: secret and grants are in
// it.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_CONTROL_LOCAL_STATE_H_
#define TESSERA_SERVICES_SDC_CONTROL_LOCAL_STATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/sqlite_db.h"
#include "tessera/v1/token.pb.h"

namespace tessera::sdc {

struct LocalIdentity {
  std::string node_uuid;
  std::string name;
  uint64_t sdc_id = 0;  // 0: never registered
  std::string node_secret;
  std::string cluster_uuid;
  uint64_t incarnation = 0;
};

struct SavedAttachment {
  uint64_t volume_id = 0;
  std::string volume_name;
  v1::IssuedGrant grant;
  bool shared = false;  // mapped shared
};

class LocalState {
 public:
  // Opens or makes <folder>/sdc_local.db and raises the incarnation, durably. `name` is used when
  // there is none yet. Errors: SqliteDb::Open's.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<LocalState>> Open(const std::string& folder,
                                                                        const std::string& name);

  [[nodiscard]] const LocalIdentity& identity() const { return identity_; }
  // After a registration.
  [[nodiscard]] absl::Status SaveRegistration(uint64_t sdc_id, const std::string& node_secret,
                                              const std::string& cluster_uuid);
  [[nodiscard]] absl::Status SaveAttachment(const SavedAttachment& attachment);
  [[nodiscard]] absl::Status RemoveAttachment(uint64_t volume_id);
  [[nodiscard]] absl::StatusOr<std::vector<SavedAttachment>> Attachments();

 private:
  explicit LocalState(std::unique_ptr<SqliteDb> db) : db_(std::move(db)) {}
  [[nodiscard]] absl::Status Load(const std::string& name);

  const std::unique_ptr<SqliteDb> db_;
  LocalIdentity identity_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_LOCAL_STATE_H_
