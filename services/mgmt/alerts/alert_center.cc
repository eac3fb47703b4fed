#include "services/mgmt/alerts/alert_center.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/mgmt/alerts/subjects.h"

namespace tessera::mgmt {
namespace {

// How often texts and times of alerts that hold are stored anew.
constexpr uint64_t kRefreshMs = 300'000;
constexpr uint64_t kPruneMs = 3'600'000;
constexpr uint32_t kPageDefault = 100;
constexpr uint32_t kPageMax = 1'000;
constexpr size_t kCommentMax = 1'000;
constexpr uint64_t kSilenceMaxSeconds = uint64_t{366} * 86'400;

}  // namespace

AlertCenter::AlertCenter(AlertCenterOptions options, MgmtDb* db, const Clock* clock,
                         MetricRegistry* metrics)
    : options_(std::move(options)), db_(db), clock_(clock), metrics_(metrics) {}

absl::StatusOr<std::unique_ptr<AlertCenter>> AlertCenter::Create(AlertCenterOptions options,
                                                                 MgmtDb* db, const Clock* clock,
                                                                 MetricRegistry* metrics) {
  std::unique_ptr<AlertCenter> center(new AlertCenter(std::move(options), db, clock, metrics));
  TESSERA_RETURN_IF_ERROR(center->Load());
  return center;
}

absl::Status AlertCenter::Load() {
  absl::MutexLock lock(&mutex_);
  TESSERA_ASSIGN_OR_RETURN(rules_, LoadRules(options_.rules_file));
  engine_.SetRules(rules_);
  std::vector<StoredAlert> alerts;
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    alerts = ListActiveAlerts(db);
    silences_ = ListSilences(db, clock_->WallMillis());
    return absl::OkStatus();
  }));
  for (StoredAlert& stored : alerts) {
    const AlertKey key{stored.alert.rule(), stored.alert.subject()};
    engine_.Restore(key);
    active_[key] = std::move(stored);
  }
  refreshed_boot_ms_ = clock_->BootMillis();
  CountActive();
  return absl::OkStatus();
}

void AlertCenter::OnSnapshot(const ClusterSnapshot& snapshot) { OnSubjects(SubjectsOf(snapshot)); }

void AlertCenter::OnSubjects(const Subjects& subjects) {
  Round round;
  {
    absl::MutexLock lock(&mutex_);
    round.now_ms = clock_->WallMillis();
    const uint64_t boot_ms = clock_->BootMillis();
    const bool refresh = refresh_due_ || boot_ms - refreshed_boot_ms_ >= kRefreshMs;
    AlertEngine::States before = engine_.states();
    const EngineStep step = engine_.Step(subjects, {boot_ms, round.now_ms}, refresh);
    Apply(step, &round);
    EndSilences(&round);
    const absl::Status stored = Store(&round);
    if (!stored.ok()) {
      engine_.RestoreStates(std::move(before));
      LogError("alerts can't be stored: this round is done again", {{"error", stored}});
      return;
    }
    active_ = std::move(round.active);
    if (refresh) {
      refreshed_boot_ms_ = boot_ms;
      refresh_due_ = false;
    }
    CountActive();
  }
  for (const v1::Alert& alert : round.changed) {
    if (alert.state() == v1::ALERT_STATE_RESOLVED) {
      LogInfo("alert resolved", {{"rule", alert.rule()}, {"subject", alert.subject()}});
    } else if (alert.raised_ms() == round.now_ms) {
      LogWarning(
          "alert raised",
          {{"rule", alert.rule()}, {"subject", alert.subject()}, {"summary", alert.summary()}});
    }
  }
  if (round.dropped > 0)
    LogWarning("notifications dropped: too many wait", {{"count", round.dropped}});
  Tell(round.changed);
  if (round.queued && options_.outbox_filled) options_.outbox_filled();
}

