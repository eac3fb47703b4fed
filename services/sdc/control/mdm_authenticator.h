// Believes the MDM by this client's node secret: `Bearer mdm.<sdc id>.<hex>`, where hex is
// SignMessage(node secret, "control", decimal sdc id). The secret itself never crosses the wire
// again.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDC_CONTROL_MDM_AUTHENTICATOR_H_
#define TESSERA_SERVICES_SDC_CONTROL_MDM_AUTHENTICATOR_H_

#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/auth.h"

namespace tessera::sdc {

class MdmAuthenticator final : public Authenticator {
 public:
  // Until this is called nobody is believed. `node_secret` is 64 hex digits.
  void SetIdentity(uint64_t sdc_id, const std::string& node_secret);
  [[nodiscard]] absl::StatusOr<Caller> Authenticate(std::string_view authorization) const override;

 private:
  mutable absl::Mutex mutex_;
  uint64_t sdc_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string expected_ ABSL_GUARDED_BY(mutex_);  // the signature; empty: none yet
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_MDM_AUTHENTICATOR_H_
