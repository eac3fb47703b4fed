// The metadata manager, put together: opens the state folder, starts its threads and listeners.
//
// Threads: Start and Stop from one thread.
#ifndef TESSERA_SERVICES_MDM_MDM_SERVER_H_
#define TESSERA_SERVICES_MDM_MDM_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/common/clock.h"
#include "services/mdm/mdm_options.h"

namespace tessera::mdm {

class MdmServer {
 public:
  // Opens or makes the state; serves when it returns. The clock must outlive the server.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<MdmServer>> Start(const MdmOptions& options,
                                                                        const Clock* clock);
  ~MdmServer();
  MdmServer(const MdmServer&) = delete;
  MdmServer& operator=(const MdmServer&) = delete;

  // "127.0.0.1:8001", with the real port.
  [[nodiscard]] const std::string& address() const;
  [[nodiscard]] const std::string& metrics_address() const;
  [[nodiscard]] const std::string& join_token() const;
  // Wakes the background threads before their time.
  void Tick();
  // Ends watches and calls, then threads and listeners. Idempotent.
  void Stop();

 private:
  struct Parts;
  explicit MdmServer(std::unique_ptr<Parts> parts);
  const std::unique_ptr<Parts> parts_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MDM_SERVER_H_
