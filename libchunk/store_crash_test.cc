// tessera_chunk_crash: runs seeds of the crash test (store_crash_run.h) and prints what they met.
//
//   tessera_chunk_crash [--seeds A..B] [--operations N] [--minutes M] [--faults LIST] [--trace]
//   [--device]
//
//   --seeds A..B      the seeds to run, both included (1..40)
//   --operations N    in each seed (2000)
//   --minutes M       stops after so long, at the end of a seed (no limit)
//   --faults LIST     all, or some of: process,power,restart,abandon,read,write,sync,space,flip
//   (all)
//   --trace           each operation to stderr
//   --device          stores on a block device in place of a folder
//
// Exit status: 0, or 1 when a seed failed (its replay command is printed), 2 for wrong arguments.
#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "libchunk/store_crash_run.h"

namespace tessera::chunk {
namespace {

struct Arguments {
  uint64_t first_seed = 1;
  uint64_t last_seed = 40;
  uint64_t minutes = 0;  // 0: no limit
  std::string faults = "all";
  CrashRunOptions run = {.operations = 2000};
};

constexpr std::array<std::string_view, kTroubleCount> kFaultWords = {
    "process", "power", "restart", "abandon", "read", "write", "sync", "space", "flip"};

// For the handler of SIGABRT: a broken invariant of the store ends the process.
std::array<char, 512> replay_line = {};

void PrintReplayLine(int) {
  size_t length = 0;
  while (length < replay_line.size() && replay_line[length] != '\0') ++length;
  (void)!write(STDERR_FILENO, replay_line.data(), length);
}

bool ParseNumber(std::string_view text, uint64_t& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

bool ParseSeeds(std::string_view text, Arguments& arguments) {
  const size_t dots = text.find("..");
  if (dots == std::string_view::npos) {
    if (!ParseNumber(text, arguments.first_seed)) return false;
    arguments.last_seed = arguments.first_seed;
    return true;
  }
  return ParseNumber(text.substr(0, dots), arguments.first_seed) &&
         ParseNumber(text.substr(dots + 2), arguments.last_seed) &&
         arguments.first_seed <= arguments.last_seed;
}

bool ParseFaults(std::string_view text, Arguments& arguments) {
  arguments.faults = text;
  if (text == "all") return true;
  arguments.run.troubles = 0;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const std::string_view word = text.substr(0, comma);
    text.remove_prefix(std::min(comma + 1, text.size()));
    bool known = false;
    for (int i = 0; i < kTroubleCount; ++i) {
      if (kFaultWords[static_cast<size_t>(i)] != word) continue;
      arguments.run.troubles |= 1u << i;
      known = true;
    }
    if (!known) return false;
  }
  return arguments.run.troubles != 0;
}

std::optional<Arguments> Parse(int count, char** words) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--trace" || word == "--device") {
      (word == "--trace" ? arguments.run.trace : arguments.run.block_device) = true;
      continue;
    }
    if (i + 1 >= count) return std::nullopt;
    const std::string_view value = words[++i];
    const bool good = word == "--seeds"        ? ParseSeeds(value, arguments)
                      : word == "--operations" ? ParseNumber(value, arguments.run.operations)
                      : word == "--minutes"    ? ParseNumber(value, arguments.minutes)
                      : word == "--faults"     ? ParseFaults(value, arguments)
                                               : false;
    if (!good) return std::nullopt;
  }
  return arguments;
}

void PrintSummary(const CrashRunStatistics& sum, uint64_t seeds, double seconds) {
  const auto line = [](const char* what, uint64_t count) {
    std::printf("%-28s %10lu\n", what, count);
  };
  line("seeds", seeds);
  line("operations", sum.operations);
  line("  changes applied", sum.changes);
  line("  reads", sum.reads);
  line("  flushes", sum.flushes);
  line("  background runs", sum.checkpoints);
  line("  refused: no space", sum.exhausted);
  line("  refused: base or pruned", sum.refused);
  line("  snapshots", sum.snapshots);
  line("  clones", sum.clones);
  line("  layers adopted", sum.adopted);
  line("  layers dropped: gone", sum.layers_gone);
  line("  layers dropped: pruned", sum.layers_pruned);
  line("crash and fault points", sum.points());
  for (int i = 0; i < kTroubleCount; ++i) {
    line((std::string("  ") + TroubleName(static_cast<Trouble>(i))).c_str(),
         sum.troubles[static_cast<size_t>(i)]);
  }
  line("  crash while opening", sum.crashes_in_open);
  line("stores opened", sum.opens);
  line("unflushed changes lost", sum.steps_lost);
  line("blocks refused (flipped)", sum.data_losses);
  line("of these, repaired", sum.repairs);
  line("paths compared", sum.comparisons);
  std::printf("%-28s %10.1f\n", "seconds", seconds);
}

int Main(int count, char** words) {
  const std::optional<Arguments> parsed = Parse(count, words);
  if (!parsed.has_value()) {
    std::fprintf(
        stderr,
        "usage: %s [--seeds A..B] [--operations N] [--minutes M] [--faults LIST] [--trace] "
        "[--device]\n",
        words[0]);
    return 2;
  }
  Arguments arguments = *parsed;
  std::signal(SIGABRT, PrintReplayLine);
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  CrashRunStatistics sum;
  uint64_t seeds = 0;
  int failures = 0;
  for (uint64_t seed = arguments.first_seed; seed <= arguments.last_seed; ++seed) {
    if (arguments.minutes > 0 && seconds() > 60.0 * static_cast<double>(arguments.minutes)) break;
    arguments.run.seed = seed;
    std::snprintf(replay_line.data(), replay_line.size(),
                  "replay: %s --seeds %lu --operations %lu --faults %s --trace%s\n", words[0], seed,
                  arguments.run.operations, arguments.faults.c_str(),
                  arguments.run.block_device ? " --device" : "");
    // SQLite draws salts from a generator of the process: the same ones for the same seed.
    sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, static_cast<int>(seed), nullptr);
    const absl::Status status = RunCrashSeed(arguments.run, sum);
    ++seeds;
    if (status.ok()) continue;
    std::printf("seed %lu FAILED %s\n%s", seed, status.ToString().c_str(), replay_line.data());
    std::fflush(stdout);
    if (++failures == 10) break;
  }
  PrintSummary(sum, seeds, seconds());
  std::printf("%s: %d of %lu seeds failed\n", failures == 0 ? "PASSED" : "FAILED", failures, seeds);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tessera::chunk

int main(int argc, char** argv) { return tessera::chunk::Main(argc, argv); }
