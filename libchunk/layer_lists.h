// Which layers a chunk has, and their bases: a cache of lists, bounded in bytes, from which goes
// what was not used since it came by last (second chance). A list is whole and as of now: who
// changes the layers of a chunk says it to the list, if that is here. A list that is pinned stays.
// Reads of a volume need the greatest layer alone, most of the time: it may be here without the
// list, which is a hundred times as large when there are many snapshots.
//
// Threads: needs the caller's lock (the store's state lock).
#ifndef TESSERA_LIBCHUNK_LAYER_LISTS_H_
#define TESSERA_LIBCHUNK_LAYER_LISTS_H_

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "libchunk/key_hash.h"

namespace tessera::chunk {

struct LayerEntry {
  uint64_t layer = 0;
  uint64_t base = kNoBase;
  friend bool operator==(const LayerEntry&, const LayerEntry&) = default;
};
using LayerList = std::vector<LayerEntry>;  // ascending

// The newest layer on the path.
[[nodiscard]] std::optional<uint64_t> NewestOn(const LayerPath& path, const LayerList& list);
[[nodiscard]] bool Contains(const LayerList& list, uint64_t layer);
// Adds the layer or sets its base; removes it.
void PutLayer(LayerList* list, const LayerEntry& entry);
void RemoveLayer(LayerList* list, uint64_t layer);

class LayerLists {
 public:
  explicit LayerLists(uint64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  using Pin = std::shared_ptr<const LayerList>;

  struct Newest {
    bool is_known = false;  // false: not from what is here
    std::optional<uint64_t> layer;
  };
  // The newest layer on the path.
  Newest FindNewest(const ChunkId& chunk, const LayerPath& path);
  // Null when the list is not here.
  const LayerList* Find(const ChunkId& chunk);
  // The list, put here if there is none. It can be let go without the lock, and be read with it.
  Pin Put(const ChunkId& chunk, LayerList list);
  // The chunk's greatest layer (nullopt: it has none), put here if nothing is.
  void PutGreatest(const ChunkId& chunk, std::optional<uint64_t> greatest);
  // The layer is there now, with this base, or is gone.
  void Set(const ChunkKey& key, uint64_t base);
  void Remove(const ChunkKey& key);

 private:
  struct Cached {
    ChunkId chunk;
    std::shared_ptr<LayerList> list;  // null: the greatest layer alone is known
  };
  using Order = std::list<Cached>;
  // With what most look-ups want, so that they go no further.
  struct Place {
    Order::iterator cached;
    std::optional<uint64_t> greatest;
    bool is_used = false;  // since it was put or last passed over
  };
  using Places = absl::flat_hash_map<ChunkId, Place, ChunkIdHash>;

  static uint64_t CostBytes(const Cached& cached);
  // The chunk's place, made with nothing in it where there is none; *added says so.
  Place* FindOrAdd(const ChunkId& chunk, bool* added);
  void Forget(Places::iterator place);
  void Shrink();

  const uint64_t limit_bytes_;
  uint64_t size_bytes_ = 0;
  Order order_;  // the last one is looked at first
  Places places_;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_LAYER_LISTS_H_
