// The words that libchunk and its users share: which chunk, which place in a writer's order.
#ifndef TESSERA_LIBCHUNK_TYPES_H_
#define TESSERA_LIBCHUNK_TYPES_H_

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>

namespace tessera::chunk {

// The native block: unit of checksums, of mapping and of space.
inline constexpr uint32_t kBlockBytes = 4096;
// The unit of addressing: every offset and length is a multiple of it.
inline constexpr uint32_t kSectorBytes = 512;

// A layer is a number: branch (upper 32 bits) and ordinal. A volume writes one branch, each of its
// snapshots raises the ordinal of the writes that follow; a clone has a branch of its own, greater
// than all before. So a layer's number is greater than that of the layer it was made from.
constexpr uint64_t MakeLayer(uint32_t branch, uint32_t ordinal) {
  return uint64_t{branch} << 32 | ordinal;
}
constexpr uint32_t BranchOf(uint64_t layer) { return static_cast<uint32_t>(layer >> 32); }
constexpr uint32_t OrdinalOf(uint64_t layer) { return static_cast<uint32_t>(layer); }
// No layer: where a number has to say that there is no base.
inline constexpr uint64_t kNoBase = ~uint64_t{0};

// Names one layer of one chunk. A vtree is a volume with its snapshots and clones.
struct ChunkKey {
  uint64_t vtree_id = 0;
  uint64_t chunk_index = 0;
  uint64_t layer = 0;
  friend auto operator<=>(const ChunkKey&, const ChunkKey&) = default;
};

// Which layers a volume or snapshot sees: of each branch those up to an ordinal, its own branch
// first, then what that was cloned from, and so on. Of a chunk it sees the newest layer on the
// path, which is the one of the greatest number.
class LayerPath {
 public:
  struct Part {
    uint32_t branch = 0;
    uint32_t ordinal_max = 0;
    friend bool operator==(const Part&, const Part&) = default;
  };
  static constexpr size_t kPartsMax = 16;
  static constexpr uint32_t kHead = std::numeric_limits<uint32_t>::max();

  // The head of branch 0.
  constexpr LayerPath() { parts_[0].ordinal_max = kHead; }
  // nullopt: no parts, more than kPartsMax, or branches that do not fall.
  static constexpr std::optional<LayerPath> Make(std::span<const Part> parts) {
    if (parts.empty() || parts.size() > kPartsMax) return std::nullopt;
    LayerPath path;
    path.count_ = parts.size();
    for (size_t i = 0; i < parts.size(); ++i) {
      if (i > 0 && parts[i].branch >= parts[i - 1].branch) return std::nullopt;
      path.parts_[i] = parts[i];
    }
    return path;
  }
  static constexpr std::optional<LayerPath> Make(std::initializer_list<Part> parts) {
    return Make(std::span(parts.begin(), parts.size()));
  }

  constexpr std::span<const Part> parts() const { return std::span(parts_).first(count_); }
  constexpr uint32_t branch() const { return parts_[0].branch; }
  constexpr bool Sees(uint64_t layer) const {
    return std::any_of(parts().begin(), parts().end(), [&](const Part& part) {
      return part.branch == BranchOf(layer) && OrdinalOf(layer) <= part.ordinal_max;
    });
  }
  friend bool operator==(const LayerPath& a, const LayerPath& b) {
    return std::ranges::equal(a.parts(), b.parts());
  }

 private:
  std::array<Part, kPartsMax> parts_ = {};
  size_t count_ = 1;
};

// A place in a volume's order of writes within one placement group: the writer's generation, then
// its sequence. Equal versions of a chunk mean equal bytes.
struct Version {
  uint64_t generation = 0;
  uint64_t sequence = 0;
  friend auto operator<=>(const Version&, const Version&) = default;
};

// A stream of writes that a replica takes strictly in order.
struct StreamId {
  uint64_t volume_id = 0;
  uint64_t placement_group_id = 0;
  friend auto operator<=>(const StreamId&, const StreamId&) = default;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_TYPES_H_
