#include "services/sds/client_limits.h"

#include <algorithm>

namespace tessera::sds {
namespace {

// A capped client has nothing to save up.
constexpr double kCappedBurstSeconds = 1;

double Smaller(double rate, double cap) {
  if (cap == 0) return rate;
  return rate == 0 ? cap : std::min(rate, cap);
}

}  // namespace

void ClientLimit::Show(const token::Grant& grant, uint64_t now_nanos) {
  absl::MutexLock lock(&mutex_);
  if (grant.issued_ms <= issued_ms_) return;
  issued_ms_ = grant.issued_ms;
  granted_ = {static_cast<double>(grant.iops_limit),
              static_cast<double>(grant.bandwidth_limit_bytes),
              static_cast<double>(std::max<uint32_t>(1, grant.burst_seconds))};
  Configure(now_nanos);
}

void ClientLimit::SetCap(const v1::ClientCap& cap, uint64_t now_nanos) {
  absl::MutexLock lock(&mutex_);
  cap_operations_ = cap.operations_per_second();
  cap_bytes_ = cap.bytes_per_second();
  Configure(now_nanos);
}

void ClientLimit::Configure(uint64_t now_nanos) {
  const bool capped = cap_operations_ > 0 || cap_bytes_ > 0;
  limiter_.Configure({Smaller(kSlack * granted_.operations_per_second, cap_operations_),
                      Smaller(kSlack * granted_.bytes_per_second, cap_bytes_),
                      capped ? kCappedBurstSeconds : granted_.burst_seconds + kSlackSeconds,
                      capped ? 0 : kSlackSeconds},
                     now_nanos);
}

ClientLimit::Decision ClientLimit::Admit(const IoCost& cost, bool queued, uint64_t now_nanos) {
  absl::MutexLock lock(&mutex_);
  const uint64_t wait = cost == IoCost{} ? 0 : limiter_.Wait(now_nanos);
  if (wait > kWaitMaxNanos) return {.refused = true};
  limiter_.Take(cost);
  if (wait == 0 && !queued) return {.begin_nanos = now_nanos};
  last_begin_nanos_ = std::max(last_begin_nanos_, now_nanos + wait);
  return {.begin_nanos = last_begin_nanos_};
}

bool ClientLimit::Hold(uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (held_bytes_ > 0 && held_bytes_ + bytes > kHeldBytesMax) return false;
  held_bytes_ += bytes;
  return true;
}

void ClientLimit::Release(uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  held_bytes_ -= bytes;
}

bool ClientLimit::Idle(uint64_t now_nanos) {
  absl::MutexLock lock(&mutex_);
  return held_bytes_ == 0 && cap_operations_ == 0 && cap_bytes_ == 0 && limiter_.Full(now_nanos);
}

ClientLimits::Found ClientLimits::Find(const token::Grant& grant, uint64_t now_nanos) {
  if (grant.sdc_id == 0) return {};  // one operation, and the MDM knows of it
  const Key key{grant.volume_id, grant.sdc_id};
  Found found;
  {
    absl::MutexLock lock(&mutex_);
    if (grant.iops_limit == 0 && grant.bandwidth_limit_bytes == 0) {
      const auto known = entries_.find(key);
      if (known != entries_.end()) found.limit = known->second;
    } else {
      found.limit = FindOrAdd(key, now_nanos);
      found.full = found.limit == nullptr;
    }
  }
  if (found.limit != nullptr) found.limit->Show(grant, now_nanos);
  return found;
}

std::shared_ptr<ClientLimit> ClientLimits::FindOrAdd(const Key& key, uint64_t now_nanos) {
  const auto known = entries_.find(key);
  if (known != entries_.end()) return known->second;
  if (entries_.size() >= size_) {
    // One that a stream still has is in use.
    absl::erase_if(entries_, [now_nanos](const auto& entry) {
      return entry.second.use_count() == 1 && entry.second->Idle(now_nanos);
    });
    if (entries_.size() >= size_) return nullptr;
  }
  auto made = std::make_shared<ClientLimit>();
  entries_.emplace(key, made);
  version_.fetch_add(1, std::memory_order_release);
  return made;
}

void ClientLimits::SetCaps(std::span<const v1::ClientCap> caps, uint64_t now_nanos) {
  std::vector<std::pair<std::shared_ptr<ClientLimit>, const v1::ClientCap*>> now;
  std::vector<std::shared_ptr<ClientLimit>> lifted;
  {
    absl::MutexLock lock(&mutex_);
    lifted.swap(capped_);
    for (const v1::ClientCap& cap : caps) {
      auto limit = FindOrAdd({cap.volume_id(), cap.sdc_id()}, now_nanos);
      if (limit == nullptr) continue;
      std::erase(lifted, limit);
      capped_.push_back(limit);
      now.emplace_back(std::move(limit), &cap);
    }
  }
  for (const auto& [limit, cap] : now) limit->SetCap(*cap, now_nanos);
  for (const auto& limit : lifted) limit->SetCap({}, now_nanos);
}

size_t ClientLimits::size() const {
  absl::MutexLock lock(&mutex_);
  return entries_.size();
}

}  // namespace tessera::sds
