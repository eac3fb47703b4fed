#include "services/mgmt/people/sign_in_limiter.h"

#include <algorithm>

namespace tessera::mgmt {

uint64_t WrongTries::ClosedForMs(const std::string& key, uint64_t now_ms) const {
  const auto found = entries_.find(key);
  if (found == entries_.end() || found->second.closed_until_ms <= now_ms) return 0;
  return found->second.closed_until_ms - now_ms;
}

void WrongTries::Charge(const std::string& key, uint64_t now_ms) {
  if (entries_.find(key) == entries_.end()) MakeRoom(now_ms);
  Entry& entry = entries_[key];
  if (entry.last_ms + kForgottenAfterMs <= now_ms) entry = Entry{};
  ++entry.wrong;
  entry.last_ms = now_ms;
  if (entry.wrong < free_) return;
  const uint32_t doublings = std::min(entry.wrong - free_, 16u);
  entry.closed_until_ms = now_ms + std::min(kFirstClosingMs << doublings, kLongestClosingMs);
}

void WrongTries::GiveBack(const std::string& key) {
  const auto found = entries_.find(key);
  if (found == entries_.end()) return;
  found->second.closed_until_ms = 0;
  if (--found->second.wrong == 0) entries_.erase(found);
}

void WrongTries::ForgetPrefix(const std::string& prefix) {
  for (auto next = entries_.lower_bound(prefix);
       next != entries_.end() && next->first.compare(0, prefix.size(), prefix) == 0;) {
    next = entries_.erase(next);
  }
}

void WrongTries::MakeRoom(uint64_t now_ms) {
  if (entries_.size() < kEntriesLimit) return;
  std::erase_if(entries_, [now_ms](const auto& item) {
    return item.second.last_ms + kForgottenAfterMs <= now_ms;
  });
  if (entries_.size() < kEntriesLimit) return;
  entries_.erase(std::min_element(
      entries_.begin(), entries_.end(),
      [](const auto& a, const auto& b) { return a.second.last_ms < b.second.last_ms; }));
}

// No name holds a line feed: those that do are refused before.
std::string SignInLimiter::NameAtPlace(const Try& attempt) {
  return attempt.user_name + "\n" + attempt.place;
}

uint64_t SignInLimiter::Begin(const Try& attempt, uint64_t now_ms) {
  absl::MutexLock lock(&mutex_);
  uint64_t closed_ms = std::max(name_at_place_.ClosedForMs(NameAtPlace(attempt), now_ms),
                                place_.ClosedForMs(attempt.place, now_ms));
  if (!attempt.known) {
    closed_ms = std::max(closed_ms, name_.ClosedForMs(attempt.user_name, now_ms));
  }
  if (closed_ms > 0) return closed_ms;
  name_at_place_.Charge(NameAtPlace(attempt), now_ms);
  place_.Charge(attempt.place, now_ms);
  if (!attempt.known) name_.Charge(attempt.user_name, now_ms);
  return 0;
}

void SignInLimiter::Right(const Try& attempt) {
  absl::MutexLock lock(&mutex_);
  name_at_place_.Forget(NameAtPlace(attempt));
  place_.GiveBack(attempt.place);
  if (!attempt.known) name_.GiveBack(attempt.user_name);
}

void SignInLimiter::Undecided(const Try& attempt) {
  absl::MutexLock lock(&mutex_);
  name_at_place_.GiveBack(NameAtPlace(attempt));
  place_.GiveBack(attempt.place);
  if (!attempt.known) name_.GiveBack(attempt.user_name);
}

void SignInLimiter::ForgetName(const std::string& user_name) {
  absl::MutexLock lock(&mutex_);
  name_at_place_.ForgetPrefix(user_name + "\n");
  name_.Forget(user_name);
}

}  // namespace tessera::mgmt
