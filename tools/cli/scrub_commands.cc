// scrub: start, status, watch, cancel, list, settings.
#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "tessera/v1/operation.grpc.pb.h"
#include "tessera/v1/scrub.grpc.pb.h"
#include "tessera/v1/topology.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/nodes.h"
#include "tools/cli/operation_view.h"

namespace tessera::cli {
namespace {

using Scrub = v1::ScrubService;
using Operations = v1::OperationService;

struct Options {
  std::string pool;
  std::string sds;
  std::string volume;
  std::string rate;
  uint64_t device = 0;
  uint64_t id = 0;
  uint64_t interval_ms = 0;
  bool wait = false;
  bool all = false;
};
using SharedOptions = std::shared_ptr<Options>;

bool Json(Client* client) { return client->globals().output == Output::kJson; }

uint64_t PoolId(Client* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  v1::GetStoragePoolRequest request;
  request.set_pool_id(which.id);
  request.set_name(which.name);
  return client->Call<v1::TopologyService>(&v1::TopologyService::Stub::GetStoragePool, request)
      .pool()
      .pool_id();
}

uint64_t VolumeId(Client* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  v1::GetVolumeRequest request;
  request.set_volume_id(which.id);
  request.set_name(which.name);
  return client->Call<v1::VolumeService>(&v1::VolumeService::Stub::GetVolume, request)
      .volume()
      .volume_id();
}

uint64_t Rate(const std::string& text) {
  const auto bytes = ParseSize(text);
  if (!bytes.ok()) throw CommandError(bytes.status());
  return *bytes;
}

void AddStart(CLI::App* scrub, Client* client, const SharedOptions& options, int* exit_code) {
  auto* start = scrub->add_subcommand("start", "Reads and compares everything now.");
  auto* what = start->add_option_group("what", "Exactly one of these.");
  what->add_option("--pool", options->pool, "All devices of the pool: name or id.");
  what->add_option("--sds", options->sds, "All devices of the server: name or id.");
  what->add_option("--device", options->device, "One device: its id.");
  what->add_option("--volume", options->volume, "The volume's chunks: name or id.");
  what->require_option(1);
  start->add_option("--rate", options->rate,
                    "Bytes a second for each device, such as 100MiB; else the pool's setting.");
  start->add_flag("--wait", options->wait, "Until it is done; --timeout says how long.");
  start->callback([=] {
    v1::StartScrubRequest request;
    if (!options->pool.empty()) request.set_pool_id(PoolId(client, options->pool));
    if (!options->sds.empty()) request.set_sds_id(FindSds(client, options->sds).sds_id());
    request.set_device_id(options->device);
    if (!options->volume.empty()) request.set_volume_id(VolumeId(client, options->volume));
    if (!options->rate.empty()) request.set_bytes_per_second(Rate(options->rate));
    const v1::Operation operation =
        client->Call<Scrub>(&Scrub::Stub::StartScrub, request).operation();
    if (options->wait) {
      v1::WatchOperationsRequest watch;
      watch.set_operation_id(operation.operation_id());
      *exit_code = FollowOperations(client, watch);
      return;
    }
    if (Json(client)) return PrintJson(std::cout, operation);
    std::cout << operation.operation_id() << "\n";
  });
}

std::string PassOf(const v1::ScrubStatus& status) {
  if (!status.running()) return "idle";
  const std::string of =
      status.operation_id() == 0 ? "schedule" : absl::StrCat("scrub ", status.operation_id());
  const uint64_t percent =
      status.bytes_total() == 0 ? 0 : status.bytes_done() * 100 / status.bytes_total();
  return absl::StrCat(of, ", ", percent, " %");
}

void PrintStatus(const std::vector<v1::ScrubStatus>& devices, uint64_t now_ms) {
  Table table({"DEVICE", "PASS", "READ", "CHUNKS", "COMPARED", "FOUND", "REPAIRED", "LOST",
               "DIFFERENT", "LAST FULL PASS", "NOTE"});
  for (const v1::ScrubStatus& status : devices) {
    const uint64_t since = now_ms > status.completed_ms() ? now_ms - status.completed_ms() : 1;
    table.Add(
        {absl::StrCat(status.device_id()), PassOf(status),
         absl::StrCat(FormatSize(status.bytes_done()), " of ", FormatSize(status.bytes_total())),
         absl::StrCat(status.chunks_done()), absl::StrCat(status.chunks_compared()),
         absl::StrCat(status.blocks_found()), absl::StrCat(status.blocks_repaired()),
         absl::StrCat(status.blocks_unreadable()), absl::StrCat(status.blocks_different()),
         status.completed_ms() == 0 ? "-" : absl::StrCat(FormatDuration(since), " ago"),
         status.last_error().empty() ? "-" : status.last_error()});
  }
  table.Print(std::cout);
}

void AddViews(CLI::App* scrub, Client* client, const SharedOptions& options, int* exit_code) {
  auto* status = scrub->add_subcommand("status", "What each device does, and found last.");
  status->callback([=] {
    const auto response =
        client->Call<Scrub>(&Scrub::Stub::ListScrubStatus, v1::ListScrubStatusRequest());
    if (Json(client)) return PrintJson(std::cout, response);
    PrintStatus({response.devices().begin(), response.devices().end()}, MdmNow(client));
  });
  auto* list = scrub->add_subcommand("list", "Scrubs that were asked for and run.");
  list->add_flag("--all", options->all, "Those that have ended, too.");
  list->callback([=] {
    v1::ListOperationsRequest request;
    request.add_kinds(v1::OPERATION_KIND_SCRUB);
    request.set_running_only(!options->all);
    const std::vector<v1::Operation> operations = ListOperations(client, request);
    if (!Json(client)) return PrintOperations(operations);
    v1::ListOperationsResponse response;
    response.mutable_operations()->Add(operations.begin(), operations.end());
    PrintJson(std::cout, response);
  });
  auto* watch = scrub->add_subcommand("watch", "Follows one, or all that run, to the end.");
  watch->add_option("ID", options->id, "Its id; without: all.");
  watch->callback([=] {
    v1::WatchOperationsRequest request;
    request.set_operation_id(options->id);
    request.add_kinds(v1::OPERATION_KIND_SCRUB);
    *exit_code = FollowOperations(client, request);
  });
  auto* cancel = scrub->add_subcommand("cancel", "Ends a scrub before it is done.");
  cancel->add_option("ID", options->id, "Its id.")->required();
  cancel->callback([=] {
    v1::CancelOperationRequest request;
    request.set_operation_id(options->id);
    const auto response = client->Call<Operations>(&Operations::Stub::CancelOperation, request);
    if (Json(client)) return PrintJson(std::cout, response.operation());
    std::cout << OperationLine(response.operation()) << "\n";
  });
}

CLI::Validator Interval() {
  return CLI::AsNumberWithUnit(
      std::map<std::string, uint64_t>{
          {"m", 60'000}, {"h", 3'600'000}, {"d", 86'400'000}, {"w", 604'800'000}},
      CLI::AsNumberWithUnit::Options(CLI::AsNumberWithUnit::UNIT_REQUIRED), "INTERVAL");
}

void AddSettings(CLI::App* scrub, Client* client, const SharedOptions& options) {
  auto* settings = scrub->add_subcommand("settings", "Shows or changes the pools' schedules.");
  settings->add_option("--pool", options->pool, "Which to change: name or id.");
  auto* interval = settings->add_option(
      "--interval", options->interval_ms,
      "A device is gone through once in this time, such as 7d; 0m: never by itself.");
  interval->transform(Interval());
  auto* rate = settings->add_option("--rate", options->rate,
                                    "Bytes a second for each device at most, such as 64MiB.");
  settings->callback([=] {
    v1::UpdateScrubSettingsRequest request;
    if (interval->count() > 0) request.mutable_update_mask()->add_paths("interval_ms");
    if (rate->count() > 0) request.mutable_update_mask()->add_paths("bytes_per_second");
    v1::ListScrubSettingsResponse all;
    if (request.update_mask().paths_size() > 0) {
      if (options->pool.empty()) {
        throw CommandError(absl::InvalidArgumentError("say whose settings: --pool NAME"));
      }
      request.mutable_settings()->set_pool_id(PoolId(client, options->pool));
      request.mutable_settings()->set_interval_ms(options->interval_ms);
      if (rate->count() > 0) request.mutable_settings()->set_bytes_per_second(Rate(options->rate));
      *all.add_settings() =
          client->Call<Scrub>(&Scrub::Stub::UpdateScrubSettings, request).settings();
    } else {
      all = client->Call<Scrub>(&Scrub::Stub::ListScrubSettings, v1::ListScrubSettingsRequest());
    }
    if (Json(client)) return PrintJson(std::cout, all);
    Table table({"POOL", "EVERY", "RATE PER DEVICE"});
    for (const v1::ScrubSettings& one : all.settings()) {
      table.Add({absl::StrCat(one.pool_id()),
                 one.interval_ms() == 0 ? "never" : FormatDuration(one.interval_ms()),
                 FormatSize(one.bytes_per_second()) + "/s"});
    }
    table.Print(std::cout);
  });
}

}  // namespace

void AddScrubCommands(CLI::App* app, Client* client, int* exit_code) {
  auto options = std::make_shared<Options>();
  auto* scrub = app->add_subcommand("scrub", "Finding bad blocks before somebody needs them.")
                    ->require_subcommand(1);
  AddStart(scrub, client, options, exit_code);
  AddViews(scrub, client, options, exit_code);
  AddSettings(scrub, client, options);
}

}  // namespace tessera::cli
