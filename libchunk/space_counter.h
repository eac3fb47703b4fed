// Counts what paths see of the chunks of a vtree: each block on the device once, whatever number of
// layers shares it.
//
// Pure. Threads: a value.
#ifndef TESSERA_LIBCHUNK_SPACE_COUNTER_H_
#define TESSERA_LIBCHUNK_SPACE_COUNTER_H_

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "libchunk/store.h"
#include "libchunk/types.h"

namespace tessera::chunk {

// What a path sees.
struct ViewSpace {
  uint64_t logical_blocks = 0;  // that take space
  uint64_t unique_blocks = 0;   // of them those that no other path sees
};

struct VtreeSpace {
  std::vector<ViewSpace> views;  // one a path
  uint64_t data_blocks = 0;
  uint64_t unseen_blocks = 0;         // of them those that no path sees
  uint64_t snapshot_only_blocks = 0;  // those that only paths below a branch's head see
};

class SpaceCounter {
 public:
  explicit SpaceCounter(std::span<const LayerPath> paths);

  void Add(const ChunkLayers& chunk);
  // Of all that was added.
  [[nodiscard]] VtreeSpace Result();

 private:
  // Who sees which of a set of layers. Most chunks of a vtree have the same few layers, so that a
  // thousand paths are looked through once, not once a chunk.
  struct Viewers {
    struct Layer {
      std::vector<uint32_t> paths;
      bool has_head = false;  // a path that ends in a branch's head
      uint64_t logical_blocks = 0, unique_blocks = 0;
    };
    std::vector<Layer> layers;
  };

  Viewers& ViewersOf(const ChunkLayers& chunk);
  void CountShared(const ChunkLayers& chunk, Viewers* viewers);
  // Gives what was counted by layers to the paths.
  void Settle();

  const std::vector<LayerPath> paths_;
  std::map<std::vector<uint64_t>, Viewers> viewers_;  // by the layers
  VtreeSpace space_;
  // Of one chunk: for each layer and block the layer that owns the block, and what is known of it.
  std::vector<uint32_t> owners_;
  std::vector<uint8_t> seen_;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_SPACE_COUNTER_H_
