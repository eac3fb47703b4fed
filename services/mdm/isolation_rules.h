// Is it the servers that a client has lost, or the client that is lost? (docs/REPLICATION.md, "Who
// is at fault".) A client whose own network fails would otherwise report one server after another
// and leave the pool with single copies.
//
// A client that within a few seconds reports a majority of its pool's servers (at least two) is not
// believed on its word: a server that the MDM has heard since the client first reported it keeps
// its replicas, and the client waits, which fences it; one that stays silent goes when it has had
// time for two heartbeats. A server that has registered anew since was rightly reported and counts
// no more.
//
// Pure, with a memory of the last reports. Threads: any.
#ifndef TESSERA_SERVICES_MDM_ISOLATION_RULES_H_
#define TESSERA_SERVICES_MDM_ISOLATION_RULES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera::mdm {

struct IsolationRules {
  uint64_t window_ms = 5'000;  // reports that are older than this say nothing any more
  uint64_t silence_ms =
      2'500;  // a server that is silent for this long after a report is believed lost
};

enum class IsolationVerdict {
  kBelieve,
  kWait,             // too early to say: the reporter asks again
  kReporterAtFault,  // the server was heard from since
};

class IsolationJudge {
 public:
  explicit IsolationJudge(const IsolationRules& rules) : rules_(rules) {}

  struct Report {
    std::string reporter;
    uint64_t sds_id = 0;
    size_t pool_servers = 0;  // all that are registered, the lost ones included
  };
  // What the MDM knows of a server.
  struct Servers {
    std::function<bool(uint64_t sds_id, uint64_t boot_ms)>
        heard_since;                                       // at this boot time or later
    std::function<uint64_t(uint64_t sds_id)> incarnation;  // of its life now
  };
  // Remembers a report. All reports of one request are noted before the first is judged.
  void Note(const Report& report, uint64_t now_boot_ms, const Servers& servers);
  [[nodiscard]] IsolationVerdict Judge(const Report& report, uint64_t now_boot_ms,
                                       const Servers& servers) const;

 private:
  struct Noted {
    uint64_t first_ms = 0;
    uint64_t last_ms = 0;
    uint64_t incarnation = 0;
  };
  const IsolationRules rules_;
  mutable absl::Mutex mutex_;
  // By reporter and server; what is older than the window goes with the next report.
  std::map<std::string, std::map<uint64_t, Noted>> noted_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_ISOLATION_RULES_H_
