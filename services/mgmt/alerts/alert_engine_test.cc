#include "services/mgmt/alerts/alert_engine.h"

#include <catch2/catch.hpp>

#include <random>
#include <set>
#include <string>
#include <vector>

namespace tessera::mgmt {
namespace {

constexpr uint64_t kWallMs = 1'800'000'000'000;

AlertRules RulesOf(const std::string& text) {
  RulesResult result = ReadRules({"test", text}, nullptr);
  for (const FileMistake& mistake : result.mistakes) FAIL(mistake.line << ": " << mistake.text);
  return result.rules;
}

// One rule over devices that are failed, not failed, unknown, or not there.
class Fixture {
 public:
  explicit Fixture(const std::string& fields, const AlertEngineOptions& options = {})
      : engine_(options) {
    engine_.SetRules(
        RulesOf("[[rule]]\nname = \"r\"\nsubject = \"device\"\nseverity = \"error\"\n"
                "condition = \"failed == 1\"\nsummary = \"{name}\"\n" +
                fields));
  }

  // One character a device: '1' failed, '0' well, '?' unknown, '-' not in the list.
  EngineStep Step(uint64_t seconds_later, const std::string& devices, bool complete = true) {
    boot_ms_ += seconds_later * 1000;
    wall_ms_ += static_cast<int64_t>(seconds_later) * 1000;
    Subjects subjects;
    if (complete) subjects.complete.insert(SubjectKind::kDevice);
    for (size_t i = 0; i < devices.size(); ++i) {
      if (devices[i] == '-') continue;
      Subject& subject = subjects.subjects.emplace_back();
      subject.kind = SubjectKind::kDevice;
      subject.id = std::to_string(i);
      subject.name = "device " + subject.id;
      if (devices[i] != '?') subject.values["failed"] = devices[i] == '1' ? 1 : 0;
    }
    return engine_.Step(subjects, {boot_ms_, static_cast<uint64_t>(wall_ms_)}, false);
  }
  // What happened, as "raised 0", "resolved 1".
  std::vector<std::string> Events(uint64_t seconds_later, const std::string& devices,
                                  bool complete = true) {
    static const char* const kNames[] = {"raised", "flapped", "refreshed", "resolved"};
    std::vector<std::string> events;
    for (const AlertChange& change : Step(seconds_later, devices, complete).changes) {
      events.push_back(std::string(kNames[static_cast<int>(change.event)]) + " " +
                       change.key.subject.substr(sizeof("device/") - 1));
    }
    return events;
  }
  void MoveWallClock(int64_t seconds) { wall_ms_ += seconds * 1000; }
  AlertEngine& engine() { return engine_; }