void AlertCenter::Apply(const EngineStep& step, Round* round) const {
  round->active = active_;
  for (const AlertKey& key : step.holding) {
    const auto found = round->active.find(key);
    if (found != round->active.end()) found->second.alert.set_last_seen_ms(round->now_ms);
  }
  for (const AlertChange& change : step.changes) {
    if (change.event == AlertEvent::kResolved) {
      const auto found = round->active.find(change.key);
      if (found == round->active.end()) continue;
      StoredAlert stored = std::move(found->second);
      round->active.erase(found);
      // A clock that was set back does not end an alert before it began.
      stored.alert.set_resolved_ms(std::max(round->now_ms, stored.alert.raised_ms()));
      stored.alert.set_state(v1::ALERT_STATE_RESOLVED);
      round->resolved.push_back(std::move(stored));
      continue;
    }
    StoredAlert& stored = round->active[change.key];
    v1::Alert& alert = stored.alert;
    alert.set_severity(change.severity);
    alert.set_subject_name(change.subject_name);
    alert.set_summary(change.summary);
    alert.set_detail(change.detail);
    alert.set_remedy(change.remedy);
    alert.set_last_seen_ms(round->now_ms);
    if (change.event == AlertEvent::kRaised) {
      alert.set_rule(change.key.rule);
      alert.set_subject(change.key.subject);
      alert.set_state(v1::ALERT_STATE_ACTIVE);
      alert.set_raised_ms(round->now_ms);
      round->raised.push_back(change.key);
      continue;
    }
    if (change.event == AlertEvent::kFlapped) alert.set_flaps(alert.flaps() + 1);
    round->updates.push_back(stored);
  }
}

void AlertCenter::EndSilences(Round* round) {
  std::vector<v1::Silence> ended;
  std::erase_if(silences_, [&](const v1::Silence& silence) {
    if (silence.ends_ms() > round->now_ms) return false;
    ended.push_back(silence);
    return true;
  });
  for (const v1::Silence& silence : ended) {
    for (v1::Alert& alert : MatchedBy(silence)) round->changed.push_back(std::move(alert));
  }
}

absl::Status AlertCenter::Store(Round* round) {
  const uint64_t boot_ms = clock_->BootMillis();
  const bool prune = boot_ms - pruned_boot_ms_ >= kPruneMs;
  std::vector<AlertKey> to_notify;
  for (const auto& [key, stored] : round->active) {
    if (!stored.notified && !Silenced(stored.alert, round->now_ms)) to_notify.push_back(key);
  }
  const bool nothing = to_notify.empty() && round->raised.empty() && round->updates.empty() &&
                       round->resolved.empty() && !prune;
  if (nothing) return absl::OkStatus();
  TESSERA_RETURN_IF_ERROR(db_->Write([&](SQLite::Database& db) -> absl::Status {
    for (const StoredAlert& stored : round->updates) UpdateAlert(db, stored);
    // Before new ones: a rule and subject have one active alert.
    for (const StoredAlert& stored : round->resolved) {
      UpdateAlert(db, stored);
      // Silenced or not: whoever was told that it began is told that it is over.
      if (stored.notified) Queue(db, NotificationEvent::kResolved, stored.alert, round);
    }
    for (const AlertKey& key : round->raised) {
      StoredAlert& stored = round->active[key];
      stored.alert.set_alert_id(InsertAlert(db, stored));
    }
    for (const AlertKey& key : to_notify) {
      StoredAlert& stored = round->active[key];
      stored.notified = true;
      UpdateAlert(db, stored);
      Queue(db, NotificationEvent::kRaised, stored.alert, round);
    }
    if (prune || !round->resolved.empty()) PruneAlerts(db, round->now_ms);
    if (prune) PruneSilences(db, round->now_ms);
    return absl::OkStatus();
  }));
  if (prune) pruned_boot_ms_ = boot_ms;
  for (const AlertKey& key : round->raised) {
    round->changed.push_back(Shown(round->active[key].alert, round->now_ms));
  }
  for (const StoredAlert& stored : round->updates) {
    round->changed.push_back(Shown(stored.alert, round->now_ms));
  }
  for (const StoredAlert& stored : round->resolved) {
    round->changed.push_back(Shown(stored.alert, round->now_ms));
  }
  return absl::OkStatus();
}

void AlertCenter::Queue(SQLite::Database& db, NotificationEvent event, const v1::Alert& alert,
                        Round* round) {
  for (const NotificationTarget& target : options_.targets) {
    if (alert.severity() < target.severity_min) continue;
    if (event == NotificationEvent::kResolved && !target.send_resolved) continue;
    Notification notification;
    notification.target = target.name;
    notification.idempotency_key = options_.new_key();
    notification.event = event;
    notification.alert = alert;
    notification.queued_ms = round->now_ms;
    round->dropped += QueueNotification(db, notification);
    round->queued = true;
  }
}

bool AlertCenter::Silenced(const v1::Alert& alert, uint64_t now_ms) const {
  return std::any_of(silences_.begin(), silences_.end(), [&](const v1::Silence& silence) {
    return mgmt::Silences(silence, alert, now_ms);
  });
}

v1::Alert AlertCenter::Shown(const v1::Alert& alert, uint64_t now_ms) const {
  v1::Alert shown = alert;
  shown.set_silenced(alert.state() != v1::ALERT_STATE_RESOLVED && Silenced(alert, now_ms));
  return shown;
}

