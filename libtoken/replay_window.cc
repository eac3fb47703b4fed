// RFC 6479, section 2: a ring of bit words with one word more than the window needs, so that
// sliding clears whole words and shifts nothing.
#include <algorithm>
#include <cstdint>

#include "libtoken/token.h"

namespace tessera::token {
namespace {

constexpr uint64_t kBits = 64;
constexpr uint64_t kWordCount = ReplayWindow::kWindow / kBits + 1;
static_assert(ReplayWindow::kWindow % kBits == 0);

}  // namespace

Refusal ReplayWindow::Use(uint64_t counter) {
  const uint64_t word = counter / kBits;
  const uint64_t bit = uint64_t{1} << (counter % kBits);
  if (counter > highest_) {
    const uint64_t highest_word = highest_ / kBits;
    const uint64_t entered = std::min(word - highest_word, kWordCount);
    for (uint64_t i = 0; i < entered; ++i) words_[(word - i) % kWordCount] = 0;
    highest_ = counter;
  } else if (highest_ - counter > kWindow) {
    return Refusal::kTooOld;
  }
  uint64_t& bits = words_[word % kWordCount];
  if ((bits & bit) != 0) return Refusal::kReplayed;
  bits |= bit;
  return Refusal::kNone;
}

}  // namespace tessera::token
