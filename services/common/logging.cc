#include "services/common/logging.h"

#include <grpc/support/log.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <cstring>

namespace tessera {
namespace {

std::atomic<LogFormat> g_format{LogFormat::kText};

void AppendJsonString(std::string* out, std::string_view text) {
  out->push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          *out += fmt::format("\\u{:04x}", static_cast<int>(c));
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

void Log(spdlog::level::level_enum level, std::string_view message, LogFields fields) {
  if (!spdlog::should_log(level)) return;
  std::string line;
  if (g_format.load(std::memory_order_relaxed) == LogFormat::kJson) {
    AppendJsonString(&line, message);
    for (const LogField& field : fields) {
      line += ",";
      AppendJsonString(&line, field.name());
      line += ":";
      AppendJsonString(&line, field.value());
    }
  } else {
    line.assign(message);
    for (const LogField& field : fields) {
      line += fmt::format(" {}=", field.name());
      if (field.value().find(' ') != std::string::npos) {
        AppendJsonString(&line, field.value());
      } else {
        line += field.value();
      }
    }
  }
  spdlog::log(level, "{}", line);
}

// What gRPC has to say, in the form of the rest.
void LogOfGrpc(gpr_log_func_args* call) {
  // Said of each connection by address to a server whose certificate names hosts; it goes on.
  if (std::strstr(call->message, "No match found for server name") != nullptr) return;
  const char* const slash = std::strrchr(call->file, '/');
  const LogFields fields = {{"source", slash == nullptr ? call->file : slash + 1},
                            {"line", call->line},
                            {"error", call->message}};
  if (call->severity == GPR_LOG_SEVERITY_ERROR) {
    Log(spdlog::level::warn, "gRPC", fields);
  } else {
    Log(call->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::info : spdlog::level::debug,
        "gRPC", fields);
  }
}

}  // namespace

absl::Status InitLogging(const LogOptions& options) {
  const auto level = spdlog::level::from_str(options.level);
  if (level == spdlog::level::off && options.level != "off") {
    return absl::InvalidArgumentError(absl::StrCat(
        "log level '", options.level, "' is unknown: use trace, debug, info, warning or error"));
  }
  auto logger = spdlog::stderr_logger_mt(options.component);
  logger->set_level(level);
  if (options.format == LogFormat::kJson) {
    logger->set_pattern(
        R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","component":"%n","message":%v})");
  } else {
    logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %L %n %v");
  }
  logger->flush_on(spdlog::level::info);
  g_format = options.format;
  spdlog::set_default_logger(std::move(logger));
  gpr_set_log_function(LogOfGrpc);
  return absl::OkStatus();
}

void LogDebug(std::string_view message, LogFields fields) {
  Log(spdlog::level::debug, message, fields);
}
void LogInfo(std::string_view message, LogFields fields) {
  Log(spdlog::level::info, message, fields);
}
void LogWarning(std::string_view message, LogFields fields) {
  Log(spdlog::level::warn, message, fields);
}
void LogError(std::string_view message, LogFields fields) {
  Log(spdlog::level::err, message, fields);
}

}  // namespace tessera
