#include "services/mdm/mdm_time.h"

#include <algorithm>

namespace tessera::mdm {

MdmTime::MdmTime(const Clock* clock, const std::string& boot_id, const PersistedTime& persisted)
    : clock_(clock), boot_id_(boot_id) {
  const uint64_t boot_ms = clock->BootMillis();
  const uint64_t by_offset = boot_ms + static_cast<uint64_t>(persisted.boot_offset_ms);
  // The same boot goes on exactly; a boot id that was copied with a disk image shows in time going
  // back.
  if (!boot_id.empty() && persisted.boot_id == boot_id && by_offset >= persisted.latest_ms) {
    offset_ms_ = persisted.boot_offset_ms;
    return;
  }
  const uint64_t start = std::max(clock->WallMillis(), persisted.latest_ms + 1);
  offset_ms_ = static_cast<int64_t>(start) - static_cast<int64_t>(boot_ms);
}

}  // namespace tessera::mdm
