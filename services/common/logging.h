// Structured logs by spdlog: one line an event, as text or JSON, to standard error.
//
// Use: LogInfo("replica removed", {{"placement_group", id}, {"epoch", epoch}}). A message is a
// constant phrase; what varies goes into fields. No secrets.
//
// Threads: any. Init once, before others.
#ifndef TESSERA_SERVICES_COMMON_LOGGING_H_
#define TESSERA_SERVICES_COMMON_LOGGING_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tessera {

enum class LogFormat { kText, kJson };

struct LogOptions {
  std::string component;       // "mdm"
  std::string level = "info";  // trace, debug, info, warning, error
  LogFormat format = LogFormat::kText;
};

// Takes over gRPC's log, too. INVALID_ARGUMENT for an unknown level.
[[nodiscard]] absl::Status InitLogging(const LogOptions& options);

class LogField {
 public:
  LogField(std::string_view name, std::string_view value) : name_(name), value_(value) {}
  LogField(std::string_view name, const char* value) : name_(name), value_(value) {}
  LogField(std::string_view name, const std::string& value) : name_(name), value_(value) {}
  LogField(std::string_view name, const absl::Status& status)
      : name_(name), value_(status.ToString()) {}
  template <typename Number>
  requires std::is_arithmetic_v<Number> LogField(std::string_view name, Number value)
      : name_(name), value_(absl::StrCat(value)) {}
  [[nodiscard]] std::string_view name() const { return name_; }
  [[nodiscard]] const std::string& value() const { return value_; }

 private:
  std::string_view name_;
  std::string value_;
};

using LogFields = std::initializer_list<LogField>;
void LogDebug(std::string_view message, LogFields fields = {});
void LogInfo(std::string_view message, LogFields fields = {});
void LogWarning(std::string_view message, LogFields fields = {});
void LogError(std::string_view message, LogFields fields = {});

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_LOGGING_H_
