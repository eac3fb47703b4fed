// When a notification is tried again, and when it is not.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_RETRY_RULES_H_
#define TESSERA_SERVICES_MGMT_ALERTS_RETRY_RULES_H_

#include <algorithm>
#include <cstdint>

namespace tessera::mgmt {

inline constexpr uint64_t kBackoffFirstMs = 5'000;
inline constexpr uint64_t kBackoffMaxMs = 3'600'000;
// Tried for a day, and so often at least, whatever the wall clock says.
inline constexpr uint64_t kGiveUpAfterMs = 86'400'000;
inline constexpr uint32_t kGiveUpTriesMin = 10;

enum class TryResult {
  kSent,
  kFailed,   // again later
  kRefused,  // this message is not taken, however often it is sent
};

// Twice as long after each failure, give or take a quarter. `random` is 0 to 1.
[[nodiscard]] inline uint64_t BackoffMs(uint32_t failures, double random) {
  const uint32_t doublings = std::min<uint32_t>(failures == 0 ? 0 : failures - 1, 20);
  const uint64_t plain = std::min(kBackoffMaxMs, kBackoffFirstMs << doublings);
  return static_cast<uint64_t>(static_cast<double>(plain) * (0.75 + random / 2));
}

// A wrong address, key or redirection is put right by an administrator: only what is said of the
// message itself is final.
[[nodiscard]] inline TryResult JudgeHttp(int64_t status) {
  if (status >= 200 && status < 300) return TryResult::kSent;
  if (status == 400 || status == 413 || status == 422) return TryResult::kRefused;
  return TryResult::kFailed;
}
// Of a mail that was not taken (RFC 5321, 4.2.3): too large, or refused as it is.
[[nodiscard]] inline TryResult JudgeFailedMail(int64_t reply) {
  return reply == 552 || reply == 554 ? TryResult::kRefused : TryResult::kFailed;
}

[[nodiscard]] inline bool IsGivenUp(uint64_t queued_ms, uint64_t now_ms, uint32_t tries) {
  return tries >= kGiveUpTriesMin && now_ms > queued_ms && now_ms - queued_ms >= kGiveUpAfterMs;
}

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_RETRY_RULES_H_
