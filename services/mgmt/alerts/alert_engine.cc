#include "services/mgmt/alerts/alert_engine.h"

#include <algorithm>
#include <set>
#include <utility>

namespace tessera::mgmt {
namespace {

constexpr uint64_t kWallDistrustMs = 3'600'000;

}  // namespace

void AlertEngine::SetRules(AlertRules rules) {
  // The past was kept for the old rule's values and window.
  std::map<std::string, uint64_t> windows;
  for (const auto& rule : rules_) windows[rule->name] = rule->window_ms;
  std::set<std::string> changed;
  for (const auto& rule : rules) {
    const auto found = windows.find(rule->name);
    if (found != windows.end() && found->second != rule->window_ms) changed.insert(rule->name);
  }
  std::erase_if(histories_, [&](const auto& entry) { return changed.contains(entry.first.rule); });
  rules_ = std::move(rules);
}

void AlertEngine::Restore(const AlertKey& key) { states_[key] = {State::Phase::kActive, 0}; }

void AlertEngine::TrustWallClock(const EngineTime& time) {
  if (time.wall_ms >= wall_high_ms_) {
    wall_high_ms_ = time.wall_ms;
    wall_fell_boot_ms_.reset();
    return;
  }
  if (!wall_fell_boot_ms_.has_value()) wall_fell_boot_ms_ = time.boot_ms;
  if (time.boot_ms - *wall_fell_boot_ms_ >= kWallDistrustMs) {
    wall_high_ms_ = time.wall_ms;
    wall_fell_boot_ms_.reset();
  }
}

AlertEngine::Truth AlertEngine::Judge(AlertRule& rule, const EvaluationInput& input) const {
  const Evaluated evaluated = rule.condition->Evaluate(input);
  if (!evaluated.value.has_value()) return Truth::kUnknown;
  if (*evaluated.value != 0) return Truth::kTrue;
  // A past that is too short rules nothing out.
  return evaluated.settled ? Truth::kFalse : Truth::kUnknown;
}

void AlertEngine::Remember(const AlertRule& rule, const Subject& subject, uint64_t boot_ms) {
  if (rule.past_values.empty()) return;
  Histories& histories = histories_[{rule.name, subject.Key()}];
  for (const std::string& name : rule.past_values) {
    const auto found = subject.values.find(name);
    if (found == subject.values.end()) continue;
    const std::vector<ValueInfo>& infos = ValuesOf(subject.kind);
    const auto info = std::find_if(infos.begin(), infos.end(),
                                   [&](const ValueInfo& value) { return value.name == name; });
    if (info != infos.end() && info->zero_is_nothing && found->second == 0) continue;
    histories.try_emplace(name, rule.window_ms).first->second.Add(boot_ms, found->second);
  }
}

AlertChange AlertEngine::Describe(AlertEvent event, const AlertRule& rule,
                                  const EvaluationInput& input) {
  return {event,
          {rule.name, input.subject->Key()},
          rule.severity,
          input.subject->name,
          rule.summary.Render(input),
          rule.detail.Render(input),
          rule.remedy.Render(input)};
}

void AlertEngine::Observe(AlertRule& rule, const EvaluationInput& input, bool refresh,
                          EngineStep* step) {
  const AlertKey key{rule.name, input.subject->Key()};
  const auto found = states_.find(key);
  const Truth truth = Judge(rule, input);
  if (truth == Truth::kUnknown) {
    if (found != states_.end()) found->second.since_ms += input.boot_ms - last_boot_ms_;
    return;
  }
  const bool holds = truth == Truth::kTrue;
  if (found == states_.end() && !holds) return;
  State& state =
      found == states_.end()
          ? states_.emplace(key, State{State::Phase::kPending, input.boot_ms}).first->second
          : found->second;
  const uint64_t lasted = input.boot_ms - state.since_ms;
  switch (state.phase) {
    case State::Phase::kPending:
      if (!holds) {
        states_.erase(key);
      } else if (lasted >= rule.raise_after_ms && active_ < options_.active_max) {
        state = {State::Phase::kActive, input.boot_ms};
        ++active_;
        step->changes.push_back(Describe(AlertEvent::kRaised, rule, input));
        step->holding.push_back(key);
      }
      return;
    case State::Phase::kActive:
      if (holds) {
        step->holding.push_back(key);
        if (refresh) step->changes.push_back(Describe(AlertEvent::kRefreshed, rule, input));
        return;
      }
      state = {State::Phase::kResolving, input.boot_ms};
      if (rule.resolve_after_ms > 0) return;
      break;
    case State::Phase::kResolving:
      if (holds) {
        state = {State::Phase::kActive, input.boot_ms};
        step->holding.push_back(key);
        step->changes.push_back(Describe(AlertEvent::kFlapped, rule, input));
        return;
      }
      if (lasted < rule.resolve_after_ms) return;
      break;
  }
  states_.erase(key);
  --active_;
  step->changes.push_back({AlertEvent::kResolved, key});
}

void AlertEngine::ResolveGone(const Subjects& subjects, uint64_t boot_ms, EngineStep* step) {
  std::set<std::string> rules_in_force;
  for (const auto& rule : rules_) {
    if (!rule->disabled) rules_in_force.insert(rule->name);
  }
  const auto gone = [&](const AlertKey& key) {
    if (looked_at_.contains(key)) return false;
    const std::optional<SubjectKind> kind = KindOfKey(key.subject);
    return !rules_in_force.contains(key.rule) || !kind.has_value() ||
           subjects.complete.contains(*kind);
  };
  for (auto it = states_.begin(); it != states_.end();) {
    if (!gone(it->first)) {
      // Nothing is known of a subject that is merely not there.
      if (!looked_at_.contains(it->first)) it->second.since_ms += boot_ms - last_boot_ms_;
      ++it;
      continue;
    }
    if (it->second.phase != State::Phase::kPending) {
      step->changes.push_back({AlertEvent::kResolved, it->first});
    }
    it = states_.erase(it);
  }
  std::erase_if(histories_, [&](const auto& entry) { return gone(entry.first); });
}

EngineStep AlertEngine::Step(const Subjects& subjects, const EngineTime& time, bool refresh) {
  EngineStep step;
  looked_at_.clear();
  if (last_boot_ms_ == 0) last_boot_ms_ = time.boot_ms;
  TrustWallClock(time);
  active_ = static_cast<size_t>(std::count_if(states_.begin(), states_.end(), [](const auto& e) {
    return e.second.phase != State::Phase::kPending;
  }));
  static const Histories* const none = new Histories;
  for (const auto& rule : rules_) {
    if (rule->disabled) continue;
    for (const Subject& subject : subjects.subjects) {
      if (std::find(rule->kinds.begin(), rule->kinds.end(), subject.kind) == rule->kinds.end()) {
        continue;
      }
      const AlertKey key{rule->name, subject.Key()};
      looked_at_.insert(key);
      Remember(*rule, subject, time.boot_ms);
      const auto histories = histories_.find(key);
      Observe(*rule,
              {&subject, histories == histories_.end() ? none : &histories->second, time.boot_ms,
               time.wall_ms, !wall_fell_boot_ms_.has_value()},
              refresh, &step);
    }
  }
  ResolveGone(subjects, time.boot_ms, &step);
  last_boot_ms_ = time.boot_ms;
  return step;
}

}  // namespace tessera::mgmt
