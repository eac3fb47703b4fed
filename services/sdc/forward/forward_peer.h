// Another client's stream of requests, as the writer of a shared volume sees it.
//
// Threads: loop thread.
#ifndef TESSERA_SERVICES_SDC_FORWARD_FORWARD_PEER_H_
#define TESSERA_SERVICES_SDC_FORWARD_FORWARD_PEER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "services/sdc/block_device.h"

namespace tessera::sdc {

class ForwardPeer {
 public:
  virtual ~ForwardPeer() = default;
  [[nodiscard]] virtual uint64_t sdc_id() const = 0;
  virtual void Answer(uint64_t tag, BlockReply reply) = 0;
  // Ends it: this client does not write any more, and what was not answered was not done.
  // `losses`: some of what was answered may be lost, and not all of its connections have heard so.
  virtual void NotWriter(bool losses) = 0;
  // Of its connections.
  [[nodiscard]] virtual std::vector<std::shared_ptr<LossCursor>> cursors() const = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_FORWARD_FORWARD_PEER_H_