 private:
  AlertEngine engine_;
  uint64_t boot_ms_ = 77'000;
  int64_t wall_ms_ = kWallMs;
};

using Events = std::vector<std::string>;

TEST_CASE("An alert is raised when its condition has held for raise_after, not before") {
  Fixture fixture("raise_after = \"60s\"\n");
  CHECK(fixture.Events(0, "1").empty());
  CHECK(fixture.Events(59, "1").empty());
  CHECK(fixture.Events(1, "1") == Events{"raised 0"});
  CHECK(fixture.Events(60, "1").empty());
}

TEST_CASE("A condition that goes before raise_after begins anew") {
  Fixture fixture("raise_after = \"60s\"\n");
  CHECK(fixture.Events(0, "1").empty());
  CHECK(fixture.Events(50, "0").empty());
  CHECK(fixture.Events(5, "1").empty());
  CHECK(fixture.Events(55, "1").empty());
  CHECK(fixture.Events(5, "1") == Events{"raised 0"});
}

TEST_CASE("What flaps within resolve_after is one alert with its flaps counted") {
  Fixture fixture("resolve_after = \"60s\"\n");
  CHECK(fixture.Events(0, "1") == Events{"raised 0"});
  for (int i = 0; i < 5; ++i) {
    CHECK(fixture.Events(10, "0").empty());
    CHECK(fixture.Events(59, "1") == Events{"flapped 0"});
  }
  CHECK(fixture.Events(10, "0").empty());
  CHECK(fixture.Events(60, "0") == Events{"resolved 0"});
}

TEST_CASE("What can't be known neither raises nor resolves, and its time does not count") {
  Fixture fixture("raise_after = \"60s\"\nresolve_after = \"60s\"\n");
  CHECK(fixture.Events(0, "1").empty());
  CHECK(fixture.Events(3'000, "?").empty());
  CHECK(fixture.Events(59, "1").empty());
  CHECK(fixture.Events(1, "1") == Events{"raised 0"});
  CHECK(fixture.Events(3'000, "?").empty());
  CHECK(fixture.Events(1, "0").empty());
  CHECK(fixture.Events(3'000, "?").empty());
  CHECK(fixture.Events(3'000, "-", false).empty());
  CHECK(fixture.Events(59, "0").empty());
  CHECK(fixture.Events(1, "0") == Events{"resolved 0"});
}

TEST_CASE("A subject that is gone resolves at once; one that is merely not listed does not") {
  Fixture fixture("resolve_after = \"60s\"\n");
  CHECK(fixture.Events(0, "11") == Events{"raised 0", "raised 1"});
  CHECK(fixture.Events(10, "1-", false).empty());
  CHECK(fixture.Events(10, "1-", true) == Events{"resolved 1"});
}

TEST_CASE("An alert of a rule that is switched off resolves at once") {
  Fixture fixture("");
  CHECK(fixture.Events(0, "1") == Events{"raised 0"});
  fixture.engine().SetRules({});
  CHECK(fixture.Events(1, "1") == Events{"resolved 0"});
}

TEST_CASE("A restored alert goes on: it is not raised again, and resolves when its time is over") {
  Fixture fixture("raise_after = \"60s\"\nresolve_after = \"60s\"\n");
  fixture.engine().Restore({"r", "device/0"});
  CHECK(fixture.Events(0, "?").empty());
  CHECK(fixture.Events(10, "1").empty());
  CHECK(fixture.Events(10, "0").empty());
  CHECK(fixture.Events(60, "0") == Events{"resolved 0"});
}

TEST_CASE("A wall clock that is set back, or ahead, changes no duration") {
  Fixture fixture("raise_after = \"60s\"\nresolve_after = \"60s\"\n");
  CHECK(fixture.Events(0, "1").empty());
  fixture.MoveWallClock(-86'400);
  CHECK(fixture.Events(59, "1").empty());
  fixture.MoveWallClock(2 * 86'400);
  CHECK(fixture.Events(1, "1") == Events{"raised 0"});
  CHECK(fixture.Events(1, "0").empty());
  fixture.MoveWallClock(-2 * 86'400);
  CHECK(fixture.Events(59, "0").empty());
  CHECK(fixture.Events(1, "0") == Events{"resolved 0"});
}

TEST_CASE("A clock that is set back neither raises nor resolves what depends on it for an hour") {
  AlertEngine engine;
  engine.SetRules(RulesOf(
      "[[rule]]\nname = \"r\"\nsubject = \"certificate\"\nseverity = \"error\"\n"
      "condition = \"until(expires_ms) < 1000\"\nsummary = \"x\"\nresolve_after = \"0s\"\n"));
  Subjects subjects;
  subjects.complete.insert(SubjectKind::kCertificate);
  Subject& subject = subjects.subjects.emplace_back();
  subject.kind = SubjectKind::kCertificate;
  subject.id = "console";
  subject.values["expires_ms"] = kWallMs + 500'000;
  const auto changes = [&](uint64_t boot_s, int64_t wall_s) {
    return engine
        .Step(subjects,
              {1'000 + boot_s * 1000, static_cast<uint64_t>(int64_t{kWallMs} + wall_s * 1000)},
              false)
        .changes.size();
  };
  CHECK(changes(0, 0) == 1);         // raised
  CHECK(changes(10, -86'400) == 0);  // by this clock it would be over
  CHECK(changes(3'600, -82'800) == 0);
  CHECK(changes(3'611, -82'789) == 1);  // after an hour the clock is believed
}

TEST_CASE("No more alerts than the bound are active; others wait for room") {
  Fixture fixture("resolve_after = \"0s\"\n", {2});
  CHECK(fixture.Events(0, "111") == Events{"raised 0", "raised 1"});
  CHECK(fixture.Events(10, "011") == Events{"resolved 0", "raised 2"});
}

TEST_CASE("Going back to the states before a round lets it happen again") {
  Fixture fixture("");
  const AlertEngine::States before = fixture.engine().states();
  CHECK(fixture.Events(0, "1") == Events{"raised 0"});
  fixture.engine().RestoreStates(before);
  CHECK(fixture.Events(1, "1") == Events{"raised 0"});
}

TEST_CASE("With refresh each alert that holds is described anew") {
  AlertEngine engine;
  engine.SetRules(
      RulesOf("[[rule]]\nname = \"r\"\nsubject = \"pool\"\nseverity = \"info\"\n"
              "condition = \"used_percent > 1\"\nsummary = \"{used_percent:percent}\"\n"));
  Subjects subjects;
  Subject& pool = subjects.subjects.emplace_back();
  pool.kind = SubjectKind::kPool;
  pool.id = "1";
  pool.values["used_percent"] = 10;
  CHECK(engine.Step(subjects, {1'000, kWallMs}, false).changes.at(0).summary == "10 %");
  pool.values["used_percent"] = 20;
  CHECK(engine.Step(subjects, {2'000, kWallMs}, false).changes.empty());
  const EngineStep step = engine.Step(subjects, {3'000, kWallMs}, true);
  REQUIRE(step.changes.size() == 1);
  CHECK(step.changes[0].event == AlertEvent::kRefreshed);
  CHECK(step.changes[0].summary == "20 %");
}

// The rule of the head comment, told from the whole past of one subject instead of step by step.
class Model {
 public:
  Model(uint64_t raise_after_s, uint64_t resolve_after_s)
      : raise_after_s_(raise_after_s), resolve_after_s_(resolve_after_s) {}

  struct Verdict {
    bool active = false;
    int raises = 0;
    int resolves = 0;
    int flaps = 0;
  };
  // '1', '0', '?' (unknown, or not listed) or 'g' (gone), with the seconds since the one before.
  void Add(char truth, uint64_t gap_s) { past_.push_back({truth, gap_s}); }

  [[nodiscard]] Verdict Judge() const {
    Verdict verdict;
    size_t at = 0;
    while (at < past_.size()) {
      if (!verdict.active) {
        at = EndOfWait(at, &verdict.active);
        if (verdict.active) ++verdict.raises;
      } else {
        at = EndOfAlert(at, &verdict);
      }
    }
    return verdict;
  }

 private:
  struct Look {
    char truth;
    uint64_t gap_s;
  };
  // Known seconds from the look `from` to the look `to`.
  [[nodiscard]] uint64_t Known(size_t from, size_t to) const {
    uint64_t seconds = 0;
    for (size_t i = from + 1; i <= to; ++i) {
      if (past_[i].truth != '?') seconds += past_[i].gap_s;
    }
    return seconds;
  }
  // Looks for a run of '1' and '?' that begins with '1' and is long enough. Returns where to go on.
  [[nodiscard]] size_t EndOfWait(size_t at, bool* raised) const {
    if (past_[at].truth != '1') return at + 1;
    for (size_t i = at; i < past_.size(); ++i) {
      if (past_[i].truth == '0' || past_[i].truth == 'g') return i + 1;
      if (past_[i].truth == '1' && Known(at, i) >= raise_after_s_) {
        *raised = true;
        return i + 1;
      }
    }
    return past_.size();
  }
  [[nodiscard]] size_t EndOfAlert(size_t at, Verdict* verdict) const {
    if (past_[at].truth == 'g') {
      verdict->active = false;
      ++verdict->resolves;
      return at + 1;
    }
    if (past_[at].truth != '0') return at + 1;
    for (size_t i = at; i < past_.size(); ++i) {
      const char truth = past_[i].truth;
      if (truth == '1') {
        ++verdict->flaps;
        return i + 1;
      }
      if (truth == 'g' || (truth == '0' && Known(at, i) >= resolve_after_s_)) {
        verdict->active = false;
        ++verdict->resolves;
        return i + 1;
      }
    }
    return past_.size();
  }

  const uint64_t raise_after_s_;
  const uint64_t resolve_after_s_;
  std::vector<Look> past_;
};

TEST_CASE("The engine agrees with a brute-force model over random pasts") {
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    const auto pick = [&](uint32_t below) { return random() % below; };
    const uint64_t raise_s = pick(4) * 20;
    const uint64_t resolve_s = pick(4) * 20;
    Fixture fixture("raise_after = \"" + std::to_string(raise_s) + "s\"\nresolve_after = \"" +
                    std::to_string(resolve_s) + "s\"\n");
    std::vector<Model> models(3, Model(raise_s, resolve_s));
    std::vector<Model::Verdict> seen(3);
    std::string devices = "000";
    for (int step = 0; step < 120; ++step) {
      for (char& device : devices) {
        if (pick(3) == 0) device = "0011?-"[pick(6)];
      }
      const bool complete = pick(5) != 0;
      const uint64_t gap_s = 1 + pick(25);
      fixture.MoveWallClock(static_cast<int64_t>(pick(200)) - 100);
      const EngineStep result = fixture.Step(gap_s, devices, complete);
      for (size_t i = 0; i < devices.size(); ++i) {
        const char shown = devices[i] == '-' ? (complete ? 'g' : '?') : devices[i];
        models[i].Add(shown, gap_s);
      }
      for (const AlertChange& change : result.changes) {
        Model::Verdict& verdict = seen[change.key.subject.back() - '0'];
        if (change.event == AlertEvent::kRaised) ++verdict.raises;
        if (change.event == AlertEvent::kResolved) ++verdict.resolves;
        if (change.event == AlertEvent::kFlapped) ++verdict.flaps;
        verdict.active = change.event != AlertEvent::kResolved;
      }
      for (size_t i = 0; i < seen.size(); ++i) {
        const Model::Verdict wanted = models[i].Judge();
        INFO("step " << step << " device " << i);
        REQUIRE(seen[i].active == wanted.active);
        REQUIRE(seen[i].raises == wanted.raises);
        REQUIRE(seen[i].resolves == wanted.resolves);
        REQUIRE(seen[i].flaps == wanted.flaps);
      }
    }
  }
}

}  // namespace
}  // namespace tessera::mgmt
