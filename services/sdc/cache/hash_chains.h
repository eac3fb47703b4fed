// Finds the entries of a table of fixed size by their hash. Nothing ever grows or moves, so that no
// call takes long, however large the table is.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_CACHE_HASH_CHAINS_H_
#define TESSERA_SERVICES_SDC_CACHE_HASH_CHAINS_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tessera::sdc {

class HashChains {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // Of entries 0 to `entries` - 1, none of them added. REQUIRES: 0 < entries < kNone.
  explicit HashChains(size_t entries)
      : heads_(std::bit_ceil(entries), kNone), next_(entries, kNone) {}

  // The entry with this hash for which is(entry) holds; kNone: there is none.
  template <typename Is>
  [[nodiscard]] uint32_t Find(size_t hash, const Is& is) const {
    uint32_t entry = heads_[hash & (heads_.size() - 1)];
    while (entry != kNone && !is(entry)) entry = next_[entry];
    return entry;
  }
  // REQUIRES: it is not there.
  void Add(size_t hash, uint32_t entry) {
    uint32_t& head = heads_[hash & (heads_.size() - 1)];
    next_[entry] = head;
    head = entry;
  }
  // REQUIRES: it was added with this hash.
  void Remove(size_t hash, uint32_t entry) {
    uint32_t* link = &heads_[hash & (heads_.size() - 1)];
    while (*link != entry) link = &next_[*link];
    *link = next_[entry];
  }

 private:
  std::vector<uint32_t> heads_;
  std::vector<uint32_t> next_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CACHE_HASH_CHAINS_H_
