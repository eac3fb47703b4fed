// Leases of clients that answer reads from their own caches (docs/volumes/read-cache.md): a server
// refuses an old generation, a cache does not, so that a generation ends only when the leases under
// older ones are over or given up.
//
// A lease is kept here from before the wish is judged until after its end, by the MDM's clock of
// durations; the client counts from when it sent the wish, which is earlier. Leases are in memory;
// mdm.db has the volumes that may have one, for which a restarted MDM waits once as long as a lease
// lasts.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_CACHE_LEASES_H_
#define TESSERA_SERVICES_MDM_CACHE_LEASES_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/mdm/mdm_store.h"
#include "tessera/v1/health.pb.h"

namespace tessera::mdm {

// One life of a client.
struct LeaseHolder {
  uint64_t sdc_id = 0;
  uint64_t incarnation = 0;
  friend bool operator==(const LeaseHolder&, const LeaseHolder&) = default;
};

class CacheLeases {
 public:
  // One heartbeat of a second may be lost. A takeover by force waits for no more than this.
  static constexpr uint32_t kLeaseMillis = 2'500;

  CacheLeases(MdmStore* store, const Clock* clock) : store_(store), clock_(clock) {}

  // What an earlier life of this MDM may have given. Once, before the first call of Renew.
  [[nodiscard]] absl::Status Load();
  // Gives what can be given of the wishes.
  [[nodiscard]] absl::Status Renew(const LeaseHolder& holder, const v1::HeartbeatRequest& request,
                                   v1::HeartbeatResponse* response);
  // The client's word, given for the volume under generations up to this one, that this life of it
  // reads nothing from its cache any more.
  void GiveUp(uint64_t volume_id, const LeaseHolder& holder, uint64_t generation);
  // To be asked for before a client is told to detach: its word is about wishes before that.
  [[nodiscard]] uint64_t Now();
  void GiveUpBefore(uint64_t volume_id, const LeaseHolder& holder, uint64_t moment);
  // When the last lease under a generation below this one is over (boot time); 0: there is none.
  [[nodiscard]] uint64_t EndMillis(uint64_t volume_id, uint64_t generation);

 private:
  struct Lease {
    LeaseHolder holder;
    uint64_t generation = 0;
    uint64_t end_ms = 0;
    uint64_t serial = 0;  // of the wish that moved the end
  };
  struct Wish {
    uint64_t volume_id = 0;
    uint64_t generation = 0;
    uint64_t serial = 0;
    uint64_t end_before_ms = 0;
    bool given = false;
    bool recorded = false;
  };
  [[nodiscard]] std::vector<Wish> Note(const LeaseHolder& holder,
                                       const v1::HeartbeatRequest& request);
  void Erase(uint64_t volume_id, absl::FunctionRef<bool(const Lease&)> over);
  void TakeBack(const LeaseHolder& holder, const Wish& wish);

  MdmStore* const store_;
  const Clock* const clock_;
  absl::Mutex mutex_;
  std::map<uint64_t, std::vector<Lease>> leases_ ABSL_GUARDED_BY(mutex_);  // by volume
  uint64_t next_serial_ ABSL_GUARDED_BY(mutex_) = 1;
};

// That a lease may have been given under the generation or an earlier one, for the next life of the
// MDM.
void RecordCacheLease(SQLite::Database& db, uint64_t volume_id, uint64_t generation);
// Inside the transaction that gives out a token to write the volume under this new generation. Who
// has it may write until servers take its time to be over, which nobody here knows exactly, beside
// clients that only read: no lease is given under it, ever.
void RecordWriteToken(SQLite::Database& db, uint64_t volume_id, uint64_t generation);
// Inside a transaction of a fence that is complete at `generation`: no lease below it is left.
void ForgetCacheLeases(SQLite::Database& db, uint64_t volume_id, uint64_t generation);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_CACHE_LEASES_H_
