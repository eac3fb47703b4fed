// usage, pool set: what is taken of the cluster's space, and how much may be.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tessera/v1/topology.grpc.pb.h"
#include "tessera/v1/usage.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/pool_view.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string pool;
  std::string volume;
  std::optional<uint32_t> warn;
  std::optional<uint32_t> critical;
  std::optional<uint32_t> overcommit;
};

std::string KindText(const v1::VolumeUsage& volume) {
  return absl::StrCat(FormatEnum(v1::VolumeKind_descriptor(), volume.kind()),
                      volume.trashed() ? ", in the trash" : "");
}

void PrintVtrees(const v1::PoolUsage& pool) {
  if (pool.vtrees().empty()) return;
  Table table({"ORIGIN", "NAME", "KIND", "SIZE", "SEEN", "ALONE"});
  for (const v1::VtreeUsage& vtree : pool.vtrees()) {
    for (const v1::VolumeUsage& volume : vtree.volumes()) {
      table.Add({absl::StrCat(vtree.vtree_id()), volume.volume_name(), KindText(volume),
                 FormatSize(volume.provisioned_bytes()), FormatSize(volume.logical_bytes()),
                 FormatSize(volume.unique_bytes())});
    }
  }
  table.Print(std::cout);
  std::cout << "\n";
}

void PrintPool(const v1::PoolUsage& pool) {
  std::cout << "pool " << pool.pool_name() << ", " << pool.replica_count() << " copies\n\n";
  PrintVtrees(pool);
  Table once({"ONE COPY", "BYTES", ""});
  const auto add = [](Table* table, const char* what, uint64_t bytes) {
    table->Add({what, absl::StrCat(bytes), FormatSize(bytes)});
  };
  add(&once, "provisioned", pool.provisioned_bytes());
  add(&once, "seen by volumes", pool.logical_bytes());
  add(&once, "data", pool.data_bytes());
  add(&once, "  of snapshots alone", pool.snapshot_bytes());
  add(&once, "  on its way back", pool.reclaimable_bytes());
  once.Print(std::cout);
  std::cout << "\n";
  Table raw({"ALL COPIES", "BYTES", ""});
  add(&raw, "data", pool.raw_data_bytes());
  add(&raw, "  of what was deleted", pool.raw_deleted_bytes());
  add(&raw, "journals, metadata", pool.raw_overhead_bytes());
  add(&raw, "used", pool.raw_used_bytes());
  add(&raw, "capacity", pool.raw_capacity_bytes());
  raw.Print(std::cout);
  if (pool.silent_sds_ids().empty()) return;
  std::cerr << "tessera: without what is on servers that did not answer: "
            << absl::StrJoin(pool.silent_sds_ids(), ", ") << "\n";
}

void Usage(Client* client, const Options& options) {
  const NameOrId pool = ParseNameOrId(options.pool);
  const NameOrId volume = ParseNameOrId(options.volume);
  v1::GetUsageRequest request;
  request.set_pool_id(pool.id);
  request.set_pool_name(pool.name);
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  const auto response = client->Call<v1::UsageService>(&v1::UsageService::Stub::GetUsage, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
  const char* separator = "";
  for (const v1::PoolUsage& usage : response.pools()) {
    std::cout << separator;
    PrintPool(usage);
    separator = "\n";
  }
}

void SetPolicy(Client* client, const Options& options) {
  const NameOrId pool = ParseNameOrId(options.pool);
  v1::UpdateStoragePoolRequest request;
  request.set_pool_id(pool.id);
  request.set_name(pool.name);
  v1::CapacityPolicy* policy = request.mutable_capacity_policy();
  const auto name = [&](const char* field) {
    request.mutable_update_mask()->add_paths(absl::StrCat("capacity_policy.", field));
  };
  if (options.warn.has_value()) {
    policy->set_warn_percent(*options.warn);
    name("warn_percent");
  }
  if (options.critical.has_value()) {
    policy->set_critical_percent(*options.critical);
    name("critical_percent");
  }
  if (options.overcommit.has_value()) {
    policy->set_overcommit_limit_percent(*options.overcommit);
    name("overcommit_limit_percent");
  }
  if (request.update_mask().paths().empty()) {
    throw CommandError(absl::InvalidArgumentError("give --warn, --critical or --overcommit-limit"));
  }
  const auto response =
      client->Call<v1::TopologyService>(&v1::TopologyService::Stub::UpdateStoragePool, request);
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, response.pool());
  PrintPools({response.pool()});
}

}  // namespace

void PrintPools(const std::vector<v1::StoragePool>& pools) {
  Table table({"ID", "NAME", "COPIES", "CHUNK", "PGS", "RAW USED", "RAW SIZE", "FULL", "SPACE",
               "PROVISIONED", "PROMISED", "STATE"});
  for (const v1::StoragePool& pool : pools) {
    const v1::PoolCapacity& capacity = pool.capacity();
    const uint32_t limit = pool.capacity_policy().overcommit_limit_percent();
    table.Add({absl::StrCat(pool.pool_id()), pool.name(), absl::StrCat(pool.replica_count()),
               FormatSize(pool.chunk_bytes()), absl::StrCat(pool.placement_group_count()),
               FormatSize(capacity.raw_used_bytes()), FormatSize(capacity.raw_capacity_bytes()),
               absl::StrCat(capacity.used_percent(), " %"),
               FormatEnum(v1::CapacityState_descriptor(), capacity.state()),
               FormatSize(capacity.provisioned_bytes()),
               absl::StrCat(capacity.overcommit_percent(), " %",
                            limit == 0 ? "" : absl::StrCat(" of ", limit, " %")),
               FormatEnum(v1::RedundancyState_descriptor(), pool.redundancy())});
  }
  table.Print(std::cout);
}

void AddUsageCommands(CLI::App* app, Client* client) {
  auto options = std::make_shared<Options>();
  auto* usage = app->add_subcommand(
      "usage", "What volumes, snapshots and pools take, counted block by block.");
  usage->add_option("--pool", options->pool, "Only this pool: name or id.");
  usage->add_option("--volume", options->volume,
                    "Only what shares blocks with this volume or snapshot: name or id.");
  usage->footer(
      "SEEN: what it reads that takes space. ALONE: of that what nothing else sees, so what its"
      " deletion gives back.");
  usage->callback([=] { Usage(client, *options); });

  auto* set = app->get_subcommand("pool")->add_subcommand(
      "set", "Sets from when on a pool counts as full, and how much it may promise.");
  set->add_option("POOL", options->pool, "Name or id.")->required();
  set->add_option("--warn", options->warn, "Percentage used from which on it is a warning.");
  set->add_option("--critical", options->critical, "Percentage used from which on it is critical.");
  set->add_option("--overcommit-limit", options->overcommit,
                  "How much may be promised, in percent of what it can hold; 0: no limit.");
  set->callback([=] { SetPolicy(client, *options); });
}

}  // namespace tessera::cli
