// The MDM's word that one client may send requests for a shared volume to another, which writes it:
// HMAC under the writer's node secret, so that the writer needs to ask nobody (forward.proto).
//
// Threads: pure functions.
#ifndef TESSERA_SERVICES_COMMON_FORWARD_TICKET_H_
#define TESSERA_SERVICES_COMMON_FORWARD_TICKET_H_

#include <cstdint>
#include <string>

namespace tessera {

struct ForwardTicket {
  uint64_t volume_id = 0;
  uint64_t generation = 0;  // under which the writer has the right
  uint64_t writer_sdc_id = 0;
  uint64_t sender_sdc_id = 0;
  uint64_t expiry_ms = 0;  // MDM time
};

// `node_secret`: the writer's, 64 hex digits. Empty: that is none.
[[nodiscard]] std::string SignForwardTicket(const std::string& node_secret,
                                            const ForwardTicket& ticket);
// Constant time.
[[nodiscard]] bool VerifyForwardTicket(const std::string& node_secret, const ForwardTicket& ticket,
                                       const std::string& signature);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_FORWARD_TICKET_H_
