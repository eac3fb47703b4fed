// What a token costs: nanoseconds a call on one core, the best of several rounds (the others had
// company). `tessera-token-bench [--json]`.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <string_view>
#include <vector>

#include "libtoken/token.h"

namespace tessera::token {
namespace {

constexpr int kRounds = 15;
constexpr uint64_t kCallsPerRound = 100'000;

struct Result {
  const char* name;
  double nanoseconds;
};

// Keeps the compiler from dropping a call whose result nobody reads.
template <typename Value>
void Keep(const Value& value) {
  asm volatile("" : : "g"(&value) : "memory");
}

double BestNanoseconds(const std::function<void(uint64_t)>& round) {
  double best = std::numeric_limits<double>::max();
  for (int i = 0; i < kRounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    round(static_cast<uint64_t>(i) * kCallsPerRound);
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count() / static_cast<double>(kCallsPerRound));
  }
  return best;
}

template <typename Call>
Result Measure(const char* name, Call call) {
  return {name, BestNanoseconds([&](uint64_t first) {
            for (uint64_t i = first; i < first + kCallsPerRound; ++i) call(i);
          })};
}

Grant BenchGrant() {
  Grant grant;
  grant.grant_id = 1;
  grant.volume_size_bytes = uint64_t{1} << 40;
  grant.chunk_bytes = 1 << 20;
  grant.access = AccessMode::kReadWrite;
  grant.issued_ms = 1;
  grant.expiry_ms = 60'000;
  return grant;
}

std::vector<Result> MeasureAll() {
  const Grant grant = BenchGrant();
  const std::string grant_bytes = EncodeGrant(grant);
  Key sds_key{};
  RandomBytes(sds_key);
  const GrantKey key = GrantKey::Derive(sds_key, grant_bytes);
  IoToken token;
  token.operation = Operation::kWrite;
  token.grant_id = grant.grant_id;
  token.length_bytes = 4096;
  const Signature signature = key.Sign(token);
  const MdmTime now{.earliest_ms = 10, .latest_ms = 20};

  std::vector<Result> results;
  results.push_back(Measure("sign", [&](uint64_t i) {
    IoToken mine = token;
    mine.counter = i;
    Keep(key.Sign(mine));
  }));
  results.push_back(Measure("verify", [&](uint64_t) { Keep(key.Verify(token, signature)); }));
  results.push_back(Measure("sign_and_verify", [&](uint64_t i) {
    IoToken mine = token;
    mine.counter = i;
    Keep(key.Verify(mine, key.Sign(mine)));
  }));
  results.push_back(Measure(
      "check_token", [&](uint64_t) { Keep(CheckToken(grant, key, token, signature, 0, 0, now)); }));
  ReplayWindow window;
  results.push_back(Measure("replay_window_use", [&](uint64_t i) { Keep(window.Use(i)); }));
  results.push_back(
      Measure("derive_grant_key", [&](uint64_t) { Keep(GrantKey::Derive(sds_key, grant_bytes)); }));
  return results;
}

void Print(const std::vector<Result>& results, bool json) {
  if (json) std::printf("{");
  for (size_t i = 0; i < results.size(); ++i) {
    const Result& result = results[i];
    if (json) {
      std::printf("%s\"%s_ns\": %.1f", i == 0 ? "" : ", ", result.name, result.nanoseconds);
    } else {
      std::printf("%-20s %8.1f ns\n", result.name, result.nanoseconds);
    }
  }
  if (json) std::printf("}\n");
}

}  // namespace
}  // namespace tessera::token

int main(int argc, char** argv) {
  const bool json = argc == 2 && std::string_view(argv[1]) == "--json";
  if (argc > 2 || (argc == 2 && !json)) {
    std::fprintf(stderr, "usage: tessera-token-bench [--json]\n");
    return 2;
  }
  tessera::token::Print(tessera::token::MeasureAll(), json);
  return 0;
}
