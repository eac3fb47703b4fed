// How long a disk takes, by machine.
#ifndef TESSERA_INTEGRATION_SIM_DISK_SPEED_H_
#define TESSERA_INTEGRATION_SIM_DISK_SPEED_H_

#include "integration/sim/world.h"

namespace tessera::sim {

// Of one cycle of a device's worker of this life.
[[nodiscard]] Nanos CycleNanos(const Life& life);

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_DISK_SPEED_H_
