// The client's read cache: which reads are answered from local disk, what is put there, and when it
// may not be used. docs/volumes/read-cache.md says what it promises, decision 0011 why that holds.
//
//  - What is cached belongs to one volume under one generation (its identity). Another identity, a
//    loss of answered writes, or the end of the attachment drops all of it.
//  - A write takes its blocks out before it is sent. What was read from servers while a write of
//  the
//    same blocks was in flight is not put in.
//  - A hit is an answer only while the MDM's lease lasts; that is judged when the bytes are there.
//  - Each block is checked against its checksum, which covers identity and place. A wrong one, an
//    error, or an answer that takes too long is a miss, and after these last two the cache rests.
//
// Threads: loop thread; the figures from any.
#ifndef TESSERA_SERVICES_SDC_CACHE_READ_CACHE_H_
#define TESSERA_SERVICES_SDC_CACHE_READ_CACHE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "services/sdc/cache/cache_store.h"
#include "services/sdc/cache/ghost_list.h"
#include "services/sdc/cache/line_index.h"
#include "services/sdc/rules/request_splitter.h"

namespace tessera::sdc {

// Whose content it is.
struct CacheIdentity {
  uint64_t volume_id = 0;
  uint64_t vtree_id = 0;
  uint64_t generation = 0;
  uint64_t snapshot_sequence = 0;
  uint64_t size_bytes = 0;
  bool read_only = false;

  friend bool operator==(const CacheIdentity&, const CacheIdentity&) = default;
};

struct SavedSpace {
  CacheSpace space = 0;
  CacheIdentity identity;
};

// What a client that stops in order leaves to the next life of it.
struct SavedCache {
  std::vector<SavedSpace> spaces;
  std::vector<SavedLine> lines;
};

struct ReadCacheOptions {
  std::string folder;  // for people
  uint32_t slots = 1;
  // A read of the file that takes longer is not waited for.
  uint64_t slow_nanos = 50'000'000;
  // Whoever is called later than this after the time before was held up himself, and judges nobody.
  uint64_t late_tick_nanos = 150'000'000;
  // After an error, or a read that was too slow.
  uint64_t rest_nanos = 30'000'000'000;
  // Of what was read from servers and waits to be written to the file.
  uint32_t fills_max = 64;
};

struct ReadCacheFigures {
  std::atomic<uint64_t> hits{0};
  std::atomic<uint64_t> misses{0};
  std::atomic<uint64_t> hit_bytes{0};
  std::atomic<uint64_t> admitted_bytes{0};
  std::atomic<uint64_t> evicted_bytes{0};
  std::atomic<uint64_t> used_bytes{0};
  std::atomic<uint64_t> errors{0};
  std::atomic<uint64_t> wrong_checksums{0};
  std::atomic<uint64_t> slow_reads{0};
  std::atomic<bool> resting{false};
};

class CachedVolume;

class ReadCache {
 public:
  using Clock = std::function<uint64_t()>;  // CLOCK_BOOTTIME in nanoseconds
  // Told when the cache begins to rest, and why, and when (empty) it is used again.
  using Observer = std::function<void(const std::string& why)>;

  // `store` must outlive it, and what it was given.
  ReadCache(
      const ReadCacheOptions& options, CacheStore& store, Clock now,
      Observer observer = [](const std::string&) {});
  ~ReadCache();

  // What the life before has left. Once, before any volume.
  void Restore(const SavedCache& saved);
  // No more volumes of the life before will be opened: what is left of it goes.
  void DropRestored();
  // A volume that is attached. `resumed`: it is gone on with as the life before left it, so that
  // what that has saved counts. REQUIRES: the volume goes before the cache
  // does.
  [[nodiscard]] std::unique_ptr<CachedVolume> Open(const CacheIdentity& identity, bool resumed);
  // All volumes that were kept (CachedVolume::Keep). After the last of them is gone.
  [[nodiscard]] SavedCache Save() const;

  // Ten times a second.
  void Tick();

  [[nodiscard]] const std::string& folder() const { return options_.folder; }
  [[nodiscard]] uint64_t size_bytes() const { return uint64_t{index_.slots()} * kCacheLineBytes; }
  // Loop thread.
  [[nodiscard]] const std::string& why_resting() const { return why_resting_; }
  [[nodiscard]] const ReadCacheFigures& figures() const { return figures_; }

 private:
  friend class CachedVolume;
  struct PendingRead;
  struct Part;

