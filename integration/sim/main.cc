// tessera-sim: runs seeds of the simulated cluster, each in a process of its own, one after
// another.
//
//   tessera-sim --seeds 1000             seeds 1 to 1000; exit status 1 when one shows a violation
//   tessera-sim --seed 42 --trace        that one, with everything that happened
//   --first N   begin at this seed       --steps N    events with faults in each seed
//   --coverage  what happened, counted   --no-faults  an untroubled cluster
//   --stop      at the first violation   --folder F   for the databases; default /dev/shm
//   --here      the seed in this very process, for debuggers
//   --read-caches  clients have some
//
// A seed gives the same run every time: addresses are not randomised (the order of hash tables
// depends on them), and the parent allocates nothing between two seeds.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <string>

#include "integration/sim/coverage.h"
#include "integration/sim/run.h"
#include "services/common/logging.h"

namespace tessera::sim {
namespace {

constexpr unsigned kSeedSeconds = 300;  // of processor time; more is a hang

// What the seeds' processes leave for the parent.
struct Shared {
  uint64_t coverage[kCoverageCount];
  uint64_t steps;
  uint64_t seeds;
  double virtual_seconds;
  uint64_t hash;
  char violation[4096];
};

struct Flags {
  uint64_t first = 1;
  uint64_t count = 0;
  RunOptions run;
  bool coverage = false;
  bool stop = false;
  bool here = false;
  std::string folder = "/dev/shm";
};

[[noreturn]] void Usage(const char* problem) {
  std::fprintf(stderr,
               "%s\nusage: tessera-sim --seeds N | --seed N [--first N] [--steps N] [--trace] "
               "[--coverage] [--no-faults] [--stop] [--here] [--read-caches] [--folder F]\n",
               problem);
  std::exit(2);
}

uint64_t Number(const char* text) {
  char* end = nullptr;
  const uint64_t value = text == nullptr ? 0 : std::strtoull(text, &end, 10);
  if (text == nullptr || *text == '\0' || *end != '\0') Usage("a flag lacks its number");
  return value;
}

Flags ReadFlags(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--seeds") {
      flags.count = Number(argv[++i]);
    } else if (flag == "--seed") {
      flags.first = Number(argv[++i]);
      flags.count = 1;
    } else if (flag == "--first") {
      flags.first = Number(argv[++i]);
    } else if (flag == "--steps") {
      flags.run.steps = Number(argv[++i]);
    } else if (flag == "--trace") {
      flags.run.trace = true;
    } else if (flag == "--coverage") {
      flags.coverage = true;
    } else if (flag == "--no-faults") {
      flags.run.faults = false;
    } else if (flag == "--read-caches") {
      flags.run.read_caches = true;
    } else if (flag == "--here") {
      flags.here = true;
    } else if (flag == "--stop") {
      flags.stop = true;
    } else if (flag == "--folder" && argv[i + 1] != nullptr) {
      flags.folder = argv[++i];
    } else {
      Usage(argv[i]);
    }
  }
  if (flags.count == 0) Usage("which seeds?");
  return flags;
}

// In the seed's process.
[[noreturn]] void RunOne(const Flags& flags, uint64_t seed, const char* folder, Shared* shared) {
  alarm(kSeedSeconds * 4);
  (void)mkdir(folder, 0700);
  SetCoverage(shared->coverage);
  RunOptions options = flags.run;
  options.seed = seed;
  const RunResult result = RunSeed(options, folder);
  shared->steps += result.steps;
  shared->virtual_seconds += result.virtual_seconds;
  shared->hash = result.hash;
  std::snprintf(shared->violation, sizeof(shared->violation), "%s", result.violation.c_str());
  std::fflush(stdout);
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  _exit(result.violation.empty() ? 0 : 1);
}

int RunAll(const Flags& flags) {
  auto* shared = static_cast<Shared*>(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  char base[256];
  std::snprintf(base, sizeof(base), "%s/tessera-sim.XXXXXX", flags.folder.c_str());
  if (mkdtemp(base) == nullptr) Usage("--folder can't be written");
  char folder[320];
  std::snprintf(folder, sizeof(folder), "%s/run", base);
  uint64_t failed = 0;
  if (flags.here) RunOne(flags, flags.first, folder, shared);
  timespec began{};
  clock_gettime(CLOCK_MONOTONIC, &began);
  std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);
  for (uint64_t seed = flags.first; seed < flags.first + flags.count; ++seed) {
    shared->violation[0] = '\0';
    const pid_t child = fork();
    if (child == 0) RunOne(flags, seed, folder, shared);
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
    }
    ++shared->seeds;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    ++failed;
    if (WIFSIGNALED(status)) {
      std::printf("seed %lu FAILED: signal %d%s\n", seed, WTERMSIG(status),
                  WTERMSIG(status) == SIGALRM ? " (it hangs)" : "");
    } else {
      std::printf("seed %lu FAILED: %s\n", seed, shared->violation);
    }
    std::printf("  see it again: tessera-sim --seed %lu --steps %lu --trace\n", seed,
                flags.run.steps);
    if (flags.stop) break;
  }
  std::error_code ignored;
  std::filesystem::remove_all(base, ignored);
  timespec ended{};
  clock_gettime(CLOCK_MONOTONIC, &ended);
  const double seconds = static_cast<double>(ended.tv_sec - began.tv_sec) +
                         static_cast<double>(ended.tv_nsec - began.tv_nsec) * 1e-9;
  if (flags.coverage) {
    for (size_t i = 0; i < kCoverageCount; ++i) {
      std::printf("%12lu  %s\n", shared->coverage[i], CoverageName(static_cast<Coverage>(i)));
    }
  }
  std::printf("%lu seeds, %lu steps, %.0f virtual seconds, %.0f steps a second: %lu violations\n",
              shared->seeds, shared->steps, shared->virtual_seconds,
              static_cast<double>(shared->steps) / seconds, failed);
  if (flags.count == 1) std::printf("hash %016lx\n", shared->hash);
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tessera::sim

int main(int argc, char** argv) {
  const int now = personality(0xffffffff);
  if (now != -1 && (now & ADDR_NO_RANDOMIZE) == 0 &&
      personality(static_cast<unsigned long>(now) | ADDR_NO_RANDOMIZE) != -1) {
    execv("/proc/self/exe", argv);
  }
  const tessera::sim::Flags flags = tessera::sim::ReadFlags(argc, argv);
  if (!tessera::InitLogging({.component = "sim", .level = flags.run.trace ? "error" : "off"})
           .ok()) {
    (void)tessera::InitLogging({.component = "sim", .level = "error"});
  }
  return tessera::sim::RunAll(flags);
}
