// Somebody who recorded a message on its way to a server and sends it again, twice, on streams of
// their own, now or after a while. Each read's token may work at most once more (it may not have
// worked yet); a write that is taken again shows in the histories.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_ATTACKER_H_
#define TESSERA_INTEGRATION_SIM_ATTACKER_H_

#include <map>
#include <memory>

#include "integration/sim/cluster.h"
#include "services/common/io_codec.h"

namespace tessera::sim {

class Attacker {
 public:
  explicit Attacker(Cluster* cluster) : cluster_(cluster) {}
  // Records the next message that reads.
  void Arm() { armed_ = true; }
  void Saw(NodeId server, const grpc::ByteBuffer& message);

 private:
  class Session;
  void Replay(NodeId server, const Life* life, const std::shared_ptr<IoRequestFrame>& frame,
              const std::shared_ptr<std::map<uint64_t, int>>& served);

  Cluster* const cluster_;
  bool armed_ = false;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_ATTACKER_H_
