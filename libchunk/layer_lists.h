// Which layers a chunk has, and their bases: a cache of lists, bounded in bytes, from which goes
// what was not used since it came by last (second chance). A list is whole and as of now: who
// changes the layers of a chunk says it to the list, if that is here. A list that is pinned stays.
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

  // Null when the list is not here.
  const LayerList* Find(const ChunkId& chunk);
  // The list, put here if there is none. It can be let go without the lock, and be read with it.
  Pin Put(const ChunkId& chunk, LayerList list);
  // The layer is there now, with this base, or is gone.
  void Set(const ChunkKey& key, uint64_t base);
  void Remove(const ChunkKey& key);

 private:
  struct Cached {
    ChunkId chunk;
    std::shared_ptr<LayerList> list;
    bool is_used = false;  // since it was put or last passed over
  };
  using Order = std::list<Cached>;

  static uint64_t CostBytes(const LayerList& list);
  void Shrink();

  const uint64_t limit_bytes_;
  uint64_t size_bytes_ = 0;
  Order order_;  // the last one is looked at first
  absl::flat_hash_map<ChunkId, Order::iterator, ChunkIdHash> places_;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_LAYER_LISTS_H_
