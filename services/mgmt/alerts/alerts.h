// Alerts put together: rules, engine, store and notifications, as the composition root uses them.
//
//   Create -> (poller) OnSnapshot … ; Start/Stop the notifier's thread; AlertServiceImpl(rpc,
//   &alerts->center()).
//
// Threads: Create, Start and Stop from one; everything else from any.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_ALERTS_H_
#define TESSERA_SERVICES_MGMT_ALERTS_ALERTS_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/clock.h"
#include "services/common/metrics.h"
#include "services/mgmt/alerts/alert_center.h"
#include "services/mgmt/alerts/notification_config.h"
#include "services/mgmt/alerts/notifier.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/monitor/cluster_snapshot.h"
#include "tessera/v1/alert.pb.h"

namespace tessera::mgmt {

struct AlertsOptions {
  std::string rules_file;         // --alert-rules; empty: the built-in rules alone
  std::string notification_file;  // --notification-config; empty: nothing is sent
};

// What --check-config asks: both files are read and thrown away. INVALID_ARGUMENT with every
// mistake and its line, NOT_FOUND for a file that is not there.
[[nodiscard]] absl::Status CheckAlertFiles(const AlertsOptions& options);

class Alerts {
 public:
  // Errors as CheckAlertFiles, and of the database. `db`, `clock` and `metrics` must outlive it.
  // `listener` is told of every change of an alert, on the thread that made it, without locks.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Alerts>> Create(
      const AlertsOptions& options, MgmtDb* db, const Clock* clock, MetricRegistry* metrics,
      std::function<void(const v1::Alert&)> listener);

  // A round of polls is over.
  void OnSnapshot(const ClusterSnapshot& snapshot) { center_->OnSnapshot(snapshot); }
  // Active alerts, worst first.
  [[nodiscard]] std::vector<v1::Alert> Active() const { return center_->Active(); }
  [[nodiscard]] AlertCenter& center() { return *center_; }

  // The thread that sends. What was not sent before Stop is sent after the next Start.
  void Start() { notifier_->Start(); }
  void Stop() { notifier_->Stop(); }

 private:
  Alerts() = default;

  NotificationConfig config_;
  std::unique_ptr<Notifier> notifier_;
  std::unique_ptr<AlertCenter> center_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_ALERTS_H_
