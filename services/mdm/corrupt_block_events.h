// The events of bad blocks, in words.
//
// Threads: pure functions.
#ifndef TESSERA_SERVICES_MDM_CORRUPT_BLOCK_EVENTS_H_
#define TESSERA_SERVICES_MDM_CORRUPT_BLOCK_EVENTS_H_

#include <string>

#include "tessera/v1/health.pb.h"

namespace tessera::mdm {

struct CorruptBlockEvent {
  v1::EventSeverity severity = v1::EVENT_SEVERITY_UNSPECIFIED;
  std::string
      code;  // "corrupt_block_found", "_repaired", "_unrepairable", "_healed"; "replicas_differ"
  std::string message;
};
// `device`: "device 4 of sds2"; `volume`: "volume db1", or which vtree where there is none.
[[nodiscard]] CorruptBlockEvent EventOf(const v1::CorruptBlocks& blocks, const std::string& device,
                                        const std::string& volume);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_CORRUPT_BLOCK_EVENTS_H_
