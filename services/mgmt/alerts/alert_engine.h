// From subjects and rules to alerts: one state for each rule and subject.
//
//   (none) -> pending -> active -> resolving -> (none)
//
// A condition raises after it has held for raise_after, and resolves after it has been gone for
// resolve_after; coming back meanwhile is a flap of the same alert. Where a condition can't be
// known the state stays, and the time does not count. A subject that is gone, or a rule that is,
// resolves at once. Durations are boot time: the wall clock can jump as it likes. Functions of wall
// time (age, until) are not known while the clock stands before where it already was, for an hour
// at most: then it is believed.
//
// Pure: no clock, no store. Threads: one at a time.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_ALERT_ENGINE_H_
#define TESSERA_SERVICES_MGMT_ALERTS_ALERT_ENGINE_H_

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "services/mgmt/alerts/alert_rules.h"
#include "services/mgmt/alerts/subject.h"

namespace tessera::mgmt {

struct AlertKey {
  std::string rule;
  std::string subject;  // "sds/3"
  auto operator<=>(const AlertKey&) const = default;
};

enum class AlertEvent {
  kRaised,
  kFlapped,    // it had gone, and came back before it was resolved
  kRefreshed,  // it holds: its texts as they are now
  kResolved,
};

// What became of one alert. Severity, name and texts are empty of kResolved.
struct AlertChange {
  AlertEvent event = AlertEvent::kRaised;
  AlertKey key;
  v1::AlertSeverity severity = v1::ALERT_SEVERITY_UNSPECIFIED;
  std::string subject_name;
  std::string summary;
  std::string detail;
  std::string remedy;
};

struct EngineStep {
  std::vector<AlertChange> changes;
  std::vector<AlertKey> holding;  // alerts whose condition was seen to hold
};

struct EngineTime {
  uint64_t boot_ms = 0;
  uint64_t wall_ms = 0;
};

struct AlertEngineOptions {
  // Alerts that are active at once; others wait. A flood of them says no more than so many do.
  size_t active_max = 10'000;
};

class AlertEngine {
 public:
  explicit AlertEngine(const AlertEngineOptions& options = {}) : options_(options) {}

  // The rules from now on. What is pending, active or past of rules that stay, stays.
  void SetRules(AlertRules rules);
  // An alert that was active when the process ended.
  void Restore(const AlertKey& key);

  // A round. With `refresh`, every alert that holds is among the changes.
  [[nodiscard]] EngineStep Step(const Subjects& subjects, const EngineTime& time, bool refresh);

  // What a step changes, to go back to when it could not be stored.
  struct State {
    enum class Phase { kPending, kActive, kResolving };
    Phase phase = Phase::kPending;
    uint64_t since_ms = 0;  // boot time; moved on by what does not count
  };
  using States = std::map<AlertKey, State>;
  [[nodiscard]] const States& states() const { return states_; }
  void RestoreStates(States states) { states_ = std::move(states); }

 private:
  enum class Truth { kFalse, kTrue, kUnknown };

  [[nodiscard]] Truth Judge(AlertRule& rule, const EvaluationInput& input) const;
  void Remember(const AlertRule& rule, const Subject& subject, uint64_t boot_ms);
  void Observe(AlertRule& rule, const EvaluationInput& input, bool refresh, EngineStep* step);
  // Alerts whose rule or subject was not looked at in this step.
  void ResolveGone(const Subjects& subjects, uint64_t boot_ms, EngineStep* step);
  void TrustWallClock(const EngineTime& time);
  [[nodiscard]] static AlertChange Describe(AlertEvent event, const AlertRule& rule,
                                            const EvaluationInput& input);

  const AlertEngineOptions options_;
  AlertRules rules_;
  States states_;
  std::map<AlertKey, Histories> histories_;
  std::set<AlertKey> looked_at_;  // in this step
  size_t active_ = 0;             // of states_, during a step
  uint64_t last_boot_ms_ = 0;
  uint64_t wall_high_ms_ = 0;
  std::optional<uint64_t> wall_fell_boot_ms_;  // since when the clock stands before where it was
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_ALERT_ENGINE_H_
