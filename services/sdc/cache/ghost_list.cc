#include "services/sdc/cache/ghost_list.h"

#include "absl/hash/hash.h"

namespace tessera::sdc {
namespace {
size_t HashOf(const CacheLineKey& key) { return absl::Hash<CacheLineKey>()(key); }
}  // namespace

void GhostList::Free(uint32_t place) {
  chains_.Remove(HashOf(places_[place].key), place);
  places_[place].blocks = 0;
  --used_;
}

bool GhostList::MissedAgain(const CacheLineKey& key, BlockMask blocks) {
  const size_t hash = HashOf(key);
  const uint32_t found =
      chains_.Find(hash, [&](uint32_t place) { return places_[place].key == key; });
  if (found != HashChains::kNone) {
    if ((places_[found].blocks & blocks) != 0) {
      Free(found);
      return true;
    }
    places_[found].blocks |= blocks;
    return false;
  }
  if (places_[next_].blocks != 0) Free(next_);
  places_[next_] = {key, blocks};
  chains_.Add(hash, next_);
  ++used_;
  next_ = (next_ + 1) % static_cast<uint32_t>(places_.size());
  return false;
}

}  // namespace tessera::sdc
