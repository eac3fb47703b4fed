// Grants that clients have shown, and the counters that were used under them.
//
// A shown grant proves nothing: until an operation under it carries a good signature it belongs to
// the stream that showed it (ShownGrants, bounded per stream). From then on its replay window is
// shared by all streams (ReplayWindows), and is kept until no token under the grant can be good any
// more: forgetting one earlier would let its counters be used again. So when the table is full of
// live grants, new ones are refused.
//
// A renewed grant has the id, and so the window, of the one before it.
//
// Threads: ReplayWindows any; ShownGrants one at a time (the stream's home worker).
#ifndef TESSERA_SERVICES_SDS_GRANT_CACHE_H_
#define TESSERA_SERVICES_SDS_GRANT_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/types.h"
#include "libtoken/token.h"
#include "services/sds/client_limits.h"
#include "services/sds/key_store.h"
#include "services/sds/volume_table.h"

namespace tessera::sds {

// The window of one grant.
class SharedReplayWindow {
 public:
  [[nodiscard]] token::Refusal Use(uint64_t counter) {
    absl::MutexLock lock(&mutex_);
    return window_.Use(counter);
  }

 private:
  absl::Mutex mutex_;
  token::ReplayWindow window_ ABSL_GUARDED_BY(mutex_);
};

class ReplayWindows {
 public:
  static constexpr size_t kDefaultLimit = 16'384;
  explicit ReplayWindows(size_t limit = kDefaultLimit) : limit_(limit) {}

  // The window of the grant, made at its first verified use; kept until `last_expiry_ms` (the
  // latest of all calls) has passed. Null: the table is full of live grants.
  [[nodiscard]] std::shared_ptr<SharedReplayWindow> Get(uint64_t grant_id, uint64_t last_expiry_ms,
                                                        uint64_t now_earliest_ms);
  [[nodiscard]] size_t size() const;

 private:
  struct Entry {
    std::shared_ptr<SharedReplayWindow> window;  // shared with the streams' shown grants
    uint64_t last_expiry_ms = 0;
  };
  const size_t limit_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<uint64_t, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

struct ShownGrant {
  std::string bytes;
  token::Grant grant;
  token::GrantKey key;
  // What it sees; nullopt: the grant's path is none.
  std::optional<chunk::LayerPath> path;
  // Where its writes find what they change: the same, up to the layer that they go to. So a write
  // changes exactly that layer, or makes it. nullopt: that is no layer of its own branch.
  std::optional<chunk::LayerPath> write_path;
  bool key_known = false;    // its cluster secret is one of ours, at `key_version`
  uint64_t key_version = 0;  // KeyStore::version
  std::shared_ptr<SharedReplayWindow> window;  // null before the first verified use on this stream
  const VolumeState* volume = nullptr;         // set with the window
  // What limits the client; null: nothing. Of `limits_version` of the table; the home worker's.
  std::shared_ptr<ClientLimit> limit;
  uint64_t limits_version = 0;
};

class ShownGrants {
 public:
  static constexpr size_t kLimit = 1'024;

  // Takes a grant that was shown. False: the bytes are no grant, or too many are live on this
  // stream.
  [[nodiscard]] bool Show(std::string_view bytes, const KeyStore& keys, uint64_t now_earliest_ms);
  // The newest grant shown with this id, its key looked up again when the keys have changed; null
  // when none was.
  [[nodiscard]] std::shared_ptr<ShownGrant> Find(uint64_t grant_id, const KeyStore& keys);

 private:
  absl::flat_hash_map<uint64_t, std::shared_ptr<ShownGrant>> grants_;
  std::shared_ptr<ShownGrant> last_found_;  // most streams have one grant
};

// nullopt: no parts, too many, or branches that do not fall.
[[nodiscard]] std::optional<chunk::LayerPath> LayerPathOf(std::span<const token::PathPart> parts);
// What the grant sees; nullopt: its path is none.
[[nodiscard]] std::optional<chunk::LayerPath> PathOf(const token::Grant& grant);
// See ShownGrant::write_path.
[[nodiscard]] std::optional<chunk::LayerPath> WritePathOf(const chunk::LayerPath& path,
                                                          uint64_t layer);
// When the last token under the grant stops being good, whatever happens to the MDM.
[[nodiscard]] uint64_t LastExpiryMillis(const token::Grant& grant);
// Whether it is over, as far as this server knows the time.
[[nodiscard]] bool HasRunOut(const token::Grant& grant, const token::MdmTime& now);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_GRANT_CACHE_H_
