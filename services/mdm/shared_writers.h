// Volumes that are mapped shared: which client has the right to write, where the others send their
// requests, and when the right is taken from a client that is gone
// (docs/decisions/0012-shared-volumes.md).
//
// Threads: any. WriterGone may wait for a client.
#ifndef TESSERA_SERVICES_MDM_SHARED_WRITERS_H_
#define TESSERA_SERVICES_MDM_SHARED_WRITERS_H_

#include <SQLiteCpp/SQLiteCpp.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/mdm/cluster_keys.h"
#include "services/mdm/event_log.h"
#include "services/mdm/grant_issuer.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/mdm_time.h"
#include "services/mdm/node_control.h"
#include "services/mdm/volume_table.h"
#include "tessera/v1/token.pb.h"

namespace tessera::mdm {

class SharedWriters {
 public:
  // A client that says nothing for this long, when it is asked, is gone.
  static constexpr std::chrono::milliseconds kAskTimeout{1'500};

  SharedWriters(const GrantRules& rules, MdmStore* store, NodeControl* control,
                const ClusterKeys* keys, const EventLog* events, const MdmTime* time)
      : rules_(rules),
        store_(store),
        control_(control),
        keys_(keys),
        events_(events),
        time_(time) {}

  // Whether the client answers now, and has the volume attached.
  [[nodiscard]] bool Lives(const SdcRow& sdc, uint64_t volume_id);
  // A client can't reach the volume's writer of this generation: whether that one is gone for the
  // MDM, too. One that answers keeps the right: it may be the caller's network that is broken.
  [[nodiscard]] absl::StatusOr<bool> WriterGone(uint64_t volume_id, uint64_t asking_sdc_id,
                                                uint64_t generation);
  // Inside the transaction that makes the client the writer.
  void SetWriter(WriteTransaction& transaction, uint64_t sdc_id, const std::string& why,
                 VolumeRow* volume) const;
  // Where the mapping's client sends its requests. UNAVAILABLE: the writer is not known any more.
  [[nodiscard]] absl::Status Forward(SQLite::Database& db, const VolumeRow& volume,
                                     const MappingRow& mapping,
                                     v1::AcquireGrantResponse* response) const;

 private:
  const GrantRules rules_;
  MdmStore* const store_;
  NodeControl* const control_;
  const ClusterKeys* const keys_;
  const EventLog* const events_;
  const MdmTime* const time_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SHARED_WRITERS_H_
