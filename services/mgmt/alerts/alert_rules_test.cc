#include "services/mgmt/alerts/alert_rules.h"

#include <catch2/catch.hpp>

#include <cmath>

#include "services/mgmt/alerts/testing/healthy_cluster.h"

namespace tessera::mgmt {
namespace {

constexpr char kBuiltin[] = R"(
[[rule]]
name = "pool-full"
subject = "pool"
parameters = { percent = 90, other = 1 }
condition = "used_percent >= percent"
severity = "error"
raise_after = "1m"
summary = "{name} is full"
)";

RulesResult Read(const std::string& file) {
  const RulesFile rules{"rules.toml", file};
  return ReadRules({"builtin", kBuiltin}, &rules);
}

// "line: text" of each mistake.
std::vector<std::string> MistakesOf(const std::string& file) {
  std::vector<std::string> lines;
  for (const FileMistake& mistake : Read(file).mistakes) {
    lines.push_back(std::to_string(mistake.line) + ": " + mistake.text);
  }
  return lines;
}

bool Has(const std::vector<std::string>& lines, const std::string& begin,
         const std::string& part = "") {
  for (const std::string& line : lines) {
    if (line.rfind(begin, 0) == 0 && line.find(part) != std::string::npos) return true;
  }
  return false;
}

Expression& Parsed(const std::string& text, std::unique_ptr<Expression>* keep) {
  absl::StatusOr<std::unique_ptr<Expression>> expression =
      Expression::Parse(text, {{"a", "b", "t_ms"}, {{"limit", 5}}});
  INFO(text);
  if (!expression.ok()) FAIL(expression.status().message());
  *keep = *std::move(expression);
  return **keep;
}
std::string MistakeOf(const std::string& text) {
  const auto expression = Expression::Parse(text, {{"a", "b"}, {{"limit", 5}}});
  return expression.ok() ? "" : std::string(expression.status().message());
}

TEST_CASE("The administrator's file changes the fields that it names and leaves the others") {
  const RulesResult result = Read(R"(
[[rule]]
name = "pool-full"
parameters = { percent = 70 }
severity = "critical"
)");
  REQUIRE(result.mistakes.empty());
  REQUIRE(result.rules.size() == 1);
  const AlertRule& rule = *result.rules[0];
  CHECK(rule.severity == v1::ALERT_SEVERITY_CRITICAL);
  CHECK(rule.raise_after_ms == 60'000);
  CHECK(rule.parameters == std::map<std::string, double>{{"percent", 70}, {"other", 1}});
  CHECK(rule.from_file);
  const v1::AlertRule proto = rule.ToProto();
  CHECK(proto.condition() == "used_percent >= percent  [other = 1, percent = 70]");
  CHECK(proto.from_file());
}

TEST_CASE("The file switches rules off, and adds rules for several kinds") {
  const RulesResult result = Read(R"(
[[rule]]
name = "pool-full"
disabled = true
[[rule]]
name = "slow-poll"
subject = ["sds", "sdc"]
condition = "poll_micros > 1e6"
severity = "info"
summary = "{name} is slow"
)");
  REQUIRE(result.mistakes.empty());
  REQUIRE(result.rules.size() == 2);
  CHECK(result.rules[0]->disabled);
  CHECK(result.rules[1]->kinds == std::vector<SubjectKind>{SubjectKind::kSds, SubjectKind::kSdc});
  CHECK(result.rules[1]->resolve_after_ms == 60'000);
}

TEST_CASE("Every mistake of a file is told at once, each with its line") {
  const std::vector<std::string> mistakes = MistakesOf(R"(colour = 1
[[rule]]
name = "Bad Name"
subject = "pool"
condition = "used_percnt > 1"
severity = "terrible"
summary = "x"
[[rule]]
name = "b"
subject = "pol"
condition = "1"
severity = "info"
summary = "{nam}"
[[rule]]
name = "c"
subject = "volume"
condition = "size_bytes = 3"
severity = "info"
raise_after = "5 minutes"
resolve_after = "400d"
sumary = "y"
[[rule]]
name = "c"
disabled = "yes"
[[rule]]
subject = "pool"
[[rule]]
name = "d"
subject = 7
parameters = { Days = 1, x = "y" }
condition = 7
)");
  for (const std::string& line : mistakes) UNSCOPED_INFO(line);
  CHECK(Has(mistakes, "1: ", "'colour' is unknown"));
  CHECK(Has(mistakes, "3: ", "1 to 63 of a-z"));
  CHECK(Has(mistakes, "5: ", "'used_percnt' is no value here; there are: available_bytes"));
  CHECK(Has(mistakes, "6: ", "there are: info, warning, error, critical"));
  CHECK(Has(mistakes, "10: ", "'pol' is no kind; there are: cluster, mdm"));
  CHECK(Has(mistakes, "17: ", "write '=='"));
  CHECK(Has(mistakes, "19: ", "'5 minutes'"));
  CHECK(Has(mistakes, "20: ", "'400d'"));
  CHECK(Has(mistakes, "21: ", "'sumary' is no field"));
  CHECK(Has(mistakes, "23: ", "stands at line 14, too"));
  CHECK(Has(mistakes, "24: ", "true or false"));
  CHECK(Has(mistakes, "25: ", "needs a name"));
  CHECK(Has(mistakes, "29: ", "subject is a kind"));
  CHECK(Has(mistakes, "30: ", "not 'Days'"));
  CHECK(Has(mistakes, "30: ", "'x' is a number"));
  CHECK(Has(mistakes, "31: ", "condition is a text"));
}

TEST_CASE("A file that is no TOML is refused with the line") {
  CHECK(Has(MistakesOf("[[rule]]\nname = \n"), "2: "));
  CHECK(Has(MistakesOf("[rule]\nname = \"x\"\n"), "1: ", "two brackets"));
}

TEST_CASE("A new rule without what it needs is told what is missing") {
  const std::vector<std::string> mistakes =
      MistakesOf("\n[[rule]]\nname = \"new\"\nsubject = \"pool\"\n");
  CHECK(Has(mistakes, "2: ", "needs condition"));
  CHECK(Has(mistakes, "2: ", "needs severity"));
  CHECK(Has(mistakes, "2: ", "needs summary"));
}

TEST_CASE("A template with an unknown name, format or brace is refused") {
  const auto mistake = [](const std::string& summary) {
    const std::vector<std::string> mistakes =
        MistakesOf("[[rule]]\nname = \"pool-full\"\nsummary = \"" + summary + "\"\n");
    return mistakes.empty() ? "" : mistakes[0];
  };
  CHECK(mistake("{nam}").find("texts: id, largest, name, subject") != std::string::npos);
  CHECK(mistake("{used_bytes:furlongs}").find("there are: bytes, percent") != std::string::npos);
  CHECK(mistake("{name").find("write '{{'") != std::string::npos);
  CHECK(mistake("name}").find("write '}}'") != std::string::npos);
  CHECK(mistake("{{name}} {name} {used_bytes / 2:bytes} {percent}").empty());
}

TEST_CASE("A value that only one of a rule's kinds has is no value of the rule") {
  const std::vector<std::string> mistakes = MistakesOf(R"([[rule]]
name = "x"
subject = ["sds", "sdc"]
condition = "io_timeouts > 0"
severity = "info"
summary = "x"
)");
  CHECK(Has(mistakes, "4: ", "'io_timeouts' is no value here"));
}

TEST_CASE("Conditions calculate, compare and join as they are written") {
  Subject subject;
  subject.values = {{"a", 3}, {"b", 4}, {"t_ms", 10'000}};
  EvaluationInput input{&subject, nullptr, 0, 25'000, true};
  const std::map<std::string, double> cases{{"a + b * 2", 11},
                                            {"a < b && b < limit", 1},
                                            {"a > b || b == 4", 1},
                                            {"a != 3", 0},
                                            {"max(a, b) >= limit", 0},
                                            {"(a > 5 ? a : b)", 4},
                                            {"1.5e1 + .5", 15.5},
                                            {"abs(a - b)", 1},
                                            {"age(t_ms)", 15},
                                            {"until(t_ms)", -15},
                                            {"age( t_ms )>10 && a==3", 1}};
  for (const auto& [text, wanted] : cases) {
    std::unique_ptr<Expression> keep;
    const Evaluated evaluated = Parsed(text, &keep).Evaluate(input);
    INFO(text);
    REQUIRE(evaluated.value.has_value());
    CHECK(*evaluated.value == Approx(wanted));
  }
  std::unique_ptr<Expression> keep;
  subject.values.erase("b");
  CHECK_FALSE(Parsed("a > 1 || b > 1", &keep).Evaluate(input).value.has_value());
  subject.values["b"] = 0;
  CHECK_FALSE(Parsed("a / b", &keep).Evaluate(input).value.has_value());
  input.wall_trusted = false;
  CHECK_FALSE(Parsed("age(t_ms) > 1", &keep).Evaluate(input).value.has_value());
  subject.values["t_ms"] = 0;
  CHECK(*Parsed("age(t_ms)", &keep).Evaluate(input).value == 0);
  CHECK(*Parsed("until(t_ms)", &keep).Evaluate(input).value == ValueHistory::kNever);
}

TEST_CASE("What is no condition is refused in words") {
  CHECK(MistakeOf("").find("empty") != std::string::npos);
  CHECK(MistakeOf("a >").find("ends too early") != std::string::npos);
  CHECK(MistakeOf("(a > 1").find("parenthesis") != std::string::npos);
  CHECK(MistakeOf("a b").find("operator is missing") != std::string::npos);
  CHECK(MistakeOf("a > 1, b > 1").find("several results") != std::string::npos);
  CHECK(MistakeOf("a & b").find("'&&'") != std::string::npos);
  CHECK(MistakeOf("!a").find("x == 0") != std::string::npos);
  CHECK(MistakeOf("a = 1").find("'=='") != std::string::npos);
  CHECK(MistakeOf("a # b").find("means nothing") != std::string::npos);
  CHECK(MistakeOf("c > 1").find("there are: a, b; parameters: limit") != std::string::npos);
  CHECK(MistakeOf("rate(a + b)").find("rate takes the name of one value") != std::string::npos);
  CHECK(MistakeOf("rate()").find("rate takes") != std::string::npos);
  CHECK(MistakeOf("forecast_seconds(a)").find("two values") != std::string::npos);
  CHECK(MistakeOf("past_mean(c)").find("'c' is no value") != std::string::npos);
  CHECK(MistakeOf("max()").find("arguments") != std::string::npos);
  CHECK_FALSE(MistakeOf(std::string(1'001, '1')).empty());
}

TEST_CASE("The past of a value is known when enough of its window is covered") {
  ValueHistory history(64'000);
  history.Add(0, 10);
  CHECK_FALSE(history.Mean(0).value.has_value());
  CHECK_FALSE(history.Increase(0).value.has_value());
  for (uint64_t s = 1; s <= 10; ++s) history.Add(s * 1000, 10);
  CHECK_FALSE(history.Mean(10'000).value.has_value());
  CHECK(history.Increase(10'000).value == 0);
  CHECK_FALSE(history.Increase(10'000).settled);
  for (uint64_t s = 11; s <= 60; ++s) history.Add(s * 1000, 10);
  history.Add(61'000, 500);
  CHECK(*history.Mean(61'000).value == Approx(10));  // the newest step is no past
  CHECK(*history.Maximum(61'000).value == Approx(10));
  CHECK(history.Increase(61'000).settled);
  CHECK(*history.Increase(61'000).value == Approx(490));
  CHECK(*history.Rate(61'000).value == Approx(490.0 / 61));
}

TEST_CASE("A counter that falls began anew, and what has left the window does not count") {
  ValueHistory history(64'000);
  double value = 100;
  for (uint64_t s = 0; s <= 30; ++s) history.Add(s * 1000, value++);
  history.Add(31'000, 5);
  CHECK(*history.Increase(31'000).value == Approx(35));
  for (uint64_t s = 32; s <= 200; ++s) history.Add(s * 1000, 5);
  CHECK(*history.Increase(200'000).value == Approx(0));
  // After a long silence nothing is known.
  CHECK_FALSE(history.Increase(900'000).value.has_value());
}

TEST_CASE("A forecast is the straight line to the capacity") {
  ValueHistory history(3'600'000);
  for (uint64_t s = 0; s <= 3'600; s += 10) history.Add(s * 1000, 1'000 + static_cast<double>(s));
  CHECK(*history.Forecast(3'600'000, 10'000).value == Approx(5'400).epsilon(0.02));
  CHECK(*history.Forecast(3'600'000, 4'600).value == 0);
  ValueHistory flat(3'600'000);
  for (uint64_t s = 0; s <= 3'600; s += 10) flat.Add(s * 1000, 7);
  CHECK(*flat.Forecast(3'600'000, 10'000).value == ValueHistory::kNever);
}

TEST_CASE("Numbers are shown as people read them") {
  CHECK(FormatNumber(512, "bytes") == "512 B");
  CHECK(FormatNumber(1.5 * 1024 * 1024 * 1024, "bytes") == "1.5 GiB");
  CHECK(FormatNumber(89.6, "percent") == "90 %");
  CHECK(FormatNumber(90, "duration") == "90 s");
  CHECK(FormatNumber(3 * 86'400, "duration") == "3 days");
  CHECK(FormatNumber(ValueHistory::kNever, "duration") == "never");
  CHECK(FormatNumber(0, "time") == "never");
  CHECK(FormatNumber(1'700'000'000'000, "time") == "2023-11-14 22:13:20 UTC");
  CHECK(FormatNumber(12, "number") == "12");
  CHECK(FormatNumber(0.12345, "number") == "0.1235");
}

TEST_CASE("A rendered text is cut before a whole character") {
  CHECK(CutText("aäö", 2) == "a");
  CHECK(CutText("aäö", 3) == "aä");
  CHECK(CutText("aäö", 9) == "aäö");
  const auto text = TextTemplate::Parse("{name}", {}, {"name"});
  REQUIRE(text.ok());
  Subject subject;
  subject.name = std::string(9'000, 'x');
  EvaluationInput input;
  input.subject = &subject;
  CHECK(text->Render(input).size() == 4'000);
}

TEST_CASE("Durations are sums of numbers with a unit") {
  CHECK(ParseDurationMs("90s") == 90'000);
  CHECK(ParseDurationMs("1h30m") == 5'400'000);
  CHECK(ParseDurationMs("2d") == 172'800'000);
  CHECK(ParseDurationMs("0s") == 0);
  for (const char* text : {"", "5", "m", "5 m", "1w", "-1s", "99999999999s"}) {
    INFO(text);
    CHECK_FALSE(ParseDurationMs(text).has_value());
  }
}

TEST_CASE("A rules file that is not there is told by its path") {
  const auto rules = LoadRules("/does/not/exist.toml");
  CHECK(rules.status().code() == absl::StatusCode::kNotFound);
  CHECK(std::string(rules.status().message()).find("/does/not/exist.toml") != std::string::npos);
}

}  // namespace
}  // namespace tessera::mgmt
