// An administrator that makes volumes smaller and larger while everything goes on, down to a size
// at which nothing of what applications use is left.
//
// What has to be: nothing is served beyond an end that was answered, and a volume that grows again
// has zeros there. The client that discards is the one that tells the history (SdcNode).
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_RESIZES_H_
#define TESSERA_INTEGRATION_SIM_RESIZES_H_

#include <cstdint>

#include "integration/sim/cluster.h"

namespace tessera::sim {

class Faults;

class Resizes {
 public:
  Resizes(Cluster* cluster, Faults* faults) : cluster_(cluster), faults_(faults) {}

  // In a fiber of the administrator: until Stop.
  void Run();
  void Stop() { stopped_ = true; }
  // Nothing is under way any more.
  [[nodiscard]] bool idle() const { return !busy_; }

 private:
  void Act();

  Cluster* const cluster_;
  Faults* const faults_;
  bool stopped_ = false;
  bool busy_ = false;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_RESIZES_H_
