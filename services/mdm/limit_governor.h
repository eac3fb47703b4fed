// Clients that exceed their limits over all servers together (docs/volumes/qos.md).
//
// Each server holds a client to its limits by itself, but a client that ignores them can use all
// servers at once. Servers report what clients did; here it is added up, and who does more than a
// tenth above the limit, for longer than the limit's burst and some seconds allow, gets a cap at
// each server: its part of the limit by where the client's load is. When the client does less than
// it may for a while, the caps are taken off. An honest client never has one.
//
// What a client is judged by are the limits of the newest grant that it was given, and by what it
// did since then alone: who could not be told of lower limits yet is no offender. A grant that
// nobody renews ends by itself.
//
// In memory alone: after a restart of the MDM it is found out anew, from the next renewal on.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_LIMIT_GOVERNOR_H_
#define TESSERA_SERVICES_MDM_LIMIT_GOVERNOR_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/rate_limiter.h"
#include "services/mdm/volume_table.h"
#include "tessera/v1/health.pb.h"

namespace tessera::mdm {

class LimitGovernor {
 public:
  // More than the limit times this is too much ..
  static constexpr double kSlack = 1.1;
  // .. after this much on top of the burst: servers report once a second, not all at once.
  static constexpr double kSlackSeconds = 3;
  // Rates are of so long a time.
  static constexpr uint64_t kWindowMillis = 4'000;
  // A report of a longer time says nothing about now: it counts as so long a time's share of it.
  static constexpr uint64_t kReportMillis = 3'000;
  // Caps end when the client did less than this of its limit, for so long.
  static constexpr double kCalm = 0.9;
  static constexpr uint64_t kCalmMillis = 5'000;
  // A client that has not renewed for so long has no grant any more.
  static constexpr uint64_t kGrantMemoryMillis = 3'600'000;
  // All caps together are the limit times this ..
  static constexpr double kCapSlack = 1.05;
  // .. and a part for servers that have no load now, so that load can move there.
  static constexpr double kCapFloor = 0.1;

  // A grant was given out, or renewed. `servers`: of the volume's pool.
  void Granted(uint64_t volume_id, uint64_t sdc_id, const VolumeLimits& limits, size_t servers,
               uint64_t now_ms);

  // Figures of one report.
  struct Use {
    uint64_t volume_id = 0;
    uint64_t sdc_id = 0;
    double operations = 0;  // as the server counts them
    double bytes = 0;
    double client_operations = 0;  // the client's part in it: summed up over servers
    double client_bytes = 0;
  };
  // What was done in the last `covered_ms`. Clients without limits are left out.
  void Report(uint64_t sds_id, uint64_t covered_ms, const std::vector<Use>& uses, uint64_t now_ms);

  // Who began to exceed its limits, or keeps to them again: each told once.
  struct Change {
    uint64_t volume_id = 0;
    uint64_t sdc_id = 0;
    bool exceeds = false;
    VolumeLimits limits;
    double operations_per_second = 0;
    double bytes_per_second = 0;
  };
  [[nodiscard]] std::vector<Change> Judge(uint64_t now_ms);
  [[nodiscard]] std::vector<v1::ClientCap> CapsFor(uint64_t sds_id, uint64_t now_ms);
  [[nodiscard]] size_t capped() const;

 private:
  struct Amount {
    double operations = 0;
    double bytes = 0;
    Amount& operator+=(const Amount& other) {
      operations += other.operations;
      bytes += other.bytes;
      return *this;
    }
  };
  struct Sample {
    uint64_t time_ms = 0;
    uint64_t sds_id = 0;
    uint64_t covered_ms = 0;
    Amount counted;
    Amount client;
  };
  struct Client {
    VolumeLimits limits;
    size_t servers = 1;
    uint64_t since_ms = 0;    // when it got these limits
    uint64_t granted_ms = 0;  // last
    RateLimiter bucket;
    std::deque<Sample> samples;  // of the window
    bool capped = false;
    uint64_t busy_ms = 0;  // capped: when it last did as much as it may
  };
  // A second's worth: at each server of what its own reports cover, which are no more or less of
  // them in the window by when it is looked at.
  struct Rates {
    std::map<uint64_t, Amount> counted;  // by server
    Amount client;
  };
  static void Forget(Client* client, uint64_t now_ms);
  [[nodiscard]] static Rates RatesOf(const Client& client);

  mutable absl::Mutex mutex_;
  std::map<std::pair<uint64_t, uint64_t>, Client> clients_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_LIMIT_GOVERNOR_H_
