// Keeps the cluster's records for the MDM (docs/REPLICATION.md, "Losing the MDM's database"): takes
// what the map's stream brings, durable as a whole. Records are sealed by the MDM; nothing here
// reads them.
//
// Threads: one at a time, the watcher of the map.
#ifndef TESSERA_SERVICES_SDS_RECORD_KEEPER_H_
#define TESSERA_SERVICES_SDS_RECORD_KEEPER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/sds/local_state.h"
#include "tessera/v1/cluster_record.pb.h"

namespace tessera::sds {

class RecordKeeper {
 public:
  // Of one set of records, over all its messages; more are no records but an attack.
  static constexpr uint64_t kSetBytesMax = 512u << 20;

  explicit RecordKeeper(LocalState* state) : state_(state) {}

  // A stream begins: what an earlier one left unfinished is dropped. Returns from which revision on
  // changes are wanted; 0: a whole set.
  [[nodiscard]] absl::StatusOr<uint64_t> Begin();

  enum class Outcome {
    kTaken,    // durable
    kPartial,  // waits for the rest
    // Than what is kept: the MDM's database went back. Nothing was changed, and changes are not
    // taken on top of it: only a whole set of a later revision.
    kOlder,
  };
  [[nodiscard]] absl::StatusOr<Outcome> Take(const v1::ClusterRecords& part);

 private:
  LocalState* const state_;
  uint64_t kept_revision_ = 0;
  bool refused_ = false;  // something older came: changes of it would be on top of another history
  v1::ClusterRecords pending_;
  uint64_t pending_bytes_ = 0;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_RECORD_KEEPER_H_
