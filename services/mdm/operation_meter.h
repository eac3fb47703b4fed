// How fast an operation goes, and when it will be over.
//
// Data goes from many devices to many at once, each at a pace of its own, because each server gives
// way to its own clients. So the end need not be when all bytes at the rate of all are through:
// where one has far more left to give or to take than the others it ends last, and the others have
// long been idle then.
//
// Pure: time is passed in, in milliseconds of a clock that does not jump. Threads: one at a time.
#ifndef TESSERA_SERVICES_MDM_OPERATION_METER_H_
#define TESSERA_SERVICES_MDM_OPERATION_METER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "services/mdm/operation_view.h"
#include "services/mdm/progress_meter.h"

namespace tessera::mdm {

class OperationMeter {
 public:
  // Whether the replica on the device is in sync now.
  using InSync = std::function<bool(uint64_t placement_group_id, uint64_t device_id)>;

  // What is done in all and what is left at `now_ms`. Less done than before (an attempt began
  // anew): the figures start over.
  void Add(uint64_t now_ms, uint64_t bytes_done, const OperationRest& rest, const InSync& in_sync);
  [[nodiscard]] uint64_t BytesPerSecond() const { return whole_.BytesPerSecond(); }
  // Until `left` bytes in all are copied, as of the last Add; 0: nothing left, or nothing moves.
  [[nodiscard]] uint64_t EtaMillis(uint64_t left) const;

 private:
  struct Flow {
    uint64_t copied = 0;  // since the operation was first seen
    uint64_t left = 0;
    ProgressMeter meter;
  };
  void Count(const RunningLearner& learner, uint64_t bytes);
  using Id = std::pair<uint64_t, uint64_t>;  // placement group, device

  ProgressMeter whole_;
  std::map<CopyFlow, Flow> flows_;
  std::map<Id, RunningLearner> learners_;  // as last seen
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_OPERATION_METER_H_
