// How fast each client may go on each volume here (docs/volumes/qos.md): the servers' side of the
// limits that grants carry.
//
// An honest client keeps to its limits itself and never waits here: a server lets through a tenth
// more, and half a second of it more at once. What a (volume, client) has used up follows it from
// grant to grant, and over all streams. A client that exceeds its limit over all servers together
// gets a cap for each from the MDM.
//
// Bounded: an entry is made for a client with limits or a cap alone, and is forgotten when it says
// nothing that a new one would not. When the table is full of others, new clients are refused.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_CLIENT_LIMITS_H_
#define TESSERA_SERVICES_SDS_CLIENT_LIMITS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libtoken/token.h"
#include "services/common/rate_limiter.h"
#include "tessera/v1/health.pb.h"

namespace tessera::sds {

// One client on one volume.
class ClientLimit {
 public:
  // What the server lets through beyond the limit: for clocks and for what the network gathers.
  static constexpr double kSlack = 1.1;
  static constexpr double kSlackSeconds = 0.5;
  // An operation that would have to wait for longer is refused.
  static constexpr uint64_t kWaitMaxNanos = 1'000'000'000;
  // Bytes of messages that may be kept because an operation in them waits.
  static constexpr uint64_t kHeldBytesMax = 8u << 20;

  // The newest grant that was shown decides.
  void Show(const token::Grant& grant, uint64_t now_nanos);
  // Nothing in it: no cap.
  void SetCap(const v1::ClientCap& cap, uint64_t now_nanos);

  struct Decision {
    bool refused = false;
    uint64_t begin_nanos = 0;  // when it may begin; not after `now`: at once
  };
  // Counts an operation, unless it is refused. `queued`: others of the client wait before it.
  [[nodiscard]] Decision Admit(const IoCost& cost, bool queued, uint64_t now_nanos);
  // Bytes of a message that is kept; false: too many are.
  [[nodiscard]] bool Hold(uint64_t bytes);
  void Release(uint64_t bytes);
  // Nothing waits, and nothing is known that would be lost with it.
  [[nodiscard]] bool Idle(uint64_t now_nanos);

 private:
  void Configure(uint64_t now_nanos) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  RateLimits granted_ ABSL_GUARDED_BY(mutex_);
  uint64_t issued_ms_ ABSL_GUARDED_BY(mutex_) = 0;  // of the grant that said so
  double cap_operations_ ABSL_GUARDED_BY(mutex_) = 0;
  double cap_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  RateLimiter limiter_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_begin_nanos_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t held_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

class ClientLimits {
 public:
  static constexpr size_t kDefaultSize = 16'384;
  explicit ClientLimits(size_t size = kDefaultSize) : size_(size) {}

  // Grows when an entry is made: who found none before may find one now. Above 0.
  [[nodiscard]] uint64_t version() const { return version_.load(std::memory_order_acquire); }
  struct Found {
    bool full = false;                   // the table is: the client can't be served now
    std::shared_ptr<ClientLimit> limit;  // null: the client has no limits; shared with its grants
  };
  // What counts under a grant that was proven.
  [[nodiscard]] Found Find(const token::Grant& grant, uint64_t now_nanos);
  // All caps from now on.
  void SetCaps(std::span<const v1::ClientCap> caps, uint64_t now_nanos);
  [[nodiscard]] size_t size() const;

 private:
  using Key = std::pair<uint64_t, uint64_t>;  // volume, client
  // Null: the table is full.
  std::shared_ptr<ClientLimit> FindOrAdd(const Key& key, uint64_t now_nanos)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t size_;
  std::atomic<uint64_t> version_{1};
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<Key, std::shared_ptr<ClientLimit>> entries_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<ClientLimit>> capped_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_CLIENT_LIMITS_H_
