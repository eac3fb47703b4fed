// Alerts as a whole: runs the engine over each round of polls, keeps what it says in mgmt.db, puts
// notifications into the outbox, and answers for AlertService.
//
// A round is one transaction: the alerts' changes and the notifications of them are stored together
// or not at all; when that fails the engine goes back to before the round, and the next one sees
// the same again.
//
// Threads: any. One lock is held over the engine and the store, so that a round is seen whole;
// listeners run without it.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_ALERT_CENTER_H_
#define TESSERA_SERVICES_MGMT_ALERTS_ALERT_CENTER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/mgmt/alerts/alert_engine.h"
#include "services/mgmt/alerts/alert_store.h"
#include "services/mgmt/alerts/notification_config.h"
#include "services/mgmt/alerts/outbox.h"
#include "services/mgmt/alerts/subject.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/monitor/cluster_snapshot.h"
#include "tessera/v1/alert.pb.h"

namespace tessera::mgmt {

struct AlertCenterOptions {
  std::string rules_file;  // empty: the built-in rules alone
  std::vector<NotificationTarget> targets;
  // An idempotency key: unlike every other, for ever.
  std::function<std::string()> new_key;
  std::function<void(const v1::Alert&)> listener;  // of every change
  std::function<void()> outbox_filled;             // there is something to send
};

class AlertCenter {
 public:
  // Errors as LoadRules, and of the database. The pointers must outlive it.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<AlertCenter>> Create(
      AlertCenterOptions options, MgmtDb* db, const Clock* clock, MetricRegistry* metrics);

  void OnSnapshot(const ClusterSnapshot& snapshot);
  // A round with its subjects already made.
  void OnSubjects(const Subjects& subjects);

  // Active alerts, worst first, then newest.
  [[nodiscard]] std::vector<v1::Alert> Active() const;

  // The methods of AlertService; errors as alert.proto says.
  [[nodiscard]] absl::Status List(const v1::ListAlertsRequest& request,
                                  v1::ListAlertsResponse* response) const;
  [[nodiscard]] absl::StatusOr<v1::Alert> Acknowledge(uint64_t alert_id, const std::string& comment,
                                                      const std::string& user);
  [[nodiscard]] absl::StatusOr<v1::Silence> Silence(const v1::CreateSilenceRequest& request,
                                                    const std::string& user);
  [[nodiscard]] std::vector<v1::Silence> Silences() const;
  [[nodiscard]] absl::Status Unsilence(uint64_t silence_id);
  [[nodiscard]] std::vector<v1::AlertRule> Rules() const;
  // Returns how many rules are in force.
  [[nodiscard]] absl::StatusOr<uint32_t> ReloadRules();

 private:
  AlertCenter(AlertCenterOptions options, MgmtDb* db, const Clock* clock, MetricRegistry* metrics);
  [[nodiscard]] absl::Status Load();

  using ActiveAlerts = std::map<AlertKey, StoredAlert>;
  struct Round {
    uint64_t now_ms = 0;
    ActiveAlerts active;             // afterwards
    std::vector<v1::Alert> changed;  // for the listener
    std::vector<StoredAlert> updates;
    std::vector<AlertKey> raised;
    std::vector<StoredAlert> resolved;
    uint64_t dropped = 0;  // notifications that had to make room
    bool queued = false;
  };
  // What a step changes, in memory.
  void Apply(const EngineStep& step, Round* round) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets silences that have ended; what they matched is told anew.
  void EndSilences(Round* round) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] absl::Status Store(Round* round) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Queue(SQLite::Database& db, NotificationEvent event, const v1::Alert& alert, Round* round)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] bool Silenced(const v1::Alert& alert, uint64_t now_ms) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] v1::Alert Shown(const v1::Alert& alert, uint64_t now_ms) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Active alerts that the silence matches, as they are now.
  [[nodiscard]] std::vector<v1::Alert> MatchedBy(const v1::Silence& silence) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountActive() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Tell(const std::vector<v1::Alert>& alerts) const;

  const AlertCenterOptions options_;
  MgmtDb* const db_;
  const Clock* const clock_;
  MetricRegistry* const metrics_;

  mutable absl::Mutex mutex_;
  AlertEngine engine_ ABSL_GUARDED_BY(mutex_);
  AlertRules rules_ ABSL_GUARDED_BY(mutex_);
  ActiveAlerts active_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Silence> silences_ ABSL_GUARDED_BY(mutex_);
  uint64_t refreshed_boot_ms_ ABSL_GUARDED_BY(mutex_) = 0;
  bool refresh_due_ ABSL_GUARDED_BY(mutex_) = false;  // rules were loaded anew
  uint64_t pruned_boot_ms_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_ALERT_CENTER_H_
