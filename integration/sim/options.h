// What one run is like: drawn from its seed, or set by flags.
#ifndef TESSERA_INTEGRATION_SIM_OPTIONS_H_
#define TESSERA_INTEGRATION_SIM_OPTIONS_H_

#include <cstdint>

namespace tessera::sim {

struct RunOptions {
  uint64_t seed = 1;
  uint64_t steps = 6'000;  // with faults; then all is healed and must come to rest
  bool trace = false;
  bool faults = true;
  bool read_caches = false;  // clients have some
  // Drawn from the seed.
  uint32_t servers = 3;
  uint32_t clients = 2;
  uint32_t replicas = 2;
  uint32_t groups = 4;
  uint32_t applications = 3;  // of a client
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_OPTIONS_H_
