// Random numbers for simulations: the same seed gives the same numbers with every compiler and
// library, which std::uniform_int_distribution does not promise.
//
// Source: xoshiro256** by Blackman and Vigna (2018), seeded by splitmix64.
// Threads: one at a time. Not for keys: see getrandom(2).
#ifndef TESSERA_LIBCHUNK_SEEDED_RANDOM_H_
#define TESSERA_LIBCHUNK_SEEDED_RANDOM_H_

#include <bit>
#include <cstdint>

namespace tessera::chunk {

class SeededRandom {
 public:
  explicit SeededRandom(uint64_t seed) {
    for (uint64_t& word : state_) {
      seed += 0x9e3779b97f4a7c15u;
      uint64_t mixed = seed;
      mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
      mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
      word = mixed ^ (mixed >> 31);
    }
  }

  uint64_t Next() {
    const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // In [0, bound); 0 for bound 0.
  uint64_t Below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<Wide>(Next()) * bound) >> 64);
  }

  // In [low, high], both included; low <= high.
  uint64_t Between(uint64_t low, uint64_t high) { return low + Below(high - low + 1); }

  // True `numerator` times in `denominator`.
  bool Chance(uint64_t numerator, uint64_t denominator) { return Below(denominator) < numerator; }

 private:
  __extension__ using Wide = unsigned __int128;

  uint64_t state_[4];
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_SEEDED_RANDOM_H_
