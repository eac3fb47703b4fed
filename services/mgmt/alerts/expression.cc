#include "services/mgmt/alerts/expression.h"

#include <muParser.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/status_macros.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kTextMax = 1'000;
constexpr std::string_view kOperators = "+-*/^()<>=!&|?:,";
const std::set<std::string>& PlainFunctions() {
  static const auto* const names =
      new std::set<std::string>{"min", "max", "abs", "sqrt", "exp", "ln", "log10", "rint"};
  return *names;
}

bool StartsName(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool InName(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

absl::Status Wrong(const std::string& message) { return absl::InvalidArgumentError(message); }

}  // namespace

struct Expression::Parser {
  mu::Parser parser;
};

Expression::Expression() : parser_(std::make_unique<Parser>()) {}
Expression::~Expression() = default;

// Reads names and hands the rest on: each use of a value, or of a function of the past, becomes one
// variable of muParser.
class Expression::Reader {
 public:
  Reader(std::string_view text, const ExpressionScope& scope, Expression* expression)
      : text_(text), scope_(scope), expression_(expression) {}

  absl::StatusOr<std::string> Rewrite() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (StartsName(c)) {
        TESSERA_RETURN_IF_ERROR(ReadName());
      } else if (absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '.') {
        ReadNumber();
      } else if (absl::ascii_isspace(static_cast<unsigned char>(c))) {
        out_ += ' ';
        ++at_;
      } else {
        TESSERA_RETURN_IF_ERROR(ReadOperator());
      }
    }
    return out_;
  }

 private:
  static const std::map<std::string, Source>& PastFunctions() {
    static const auto* const functions =
        new std::map<std::string, Source>{{"past_mean", Source::kPastMean},
                                          {"past_max", Source::kPastMax},
                                          {"rate", Source::kRate},
                                          {"increase", Source::kIncrease},
                                          {"forecast_seconds", Source::kForecast},
                                          {"age", Source::kAge},
                                          {"until", Source::kUntil}};
    return *functions;
  }

  std::string TakeName() {
    const size_t begin = at_;
    while (at_ < text_.size() && InName(text_[at_])) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }
  void SkipSpace() {
    while (at_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool Take(char c) {
    SkipSpace();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void ReadNumber() {
    while (at_ < text_.size() && (InName(text_[at_]) || text_[at_] == '.')) {
      const char c = text_[at_++];
      out_ += c;
      if ((c == 'e' || c == 'E') && at_ < text_.size() &&
          (text_[at_] == '-' || text_[at_] == '+')) {
        out_ += text_[at_++];
      }
    }
  }

  absl::Status ReadOperator() {
    const char c = text_[at_];
    if (kOperators.find(c) == std::string_view::npos) {
      return Wrong(absl::StrCat("'", std::string(1, c), "' means nothing here"));
    }
    const char next = at_ + 1 < text_.size() ? text_[at_ + 1] : ' ';
    if (next == '=' && (c == '=' || c == '<' || c == '>' || c == '!')) {
      out_.append({c, next});
      at_ += 2;
      return absl::OkStatus();
    }
    if (c == '=') return Wrong("'=' compares nothing: write '=='");
    if (c == '!') return Wrong("there is no '!': write 'x == 0'");
    if (c == '&' || c == '|') {
      if (next != c) {
        return Wrong(
            absl::StrCat("write '", std::string(2, c), "' instead of '", std::string(1, c), "'"));
      }
      out_.append(2, c);
      at_ += 2;
      return absl::OkStatus();
    }
    out_ += c;
    ++at_;
    return absl::OkStatus();
  }

  absl::Status ReadName() {
    const std::string name = TakeName();
    if (const auto past = PastFunctions().find(name); past != PastFunctions().end()) {
      return ReadPast(name, past->second);
    }
    if (scope_.values.contains(name)) {
      out_ += VariableOf(Source::kValue, name, "");
      return absl::OkStatus();
    }
    if (scope_.parameters.contains(name) || PlainFunctions().contains(name)) {
      out_ += name;
      return absl::OkStatus();
    }
    return Unknown(name);
  }

  absl::Status Unknown(const std::string& name) const {
    std::string message = absl::StrCat(
        "'", name, "' is no value here; there are: ", absl::StrJoin(scope_.values, ", "));
    if (!scope_.parameters.empty()) {
      absl::StrAppend(&message, "; parameters: ",
                      absl::StrJoin(scope_.parameters, ", ",
                                    [](std::string* out, const auto& p) { *out += p.first; }));
    }
    return Wrong(message);
  }

  absl::Status ReadPast(const std::string& function, Source source) {
    const int wanted = source == Source::kForecast ? 2 : 1;
    std::vector<std::string> names;
    bool well = Take('(');
    while (well) {
      SkipSpace();
      const std::string name = TakeName();
      if (name.empty()) {
        well = false;
        break;
      }
      if (!scope_.values.contains(name)) return Unknown(name);
      names.push_back(name);
      if (!Take(',')) break;
    }
    if (!well || !Take(')') || static_cast<int>(names.size()) != wanted) {
      return Wrong(absl::StrCat(
          function,
          wanted == 2 ? " takes the names of two values: " : " takes the name of one value: ",
          function, wanted == 2 ? "(used, capacity)" : "(x)"));
    }
    if (source != Source::kAge && source != Source::kUntil) {
      expression_->past_values_.insert(names[0]);
    }
    out_ += VariableOf(source, names[0], wanted == 2 ? names[1] : "");
    return absl::OkStatus();
  }

  std::string VariableOf(Source source, const std::string& value, const std::string& capacity) {
    auto& slots = expression_->slots_;
    size_t i = 0;
    while (i < slots.size() && (slots[i]->source != source || slots[i]->value != value ||
                                slots[i]->capacity != capacity)) {
      ++i;
    }
    if (i == slots.size()) {
      slots.push_back(std::make_unique<Slot>(Slot{source, value, capacity}));
      expression_->parser_->parser.DefineVar(absl::StrCat("v_", i, "_"), &slots[i]->number);
    }
    return absl::StrCat("v_", i, "_");
  }

  const std::string_view text_;
  const ExpressionScope& scope_;
  Expression* const expression_;
  size_t at_ = 0;
  std::string out_;
};

absl::StatusOr<std::unique_ptr<Expression>> Expression::Parse(std::string_view text,
                                                              const ExpressionScope& scope) {
  if (absl::StripAsciiWhitespace({text.data(), text.size()}).empty()) return Wrong("it is empty");
  if (text.size() > kTextMax) return Wrong(absl::StrCat("it has more than ", kTextMax, " bytes"));
  std::unique_ptr<Expression> expression(new Expression);
  try {
    TESSERA_ASSIGN_OR_RETURN(const std::string rewritten,
                             Reader(text, scope, expression.get()).Rewrite());
    mu::Parser& parser = expression->parser_->parser;
    for (const auto& [name, value] : scope.parameters) parser.DefineConst(name, value);
    parser.SetExpr(rewritten);
    int results = 0;
    static_cast<void>(parser.Eval(results));
    if (results != 1) return Wrong("it has several results: join conditions with && or ||");
  } catch (const mu::Parser::exception_type& error) {
    // Its words name the rewritten text: only what is wrong is told, and near what.
    switch (error.GetCode()) {
      case mu::ecMISSING_PARENS:
        return Wrong("a parenthesis is not closed");
      case mu::ecUNEXPECTED_EOF:
        return Wrong("it ends too early");
      case mu::ecTOO_FEW_PARAMS:
      case mu::ecTOO_MANY_PARAMS:
        return Wrong("a function has the wrong number of arguments");
      case mu::ecUNEXPECTED_OPERATOR:
        return Wrong("an operator stands where a value is expected");
      case mu::ecUNEXPECTED_VAR:
      case mu::ecUNEXPECTED_VAL:
        return Wrong("an operator is missing between two values");
      default:
        return Wrong(absl::StrCat("it can't be read near character ", error.GetPos() + 1));
    }
  }
  return expression;
}

Evaluated Expression::Fill(const Slot& slot, const EvaluationInput& input) {
  const auto find = [&](const std::string& name) -> std::optional<double> {
    const auto found = input.subject->values.find(name);
    if (found == input.subject->values.end() || !std::isfinite(found->second)) return std::nullopt;
    return found->second;
  };
  const std::optional<double> value = find(slot.value);
  if (!value.has_value()) return {};
  const auto wall = static_cast<double>(input.wall_ms);
  switch (slot.source) {
    case Source::kValue:
      return {value, true};
    case Source::kAge:
      if (*value == 0) return {0, true};
      if (!input.wall_trusted) return {};
      return {(wall - *value) / 1000, true};
    case Source::kUntil:
      if (*value == 0) return {ValueHistory::kNever, true};
      if (!input.wall_trusted) return {};
      return {(*value - wall) / 1000, true};
    default:
      break;
  }
  if (input.histories == nullptr) return {};
  const auto found = input.histories->find(slot.value);
  if (found == input.histories->end()) return {};
  const ValueHistory& history = found->second;
  switch (slot.source) {
    case Source::kPastMean:
      return history.Mean(input.boot_ms);
    case Source::kPastMax:
      return history.Maximum(input.boot_ms);
    case Source::kRate:
      return history.Rate(input.boot_ms);
    case Source::kIncrease:
      return history.Increase(input.boot_ms);
    default: {
      const std::optional<double> capacity = find(slot.capacity);
      if (!capacity.has_value()) return {};
      return history.Forecast(input.boot_ms, *capacity);
    }
  }
}

Evaluated Expression::Evaluate(const EvaluationInput& input) {
  bool settled = true;
  for (const std::unique_ptr<Slot>& slot : slots_) {
    const Evaluated filled = Fill(*slot, input);
    if (!filled.value.has_value()) return {};
    slot->number = *filled.value;
    settled = settled && filled.settled;
  }
  try {
    const double result = parser_->parser.Eval();
    if (!std::isfinite(result)) return {};
    return {result, settled};
  } catch (const mu::Parser::exception_type&) {
    return {};  // such as the root of a negative number: not known
  }
}

}  // namespace tessera::mgmt
