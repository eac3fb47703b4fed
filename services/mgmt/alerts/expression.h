// One expression of the rules' language: arithmetic and comparisons over the values of a subject,
// the rule's parameters, and functions of time and of the past.
//
// Functions of the past and of time take the bare name of a value: past_mean(x), past_max(x),
// rate(x), increase(x), forecast_seconds(used, capacity), age(x), until(x).
//
// Threads: an expression is evaluated by one thread at a time.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_EXPRESSION_H_
#define TESSERA_SERVICES_MGMT_ALERTS_EXPRESSION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/mgmt/alerts/subject.h"
#include "services/mgmt/alerts/value_history.h"

namespace tessera::mgmt {

// Names that an expression may use.
struct ExpressionScope {
  std::set<std::string> values;
  std::map<std::string, double> parameters;
};

// The past of the values of one subject, by name.
using Histories = std::map<std::string, ValueHistory, std::less<>>;

struct EvaluationInput {
  const Subject* subject = nullptr;
  const Histories* histories = nullptr;  // null: no past is known
  uint64_t boot_ms = 0;
  uint64_t wall_ms = 0;
  bool wall_trusted = true;  // false: functions of wall time are not known
};

// No value: something that it needs is not known. Not settled: it uses a past that is too short to
// rule anything out.
using Evaluated = PastFigure;

class Expression {
 public:
  // INVALID_ARGUMENT: what is wrong, and of unknown names which there are.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Expression>> Parse(
      std::string_view text, const ExpressionScope& scope);
  ~Expression();
  Expression(const Expression&) = delete;
  Expression& operator=(const Expression&) = delete;

  [[nodiscard]] Evaluated Evaluate(const EvaluationInput& input);
  // Values whose past is used.
  [[nodiscard]] const std::set<std::string>& past_values() const { return past_values_; }

 private:
  enum class Source { kValue, kPastMean, kPastMax, kRate, kIncrease, kForecast, kAge, kUntil };
  struct Slot {
    Source source = Source::kValue;
    std::string value;     // its argument
    std::string capacity;  // the second one of kForecast
    double number = 0;     // what the parser reads
  };
  class Reader;
  struct Parser;

  Expression();
  [[nodiscard]] static Evaluated Fill(const Slot& slot, const EvaluationInput& input);

  std::unique_ptr<Parser> parser_;
  std::vector<std::unique_ptr<Slot>> slots_;  // where the parser reads: they don't move
  std::set<std::string> past_values_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_EXPRESSION_H_
