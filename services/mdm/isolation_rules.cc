#include "services/mdm/isolation_rules.h"

#include <algorithm>
#include <iterator>

namespace tessera::mdm {

void IsolationJudge::Note(const Report& report, uint64_t now_boot_ms, const Servers& servers) {
  absl::MutexLock lock(&mutex_);
  for (auto reporter = noted_.begin(); reporter != noted_.end();) {
    std::erase_if(reporter->second, [&](const auto& entry) {
      return entry.second.last_ms + rules_.window_ms < now_boot_ms;
    });
    reporter = reporter->second.empty() ? noted_.erase(reporter) : std::next(reporter);
  }
  const uint64_t incarnation = servers.incarnation(report.sds_id);
  const auto [place, made] = noted_[report.reporter].try_emplace(report.sds_id);
  Noted& noted = place->second;
  if (made || noted.incarnation != incarnation) {
    noted = {.first_ms = now_boot_ms, .incarnation = incarnation};
  }
  noted.last_ms = now_boot_ms;
}

IsolationVerdict IsolationJudge::Judge(const Report& report, uint64_t now_boot_ms,
                                       const Servers& servers) const {
  absl::MutexLock lock(&mutex_);
  const auto reporter = noted_.find(report.reporter);
  if (reporter == noted_.end()) return IsolationVerdict::kBelieve;
  const auto server = reporter->second.find(report.sds_id);
  if (server == reporter->second.end()) return IsolationVerdict::kBelieve;
  const auto lost =
      std::count_if(reporter->second.begin(), reporter->second.end(), [&](const auto& entry) {
        return entry.second.incarnation == servers.incarnation(entry.first);
      });
  const size_t majority = std::max<size_t>(2, report.pool_servers / 2 + 1);
  if (static_cast<size_t>(lost) < majority) return IsolationVerdict::kBelieve;
  const uint64_t first_ms = server->second.first_ms;
  if (servers.heard_since(report.sds_id, first_ms + 1)) return IsolationVerdict::kReporterAtFault;
  return now_boot_ms - first_ms >= rules_.silence_ms ? IsolationVerdict::kBelieve
                                                     : IsolationVerdict::kWait;
}

}  // namespace tessera::mdm
