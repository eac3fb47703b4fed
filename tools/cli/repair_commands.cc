// rebuild, rebalance, operation; maintenance, drain, remove and replace of sds and device.
#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tessera/v1/operation.grpc.pb.h"
#include "tessera/v1/repair.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/nodes.h"
#include "tools/cli/operation_view.h"

namespace tessera::cli {
namespace {

using Repair = v1::RepairService;
using Operations = v1::OperationService;

struct Options {
  std::string sds;
  std::string reason;
  std::string rate;
  uint64_t id = 0;
  uint64_t successor = 0;
  uint64_t duration_ms = 3'600'000;
  uint64_t delay_ms = 0;
  uint32_t per_target = 0;
  uint32_t per_source = 0;
  uint32_t per_device = 0;
  uint32_t full_percent = 0;
  bool force = false;
  bool wait = false;
  bool all = false;
};
using SharedOptions = std::shared_ptr<Options>;

bool Json(Client* client) { return client->globals().output == Output::kJson; }

CLI::Validator Duration() {
  return CLI::AsNumberWithUnit(
      std::map<std::string, uint32_t>{{"ms", 1}, {"s", 1'000}, {"m", 60'000}, {"h", 3'600'000}},
      CLI::AsNumberWithUnit::Options(CLI::AsNumberWithUnit::UNIT_REQUIRED), "DURATION");
}

void PrintSettings(Client* client, const v1::RepairSettings& settings) {
  if (Json(client)) return PrintJson(std::cout, settings);
  Table table({"SETTING", "VALUE"});
  table.Add({"rebuild delay", settings.rebuild_delay_ms() == 0
                                  ? "none"
                                  : FormatDuration(settings.rebuild_delay_ms())});
  table.Add({"learners per target device", absl::StrCat(settings.learners_per_target_device())});
  table.Add({"learners per source device", absl::StrCat(settings.learners_per_source_device())});
  table.Add({"rebalance moves per device", absl::StrCat(settings.rebalance_moves_per_device())});
  table.Add({"rate per server", settings.bytes_per_second_per_server() == 0
                                    ? "no limit"
                                    : FormatSize(settings.bytes_per_second_per_server()) + "/s"});
  table.Add({"rebuild", settings.rebuild_paused() ? "paused" : "on"});
  table.Add({"rebalance", settings.rebalance_paused() ? "paused" : "on"});
  table.Add({"full mark", absl::StrCat(settings.full_percent(), " %")});
  table.Print(std::cout);
}

void Update(Client* client, const v1::UpdateRepairSettingsRequest& request) {
  PrintSettings(client,
                client->Call<Repair>(&Repair::Stub::UpdateRepairSettings, request).settings());
}

// "pause" and "resume" of one setting.
void AddPause(CLI::App* group, Client* client, const std::string& field,
              void (v1::RepairSettings::*set)(bool)) {
  for (const bool pause : {true, false}) {
    auto* command = group->add_subcommand(
        pause ? "pause" : "resume",
        pause ? "Begins nothing new; what has begun is finished." : "Goes on.");
    command->callback([=] {
      v1::UpdateRepairSettingsRequest request;
      (request.mutable_settings()->*set)(pause);
      request.mutable_update_mask()->add_paths(field);
      Update(client, request);
    });
  }
}

void List(Client* client, const std::vector<v1::OperationKind>& kinds, bool all) {
  v1::ListOperationsRequest request;
  for (const v1::OperationKind kind : kinds) request.add_kinds(kind);
  request.set_running_only(!all);
  const std::vector<v1::Operation> operations = ListOperations(client, request);
  if (!Json(client)) return PrintOperations(operations);
  v1::ListOperationsResponse response;
  response.mutable_operations()->Add(operations.begin(), operations.end());
  PrintJson(std::cout, response);
}

void AddRebuild(CLI::App* app, Client* client, const SharedOptions& options, int* exit_code) {
  auto* rebuild = app->add_subcommand("rebuild", "Restoring lost copies.")->require_subcommand(1);
  const std::vector<v1::OperationKind> kinds{v1::OPERATION_KIND_REBUILD, v1::OPERATION_KIND_RESYNC};
  auto* list = rebuild->add_subcommand("list", "Rebuilds and resyncs that run.");
  list->add_flag("--all", options->all, "Those that have ended, too.");
  list->callback([=] { List(client, kinds, options->all); });
  auto* watch = rebuild->add_subcommand("watch", "Follows them until all have ended.");
  watch->callback([=] {
    v1::WatchOperationsRequest request;
    for (const v1::OperationKind kind : kinds) request.add_kinds(kind);
    *exit_code = FollowOperations(client, request);
  });
  AddPause(rebuild, client, "rebuild_paused", &v1::RepairSettings::set_rebuild_paused);
  auto* settings = rebuild->add_subcommand("settings", "Shows or changes how copies are made.");
  auto* delay = settings->add_option("--delay", options->delay_ms,
                                     "Wait before a lost copy is made anew, such as 10m.");
  delay->transform(Duration());
  auto* target = settings->add_option("--per-target", options->per_target,
                                      "Placement groups copied onto a device at a time.");
  auto* source = settings->add_option("--per-source", options->per_source,
                                      "Placement groups copied from a device at a time.");
  auto* moves = settings->add_option("--rebalance-per-device", options->per_device,
                                     "Of these, for rebalance.");
  auto* rate = settings->add_option("--rate", options->rate,
                                    "Bytes a second for each server, such as 100MiB; 0: no limit.");
  auto* full = settings->add_option("--full-percent", options->full_percent,
                                    "Fuller devices get nothing new.");
  settings->callback([=] {
    v1::UpdateRepairSettingsRequest request;
    v1::RepairSettings* values = request.mutable_settings();
    const auto name = [&](CLI::Option* option, const char* field) {
      if (option->count() > 0) request.mutable_update_mask()->add_paths(field);
    };
    values->set_rebuild_delay_ms(options->delay_ms);
    values->set_learners_per_target_device(options->per_target);
    values->set_learners_per_source_device(options->per_source);
    values->set_rebalance_moves_per_device(options->per_device);
    values->set_full_percent(options->full_percent);
    if (rate->count() > 0) {
      const auto bytes = ParseSize(options->rate);
      if (!bytes.ok()) throw CommandError(bytes.status());
      values->set_bytes_per_second_per_server(*bytes);
    }
    name(delay, "rebuild_delay_ms");
    name(target, "learners_per_target_device");
    name(source, "learners_per_source_device");
    name(moves, "rebalance_moves_per_device");
    name(rate, "bytes_per_second_per_server");
    name(full, "full_percent");
    if (request.update_mask().paths_size() > 0) return Update(client, request);
    PrintSettings(
        client,
        client->Call<Repair>(&Repair::Stub::GetRepairSettings, v1::GetRepairSettingsRequest())
            .settings());
  });
}

void AddRebalance(CLI::App* app, Client* client) {
  auto* rebalance =
      app->add_subcommand("rebalance", "How evenly pools are filled.")->require_subcommand(1);
  auto* status = rebalance->add_subcommand("status", "Shares of devices, and moves to come.");
  status->callback([=] {
    const auto response =
        client->Call<Repair>(&Repair::Stub::GetRebalanceStatus, v1::GetRebalanceStatusRequest());
    if (Json(client)) return PrintJson(std::cout, response);
    std::cout << "rebalance is " << (response.paused() ? "paused" : "on") << "\n";
    for (const v1::PoolBalance& pool : response.pools()) {
      std::cout << "pool " << pool.name() << ": " << pool.moves_running() << " moves run, "
                << pool.moves_needed() << " to come\n";
      Table table({"DEVICE", "SDS", "PGS", "SHARE", "USED", "SIZE"});
      for (const v1::DeviceBalance& device : pool.devices()) {
        table.Add({absl::StrCat(device.device_id()), absl::StrCat(device.sds_id()),
                   absl::StrCat(device.placement_groups()), absl::StrFormat("%.1f", device.share()),
                   FormatSize(device.used_bytes()), FormatSize(device.capacity_bytes())});
      }
      table.Print(std::cout);
    }
  });
  AddPause(rebalance, client, "rebalance_paused", &v1::RepairSettings::set_rebalance_paused);
}

void AddOperation(CLI::App* app, Client* client, const SharedOptions& options, int* exit_code) {
  auto* operation =
      app->add_subcommand("operation", "Work that takes long.")->require_subcommand(1);
  auto* list = operation->add_subcommand("list", "Operations that run.");
  list->add_flag("--all", options->all, "Those that have ended, too.");
  list->callback([=] { List(client, {}, options->all); });
  auto* show = operation->add_subcommand("show", "Shows one operation.");
  show->add_option("ID", options->id, "Its id.")->required();
  show->callback([=] {
    v1::GetOperationRequest request;
    request.set_operation_id(options->id);
    const auto response = client->Call<Operations>(&Operations::Stub::GetOperation, request);
    if (Json(client)) return PrintJson(std::cout, response.operation());
    PrintOperations({response.operation()});
  });
  auto* watch = operation->add_subcommand("watch", "Follows one, or all that run, to the end.");
  watch->add_option("ID", options->id, "Its id; without: all.");
  watch->callback([=] {
    v1::WatchOperationsRequest request;
    request.set_operation_id(options->id);
    *exit_code = FollowOperations(client, request);
  });
  auto* cancel = operation->add_subcommand("cancel", "Ends a drain or scrub before it is done.");
  cancel->add_option("ID", options->id, "Its id.")->required();
  cancel->callback([=] {
    v1::CancelOperationRequest request;
    request.set_operation_id(options->id);
    const auto response = client->Call<Operations>(&Operations::Stub::CancelOperation, request);
    if (Json(client)) return PrintJson(std::cout, response.operation());
    std::cout << OperationLine(response.operation()) << "\n";
  });
}

void Started(Client* client, const v1::Operation& operation, bool wait, int* exit_code) {
  if (wait) {
    v1::WatchOperationsRequest request;
    request.set_operation_id(operation.operation_id());
    *exit_code = FollowOperations(client, request);
    return;
  }
  if (Json(client)) return PrintJson(std::cout, operation);
  std::cout << operation.operation_id() << "\n";
}

void AddMaintenance(CLI::App* sds, Client* client, const SharedOptions& options) {
  auto* maintenance = sds->add_subcommand("maintenance", "A server that is away for a while.")
                          ->require_subcommand(1);
  auto* enter = maintenance->add_subcommand("enter", "It may be away without a rebuild.");
  enter->add_option("SDS", options->sds, "Name or id.")->required();
  enter->add_option("--for", options->duration_ms, "How long, such as 30m [1h].")
      ->transform(Duration());
  enter->add_option("--reason", options->reason, "Why, for people.");
  enter->add_flag("--force", options->force, "Although data could not be used meanwhile.");
  const auto print = [=](const v1::Sds& found) {
    if (Json(client)) return PrintJson(std::cout, found);
    if (found.maintenance_until_ms() == 0) {
      std::cout << found.name() << " is not in maintenance\n";
      return;
    }
    const uint64_t now_ms = MdmNow(client);
    const uint64_t end_ms = found.maintenance_until_ms();
    std::cout << found.name() << " is in maintenance for another "
              << FormatDuration(end_ms > now_ms ? end_ms - now_ms : 1)
              << (found.maintenance_reason().empty() ? "" : ": " + found.maintenance_reason())
              << "\n";
  };
  enter->callback([=] {
    v1::EnterMaintenanceRequest request;
    request.set_sds_id(FindSds(client, options->sds).sds_id());
    request.set_duration_ms(options->duration_ms);
    request.set_reason(options->reason);
    request.set_force(options->force);
    print(client->Call<Repair>(&Repair::Stub::EnterMaintenance, request).sds());
  });
  auto* exit = maintenance->add_subcommand("exit", "Ends maintenance.");
  exit->add_option("SDS", options->sds, "Name or id.")->required();
  exit->callback([=] {
    v1::ExitMaintenanceRequest request;
    request.set_sds_id(FindSds(client, options->sds).sds_id());
    print(client->Call<Repair>(&Repair::Stub::ExitMaintenance, request).sds());
  });
  auto* status = maintenance->add_subcommand("status", "Until when, and why.");
  status->add_option("SDS", options->sds, "Name or id.")->required();
  status->callback([=] { print(FindSds(client, options->sds)); });
}

void AddSdsParts(CLI::App* sds, Client* client, const SharedOptions& options, int* exit_code) {
  auto* drain = sds->add_subcommand("drain", "Moves everything away from a server.");
  drain->add_option("SDS", options->sds, "Name or id.")->required();
  drain->add_flag("--wait", options->wait, "Until it is done; --timeout says how long.");
  drain->callback([=] {
    v1::StartDrainRequest request;
    request.set_sds_id(FindSds(client, options->sds).sds_id());
    Started(client, client->Call<Repair>(&Repair::Stub::StartDrain, request).operation(),
            options->wait, exit_code);
  });
  auto* remove = sds->add_subcommand("remove", "Forgets a server that holds nothing.");
  remove->add_option("SDS", options->sds, "Name or id.")->required();
  remove->callback([=] {
    v1::RemoveSdsRequest request;
    request.set_sds_id(FindSds(client, options->sds).sds_id());
    client->Call<Repair>(&Repair::Stub::RemoveSds, request);
  });
}

void AddDeviceParts(CLI::App* device, Client* client, const SharedOptions& options,
                    int* exit_code) {
  auto* list = device->add_subcommand("list", "Devices of all servers.");
  list->callback([=] {
    const auto all = AllSdss(client);
    if (Json(client)) {
      v1::ListSdssResponse response;
      response.mutable_sdss()->Add(all.begin(), all.end());
      return PrintJson(std::cout, response);
    }
    Table table({"ID", "SDS", "POOL", "STATE", "USE", "USED", "SIZE", "PGS", "PATH", "FAILURE"});
    for (const v1::Sds& sds : all) {
      for (const v1::Device& item : sds.devices()) {
        table.Add({absl::StrCat(item.device_id()), sds.name(),
                   item.pool_id() == 0 ? "-" : absl::StrCat(item.pool_id()),
                   FormatEnum(v1::ComponentState_descriptor(), item.state()),
                   FormatEnum(v1::DeviceUse_descriptor(), item.use()),
                   FormatSize(item.description().used_bytes()),
                   FormatSize(item.description().capacity_bytes()),
                   absl::StrCat(item.placement_groups()), item.description().path(),
                   item.description().failure().empty() ? "-" : item.description().failure()});
      }
    }
    table.Print(std::cout);
  });
  auto* drain = device->add_subcommand("drain", "Moves everything away from a device.");
  drain->add_option("ID", options->id, "Device id.")->required();
  drain->add_flag("--wait", options->wait, "Until it is done; --timeout says how long.");
  drain->callback([=] {
    v1::StartDrainRequest request;
    request.set_device_id(options->id);
    Started(client, client->Call<Repair>(&Repair::Stub::StartDrain, request).operation(),
            options->wait, exit_code);
  });
  auto* remove = device->add_subcommand("remove", "Takes a drained device out of its pool.");
  remove->add_option("ID", options->id, "Device id.")->required();
  remove->callback([=] {
    v1::RemoveDeviceRequest request;
    request.set_device_id(options->id);
    client->Call<Repair>(&Repair::Stub::RemoveDevice, request);
  });
  auto* replace = device->add_subcommand("replace", "A device takes another one's place.");
  replace->add_option("OLD", options->id, "The device that goes.")->required();
  replace->add_option("NEW", options->successor, "The device that comes, of the same server.")
      ->required();
  replace->add_flag("--wait", options->wait, "Until it is done; --timeout says how long.");
  replace->callback([=] {
    v1::ReplaceDeviceRequest request;
    request.set_device_id(options->id);
    request.set_successor_device_id(options->successor);
    Started(client, client->Call<Repair>(&Repair::Stub::ReplaceDevice, request).operation(),
            options->wait, exit_code);
  });
}

}  // namespace

void AddRepairCommands(CLI::App* app, Client* client, int* exit_code) {
  auto options = std::make_shared<Options>();
  AddRebuild(app, client, options, exit_code);
  AddRebalance(app, client);
  AddOperation(app, client, options, exit_code);
  AddMaintenance(app->get_subcommand("sds"), client, options);
  AddSdsParts(app->get_subcommand("sds"), client, options, exit_code);
  AddDeviceParts(app->get_subcommand("device"), client, options, exit_code);
}

}  // namespace tessera::cli
