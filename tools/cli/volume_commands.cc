#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "services/common/node.h"
#include "tessera/v1/volume.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"

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
  bool force = false;
  uint32_t iops = 0;
  std::string bandwidth = "0";
  uint64_t generation = 0;
};

std::string Mode(v1::MappingMode mode) {
  return mode == v1::MAPPING_MODE_READ_ONLY ? "read-only" : "read-write";
}

void PrintVolumes(const std::vector<v1::Volume>& volumes) {
  Table table({"ID", "NAME", "SIZE", "POOL", "TYPE", "MAPPED TO"});
  for (const v1::Volume& volume : volumes) {
    std::vector<std::string> mapped;
    for (const auto& mapping : volume.mappings()) {
      mapped.push_back(absl::StrCat(mapping.sdc_name(), " (", Mode(mapping.mode()),
                                    mapping.attached() ? ")" : ", not attached)"));
    }
    table.Add({absl::StrCat(volume.volume_id()), volume.name(), FormatSize(volume.size_bytes()),
               volume.pool_name(), FormatEnum(v1::Provisioning_descriptor(), volume.provisioning()),
               mapped.empty() ? "-" : absl::StrJoin(mapped, ", ")});
  }
  table.Print(std::cout);
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
  const auto response = client->Call<Volumes>(&Volumes::Stub::CreateVolume, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response.volume());
  PrintVolumes({response.volume()});
}

void List(Client* client, const Options& options) {
  v1::ListVolumesRequest request;
  v1::ListVolumesResponse all;
  request.set_page_size(1000);
  request.set_name_contains(options.contains);
  do {
    const auto page = client->Call<Volumes>(&Volumes::Stub::ListVolumes, request);
    all.mutable_volumes()->MergeFrom(page.volumes());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, all);
  PrintVolumes({all.volumes().begin(), all.volumes().end()});
}

void Show(Client* client, const Options& options) {
  const NameOrId which = ParseNameOrId(options.volume);
  v1::GetVolumeRequest request;
  request.set_volume_id(which.id);
  request.set_name(which.name);
  const v1::Volume volume = client->Call<Volumes>(&Volumes::Stub::GetVolume, request).volume();
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, volume);
  Table table({"FIELD", "VALUE"});
  table.Add({"id", absl::StrCat(volume.volume_id())});
  table.Add({"name", volume.name()});
  table.Add({"size",
             absl::StrCat(FormatSize(volume.size_bytes()), " (", volume.size_bytes(), " bytes)")});
  table.Add({"pool", volume.pool_name()});
  table.Add({"type", FormatEnum(v1::Provisioning_descriptor(), volume.provisioning())});
  table.Add({"chunk size", FormatSize(volume.chunk_bytes())});
  table.Add({"generation", absl::StrCat(volume.generation())});
  for (const auto& mapping : volume.mappings()) {
    table.Add({"mapped to", absl::StrCat(mapping.sdc_name(), ", ", Mode(mapping.mode()),
                                         mapping.attached() ? ", attached" : ", not attached")});
    for (const std::string& uri : mapping.nbd_uris()) table.Add({"", uri});
  }
  table.Print(std::cout);
}

void Map(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  const NameOrId sdc = ParseNameOrId(options.sdc);
  const auto bandwidth = ParseSize(options.bandwidth);
  if (!bandwidth.ok()) throw CommandError(bandwidth.status());
  v1::MapVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  request.set_sdc_id(sdc.id);
  request.set_sdc_name(sdc.name);
  request.set_mode(options.read_only ? v1::MAPPING_MODE_READ_ONLY : v1::MAPPING_MODE_READ_WRITE);
  request.set_iops_limit(options.iops);
  request.set_bandwidth_limit_bytes(*bandwidth);
  const auto mapping = client->Call<Volumes>(&Volumes::Stub::MapVolume, request).mapping();
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
               absl::FormatTime("%Y-%m-%d %H:%M:%SZ",
                                absl::FromUnixMillis(static_cast<int64_t>(receipt.recorded_ms())),
                                absl::UTCTimeZone()),
               confirmed ? signature : "-"});
  }
  table.Print(std::cout);
}

void Delete(Client* client, const Options& options) {
  const NameOrId volume = ParseNameOrId(options.volume);
  v1::DeleteVolumeRequest request;
  request.set_volume_id(volume.id);
  request.set_name(volume.name);
  client->Call<Volumes>(&Volumes::Stub::DeleteVolume, request);
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
  create->callback([=] { Create(client, *options); });

  auto* list = volume->add_subcommand("list", "Lists volumes.");
  list->add_option("--contains", options->contains, "Only names that contain this text.");
  list->callback([=] { List(client, *options); });

  auto* show = volume->add_subcommand("show", "Shows one volume.");
  show->add_option("VOLUME", options->volume, "Name or id.")->required();
  show->callback([=] { Show(client, *options); });

  auto* map = volume->add_subcommand("map", "Maps a volume to a client and prints its NBD URIs.");
  map->add_option("VOLUME", options->volume, "Name or id.")->required();
  map->add_option("--sdc", options->sdc, "Client; may be left out when there is only one.");
  map->add_flag("--read-only", options->read_only, "For reading; other clients may map it so too.");
  map->add_option("--iops", options->iops, "IO operations a second; 0: no limit.");
  map->add_option("--bandwidth", options->bandwidth,
                  "Bytes a second, such as 100MiB; 0: no limit.");
  map->callback([=] { Map(client, *options); });

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

  auto* remove = volume->add_subcommand("delete", "Deletes an unmapped volume with all its data.");
  remove->add_option("VOLUME", options->volume, "Name or id.")->required();
  remove->callback([=] { Delete(client, *options); });
}

}  // namespace tessera::cli
