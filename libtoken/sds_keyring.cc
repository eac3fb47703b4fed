#include <algorithm>
#include <cstdint>
#include <vector>

#include "libtoken/crypto.h"
#include "libtoken/token.h"

namespace tessera::token {

void SdsKeyring::Add(uint32_t key_id, const Key& sds_key) {
  Remove(key_id);
  if (keys_.size() == keys_.capacity()) {
    // Grown by hand: the vector would leave the keys behind in the memory that it gives back.
    std::vector<std::pair<uint32_t, Key>> larger;
    larger.reserve(std::max<size_t>(4, 2 * keys_.size()));
    larger.assign(keys_.begin(), keys_.end());
    for (auto& [id, key] : keys_) tessera_token_wipe(key.data(), key.size());
    keys_.swap(larger);
  }
  keys_.emplace_back(key_id, sds_key);
}

void SdsKeyring::Remove(uint32_t key_id) {
  const auto found = std::find_if(keys_.begin(), keys_.end(),
                                  [key_id](const auto& entry) { return entry.first == key_id; });
  if (found == keys_.end()) return;
  std::swap(*found, keys_.back());
  tessera_token_wipe(keys_.back().second.data(), kKeyBytes);
  keys_.pop_back();
}

const Key* SdsKeyring::Find(uint32_t key_id) const {
  for (const auto& [id, key] : keys_) {
    if (id == key_id) return &key;
  }
  return nullptr;
}

std::vector<uint32_t> SdsKeyring::key_ids() const {
  std::vector<uint32_t> ids;
  ids.reserve(keys_.size());
  for (const auto& [id, key] : keys_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace tessera::token
