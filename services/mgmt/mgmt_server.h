// The management service, put together: opens the state folder, starts its threads and listeners.
//
// Threads: Start and Stop from one thread.
#ifndef TESSERA_SERVICES_MGMT_MGMT_SERVER_H_
#define TESSERA_SERVICES_MGMT_MGMT_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/common/clock.h"
#include "services/mgmt/mgmt_options.h"

namespace tessera::mgmt {

class MgmtServer {
 public:
  // Opens or makes the state; serves when it returns. The clock must outlive the server.
  // FAILED_PRECONDITION: another one uses the state folder.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<MgmtServer>> Start(const MgmtOptions& options,
                                                                         const Clock* clock);
  ~MgmtServer();
  MgmtServer(const MgmtServer&) = delete;
  MgmtServer& operator=(const MgmtServer&) = delete;

  // "127.0.0.1:5000", with the real ports.
  [[nodiscard]] const std::string& web_address() const;
  [[nodiscard]] const std::string& grpc_address() const;
  [[nodiscard]] const std::string& metrics_address() const;
  // At the first start the password of the user `admin`, else empty.
  [[nodiscard]] const std::string& one_time_password() const;
  // Ends streams and calls, then threads and listeners. Idempotent.
  void Stop();

 private:
  struct Parts;
  explicit MgmtServer(std::unique_ptr<Parts> parts);
  const std::unique_ptr<Parts> parts_;
};

// What --check-config asks beyond MgmtOptions::Check: certificates and files are read as the server
// would read them.
[[nodiscard]] absl::Status CheckFiles(const MgmtOptions& options);

// What --reset-admin-password asks, while no server runs on the state folder: see first_admin.h.
// Returns the password, which is also in one_time_password. FAILED_PRECONDITION: a server runs.
[[nodiscard]] absl::StatusOr<std::string> ResetAdminPassword(const MgmtOptions& options,
                                                             const Clock* clock);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MGMT_SERVER_H_
