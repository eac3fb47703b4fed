// What the MDM hears of bad blocks and of scrub, and tells of it, with each heartbeat.
#ifndef TESSERA_SERVICES_SDS_INTEGRITY_OBSERVER_H_
#define TESSERA_SERVICES_SDS_INTEGRITY_OBSERVER_H_

#include <cstdint>

#include "tessera/v1/health.pb.h"

namespace tessera::sds {

// Threads: called on the thread that sends heartbeats; never waits for a worker.
class IntegrityObserver {
 public:
  virtual ~IntegrityObserver() = default;
  virtual void FillHeartbeat(v1::HeartbeatRequest* request) = 0;
  // The MDM has taken `request` and answered.
  virtual void OnHeartbeatAnswered(const v1::HeartbeatRequest& request,
                                   const v1::HeartbeatResponse& response) = 0;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_INTEGRITY_OBSERVER_H_
