#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "services/common/node.h"
#include "tessera/v1/schedule.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/volume_view.h"

namespace tessera::cli {
namespace {

using Schedules = v1::SnapshotScheduleService;

struct Options {
  std::string schedule;
  std::optional<std::string> name;
  std::vector<std::string> volumes;
  std::optional<std::string> label;
  std::optional<std::string> every;
  std::optional<std::string> at;
  std::optional<uint32_t> keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly;
  bool keep_all = false;
  std::optional<bool> consistent;
  std::optional<std::string> lock;
  std::optional<std::string> deadline;
  bool pause = false;
  bool resume = false;
  bool no_volumes = false;
};

uint32_t Seconds(const std::string& option, const std::string& text) {
  const uint64_t millis = ParseMillis(option, text);
  if (millis % 1'000 != 0 || millis / 1'000 > UINT32_MAX) {
    throw CommandError(absl::InvalidArgumentError(
        absl::StrCat(option, ": '", text, "' is not a number of whole seconds")));
  }
  return static_cast<uint32_t>(millis / 1'000);
}

// "0s" is a time here, too.
uint64_t Millis(const std::string& option, const std::string& text) {
  absl::Duration duration;
  if (absl::ParseDuration(text, &duration) && duration == absl::ZeroDuration()) return 0;
  return ParseMillis(option, text);
}

uint64_t VolumeId(Client* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  if (which.id != 0) return which.id;
  v1::GetVolumeRequest request;
  request.set_name(which.name);
  return client->Call<v1::VolumeService>(&v1::VolumeService::Stub::GetVolume, request)
      .volume()
      .volume_id();
}

// Sets what was given; the names of these fields.
std::vector<std::string> Fill(Client* client, const Options& options,
                              const v1::SnapshotRetention& retention,
                              v1::SnapshotSchedule* schedule) {
  std::vector<std::string> fields;
  if (options.name.has_value()) {
    schedule->set_name(*options.name);
    fields.emplace_back("name");
  }
  if (!options.volumes.empty() || options.no_volumes) {
    for (const std::string& volume : options.volumes) {
      schedule->add_volume_ids(VolumeId(client, volume));
    }
    fields.emplace_back("volume_ids");
  }
  if (options.label.has_value()) {
    schedule->set_volume_label(*options.label);
    fields.emplace_back("volume_label");
  }
  if (options.every.has_value()) {
    schedule->set_interval_seconds(Seconds("--every", *options.every));
    fields.emplace_back("interval_seconds");
  }
  if (options.at.has_value()) {
    schedule->set_offset_seconds(static_cast<uint32_t>(Millis("--at", *options.at) / 1'000));
    fields.emplace_back("offset_seconds");
  }
  v1::SnapshotRetention* keep = schedule->mutable_retention();
  if (!options.keep_all) *keep = retention;
  if (options.keep_last.has_value()) keep->set_keep_last(*options.keep_last);
  if (options.keep_hourly.has_value()) keep->set_keep_hourly(*options.keep_hourly);
  if (options.keep_daily.has_value()) keep->set_keep_daily(*options.keep_daily);
  if (options.keep_weekly.has_value()) keep->set_keep_weekly(*options.keep_weekly);
  if (options.keep_monthly.has_value()) keep->set_keep_monthly(*options.keep_monthly);
  if (options.keep_all || options.keep_last.has_value() || options.keep_hourly.has_value() ||
      options.keep_daily.has_value() || options.keep_weekly.has_value() ||
      options.keep_monthly.has_value()) {
    fields.emplace_back("retention");
  }
  if (options.consistent.has_value()) {
    schedule->set_consistent(*options.consistent);
    fields.emplace_back("consistent");
  }
  if (options.lock.has_value()) {
    schedule->set_lock_seconds(Millis("--for", *options.lock) / 1'000);
    fields.emplace_back("lock_seconds");
  }
  if (options.deadline.has_value()) {
    schedule->set_deadline_ms(static_cast<uint32_t>(
        std::min<uint64_t>(Millis("--deadline", *options.deadline), UINT32_MAX)));
    fields.emplace_back("deadline_ms");
  }
  if (options.pause || options.resume) {
    schedule->set_paused(options.pause);
    fields.emplace_back("paused");
  }
  return fields;
}

std::string DurationText(uint64_t seconds) {
  return absl::FormatDuration(absl::Seconds(static_cast<int64_t>(seconds)));
}

std::string KeepText(const v1::SnapshotRetention& retention) {
  std::vector<std::string> parts;
  const auto add = [&](uint32_t count, const char* what) {
    if (count > 0) parts.push_back(absl::StrCat(count, " ", what));
  };
  add(retention.keep_last(), "last");
  add(retention.keep_hourly(), "hourly");
  add(retention.keep_daily(), "daily");
  add(retention.keep_weekly(), "weekly");
  add(retention.keep_monthly(), "monthly");
  return parts.empty() ? "all" : absl::StrJoin(parts, ", ");
}

std::string VolumesText(const v1::SnapshotSchedule& schedule) {
  std::vector<std::string> parts;
  if (schedule.volume_ids_size() > 0) parts.push_back(absl::StrJoin(schedule.volume_ids(), ", "));
  if (!schedule.volume_label().empty()) {
    parts.push_back(absl::StrCat("label ", schedule.volume_label()));
  }
  return parts.empty() ? "-" : absl::StrJoin(parts, "; ");
}

std::string NextText(const v1::SnapshotSchedule& schedule) {
  return schedule.paused() ? "paused" : TimeText(schedule.next_run_ms());
}

v1::SnapshotSchedule Find(Client* client, const Options& options) {
  const NameOrId which = ParseNameOrId(options.schedule);
  v1::GetSnapshotScheduleRequest request;
  request.set_schedule_id(which.id);
  request.set_name(which.name);
  return client->Call<Schedules>(&Schedules::Stub::GetSnapshotSchedule, request).schedule();
}

void Print(Client* client, const v1::SnapshotSchedule& schedule) {
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, schedule);
  Table table({"FIELD", "VALUE"});
  table.Add({"id", absl::StrCat(schedule.schedule_id())});
  table.Add({"name", schedule.name()});
  table.Add({"volumes", VolumesText(schedule)});
  table.Add({"every", DurationText(schedule.interval_seconds())});
  if (schedule.offset_seconds() > 0) table.Add({"at", DurationText(schedule.offset_seconds())});
  table.Add({"keeps", KeepText(schedule.retention())});
  if (schedule.consistent()) table.Add({"consistent", "all volumes at one moment"});
  if (schedule.lock_seconds() > 0) {
    table.Add({"locked", absl::StrCat("for ", DurationText(schedule.lock_seconds()))});
  }
  table.Add({"last run", schedule.last_run_ms() == 0 ? "-" : TimeText(schedule.last_run_ms())});
  if (!schedule.last_error().empty()) table.Add({"last error", schedule.last_error()});
  table.Add({"next run", NextText(schedule)});
  table.Print(std::cout);
}

void Create(Client* client, const Options& options) {
  v1::CreateSnapshotScheduleRequest request;
  request.set_request_id(NewUuid());
  (void)Fill(client, options, {}, request.mutable_schedule());
  request.mutable_schedule()->set_name(options.schedule);
  Print(client,
        client->Call<Schedules>(&Schedules::Stub::CreateSnapshotSchedule, request).schedule());
}

void List(Client* client) {
  v1::ListSnapshotSchedulesRequest request;
  v1::ListSnapshotSchedulesResponse all;
  request.set_page_size(1000);
  do {
    const auto page = client->Call<Schedules>(&Schedules::Stub::ListSnapshotSchedules, request);
    all.mutable_schedules()->MergeFrom(page.schedules());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, all);
  Table table({"ID", "NAME", "EVERY", "VOLUMES", "KEEPS", "LAST RUN", "NEXT RUN", "STATE"});
  for (const v1::SnapshotSchedule& schedule : all.schedules()) {
    table.Add({absl::StrCat(schedule.schedule_id()), schedule.name(),
               DurationText(schedule.interval_seconds()), VolumesText(schedule),
               KeepText(schedule.retention()),
               schedule.last_run_ms() == 0 ? "-" : TimeText(schedule.last_run_ms()),
               NextText(schedule), schedule.last_error().empty() ? "well" : "failed"});
  }
  table.Print(std::cout);
}

void Set(Client* client, const Options& options) {
  const NameOrId which = ParseNameOrId(options.schedule);
  v1::UpdateSnapshotScheduleRequest request;
  request.set_schedule_id(which.id);
  request.set_name(which.name);
  // What of the retention is not named stays.
  const v1::SnapshotSchedule now = Find(client, options);
  for (const std::string& field :
       Fill(client, options, now.retention(), request.mutable_schedule())) {
    request.mutable_update_mask()->add_paths(field);
  }
  if (request.update_mask().paths().empty()) {
    throw CommandError(absl::InvalidArgumentError("nothing to set was given: see --help"));
  }
  Print(client,
        client->Call<Schedules>(&Schedules::Stub::UpdateSnapshotSchedule, request).schedule());
}

void Run(Client* client, const Options& options) {
  const NameOrId which = ParseNameOrId(options.schedule);
  v1::RunSnapshotScheduleRequest request;
  request.set_schedule_id(which.id);
  request.set_name(which.name);
  const auto response = client->Call<Schedules>(&Schedules::Stub::RunSnapshotSchedule, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
  PrintVolumes({response.snapshots().begin(), response.snapshots().end()});
  if (response.deleted_snapshot_ids_size() > 0) {
    std::cout << "deleted: " << absl::StrJoin(response.deleted_snapshot_ids(), ", ") << "\n";
  }
}

void Delete(Client* client, const Options& options) {
  const NameOrId which = ParseNameOrId(options.schedule);
  v1::DeleteSnapshotScheduleRequest request;
  request.set_schedule_id(which.id);
  request.set_name(which.name);
  client->Call<Schedules>(&Schedules::Stub::DeleteSnapshotSchedule, request);
}

void AddSettings(CLI::App* command, const std::shared_ptr<Options>& options) {
  command->add_option("--volume", options->volumes, "Name or id; may be given several times.");
  command->add_option("--label", options->label,
                      "All volumes with this label at the time: KEY or KEY=VALUE.");
  command->add_option("--at", options->at,
                      "How long after the multiples of the interval (UTC), such as 2h.");
  command->add_option("--keep-last", options->keep_last, "The newest so many stay.");
  command->add_option("--keep-hourly", options->keep_hourly, "And the last of so many hours.");
  command->add_option("--keep-daily", options->keep_daily, "And of so many days.");
  command->add_option("--keep-weekly", options->keep_weekly, "And of so many weeks.");
  command->add_option("--keep-monthly", options->keep_monthly, "And of so many months.");
  command->add_flag("--consistent,!--no-consistent", options->consistent,
                    "All its volumes at one moment, 64 at most.");
  command->add_option("--for", options->lock, "Lock snapshots for so long, such as 720h; 0s: not.");
  command->add_option("--deadline", options->deadline,
                      "How long writes may wait for a snapshot; left out: 2s.");
}

}  // namespace

void AddScheduleCommands(CLI::App* app, Client* client) {
  auto options = std::make_shared<Options>();
  auto* schedule = app->add_subcommand("schedule", "Snapshots by schedule, and which of them stay.")
                       ->require_subcommand(1);

  auto* create = schedule->add_subcommand("create", "Creates a schedule.");
  create->add_option("NAME", options->schedule, "Its name, at most 24 characters.")->required();
  create->add_option("--every", options->every, "How often, such as 15m, 1h or 24h.")->required();
  AddSettings(create, options);
  create->add_flag("--pause", options->pause, "It does nothing by itself for now.");
  create->callback([=] { Create(client, *options); });

  auto* list = schedule->add_subcommand("list", "Lists schedules.");
  list->callback([=] { List(client); });

  auto* show = schedule->add_subcommand("show", "Shows one schedule.");
  show->add_option("SCHEDULE", options->schedule, "Name or id.")->required();
  show->callback([=] { Print(client, Find(client, *options)); });

  auto* set = schedule->add_subcommand("set", "Changes a schedule.");
  set->add_option("SCHEDULE", options->schedule, "Name or id.")->required();
  set->add_option("--name", options->name, "Its name from now on.");
  set->add_option("--every", options->every, "How often, such as 15m, 1h or 24h.");
  AddSettings(set, options);
  set->add_flag("--keep-all", options->keep_all, "Only what else is given with it limits them.");
  set->add_flag("--no-volumes", options->no_volumes, "No volumes by name any more.");
  auto* pause = set->add_flag("--pause", options->pause, "It does nothing by itself for now.");
  set->add_flag("--resume", options->resume, "It goes on with its next time.")->excludes(pause);
  set->callback([=] { Set(client, *options); });

  auto* run = schedule->add_subcommand("run", "Makes its snapshots now, besides its times.");
  run->add_option("SCHEDULE", options->schedule, "Name or id.")->required();
  run->callback([=] { Run(client, *options); });

  auto* remove = schedule->add_subcommand("delete", "Forgets a schedule; its snapshots stay.");
  remove->add_option("SCHEDULE", options->schedule, "Name or id.")->required();
  remove->callback([=] { Delete(client, *options); });
}

}  // namespace tessera::cli
