#include "services/sds/grant_cache.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

namespace tessera::sds {
namespace {

void LookUpKey(const KeyStore& keys, ShownGrant* shown) {
  shown->key_version = keys.version();
  const std::optional<token::Key> key = keys.Find(shown->grant.key_id);
  shown->key_known = key.has_value();
  if (key.has_value()) shown->key = token::GrantKey::Derive(*key, shown->bytes);
}

}  // namespace

std::optional<chunk::LayerPath> LayerPathOf(std::span<const token::PathPart> parts) {
  std::vector<chunk::LayerPath::Part> path;
  for (const token::PathPart& part : parts) path.push_back({part.branch, part.ordinal_max});
  return chunk::LayerPath::Make(path);
}

std::optional<chunk::LayerPath> PathOf(const token::Grant& grant) {
  return grant.path.empty() ? chunk::LayerPath() : LayerPathOf(grant.path);
}

std::optional<chunk::LayerPath> WritePathOf(const chunk::LayerPath& path, uint64_t layer) {
  if (chunk::BranchOf(layer) != path.branch() || !path.Sees(layer) || layer == chunk::kNoBase) {
    return std::nullopt;
  }
  std::vector<chunk::LayerPath::Part> parts(path.parts().begin(), path.parts().end());
  parts[0].ordinal_max = chunk::OrdinalOf(layer);
  return chunk::LayerPath::Make(parts);
}

uint64_t LastExpiryMillis(const token::Grant& grant) {
  return std::max(grant.expiry_ms, grant.outage_expiry_ms);
}

bool HasRunOut(const token::Grant& grant, const token::MdmTime& now) {
  return now.latest_ms >= (now.mdm_reachable ? grant.expiry_ms : LastExpiryMillis(grant));
}

std::shared_ptr<SharedReplayWindow> ReplayWindows::Get(uint64_t grant_id, uint64_t last_expiry_ms,
                                                       uint64_t now_earliest_ms) {
  absl::MutexLock lock(&mutex_);
  auto found = entries_.find(grant_id);
  if (found == entries_.end()) {
    if (entries_.size() >= limit_) {
      absl::erase_if(entries_, [now_earliest_ms](const auto& entry) {
        return entry.second.last_expiry_ms < now_earliest_ms;
      });
      if (entries_.size() >= limit_) return nullptr;
    }
    found = entries_.emplace(grant_id, Entry{std::make_shared<SharedReplayWindow>(), 0}).first;
  }
  found->second.last_expiry_ms = std::max(found->second.last_expiry_ms, last_expiry_ms);
  return found->second.window;
}

size_t ReplayWindows::size() const {
  absl::MutexLock lock(&mutex_);
  return entries_.size();
}

bool ShownGrants::Show(std::string_view bytes, const KeyStore& keys, uint64_t now_earliest_ms) {
  absl::StatusOr<token::Grant> grant = token::DecodeGrant(bytes);
  if (!grant.ok()) return false;
  const uint64_t grant_id = grant->grant_id;
  const auto known = grants_.find(grant_id);
  if (known != grants_.end() && known->second->bytes == bytes) return true;
  if (known == grants_.end() && grants_.size() >= kLimit) {
    absl::erase_if(grants_, [now_earliest_ms](const auto& entry) {
      return LastExpiryMillis(entry.second->grant) < now_earliest_ms;
    });
    if (grants_.size() >= kLimit) return false;
  }
  // A new object: operations in progress keep the grant they came under.
  auto shown = std::make_shared<ShownGrant>(ShownGrant{
      .bytes = std::string(bytes), .grant = *grant, .key = token::GrantKey::FromBytes({})});
  LookUpKey(keys, shown.get());
  shown->path = PathOf(*grant);
  if (shown->path.has_value()) {
    shown->write_path = WritePathOf(*shown->path, grant->snapshot_sequence);
  }
  if (last_found_ != nullptr && last_found_->grant.grant_id == grant_id) last_found_ = nullptr;
  grants_[grant_id] = std::move(shown);
  return true;
}

std::shared_ptr<ShownGrant> ShownGrants::Find(uint64_t grant_id, const KeyStore& keys) {
  if (last_found_ == nullptr || last_found_->grant.grant_id != grant_id) {
    const auto found = grants_.find(grant_id);
    if (found == grants_.end()) return nullptr;
    last_found_ = found->second;
  }
  if (last_found_->key_version != keys.version()) LookUpKey(keys, last_found_.get());
  return last_found_;
}

}  // namespace tessera::sds
