// Sends what is in the outbox: each target its own queue in order, one message at a time, all
// targets at once on one thread. A target that is dead or slow delays no other.
//
// A message leaves the outbox when its receiver has taken it, has refused it for good, or a day is
// over. A receiver whose answer is lost gets the message again under the same idempotency key.
//
// Threads: Wake from any; Start and Stop from one; a NotificationPump belongs to one thread but for
// Wake.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_NOTIFIER_H_
#define TESSERA_SERVICES_MGMT_ALERTS_NOTIFIER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/mgmt/alerts/notification_config.h"
#include "services/mgmt/alerts/outbox.h"
#include "services/mgmt/alerts/retry_rules.h"
#include "services/mgmt/mgmt_db.h"

namespace tessera::mgmt {

class NotificationPump {
 public:
  // `random` gives 0 to 1. The pointers must outlive it.
  NotificationPump(const std::vector<NotificationTarget>& targets, MgmtDb* db, const Clock* clock,
                   MetricRegistry* metrics, std::function<double()> random);
  // What is on its way is broken off; it stays in the outbox.
  ~NotificationPump();
  NotificationPump(const NotificationPump&) = delete;
  NotificationPump& operator=(const NotificationPump&) = delete;

  // Forgets messages of targets that are no more.
  [[nodiscard]] absl::Status RemoveOtherTargets();

  // Begins what is due, goes on with what is on its way, records what is done. Blocks on the
  // database alone.
  void Step();
  // Until a socket is ready, somebody wakes it, or the next message is due; at most `most_ms`.
  void Wait(uint64_t most_ms);
  // The outbox has something new.
  void Wake();
  // Messages on their way.
  [[nodiscard]] size_t in_flight() const;

 private:
  struct Transfer;
  struct Target;
  struct Outcome {
    TryResult result = TryResult::kFailed;
    std::string error;
    uint64_t retry_after_ms = 0;
  };

  void Begin(Target& target);
  void TakeDone();
  [[nodiscard]] static Outcome Judge(Transfer& transfer, int curl_code);
  void Record(Target& target);

  MgmtDb* const db_;
  const Clock* const clock_;
  const std::function<double()> random_;
  std::atomic<bool> woken_{false};
  void* multi_ = nullptr;  // CURLM
  std::vector<std::unique_ptr<Target>> targets_;
};

class Notifier {
 public:
  // As NotificationPump.
  Notifier(const std::vector<NotificationTarget>& targets, MgmtDb* db, const Clock* clock,
           MetricRegistry* metrics, std::function<double()> random);
  ~Notifier();

  [[nodiscard]] absl::Status RemoveOtherTargets() { return pump_.RemoveOtherTargets(); }
  void Start();
  // Breaks off what is on its way within a moment. Idempotent.
  void Stop();
  void Wake() { pump_.Wake(); }

 private:
  NotificationPump pump_;  // of the thread while it runs
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_NOTIFIER_H_
