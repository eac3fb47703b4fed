#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/node.h"
#include "tessera/v1/volume.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/volume_view.h"

namespace tessera::cli {
namespace {

using Volumes = v1::VolumeService;

struct Options {
  std::string volume;
  std::string pool;
  std::string size;
  std::string sdc;
  std::string contains;
  bool thick = false;
  bool read_only = false;
  bool shared = false;
  std::string from;
  std::string to;
  bool force = false;
  std::optional<uint32_t> iops;
  std::optional<std::string> bandwidth;
  std::optional<uint32_t> burst;
  uint64_t generation = 0;
  std::string name;
  std::vector<std::string> labels;
  std::string label;
  std::string keep;
  bool trash = false;
  bool shrink = false;
  std::string expires;
  std::optional<std::string> budget;
};

// For people: "500 operations, 10 MiB a second, 1 s saved up"; empty: no limit.
template <typename Message>
std::string Limits(const Message& of) {
  std::vector<std::string> parts;
  if (of.iops_limit() != 0) parts.push_back(absl::StrCat(of.iops_limit(), " operations a second"));
  if (of.bandwidth_limit_bytes() != 0) {
    parts.push_back(absl::StrCat(FormatSize(of.bandwidth_limit_bytes()), " a second"));
  }
  if (parts.empty()) return "";
  parts.push_back(absl::StrCat("bursts of ", of.burst_seconds(), " s"));
  return absl::StrJoin(parts, ", ");
}

// Sets those that were given; their fields' names.
template <typename Message>
std::vector<std::string> SetLimits(const Options& options, Message* message) {
  std::vector<std::string> fields;
  if (options.iops.has_value()) {
    message->set_iops_limit(*options.iops);
    fields.emplace_back("iops_limit");
  }
  if (options.bandwidth.has_value()) {
    const auto bandwidth = ParseSize(*options.bandwidth);
    if (!bandwidth.ok()) throw CommandError(bandwidth.status());
    message->set_bandwidth_limit_bytes(*bandwidth);
    fields.emplace_back("bandwidth_limit_bytes");
  }
  if (options.burst.has_value()) {
    message->set_burst_seconds(*options.burst);
    fields.emplace_back("burst_seconds");
  }
  return fields;
}

// The budget that was given; nullopt: none was.
std::optional<uint64_t> GivenBudget(const Options& options) {
  if (!options.budget.has_value()) return std::nullopt;
  const auto budget = ParseSize(*options.budget);
  if (!budget.ok()) throw CommandError(budget.status());
  return *budget;
}

void Create(Client* client, const Options& options) {
  const auto size = ParseSize(options.size);
  if (!size.ok()) throw CommandError(size.status());
  v1::CreateVolumeRequest request;
  request.set_request_id(NewUuid());
  request.set_name(options.volume);
  request.set_pool_name(options.pool);
  request.set_size_bytes(*size);
  request.set_provisioning(options.thick ? v1::PROVISIONING_THICK : v1::PROVISIONING_THIN);
  ApplyLabels(options.labels, request.mutable_labels());
  SetLimits(options, &request);
  if (!options.expires.empty()) {
    request.set_expires_ms(ParseExpiry("--expires", options.expires));
  }
  request.set_byte_budget(GivenBudget(options).value_or(0));
  const auto response = client->Call<Volumes>(&Volumes::Stub::CreateVolume, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response.volume());
  PrintVolumes({response.volume()});
}

void List(Client* client, const Options& options) {
  v1::ListVolumesRequest request;
  v1::ListVolumesResponse all;
  request.set_page_size(1000);
  request.set_name_contains(options.contains);
  request.set_label(options.label);
  request.set_trashed(options.trash);
  do {
    const auto page = client->Call<Volumes>(&Volumes::Stub::ListVolumes, request);
    all.mutable_volumes()->MergeFrom(page.volumes());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, all);
  PrintVolumes({all.volumes().begin(), all.volumes().end()}, options.trash);
}

v1::Volume Find(Client* client, const Options& options) {
  const NameOrId which = ParseNameOrId(options.volume);
  v1::GetVolumeRequest request;
  request.set_volume_id(which.id);
  request.set_name(which.name);
  return client->Call<Volumes>(&Volumes::Stub::GetVolume, request).volume();
}

void Show(Client* client, const Options& options) {
  const v1::Volume volume = Find(client, options);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, volume);
  Table table({"FIELD", "VALUE"});
  table.Add({"id", absl::StrCat(volume.volume_id())});
  table.Add({"name", volume.name()});
  table.Add({"size",
             absl::StrCat(FormatSize(volume.size_bytes()), " (", volume.size_bytes(), " bytes)")});
  table.Add({"pool", volume.pool_name()});
  table.Add({"type", VolumeType(volume)});
  table.Add({"chunk size", FormatSize(volume.chunk_bytes())});
  table.Add({"generation", absl::StrCat(volume.generation())});
  if (const std::string limits = Limits(volume); !limits.empty()) {
    table.Add({"limits", limits + ", of all mappings"});
  }
  if (volume.byte_budget() > 0) {
    table.Add({"budget", absl::StrCat(FormatSize(volume.byte_budget()), " of its own",
                                      volume.over_budget() ? ": exceeded, writes fail" : "")});
  }
  if (volume.locked_until_ms() > 0) {
    table.Add({"locked", absl::StrCat("until ", TimeText(volume.locked_until_ms()))});
  }
  if (volume.expires_ms() > 0) {
    table.Add({"expires", absl::StrCat("at ", TimeText(volume.expires_ms()))});
  }
  if (volume.path().parts_size() > 1) {
    table.Add({"depth", absl::StrCat(volume.path().parts_size(), " clones and rollbacks")});
  }
  if (volume.trashed_until_ms() > 0) {
    table.Add({"in the trash", absl::StrCat("until ", TimeText(volume.trashed_until_ms()))});
  }
  const std::map<std::string, std::string> labels(volume.labels().begin(), volume.labels().end());
  for (const auto& [key, value] : labels) table.Add({"label", absl::StrCat(key, "=", value)});
  for (const auto& mapping : volume.mappings()) {
    table.Add({"mapped to", absl::StrCat(mapping.sdc_name(), ", ", ModeText(mapping),
                                         mapping.attached() ? ", attached" : ", not attached")});
    if (const std::string limits = Limits(mapping); !limits.empty()) table.Add({"", limits});
    for (const std::string& uri : mapping.nbd_uris()) table.Add({"", uri});
  }
  table.Print(std::cout);
}

void TellLater(const google::protobuf::RepeatedField<uint64_t>& later_sdc_ids) {
  if (later_sdc_ids.empty()) return;
  std::cerr << "tessera: not told yet, but when they renew their grants: clients "
            << absl::StrJoin(later_sdc_ids, ", ") << "\n";
}

void Map(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  const NameOrId sdc = ParseNameOrId(options.sdc);
  v1::MapVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  request.set_sdc_id(sdc.id);
  request.set_sdc_name(sdc.name);
  request.set_mode(options.shared      ? v1::MAPPING_MODE_SHARED
                   : options.read_only ? v1::MAPPING_MODE_READ_ONLY
                                       : v1::MAPPING_MODE_READ_WRITE);
  SetLimits(options, &request);
  const auto response = client->Call<Volumes>(&Volumes::Stub::MapVolume, request);
  const v1::VolumeMapping& mapping = response.mapping();
  TellLater(response.later_sdc_ids());
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, mapping);
  for (const std::string& uri : mapping.nbd_uris()) std::cout << uri << "\n";
  if (!mapping.attached()) std::cerr << "tessera: mapped; the client has not attached it yet\n";
}

