#include "services/mgmt/alerts/text_template.h"

#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"

namespace tessera::mgmt {
namespace {

constexpr std::array<const char*, 5> kFormats{"bytes", "percent", "duration", "time", "number"};
constexpr size_t kTextMax = 4'000;

bool IsFormat(std::string_view text) {
  for (const char* format : kFormats) {
    if (format == text) return true;
  }
  return false;
}

std::string FormatBytes(double bytes) {
  constexpr std::array<const char*, 7> kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  while (std::abs(bytes) >= 1024 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%.0f B", bytes)
                   : absl::StrFormat("%.1f %s", bytes, kUnits[unit]);
}

std::string FormatDuration(double seconds) {
  if (seconds >= ValueHistory::kNever) return "never";
  if (seconds < 0) return absl::StrCat("-", FormatDuration(-seconds));
  if (seconds < 120) return absl::StrFormat("%.0f s", seconds);
  if (seconds < 7'200) return absl::StrFormat("%.0f min", seconds / 60);
  if (seconds < 172'800) return absl::StrFormat("%.0f h", seconds / 3'600);
  return absl::StrFormat("%.0f days", seconds / 86'400);
}

std::string Trimmed(std::string_view text) {
  return std::string(absl::StripAsciiWhitespace({text.data(), text.size()}));
}

}  // namespace

std::string CutText(std::string text, size_t bytes) {
  if (text.size() <= bytes) return text;
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80) --bytes;
  text.resize(bytes);
  return text;
}

std::string FormatNumber(double number, std::string_view format) {
  if (format == "bytes") return FormatBytes(number);
  if (format == "percent") return absl::StrFormat("%.0f %%", number);
  if (format == "duration") return FormatDuration(number);
  if (format == "time") {
    if (number == 0) return "never";
    return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC",
                            absl::FromUnixMillis(static_cast<int64_t>(number)),
                            absl::UTCTimeZone());
  }
  if (std::abs(number) < 1e15 && number == std::floor(number)) {
    return absl::StrFormat("%.0f", number);
  }
  return absl::StrFormat("%.4g", number);
}

absl::StatusOr<TextTemplate> TextTemplate::Parse(std::string_view text,
                                                 const ExpressionScope& scope,
                                                 const std::set<std::string>& texts) {
  if (text.size() > kTextMax) {
    return absl::InvalidArgumentError(absl::StrCat("it has more than ", kTextMax, " bytes"));
  }
  TextTemplate result;
  result.text_ = std::string(text);
  std::string literal;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    const bool doubled = at + 1 < text.size() && text[at + 1] == c;
    if ((c == '{' || c == '}') && doubled) {
      literal += c;
      ++at;
      continue;
    }
    if (c == '}') return absl::InvalidArgumentError("a '}' without '{': write '}}' for a brace");
    if (c != '{') {
      literal += c;
      continue;
    }
    const size_t end = text.find('}', at);
    if (end == std::string_view::npos) {
      return absl::InvalidArgumentError("a '{' without '}': write '{{' for a brace");
    }
    const std::string_view place = text.substr(at + 1, end - at - 1);
    at = end;
    Piece piece;
    piece.literal = std::move(literal);
    literal.clear();
    std::string inner = Trimmed(place);
    if (texts.contains(inner)) {
      piece.text_name = inner;
      result.pieces_.push_back(std::move(piece));
      continue;
    }
    piece.format = "number";
    if (const size_t colon = inner.rfind(':'); colon != std::string::npos) {
      const std::string format = Trimmed(std::string_view(inner).substr(colon + 1));
      if (!IsFormat(format)) {
        return absl::InvalidArgumentError(
            absl::StrCat("'{", inner, "}': '", format,
                         "' is no format; there are: ", absl::StrJoin(kFormats, ", ")));
      }
      piece.format = format;
      inner = Trimmed(std::string_view(inner).substr(0, colon));
    }
    absl::StatusOr<std::unique_ptr<Expression>> expression = Expression::Parse(inner, scope);
    if (!expression.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("'{", inner,
                                                     "}': ", expression.status().message(),
                                                     "; texts: ", absl::StrJoin(texts, ", ")));
    }
    piece.expression = *std::move(expression);
    result.pieces_.push_back(std::move(piece));
  }
  result.end_ = std::move(literal);
  return result;
}

std::string TextTemplate::Render(const EvaluationInput& input) const {
  std::string out;
  for (const Piece& piece : pieces_) {
    out += piece.literal;
    if (piece.expression != nullptr) {
      const Evaluated evaluated = piece.expression->Evaluate(input);
      out += evaluated.value.has_value() ? FormatNumber(*evaluated.value, piece.format) : "unknown";
    } else if (piece.text_name == "name") {
      out += input.subject->name;
    } else if (piece.text_name == "id") {
      out += input.subject->id;
    } else if (piece.text_name == "subject") {
      out += input.subject->Key();
    } else {
      const auto found = input.subject->texts.find(piece.text_name);
      out +=
          found == input.subject->texts.end() || found->second.empty() ? "unknown" : found->second;
    }
  }
  return CutText(out + end_, kTextMax);
}

std::set<std::string> TextTemplate::past_values() const {
  std::set<std::string> values;
  for (const Piece& piece : pieces_) {
    if (piece.expression == nullptr) continue;
    values.insert(piece.expression->past_values().begin(), piece.expression->past_values().end());
  }
  return values;
}

}  // namespace tessera::mgmt
