// volume latency: where the time of a volume's requests goes.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "services/common/latency_explainer.h"
#include "tessera/v1/latency.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/volume_view.h"

namespace tessera::cli {
namespace {

constexpr size_t kCausesShown = 8;
constexpr size_t kExamplesShown = 3;

struct Options {
  std::string volume;
  std::string window = "5m";
  std::string operation;
};

v1::LatencyOperation OperationOf(const std::string& text) {
  if (text.empty()) return v1::LATENCY_OPERATION_UNSPECIFIED;
  if (text == "read") return v1::LATENCY_OPERATION_READ;
  if (text == "write") return v1::LATENCY_OPERATION_WRITE;
  if (text == "flush") return v1::LATENCY_OPERATION_FLUSH;
  throw CommandError(absl::InvalidArgumentError(
      absl::StrCat("--operation: '", text, "' is none of read, write, flush")));
}

std::string Micros(uint64_t micros) { return FormatMicros(static_cast<double>(micros)); }
std::string Stage(v1::LatencyStage stage) {
  return FormatEnum(v1::LatencyStage_descriptor(), stage);
}
std::string Operation(v1::LatencyOperation operation) {
  return FormatEnum(v1::LatencyOperation_descriptor(), operation);
}

void PrintSummaries(const v1::ExplainLatencyResponse& response) {
  Table table({"REQUESTS", "COUNT", "MEAN", "P50", "P99", "MAX", "BEST CASE"});
  for (const v1::LatencySummary& summary : response.summaries()) {
    table.Add({Operation(summary.operation()), absl::StrCat(summary.samples()),
               FormatMicros(summary.mean_micros()), Micros(summary.p50_micros()),
               Micros(summary.p99_micros()), Micros(summary.max_micros()),
               FormatMicros(summary.best_case_micros())});
  }
  table.Print(std::cout);
}

void PrintCauses(const v1::ExplainLatencyResponse& response) {
  Table table({"SHARE", "REQUESTS", "STAGE", "SERVER", "DEVICE", "MEAN", "P50", "P99", "BEST"});
  size_t shown = 0;
  for (const v1::LatencyCause& cause : response.causes()) {
    if (shown++ == kCausesShown) break;
    const bool client = cause.sds_id() == 0;
    table.Add({absl::StrFormat("%.1f %%", cause.share() * 100), Operation(cause.operation()),
               Stage(cause.stage()), client ? "-" : cause.sds_name(),
               client ? "-" : cause.device_path(), FormatMicros(cause.mean_micros()),
               Micros(cause.p50_micros()), Micros(cause.p99_micros()),
               Micros(cause.best_case_micros())});
  }
  table.Print(std::cout);
}

void PrintExamples(const v1::ExplainLatencyResponse& response) {
  size_t shown = 0;
  for (const v1::LatencyExample& example : response.slowest()) {
    if (shown++ == kExamplesShown) break;
    std::vector<std::string> stages;
    for (const v1::LatencyExampleStage& stage : example.stages()) {
      stages.push_back(
          absl::StrCat(Stage(stage.stage()), " ", Micros(stage.micros()),
                       stage.sds_id() == 0 ? "" : absl::StrCat(" (server ", stage.sds_id(), ")")));
    }
    std::cout << "  " << Operation(example.operation()) << " of " << Micros(example.total_micros())
              << ", " << example.age_ms() / 1000 << " s ago: " << absl::StrJoin(stages, ", ")
              << "\n";
  }
}

void Latency(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  v1::ExplainLatencyRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  const uint64_t window_ms = ParseMillis("--window", options.window);
  if (window_ms < 10'000 || window_ms > 600'000) {
    throw CommandError(absl::InvalidArgumentError(
        absl::StrCat("--window: '", options.window, "' must be from 10s to 10m")));
  }
  request.set_window_s(static_cast<uint32_t>(window_ms / 1000));
  request.set_operation(OperationOf(options.operation));
  const auto response =
      client->Call<v1::LatencyService>(&v1::LatencyService::Stub::ExplainLatency, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
  if (!response.silent_sdc_ids().empty()) {
    std::cerr << "tessera: without clients that did not answer: "
              << absl::StrJoin(response.silent_sdc_ids(), ", ") << "\n";
  }
  if (response.summaries().empty()) {
    std::cout << "no requests in the last " << response.covered_ms() / 1000 << " s\n";
    return;
  }
  std::cout << "volume " << response.volume_name() << ", the last " << response.covered_ms() / 1000
            << " s\n\n";
  PrintSummaries(response);
  if (response.causes().empty()) return;
  std::cout << "\n"
            << response.causes(0).sentence() << "\nWhat to do: " << response.causes(0).advice()
            << ".\n";
  if (!response.replica_lags().empty()) std::cout << response.replica_lags(0).sentence() << "\n";
  std::cout << "\n";
  PrintCauses(response);
  std::cout << "\nslowest:\n";
  PrintExamples(response);
}

}  // namespace

void AddLatencyCommand(CLI::App* volume, Client* client) {
  auto options = std::make_shared<Options>();
  auto* latency = volume->add_subcommand(
      "latency", "Where the time of a volume's requests goes: stage, server, device.");
  latency->add_option("VOLUME", options->volume, "Name or id.")->required();
  latency->add_option("--window", options->window, "How far back, 10s to 10m.")
      ->capture_default_str();
  latency->add_option("--operation", options->operation, "Only read, write or flush.");
  latency->footer(
      "SHARE: of all time beyond the best case, in which each stage takes the least that it took in"
      " any answer.");
  latency->callback([=] { Latency(client, *options); });
}

}  // namespace tessera::cli