void Unmap(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  const NameOrId sdc = ParseNameOrId(options.sdc);
  v1::UnmapVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  request.set_sdc_id(sdc.id);
  request.set_sdc_name(sdc.name);
  request.set_force(options.force);
  const auto response = client->Call<Volumes>(&Volumes::Stub::UnmapVolume, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
  std::cout << "generations below " << response.generation() << " are refused by servers "
            << absl::StrJoin(response.confirmed_sds_ids(), ", ");
  if (response.expired_sds_ids_size() > 0) {
    std::cout << "; grants ran out for " << absl::StrJoin(response.expired_sds_ids(), ", ");
  }
  std::cout << "\n";
}

void PassWriter(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  const NameOrId from = ParseNameOrId(options.from);
  const NameOrId to = ParseNameOrId(options.to);
  v1::PassWriterRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  request.set_from_sdc_id(from.id);
  request.set_from_sdc_name(from.name);
  request.set_to_sdc_id(to.id);
  request.set_to_sdc_name(to.name);
  const auto response = client->Call<Volumes>(&Volumes::Stub::PassWriter, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
  for (const auto& mapping : response.volume().mappings()) {
    if (!mapping.writer()) continue;
    std::cout << "client " << mapping.sdc_name() << " writes it";
    if (response.held_micros() > 0) {
      std::cout << "; requests waited for " << (response.held_micros() + 999) / 1000 << " ms";
    }
    std::cout << "\n";
  }
}

void FenceReceipts(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  v1::ListFenceReceiptsRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  request.set_generation(options.generation);
  const auto response = client->Call<Volumes>(&Volumes::Stub::ListFenceReceipts, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
  Table table({"GENERATIONS REFUSED", "SERVER", "PROOF", "LIFE", "RECORDED", "SIGNATURE"});
  for (const v1::FenceReceipt& receipt : response.receipts()) {
    const bool confirmed = receipt.proof() == v1::FENCE_PROOF_CONFIRMED;
    const std::string signature =
        absl::StrCat(absl::BytesToHexString(receipt.signature()).substr(0, 16), " ",
                     receipt.verified() ? "good" : "not verified");
    table.Add({absl::StrCat("below ", receipt.generation()),
               receipt.sds_name().empty() ? absl::StrCat(receipt.sds_id()) : receipt.sds_name(),
               confirmed ? "confirmed" : "expired",
               confirmed ? absl::StrCat(receipt.sds_incarnation()) : "-",
               TimeText(receipt.recorded_ms()), confirmed ? signature : "-"});
  }
  table.Print(std::cout);
}

void Delete(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  v1::DeleteVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_name(volume.name);
  if (!options.keep.empty()) {
    request.set_keep_ms(ParseMillis("--keep", options.keep));
  }
  client->Call<Volumes>(&Volumes::Stub::DeleteVolume, request);
}

void Update(Client* client, const Options& options, const v1::VolumeUpdate& wanted,
            const std::vector<std::string>& fields, bool allow_shrink = false) {
  const NameOrId volume = ParseNameOrId(options.volume);
  v1::UpdateVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  *request.mutable_volume() = wanted;
  request.set_allow_shrink(allow_shrink);
  for (const std::string& field : fields) request.mutable_update_mask()->add_paths(field);
  const auto response = client->Call<Volumes>(&Volumes::Stub::UpdateVolume, request);
  TellLater(response.later_sdc_ids());
  if (client->globals().output == Output::kJson) PrintJson(std::cout, response);
}

void UpdateLimits(Client* client, const Options& options) {
  v1::VolumeUpdate wanted;
  std::vector<std::string> fields = SetLimits(options, &wanted);
  if (const auto budget = GivenBudget(options)) {
    wanted.set_byte_budget(*budget);
    fields.emplace_back("byte_budget");
  }
  if (fields.empty()) {
    throw CommandError(absl::InvalidArgumentError("give --iops, --bandwidth, --burst or --budget"));
  }
  Update(client, options, wanted, fields);
}

void Resize(Client* client, const Options& options) {
  const auto size = ParseSize(options.size);
  if (!size.ok()) throw CommandError(size.status());
  v1::VolumeUpdate wanted;
  wanted.set_size_bytes(*size);
  Update(client, options, wanted, {"size_bytes"}, options.shrink);
}

void Set(Client* client, const Options& options) {
  v1::VolumeUpdate wanted;
  wanted.set_expires_ms(ParseExpiry("--expires", options.expires));
  Update(client, options, wanted, {"expires_ms"});
}

void Flatten(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  v1::FlattenVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  const auto response = client->Call<Volumes>(&Volumes::Stub::FlattenVolume, request);
  if (client->globals().output == Output::kJson) PrintJson(std::cout, response.volume());
}

void Rename(Client* client, const Options& options) {
  v1::VolumeUpdate wanted;
  wanted.set_name(options.name);
  Update(client, options, wanted, {"name"});
}

void Label(Client* client, const Options& options) {
  v1::VolumeUpdate wanted;
  *wanted.mutable_labels() = Find(client, options).labels();
  ApplyLabels(options.labels, wanted.mutable_labels());
  Update(client, options, wanted, {"labels"});
}

void Restore(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  v1::RestoreVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_name(options.name);
  if (volume.id == 0) {
    // In the trash names are no keys; one that is there once says enough.
    v1::ListVolumesRequest list;
    list.set_page_size(1000);
    list.set_name_contains(volume.name);
    list.set_trashed(true);
    std::vector<uint64_t> ids;
    do {
      const auto page = client->Call<Volumes>(&Volumes::Stub::ListVolumes, list);
      for (const v1::Volume& trashed : page.volumes()) {
        if (trashed.name() == volume.name) ids.push_back(trashed.volume_id());
      }
      list.set_page_token(page.next_page_token());
    } while (!list.page_token().empty());
    if (ids.empty()) {
      throw CommandError(
          absl::NotFoundError(absl::StrCat("there is no volume '", volume.name, "' in the trash")));
    }
    if (ids.size() > 1) {
      throw CommandError(absl::InvalidArgumentError(
          absl::StrCat("volumes ", absl::StrJoin(ids, ", "), " in the trash were called '",
                       volume.name, "': give the id")));
    }
    request.set_volume_id(ids.front());
  }
  const auto response = client->Call<Volumes>(&Volumes::Stub::RestoreVolume, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response.volume());
  PrintVolumes({response.volume()});
}

void AddLimitOptions(CLI::App* command, Options* options, const std::string& of) {
  command->add_option("--iops", options->iops,
                      absl::StrCat("IO operations a second", of, "; 0: no limit."));
  command->add_option("--bandwidth", options->bandwidth,
                      absl::StrCat("Bytes a second", of, ", such as 100MiB; 0: no limit."));
  command->add_option("--burst", options->burst,
                      "How many seconds' worth of it may be saved up; left out: 1.");
}

}  // namespace

NameOrId ParseNameOrId(const std::string& text) {
  const bool digits =
      !text.empty() && text.size() < 19 &&
      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (digits) return {.id = std::stoull(text), .name = {}};
  return {.id = 0, .name = text};
}

void AddVolumeCommands(CLI::App* app, Client* client) {
  auto options = std::make_shared<Options>();
  auto* volume =
      app->add_subcommand("volume", "Volumes and their mappings.")->require_subcommand(1);

  auto* create = volume->add_subcommand("create", "Creates a volume.");
  create->add_option("NAME", options->volume, "Its name.")->required();
  create->add_option("--size", options->size, "Its size, such as 10GiB.")->required();
  create->add_option("--pool", options->pool, "Its pool; may be left out when there is only one.");
  create->add_flag("--thick", options->thick, "Set the whole size aside now.");
  create->add_option("--label", options->labels, "KEY=VALUE; may be given several times.");
  AddLimitOptions(create, options.get(), " of all its mappings together");
  create->add_option("--expires", options->expires,
                     "It deletes itself after so long, such as 2h, in use or not.");
  create->add_option("--budget", options->budget, kBudgetHelp);
  create->callback([=] { Create(client, *options); });

  auto* list = volume->add_subcommand("list", "Lists volumes.");
  list->add_option("--contains", options->contains, "Only names that contain this text.");
  list->add_option("--label", options->label, "Only with this label: KEY or KEY=VALUE.");
  list->add_flag("--trash", options->trash, "Those in the trash, with when they are deleted.");
  list->callback([=] { List(client, *options); });

  auto* show = volume->add_subcommand("show", "Shows one volume.");
  show->add_option("VOLUME", options->volume, "Name or id.")->required();
  show->callback([=] { Show(client, *options); });

  auto* map = volume->add_subcommand("map", "Maps a volume to a client and prints its NBD URIs.");
  map->add_option("VOLUME", options->volume, "Name or id.")->required();
  map->add_option("--sdc", options->sdc, "Client; may be left out when there is only one.");
  auto* read_only = map->add_flag("--read-only", options->read_only,
                                  "For reading; other clients may map it so too.");
  map->add_flag("--shared", options->shared,
                "For reading and writing, beside other clients that map it so too.")
      ->excludes(read_only);
  AddLimitOptions(map, options.get(), "");
  map->footer("Mapping again sets other limits, at once and while the volume is in use.");
  map->callback([=] { Map(client, *options); });

  auto* pass = volume->add_subcommand(
      "pass-writer", "Passes the right to write a shared volume to another of its clients.");
  pass->add_option("VOLUME", options->volume, "Name or id.")->required();
  pass->add_option("--to", options->to, "Client that is to have it.")->required();
  pass->add_option("--from", options->from, "Client that has it; left out: whoever that is.");
  pass->callback([=] { PassWriter(client, *options); });

  auto* unmap =
      volume->add_subcommand("unmap", "Takes a mapping away; no IO of it can land afterwards.");
  unmap->add_option("VOLUME", options->volume, "Name or id.")->required();
  unmap->add_option("--sdc", options->sdc, "Client; may be left out when only one has it.");
  unmap->add_flag("--force", options->force, "Do not ask the client first.");
  unmap->callback([=] { Unmap(client, *options); });

  auto* receipts = volume->add_subcommand(
      "fence-receipts", "Shows who has proved that older generations are refused.");
  receipts
      ->add_option("VOLUME", options->volume, "Name or id; the id of a deleted volume works, too.")
      ->required();
  receipts->add_option("--generation", options->generation, "Only of this one.");
  receipts->callback([=] { FenceReceipts(client, *options); });

  auto* resize = volume->add_subcommand(
      "resize", "Changes a volume's size, also in use: NBD connections see it from the next on.");
  resize->add_option("VOLUME", options->volume, "Name or id.")->required();
  resize->add_option("--size", options->size, "Its size from now on, such as 20GiB.")->required();
  resize->add_flag("--shrink", options->shrink,
                   "It may become smaller: what lies beyond is lost. It has to be mapped.");
  resize->callback([=] { Resize(client, *options); });

  auto* update = volume->add_subcommand(
      "update", "Sets limits of all mappings of a volume together and its budget, also in use.");
  update->add_option("VOLUME", options->volume, "Name or id.")->required();
  update->add_option("--budget", options->budget, kBudgetHelp);
  AddLimitOptions(update, options.get(), " of all its mappings together");
  update->callback([=] { UpdateLimits(client, *options); });

  auto* set = volume->add_subcommand("set", "Sets when a volume or snapshot deletes itself.");
  set->add_option("VOLUME", options->volume, "Name or id.")->required();
  set->add_option("--expires", options->expires,
                  "After so long from now on, such as 2h, in use or not; or never.")
      ->required();
  set->callback([=] { Set(client, *options); });

  auto* flatten = volume->add_subcommand(
      "flatten", "Gives a clone of clones a map of its own, so that it can be cloned on.");
  flatten->add_option("VOLUME", options->volume, "Name or id; mapped for writing.")->required();
  flatten->footer("Copies nothing, and IO goes on. Large volumes want a longer --timeout.");
  flatten->callback([=] { Flatten(client, *options); });

  auto* rename = volume->add_subcommand("rename", "Gives an unmapped volume another name.");
  rename->add_option("VOLUME", options->volume, "Name or id.")->required();
  rename->add_option("NAME", options->name, "Its name from now on.")->required();
  rename->callback([=] { Rename(client, *options); });

  auto* label = volume->add_subcommand("label", "Sets labels, or takes them away.");
  label->add_option("VOLUME", options->volume, "Name or id.")->required();
  label->add_option("LABEL", options->labels, "KEY=VALUE sets, KEY- takes away.")->required();
  label->callback([=] { Label(client, *options); });

  auto* remove = volume->add_subcommand("delete", "Deletes an unmapped volume with all its data.");
  remove->add_option("VOLUME", options->volume, "Name or id; in the trash the id alone.")
      ->required();
  remove->add_option("--keep", options->keep,
                     "How long it stays in the trash first, such as 168h; left out: not at all.");
  remove->callback([=] { Delete(client, *options); });

  auto* restore = volume->add_subcommand("restore", "Takes a volume out of the trash.");
  restore->add_option("VOLUME", options->volume, "Id, or the name that it had.")->required();
  restore->add_option("--name", options->name, "Its name from now on; left out: as before.");
  restore->callback([=] { Restore(client, *options); });
}

}  // namespace tessera::cli
