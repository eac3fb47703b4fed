// Which in-sync replica a read goes to: one on this host before others, then the one with the
// fewest operations in flight; equals are told apart by chunk, so that a chunk is read from one
// replica and is cached once.
//
// Threads: pure.
#ifndef TESSERA_SERVICES_SDC_RULES_READ_BALANCER_H_
#define TESSERA_SERVICES_SDC_RULES_READ_BALANCER_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace tessera::sdc {

struct ReadCandidate {
  size_t member = 0;    // the caller's number for it
  bool usable = false;  // in sync, stream open, not asked before for this read
  bool same_host = false;
  uint32_t in_flight = 0;  // operations that its server has not answered
};

inline constexpr size_t kNoCandidate = SIZE_MAX;

// The member to ask, or kNoCandidate.
[[nodiscard]] inline size_t ChooseReplica(std::span<const ReadCandidate> candidates,
                                          uint64_t chunk_index) {
  // A difference below this is noise: it is not worth leaving the replica whose cache is warm.
  constexpr uint32_t kSlack = 8;
  const ReadCandidate* best = nullptr;
  for (size_t i = 0; i < candidates.size(); ++i) {
    // Begins at another replica for each chunk; the first of equals wins.
    const ReadCandidate& candidate = candidates[(i + chunk_index) % candidates.size()];
    if (!candidate.usable) continue;
    if (best == nullptr || (candidate.same_host && !best->same_host) ||
        (candidate.same_host == best->same_host &&
         candidate.in_flight + kSlack < best->in_flight)) {
      best = &candidate;
    }
  }
  return best == nullptr ? kNoCandidate : best->member;
}

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RULES_READ_BALANCER_H_
