// Who watches the console, and what they are told: the present state of their topics first, then
// each change, and a heartbeat every 15 s.
//
// A reader that lags is spared what the next overview says anew; one that lags by kLagMax
// messages is ended and watches again. A reader whose session or token has ended is ended at the
// next publication or heartbeat.
//
// Threads: any. Publications come to every reader in one order.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_CONSOLE_HUB_H_
#define TESSERA_SERVICES_MGMT_MONITOR_CONSOLE_HUB_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "tessera/v1/console.pb.h"

namespace tessera::mgmt {

// Where a watcher's messages go. Its methods do not block.
class ConsoleStream {
 public:
  virtual ~ConsoleStream() = default;
  // False: the stream is over.
  [[nodiscard]] virtual bool Send(v1::WatchConsoleResponse message) = 0;
  // Messages that wait for the reader.
  [[nodiscard]] virtual size_t queued() const = 0;
  virtual void Close(const absl::Status& status) = 0;
};

class ConsoleHub {
 public:
  static constexpr uint64_t kHeartbeatMs = 15'000;
  static constexpr size_t kLagMax = 100;
  static constexpr size_t kOverviewsQueuedMax = 2;
  static constexpr size_t kWatchersMax = 500;

  // What a new watcher is told first.
  using FirstState =
      std::function<std::vector<v1::WatchConsoleResponse>(const std::set<v1::ConsoleTopic>&)>;
  using CredentialGood = std::function<bool(const std::string& credential)>;

  ConsoleHub(const Clock* clock, MetricRegistry* metrics, CredentialGood credential_good);

  // Takes the stream: its topics (none: all), state first, then a heartbeat. RESOURCE_EXHAUSTED:
  // too many watch; UNAVAILABLE: it is closing; INVALID_ARGUMENT: a topic is none.
  [[nodiscard]] absl::Status Add(const v1::WatchConsoleRequest& request,
                                 const std::string& credential, const FirstState& first_state,
                                 std::unique_ptr<ConsoleStream> stream);
  // Tells all whose topics it belongs to.
  void Publish(const v1::WatchConsoleResponse& message);
  // Heartbeats that are due. To be called about once a second.
  void Tick();
  // Ends all; takes no more.
  void Close();
  [[nodiscard]] size_t watchers() const;

 private:
  struct Watcher {
    std::set<v1::ConsoleTopic> topics;
    std::string credential;
    std::unique_ptr<ConsoleStream> stream;
    uint64_t heartbeat_boot_ms = 0;                   // the last one
    bool joining = true;                              // the first state is not sent yet
    std::vector<v1::WatchConsoleResponse> meanwhile;  // what was published since, for then
  };
  // Sends, or ends the watcher. False: it is over.
  [[nodiscard]] bool Tell(Watcher* watcher, const v1::WatchConsoleResponse& message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends watchers whose credential is no longer good. It is asked for without the lock.
  void EndExpired();
  [[nodiscard]] bool IsGood(const std::string& credential) const;
  void SetGauge() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock* const clock_;
  const CredentialGood credential_good_;
  prometheus::Gauge* const subscribers_;
  prometheus::Counter* const dropped_;
  mutable absl::Mutex mutex_;
  // Shared with Add, for as long as it is joining.
  std::vector<std::shared_ptr<Watcher>> watchers_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_CONSOLE_HUB_H_
