// MDM time: milliseconds since the Unix epoch that never go back and never jump.
//
// It is boot time plus an offset. The offset is taken from the wall clock at the first start of a
// boot and stays, across restarts of the MDM, until the host boots again; after a boot, time goes
// on from the wall clock or from the last persisted moment, whichever is later. A wall clock that
// is set while the MDM runs changes nothing; CheckWallClock tells by how much it now differs.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_MDM_TIME_H_
#define TESSERA_SERVICES_MDM_MDM_TIME_H_

#include <cstdint>
#include <string>

#include "services/common/clock.h"

namespace tessera::mdm {

// What is kept in mdm.db.
struct PersistedTime {
  std::string boot_id;         // of the boot that the offset belongs to
  int64_t boot_offset_ms = 0;  // MDM time minus boot time
  uint64_t latest_ms = 0;      // MDM time when it was last persisted
};

class MdmTime {
 public:
  MdmTime(const Clock* clock, const std::string& boot_id, const PersistedTime& persisted);

  [[nodiscard]] uint64_t NowMillis() const {
    return clock_->BootMillis() + static_cast<uint64_t>(offset_ms_);
  }
  // To be written from time to time, so that time does not go back after a boot with a bad clock.
  [[nodiscard]] PersistedTime Persist() const {
    return PersistedTime{boot_id_, offset_ms_, NowMillis()};
  }
  // Wall clock minus MDM time.
  [[nodiscard]] int64_t WallClockErrorMillis() const {
    return static_cast<int64_t>(clock_->WallMillis()) - static_cast<int64_t>(NowMillis());
  }
  [[nodiscard]] const Clock& clock() const { return *clock_; }

 private:
  const Clock* const clock_;
  const std::string boot_id_;
  int64_t offset_ms_ = 0;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_MDM_TIME_H_