  void Rest(const std::string& why);
  void UpdateFigures();
  [[nodiscard]] bool StartRead(CachedVolume* volume, const ByteRange& range,
                               absl::AnyInvocable<void(std::optional<CacheBytes>)>& done);
  void PartDone(uint64_t read_id, bool ok);
  [[nodiscard]] bool Good(const PendingRead& read);
  void Answer(PendingRead& read, bool hit);
  // Writes those of the blocks that are lacking. False: the file takes no more.
  bool WriteLine(const CachedVolume& volume, uint64_t line, BlockMask blocks,
                 std::span<const std::span<const std::byte>> content, uint64_t content_begin);

  const ReadCacheOptions options_;
  CacheStore& store_;
  const Clock now_;
  const Observer observer_;
  LineIndex index_;
  GhostList ghosts_;
  std::vector<SavedSpace> restored_;
  std::vector<SavedSpace> kept_;
  std::map<uint64_t, std::unique_ptr<PendingRead>> reads_;  // oldest first
  uint64_t next_read_ = 1;
  uint64_t next_lease_serial_ = 1;  // of all volumes: one that is attached again is another one
  uint32_t fills_ = 0;
  uint32_t writes_ = 0;  // of the file, not done
  uint64_t last_tick_nanos_ = 0;
  uint64_t rest_until_nanos_ = 0;
  std::string why_resting_;
  ReadCacheFigures figures_;
  std::shared_ptr<bool> alive_;  // shared with what the store was given
};

// One attachment of one volume.
class CachedVolume {
 public:
  using FillId = uint64_t;
  // The bytes, or nothing: it is a miss after all.
  using ReadDone = absl::AnyInvocable<void(std::optional<CacheBytes>)>;

  ~CachedVolume();
  CachedVolume(const CachedVolume&) = delete;
  CachedVolume& operator=(const CachedVolume&) = delete;

  // A write, zeroing or trim of the range is about to be sent.
  void WriteBegins(const ByteRange& range);
  // What was answered may not be there any more, for instance.
  void Drop();
  // The volume's grant has changed.
  void SetIdentity(const CacheIdentity& identity);
  // The process ends in order: what is there now is for the next life.
  void Keep() { keep_ = true; }

  // The wish for a lease goes out with these; nothing: no wish.
  struct LeaseWish {
    uint64_t generation = 0;
    uint64_t serial = 0;
  };
  [[nodiscard]] std::optional<LeaseWish> WishForLease() const;
  // The answer to it. The MDM counts from when it had the wish: `sent_nanos`, before it was sent,
  // is earlier.
  void SetLease(const LeaseWish& wish, uint64_t sent_nanos, uint32_t lease_ms);
  // Nothing is read from the cache under this generation any more. Returns it.
  uint64_t GiveUpLease();
  [[nodiscard]] bool leased() const;

  // False: a miss, and `done` is not called. `done` is called later, also after this is gone.
  [[nodiscard]] bool Read(const ByteRange& range, ReadDone done);

  // The range is about to be read from a server. Nothing when its content is not wanted.
  // `writes_in_flight`: of the same range, sent and not answered.
  [[nodiscard]] std::optional<FillId> BeginFill(const ByteRange& range, bool writes_in_flight);
  // What was read, from `content_begin` in the volume on. Each fill ends once.
  void EndFill(FillId id, uint64_t content_begin,
               std::span<const std::span<const std::byte>> content);
  void AbandonFill(FillId id);

  [[nodiscard]] const CacheIdentity& identity() const { return identity_; }
  [[nodiscard]] uint64_t hits() const { return hits_; }
  [[nodiscard]] uint64_t misses() const { return misses_; }
  [[nodiscard]] uint64_t hit_bytes() const { return hit_bytes_; }

 private:
  friend class ReadCache;
  struct Fill {
    FillId id = 0;
    ByteRange range;  // whole blocks
    CacheSpace space = 0;
    bool spoiled = false;
    absl::InlinedVector<std::pair<uint64_t, BlockMask>, 2> wanted;  // by line
  };
  CachedVolume(ReadCache& cache, const CacheIdentity& identity, CacheSpace space)
      : cache_(cache),
        identity_(identity),
        space_(space),
        lease_serial_(cache.next_lease_serial_++) {}
  // What was asked for before is not taken any more.
  void EndLease();
  [[nodiscard]] std::optional<Fill> TakeFill(FillId id);

  ReadCache& cache_;
  CacheIdentity identity_;
  CacheSpace space_;
  bool keep_ = false;
  uint64_t lease_until_nanos_ = 0;
  uint64_t lease_serial_;  // answers to wishes of another one are void
  uint64_t given_up_ = 0;  // no lease up to this generation
  std::vector<Fill> fills_;
  FillId next_fill_ = 1;
  uint64_t hits_ = 0;
  uint64_t misses_ = 0;
  uint64_t hit_bytes_ = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CACHE_READ_CACHE_H_
