// domain, faultset, pool, sds, device, sdc.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "services/common/node.h"
#include "tessera/v1/discovery.grpc.pb.h"
#include "tessera/v1/topology.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/nodes.h"
#include "tools/cli/pool_view.h"

namespace tessera::cli {
namespace {

using Topology = v1::TopologyService;

struct Options {
  std::string name;
  std::string domain;
  std::string fault_set;
  std::string pool;
  uint64_t id = 0;
  uint32_t replicas = 2;
  uint32_t min_replicas = 1;
  uint32_t placement_groups = 64;
  std::string chunk_size = "1MiB";
};

bool Json(Client* client) { return client->globals().output == Output::kJson; }

v1::Topology GetTopology(Client* client) {
  return client->Call<Topology>(&Topology::Stub::GetTopology, v1::GetTopologyRequest()).topology();
}

uint64_t DomainId(Client* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  if (which.id != 0) return which.id;
  const v1::Topology topology = GetTopology(client);
  if (which.name.empty() && topology.protection_domains_size() == 1) {
    return topology.protection_domains(0).protection_domain().protection_domain_id();
  }
  for (const auto& node : topology.protection_domains()) {
    if (node.protection_domain().name() == which.name) {
      return node.protection_domain().protection_domain_id();
    }
  }
  throw CommandError(absl::NotFoundError(
      which.name.empty() ? "there is not exactly one protection domain: name one with --domain"
                         : absl::StrCat("there is no protection domain '", which.name, "'")));
}

v1::StoragePool FindPool(Client* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  v1::GetStoragePoolRequest request;
  request.set_pool_id(which.id);
  request.set_name(which.name);
  return client->Call<Topology>(&Topology::Stub::GetStoragePool, request).pool();
}

void PrintSdss(const std::vector<v1::Sds>& sdss, uint64_t now_ms) {
  Table table({"ID", "NAME", "STATE", "DOMAIN", "DATA", "DEVICES", "LAST HEARTBEAT", "VERSION"});
  for (const v1::Sds& sds : sdss) {
    table.Add({absl::StrCat(sds.sds_id()), sds.name(),
               FormatEnum(v1::ComponentState_descriptor(), sds.state()),
               sds.protection_domain_id() == 0 ? "-" : absl::StrCat(sds.protection_domain_id()),
               sds.endpoints().data(), absl::StrCat(sds.devices_size()),
               FormatAge(sds.last_heartbeat_ms(), now_ms), sds.software_version()});
  }
  table.Print(std::cout);
}

void AddDomainCommands(CLI::App* app, Client* client, const std::shared_ptr<Options>& options) {
  auto* domain = app->add_subcommand("domain", "Protection domains.")->require_subcommand(1);
  auto* create = domain->add_subcommand("create", "Creates a protection domain.");
  create->add_option("NAME", options->name, "Its name.")->required();
  create->callback([=] {
    v1::CreateProtectionDomainRequest request;
    request.set_request_id(NewUuid());
    request.set_name(options->name);
    const auto response = client->Call<Topology>(&Topology::Stub::CreateProtectionDomain, request);
    if (Json(client)) return PrintJson(std::cout, response.protection_domain());
    std::cout << response.protection_domain().protection_domain_id() << "\n";
  });
  auto* list = domain->add_subcommand("list", "Lists protection domains.");
  list->callback([=] {
    const auto response = client->Call<Topology>(&Topology::Stub::ListProtectionDomains,
                                                 v1::ListProtectionDomainsRequest());
    if (Json(client)) return PrintJson(std::cout, response);
    Table table({"ID", "NAME"});
    for (const auto& item : response.protection_domains()) {
      table.Add({absl::StrCat(item.protection_domain_id()), item.name()});
    }
    table.Print(std::cout);
  });
  auto* remove = domain->add_subcommand("delete", "Deletes an empty protection domain.");
  remove->add_option("DOMAIN", options->domain, "Name or id.")->required();
  remove->callback([=] {
    v1::DeleteProtectionDomainRequest request;
    request.set_protection_domain_id(DomainId(client, options->domain));
    client->Call<Topology>(&Topology::Stub::DeleteProtectionDomain, request);
  });

  auto* fault_set =
      app->add_subcommand("faultset", "Sets of servers that fail together.")->require_subcommand(1);
  auto* create_set = fault_set->add_subcommand("create", "Creates a fault set.");
  create_set->add_option("NAME", options->name, "Its name.")->required();
  create_set->add_option("--domain", options->domain, "Its protection domain.");
  create_set->callback([=] {
    v1::CreateFaultSetRequest request;
    request.set_request_id(NewUuid());
    request.set_protection_domain_id(DomainId(client, options->domain));
    request.set_name(options->name);
    const auto response = client->Call<Topology>(&Topology::Stub::CreateFaultSet, request);
    if (Json(client)) return PrintJson(std::cout, response.fault_set());
    std::cout << response.fault_set().fault_set_id() << "\n";
  });
  auto* delete_set = fault_set->add_subcommand("delete", "Deletes a fault set without servers.");
  delete_set->add_option("ID", options->id, "Its id.")->required();
  delete_set->callback([=] {
    v1::DeleteFaultSetRequest request;
    request.set_fault_set_id(options->id);
    client->Call<Topology>(&Topology::Stub::DeleteFaultSet, request);
  });
}

void AddPoolGroup(CLI::App* app, Client* client, const std::shared_ptr<Options>& options) {
  auto* pool = app->add_subcommand("pool", "Storage pools.")->require_subcommand(1);
  auto* create = pool->add_subcommand("create", "Creates a storage pool.");
  create->add_option("NAME", options->name, "Its name.")->required();
  create->add_option("--domain", options->domain, "Its protection domain.");
  create->add_option("--replicas", options->replicas, "Copies of everything: 1, 2 or 3.")
      ->capture_default_str();
  create->add_option("--min-replicas", options->min_replicas, "Copies without which IO waits.")
      ->capture_default_str();
  create->add_option("--chunk-size", options->chunk_size, "256KiB to 4MiB.")->capture_default_str();
  create->add_option("--placement-groups", options->placement_groups, "Power of two.")
      ->capture_default_str();
  create->callback([=] {
    const auto chunk = ParseSize(options->chunk_size);
    if (!chunk.ok()) throw CommandError(chunk.status());
    v1::CreateStoragePoolRequest request;
    request.set_request_id(NewUuid());
    request.set_protection_domain_id(DomainId(client, options->domain));
    request.set_name(options->name);
    request.set_replica_count(options->replicas);
    request.set_min_replicas(options->min_replicas);
    request.set_chunk_bytes(static_cast<uint32_t>(std::min<uint64_t>(*chunk, UINT32_MAX)));
    request.set_placement_group_count(options->placement_groups);
    const auto response = client->Call<Topology>(&Topology::Stub::CreateStoragePool, request);
    if (Json(client)) return PrintJson(std::cout, response.pool());
    PrintPools({response.pool()});
  });
  auto* list = pool->add_subcommand("list", "Lists storage pools.");
  list->callback([=] {
    const auto response =
        client->Call<Topology>(&Topology::Stub::ListStoragePools, v1::ListStoragePoolsRequest());
    if (Json(client)) return PrintJson(std::cout, response);
    PrintPools({response.pools().begin(), response.pools().end()});
  });
  auto* show = pool->add_subcommand("show", "Shows one storage pool.");
  show->add_option("POOL", options->pool, "Name or id.")->required();
  show->callback([=] {
    const v1::StoragePool found = FindPool(client, options->pool);
    if (Json(client)) return PrintJson(std::cout, found);
    PrintPools({found});
  });
  auto* remove = pool->add_subcommand("delete", "Deletes a pool without volumes.");
  remove->add_option("POOL", options->pool, "Name or id.")->required();
  remove->callback([=] {
    v1::DeleteStoragePoolRequest request;
    request.set_pool_id(FindPool(client, options->pool).pool_id());
    client->Call<Topology>(&Topology::Stub::DeleteStoragePool, request);
  });
}

void AddSdsCommands(CLI::App* app, Client* client, const std::shared_ptr<Options>& options) {
  auto* sds = app->add_subcommand("sds", "Storage data servers.")->require_subcommand(1);
  auto* list = sds->add_subcommand("list", "Lists servers.");
  list->callback([=] {
    const auto all = AllSdss(client);
    if (!Json(client)) return PrintSdss(all, MdmNow(client));
    v1::ListSdssResponse response;
    response.mutable_sdss()->Add(all.begin(), all.end());
    PrintJson(std::cout, response);
  });
  auto* show = sds->add_subcommand("show", "Shows one server with its devices.");
  show->add_option("SDS", options->name, "Name or id.")->required();
  show->callback([=] {
    const v1::Sds found = FindSds(client, options->name);
    if (Json(client)) return PrintJson(std::cout, found);
    PrintSdss({found}, MdmNow(client));
    Table table({"DEVICE", "POOL", "STATE", "USED", "SIZE", "PGS", "PATH"});
    for (const auto& device : found.devices()) {
      table.Add({absl::StrCat(device.device_id()),
                 device.pool_id() == 0 ? "-" : absl::StrCat(device.pool_id()),
                 FormatEnum(v1::ComponentState_descriptor(), device.state()),
                 FormatSize(device.description().used_bytes()),
                 FormatSize(device.description().capacity_bytes()),
                 absl::StrCat(device.placement_groups()), device.description().path()});
    }
    table.Print(std::cout);
  });
  auto* assign = sds->add_subcommand("assign", "Puts a server into a protection domain.");
  assign->add_option("SDS", options->name, "Name or id.")->required();
  assign->add_option("--domain", options->domain, "Protection domain.");
  assign->add_option("--fault-set-id", options->id, "Fault set.");
  assign->callback([=] {
    v1::AssignSdsRequest request;
    request.set_sds_id(FindSds(client, options->name).sds_id());
    request.set_protection_domain_id(DomainId(client, options->domain));
    request.set_fault_set_id(options->id);
    client->Call<Topology>(&Topology::Stub::AssignSds, request);
  });
  auto* remove = sds->add_subcommand("delete", "Forgets a server whose devices are in no pool.");
  remove->add_option("SDS", options->name, "Name or id.")->required();
  remove->callback([=] {
    v1::DeleteSdsRequest request;
    request.set_sds_id(FindSds(client, options->name).sds_id());
    client->Call<Topology>(&Topology::Stub::DeleteSds, request);
  });

  auto* device = app->add_subcommand("device", "Devices of servers.")->require_subcommand(1);
  auto* put = device->add_subcommand("assign", "Puts a device into a pool.");
  put->add_option("ID", options->id, "Device id (tessera sds show).")->required();
  put->add_option("--pool", options->pool, "Pool.")->required();
  put->callback([=] {
    v1::AssignDeviceRequest request;
    request.set_device_id(options->id);
    request.set_pool_id(FindPool(client, options->pool).pool_id());
    client->Call<Topology>(&Topology::Stub::AssignDevice, request);
  });
  auto* take =
      device->add_subcommand("unassign", "Takes a device that holds nothing out of its pool.");
  take->add_option("ID", options->id, "Device id.")->required();
  take->callback([=] {
    v1::UnassignDeviceRequest request;
    request.set_device_id(options->id);
    client->Call<Topology>(&Topology::Stub::UnassignDevice, request);
  });
}

void AddSdcCommands(CLI::App* app, Client* client, const std::shared_ptr<Options>& options) {
  auto* sdc = app->add_subcommand("sdc", "Storage data clients.")->require_subcommand(1);
  auto* list = sdc->add_subcommand("list", "Lists clients.");
  list->callback([=] {
    const auto response = client->Call<Topology>(&Topology::Stub::ListSdcs, v1::ListSdcsRequest());
    if (Json(client)) return PrintJson(std::cout, response);
    const uint64_t now_ms = MdmNow(client);
    Table table({"ID", "NAME", "STATE", "VOLUMES", "NBD", "LAST HEARTBEAT"});
    for (const auto& item : response.sdcs()) {
      table.Add({absl::StrCat(item.sdc_id()), item.name(),
                 FormatEnum(v1::ComponentState_descriptor(), item.state()),
                 absl::StrCat(item.mappings_size()),
                 item.nbd_uris_size() > 0 ? item.nbd_uris(0) : "-",
                 FormatAge(item.last_heartbeat_ms(), now_ms)});
    }
    table.Print(std::cout);
  });
  auto* remove = sdc->add_subcommand("delete", "Forgets a client without mappings.");
  remove->add_option("ID", options->id, "Client id.")->required();
  remove->callback([=] {
    v1::DeleteSdcRequest request;
    request.set_sdc_id(options->id);
    client->Call<Topology>(&Topology::Stub::DeleteSdc, request);
  });
}

}  // namespace

std::vector<v1::Sds> AllSdss(Client* client) {
  std::vector<v1::Sds> all;
  v1::ListSdssRequest request;
  do {
    const auto page = client->Call<Topology>(&Topology::Stub::ListSdss, request);
    all.insert(all.end(), page.sdss().begin(), page.sdss().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return all;
}

v1::Sds FindSds(Client* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  for (const v1::Sds& sds : AllSdss(client)) {
    if (which.id != 0 ? sds.sds_id() == which.id : sds.name() == which.name) return sds;
  }
  throw CommandError(absl::NotFoundError(absl::StrCat("there is no sds '", text, "'")));
}

uint64_t MdmNow(Client* client) {
  return client
      ->Call<v1::DiscoveryService>(&v1::DiscoveryService::Stub::GetClusterInfo,
                                   v1::GetClusterInfoRequest())
      .mdm_time_ms();
}

void AddPoolCommands(CLI::App* app, Client* client) {
  auto options = std::make_shared<Options>();
  AddDomainCommands(app, client, options);
  AddPoolGroup(app, client, options);
  AddSdsCommands(app, client, options);
  AddSdcCommands(app, client, options);
}

}  // namespace tessera::cli
