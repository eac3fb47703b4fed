#include "libchunk/bench_usage.h"

#include <filesystem>
#include <fstream>
#include <sstream>

namespace tessera::chunk {
namespace {

// Fields of /proc/<pid>/stat after the name in parentheses: utime is the 12th, stime the 13th.
constexpr int kUserTicksField = 12;

std::string FirstLine(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

UsageByThread ReadUsage() {
  UsageByThread usage;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    const std::filesystem::path& folder = task.path();
    ThreadUsage& thread = usage[FirstLine(folder / "comm")];
    uint64_t nanos = 0;
    std::istringstream(FirstLine(folder / "schedstat")) >> nanos;
    thread.nanos += nanos;
    const std::string stat = FirstLine(folder / "stat");
    std::istringstream fields(stat.substr(stat.rfind(')') + 1));
    std::string skipped;
    for (int field = 1; field < kUserTicksField; ++field) fields >> skipped;
    uint64_t user = 0, system = 0;
    fields >> user >> system;
    thread.user_ticks += user;
    thread.system_ticks += system;
  }
  return usage;
}

UsageByThread operator-(const UsageByThread& after, const UsageByThread& before) {
  UsageByThread difference = after;
  for (auto& [name, thread] : difference) {
    const auto found = before.find(name);
    if (found == before.end()) continue;
    thread.nanos -= found->second.nanos;
    thread.user_ticks -= found->second.user_ticks;
    thread.system_ticks -= found->second.system_ticks;
  }
  return difference;
}

}  // namespace tessera::chunk
