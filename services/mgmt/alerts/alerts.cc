#include "services/mgmt/alerts/alerts.h"

#include <sys/random.h>

#include <array>
#include <random>
#include <string_view>
#include <utility>

#include "services/common/auth.h"
#include "services/common/status_macros.h"

namespace tessera::mgmt {
namespace {

// 128 bits of the kernel's.
std::string NewKey() {
  std::array<char, 16> bytes{};
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t got = ::getrandom(bytes.data() + have, bytes.size() - have, 0);
    if (got > 0) have += static_cast<size_t>(got);
  }
  return ToHex(std::string_view(bytes.data(), bytes.size()));
}

}  // namespace

absl::Status CheckAlertFiles(const AlertsOptions& options) {
  TESSERA_RETURN_IF_ERROR(LoadRules(options.rules_file).status());
  return LoadNotificationConfig(options.notification_file).status();
}

absl::StatusOr<std::unique_ptr<Alerts>> Alerts::Create(
    const AlertsOptions& options, MgmtDb* db, const Clock* clock, MetricRegistry* metrics,
    std::function<void(const v1::Alert&)> listener) {
  std::unique_ptr<Alerts> alerts(new Alerts);
  TESSERA_ASSIGN_OR_RETURN(alerts->config_, LoadNotificationConfig(options.notification_file));
  auto random = [engine = std::minstd_rand(std::random_device()())]() mutable {
    return std::uniform_real_distribution<double>(0, 1)(engine);
  };
  alerts->notifier_ =
      std::make_unique<Notifier>(alerts->config_.targets, db, clock, metrics, std::move(random));
  TESSERA_RETURN_IF_ERROR(alerts->notifier_->RemoveOtherTargets());
  AlertCenterOptions center;
  center.rules_file = options.rules_file;
  center.targets = alerts->config_.targets;
  center.new_key = &NewKey;
  center.listener = std::move(listener);
  center.outbox_filled = [notifier = alerts->notifier_.get()] { notifier->Wake(); };
  TESSERA_ASSIGN_OR_RETURN(alerts->center_,
                           AlertCenter::Create(std::move(center), db, clock, metrics));
  return alerts;
}

}  // namespace tessera::mgmt