void AlertCenter::CountActive() {
  std::map<int, double> counts;
  for (const auto& [key, stored] : active_) ++counts[stored.alert.severity()];
  for (int i = v1::ALERT_SEVERITY_INFO; i <= v1::ALERT_SEVERITY_CRITICAL; ++i) {
    const auto severity = static_cast<v1::AlertSeverity>(i);
    metrics_
        ->Gauge("tessera_mgmt_alerts_active", "Active alerts, by severity.",
                {{"severity", SeverityName(severity)}})
        .Set(counts[severity]);
  }
}

void AlertCenter::Tell(const std::vector<v1::Alert>& alerts) const {
  if (!options_.listener) return;
  for (const v1::Alert& alert : alerts) options_.listener(alert);
}

std::vector<v1::Alert> AlertCenter::Active() const {
  std::vector<v1::Alert> alerts;
  {
    absl::MutexLock lock(&mutex_);
    const uint64_t now_ms = clock_->WallMillis();
    for (const auto& [key, stored] : active_) alerts.push_back(Shown(stored.alert, now_ms));
  }
  std::sort(alerts.begin(), alerts.end(), [](const v1::Alert& a, const v1::Alert& b) {
    if (a.severity() != b.severity()) return a.severity() > b.severity();
    return a.alert_id() > b.alert_id();
  });
  return alerts;
}

absl::Status AlertCenter::List(const v1::ListAlertsRequest& request,
                               v1::ListAlertsResponse* response) const {
  uint64_t before_id = 0;
  if (!request.page_token().empty() &&
      (!absl::SimpleAtoi(request.page_token(), &before_id) || before_id == 0)) {
    return InvalidField("page_token", "is not one of an answer before");
  }
  if (request.until_ms() != 0 && request.until_ms() <= request.from_ms()) {
    return InvalidField("until_ms", "is after from_ms, or 0");
  }
  if (!v1::AlertSeverity_IsValid(request.severity_min())) {
    return InvalidField("severity_min", "is one of the severities, or unspecified");
  }
  const uint32_t limit =
      request.page_size() == 0 ? kPageDefault : std::min(request.page_size(), kPageMax);
  std::vector<StoredAlert> alerts;
  TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
    alerts = ListAlerts(db, request, before_id, limit);
    return absl::OkStatus();
  }));
  absl::MutexLock lock(&mutex_);
  const uint64_t now_ms = clock_->WallMillis();
  for (StoredAlert& stored : alerts) {
    const auto found = active_.find({stored.alert.rule(), stored.alert.subject()});
    if (found != active_.end() && found->second.alert.alert_id() == stored.alert.alert_id()) {
      stored.alert.set_last_seen_ms(found->second.alert.last_seen_ms());  // stored now and then
    }
    *response->add_alerts() = Shown(stored.alert, now_ms);
  }
  if (alerts.size() == limit) {
    response->set_next_page_token(absl::StrCat(alerts.back().alert.alert_id()));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Alert> AlertCenter::Acknowledge(uint64_t alert_id, const std::string& comment,
                                                   const std::string& user) {
  if (comment.size() > kCommentMax) return InvalidField("comment", "has at most 1,000 bytes");
  v1::Alert shown;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = std::find_if(active_.begin(), active_.end(), [&](const auto& entry) {
      return entry.second.alert.alert_id() == alert_id;
    });
    if (found == active_.end()) {
      bool exists = false;
      TESSERA_RETURN_IF_ERROR(db_->Read([&](SQLite::Database& db) {
        exists = FindAlert(db, alert_id).has_value();
        return absl::OkStatus();
      }));
      if (!exists) return absl::NotFoundError(absl::StrCat("there is no alert ", alert_id));
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat("alert ", alert_id, " is resolved")),
          "ALERT_RESOLVED");
    }
    StoredAlert changed = found->second;
    changed.alert.set_acknowledged_by(user.empty() ? "unknown" : user);
    changed.alert.set_acknowledged_ms(clock_->WallMillis());
    changed.alert.set_comment(comment);
    changed.alert.set_state(v1::ALERT_STATE_ACKNOWLEDGED);
    TESSERA_RETURN_IF_ERROR(db_->Write([&](SQLite::Database& db) {
      UpdateAlert(db, changed);
      return absl::OkStatus();
    }));
    found->second = std::move(changed);
    shown = Shown(found->second.alert, clock_->WallMillis());
  }
  Tell({shown});
  return shown;
}

