// The wishes for cache leases that go out with one heartbeat, and what becomes of them
// (docs/volumes/read-cache.md).
//
// Threads: loop thread.
#ifndef TESSERA_SERVICES_SDC_ENGINE_CACHE_LEASES_H_
#define TESSERA_SERVICES_SDC_ENGINE_CACHE_LEASES_H_

#include <cstdint>
#include <map>

#include "services/sdc/engine/io_engine.h"
#include "tessera/v1/health.pb.h"

namespace tessera::sdc {

class CacheLeases {
 public:
  // Puts those of all volumes into the request.
  CacheLeases(const IoEngine& engine, v1::HeartbeatRequest* request);
  // `sent_nanos` (CLOCK_BOOTTIME): before the request was sent. The MDM counts from when it had it.
  void Answered(const IoEngine& engine, const v1::HeartbeatResponse& response,
                uint64_t sent_nanos) const;

 private:
  std::map<uint64_t, CachedVolume::LeaseWish> wishes_;  // by volume
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_CACHE_LEASES_H_
