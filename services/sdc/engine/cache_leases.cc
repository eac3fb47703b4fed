#include "services/sdc/engine/cache_leases.h"

namespace tessera::sdc {

CacheLeases::CacheLeases(const IoEngine& engine, v1::HeartbeatRequest* request) {
  for (const auto& volume : engine.Volumes()) {
    if (volume->cache() == nullptr) continue;
    const auto wish = volume->cache()->WishForLease();
    if (!wish.has_value()) continue;
    wishes_[volume->volume_id()] = *wish;
    v1::CacheLease* lease = request->add_cache_leases();
    lease->set_volume_id(volume->volume_id());
    lease->set_generation(wish->generation);
  }
}

void CacheLeases::Answered(const IoEngine& engine, const v1::HeartbeatResponse& response,
                           uint64_t sent_nanos) const {
  for (const v1::CacheLease& lease : response.cache_leases()) {
    const auto wish = wishes_.find(lease.volume_id());
    const auto volume = engine.FindVolume(lease.volume_id());
    if (wish == wishes_.end() || volume == nullptr || volume->cache() == nullptr ||
        lease.generation() != wish->second.generation) {
      continue;
    }
    volume->cache()->SetLease(wish->second, sent_nanos, lease.lease_ms());
  }
}

}  // namespace tessera::sdc