std::vector<v1::Alert> AlertCenter::MatchedBy(const v1::Silence& silence) const {
  std::vector<v1::Alert> alerts;
  for (const auto& [key, stored] : active_) {
    if (!mgmt::Silences(silence, stored.alert, 0)) continue;
    alerts.push_back(Shown(stored.alert, clock_->WallMillis()));
  }
  return alerts;
}

absl::StatusOr<v1::Silence> AlertCenter::Silence(const v1::CreateSilenceRequest& request,
                                                 const std::string& user) {
  if (request.rule().empty() && request.subject().empty()) {
    return InvalidField("rule", "or subject is needed: a silence of everything hides what matters");
  }
  if (request.duration_s() == 0 || request.duration_s() > kSilenceMaxSeconds) {
    return InvalidField("duration_s", "is 1 to 31,622,400 (366 days)");
  }
  if (request.comment().empty() || request.comment().size() > kCommentMax) {
    return InvalidField("comment", "says why, in 1 to 1,000 bytes");
  }
  v1::Silence silence;
  std::vector<v1::Alert> matched;
  {
    absl::MutexLock lock(&mutex_);
    const bool rule_known =
        request.rule().empty() || std::any_of(rules_.begin(), rules_.end(), [&](const auto& rule) {
          return rule->name == request.rule();
        });
    if (!rule_known)
      return InvalidField("rule", absl::StrCat("there is no rule '", request.rule(), "'"));
    if (!request.subject().empty() && !KindOfKey(request.subject()).has_value()) {
      return InvalidField("subject", "is like \"sds/3\", \"pool/1\" or \"cluster\"");
    }
    const uint64_t now_ms = clock_->WallMillis();
    silence.set_rule(request.rule());
    silence.set_subject(request.subject());
    silence.set_starts_ms(now_ms);
    silence.set_ends_ms(now_ms + request.duration_s() * 1000);
    silence.set_created_by(user);
    silence.set_comment(request.comment());
    TESSERA_RETURN_IF_ERROR(db_->Write([&](SQLite::Database& db) -> absl::Status {
      if (ListSilences(db, now_ms).size() >= kSilencesMax) {
        return absl::ResourceExhaustedError(
            absl::StrCat("there are ", kSilencesMax, " silences: end some first"));
      }
      silence.set_silence_id(InsertSilence(db, silence));
      return absl::OkStatus();
    }));
    silences_.push_back(silence);
    matched = MatchedBy(silence);
  }
  Tell(matched);
  return silence;
}

std::vector<v1::Silence> AlertCenter::Silences() const {
  std::vector<v1::Silence> silences;
  absl::MutexLock lock(&mutex_);
  const uint64_t now_ms = clock_->WallMillis();
  for (const v1::Silence& silence : silences_) {
    if (silence.ends_ms() > now_ms) silences.push_back(silence);
  }
  std::sort(silences.begin(), silences.end(), [](const v1::Silence& a, const v1::Silence& b) {
    return std::pair(a.ends_ms(), a.silence_id()) < std::pair(b.ends_ms(), b.silence_id());
  });
  return silences;
}

absl::Status AlertCenter::Unsilence(uint64_t silence_id) {
  std::vector<v1::Alert> matched;
  {
    absl::MutexLock lock(&mutex_);
    bool removed = false;
    TESSERA_RETURN_IF_ERROR(db_->Write([&](SQLite::Database& db) {
      removed = DeleteSilence(db, silence_id);
      return absl::OkStatus();
    }));
    const auto found = std::find_if(
        silences_.begin(), silences_.end(),
        [&](const v1::Silence& silence) { return silence.silence_id() == silence_id; });
    if (!removed || found == silences_.end()) {
      return absl::NotFoundError(absl::StrCat("there is no silence ", silence_id));
    }
    const v1::Silence silence = *found;
    silences_.erase(found);
    matched = MatchedBy(silence);
  }
  Tell(matched);
  return absl::OkStatus();
}

std::vector<v1::AlertRule> AlertCenter::Rules() const {
  std::vector<v1::AlertRule> rules;
  absl::MutexLock lock(&mutex_);
  for (const auto& rule : rules_) rules.push_back(rule->ToProto());
  return rules;
}

absl::StatusOr<uint32_t> AlertCenter::ReloadRules() {
  TESSERA_ASSIGN_OR_RETURN(AlertRules rules, LoadRules(options_.rules_file));
  absl::MutexLock lock(&mutex_);
  rules_ = std::move(rules);
  engine_.SetRules(rules_);
  // The next round shows alerts as the new rules word them.
  refresh_due_ = true;
  return static_cast<uint32_t>(std::count_if(rules_.begin(), rules_.end(),
                                             [](const auto& rule) { return !rule->disabled; }));
}

}  // namespace tessera::mgmt
