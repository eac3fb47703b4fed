// Which blocks were missed a while ago: what is missed a second time is worth a place.
//
// A scan misses everything once, so nothing of it is admitted. This is the ghost queue of LARC
// (S. Huang et al., "Improving Flash-based Disk Cache with Lazy Adaptive Replacement", MSST 2013)
// and the ghost FIFO of S3-FIFO (J. Yang et al., "FIFO queues are all you need for cache eviction",
// SOSP 2023). Blocks are told apart inside a line: a scan in small reads misses each line many
// times.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_CACHE_GHOST_LIST_H_
#define TESSERA_SERVICES_SDC_CACHE_GHOST_LIST_H_

#include <cstddef>
#include <vector>

#include "services/sdc/cache/cache_geometry.h"
#include "services/sdc/cache/hash_chains.h"

namespace tessera::sdc {

class GhostList {
 public:
  // Of the latest `lines` lines. REQUIRES: lines > 0.
  explicit GhostList(size_t lines) : places_(lines), chains_(lines) {}

  // The blocks were missed. True when one of them had been before; the line is forgotten then.
  [[nodiscard]] bool MissedAgain(const CacheLineKey& key, BlockMask blocks);

  [[nodiscard]] size_t size() const { return used_; }

 private:
  struct Place {
    CacheLineKey key;
    BlockMask blocks = 0;  // 0: it is free
  };

  void Free(uint32_t place);

  std::vector<Place> places_;  // a ring, oldest at next_
  HashChains chains_;
  uint32_t next_ = 0;
  size_t used_ = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CACHE_GHOST_LIST_H_
