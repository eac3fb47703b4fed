#include "tools/cli/format.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tessera::cli {
namespace {

constexpr std::pair<const char*, double> kUnits[] = {{"", 1},
                                                     {"B", 1},
                                                     {"KiB", 1024.0},
                                                     {"MiB", 1048576.0},
                                                     {"GiB", 1073741824.0},
                                                     {"TiB", 1099511627776.0},
                                                     {"PiB", 1125899906842624.0},
                                                     {"kB", 1e3},
                                                     {"KB", 1e3},
                                                     {"MB", 1e6},
                                                     {"GB", 1e9},
                                                     {"TB", 1e12},
                                                     {"PB", 1e15},
                                                     {"K", 1024.0},
                                                     {"M", 1048576.0},
                                                     {"G", 1073741824.0},
                                                     {"T", 1099511627776.0}};

}  // namespace

absl::StatusOr<uint64_t> ParseSize(const std::string& text) {
  const auto wrong = [&] {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text,
        "' is not a size: write 4096, 512MiB, 10GiB, 1.5TiB (binary) or 10GB (decimal)"));
  };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !(number >= 0)) return wrong();
  std::string unit(end, text.data() + text.size());
  unit = std::string(absl::StripAsciiWhitespace(unit));
  for (const auto& [name, factor] : kUnits) {
    if (unit != name) continue;
    const double bytes = number * factor;
    if (bytes > 1e18 || bytes != std::floor(bytes)) return wrong();
    return static_cast<uint64_t>(bytes);
  }
  return wrong();
}

std::string FormatSize(uint64_t bytes) {
  static constexpr const char* kNames[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kNames)) {
    value /= 1024;
    ++unit;
  }
  if (value == std::floor(value)) return absl::StrFormat("%.0f %s", value, kNames[unit]);
  return absl::StrFormat("%.1f %s", value, kNames[unit]);
}

std::string FormatEnum(const google::protobuf::EnumDescriptor* type, int value) {
  const auto* descriptor = type->FindValueByNumber(value);
  if (descriptor == nullptr) return absl::StrCat(value);
  // The zero value is <PREFIX>_UNSPECIFIED.
  const std::string zero = type->FindValueByNumber(0)->name();
  const size_t prefix = zero.size() - std::string("UNSPECIFIED").size();
  std::string name = absl::AsciiStrToLower(descriptor->name().substr(prefix));
  std::replace(name.begin(), name.end(), '_', ' ');
  return name == "unspecified" ? "-" : name;
}

std::string FormatAge(uint64_t then_ms, uint64_t now_ms) {
  if (then_ms == 0) return "never";
  const uint64_t seconds = now_ms > then_ms ? (now_ms - then_ms) / 1000 : 0;
  if (seconds < 120) return absl::StrCat(seconds, " s ago");
  if (seconds < 7200) return absl::StrCat(seconds / 60, " min ago");
  if (seconds < 172800) return absl::StrCat(seconds / 3600, " h ago");
  return absl::StrCat(seconds / 86400, " d ago");
}

void Table::Print(std::ostream& out) const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    out << line << "\n";
  }
}

void PrintJson(std::ostream& out, const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  out << (status.ok() ? text : status.ToString()) << (status.ok() ? "" : "\n");
}

}  // namespace tessera::cli
