// Texts with places for what is known of a subject: "{name} is {used_percent:percent} full".
//
// A place holds the name of a text, or an expression (expression.h) and, after a colon, how to show
// it: bytes, percent, duration (of seconds), time (of milliseconds since 1970), number. "{{" and
// "}}" are braces. What is not known is shown as "unknown".
//
// Threads: a template is rendered by one thread at a time.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_TEXT_TEMPLATE_H_
#define TESSERA_SERVICES_MGMT_ALERTS_TEXT_TEMPLATE_H_

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "services/mgmt/alerts/expression.h"

namespace tessera::mgmt {

class TextTemplate {
 public:
  TextTemplate() = default;
  // INVALID_ARGUMENT: which place is wrong, and what would be right.
  [[nodiscard]] static absl::StatusOr<TextTemplate> Parse(std::string_view text,
                                                          const ExpressionScope& scope,
                                                          const std::set<std::string>& texts);

  // At most 4,000 bytes: what parts say of themselves has no bound.
  [[nodiscard]] std::string Render(const EvaluationInput& input) const;
  // Values whose past is used.
  [[nodiscard]] std::set<std::string> past_values() const;
  // As it was written.
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  struct Piece {
    std::string literal;  // before the place
    std::string text_name;
    std::unique_ptr<Expression> expression;
    std::string format;
  };
  std::string text_;
  std::vector<Piece> pieces_;
  std::string end_;
};

// At most `bytes` of UTF-8, cut before a whole character.
[[nodiscard]] std::string CutText(std::string text, size_t bytes);

// `number` as the format says; for tests of their own.
[[nodiscard]] std::string FormatNumber(double number, std::string_view format);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_TEXT_TEMPLATE_H_
