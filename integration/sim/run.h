// One seed: a cluster comes up, applications work while faults strike, then all is healed and must
// come to rest within a bound.
#ifndef TESSERA_INTEGRATION_SIM_RUN_H_
#define TESSERA_INTEGRATION_SIM_RUN_H_

#include <cstdint>
#include <string>

#include "integration/sim/options.h"

namespace tessera::sim {

struct RunResult {
  uint64_t steps = 0;
  double virtual_seconds = 0;
  uint64_t hash = 0;      // of all that happened
  std::string violation;  // empty: none
};

// Once in a process: nothing that it made is taken down. `folder` is there and empty.
[[nodiscard]] RunResult RunSeed(RunOptions options, const std::string& folder);

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_RUN_H_
