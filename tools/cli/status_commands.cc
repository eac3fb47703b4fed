// status, health, topology, event.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tessera/v1/health.grpc.pb.h"
#include "tessera/v1/topology.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/operation_view.h"

namespace tessera::cli {
namespace {

using Health = v1::HealthService;

v1::Topology GetTopology(Client* client) {
  return client
      ->Call<v1::TopologyService>(&v1::TopologyService::Stub::GetTopology, v1::GetTopologyRequest())
      .topology();
}

std::string StateName(v1::ComponentState state) {
  return FormatEnum(v1::ComponentState_descriptor(), state);
}

void PrintStatus(const v1::GetClusterHealthResponse& health, const v1::Topology& topology) {
  std::cout << "cluster " << topology.cluster_uuid() << ": "
            << FormatEnum(v1::ClusterVerdict_descriptor(), health.verdict()) << "\n";
  for (const auto& cause : health.causes()) std::cout << "  " << cause.message() << "\n";
  std::cout << "placement groups: " << health.healthy_placement_groups() << " healthy, "
            << health.degraded_placement_groups() << " degraded, "
            << health.unavailable_placement_groups() << " unavailable\n\n";
  Table parts({"PART", "NAME", "STATE"});
  Table pools({"POOL", "COPIES", "RAW USED", "RAW SIZE", "SPACE", "VOLUMES", "STATE"});
  for (const auto& domain : topology.protection_domains()) {
    for (const auto& sds : domain.sdss()) parts.Add({"sds", sds.name(), StateName(sds.state())});
    for (const auto& node : domain.pools()) {
      pools.Add(
          {node.pool().name(), absl::StrCat(node.pool().replica_count()),
           FormatSize(node.pool().capacity().raw_used_bytes()),
           FormatSize(node.pool().capacity().raw_capacity_bytes()),
           absl::StrCat(node.pool().capacity().used_percent(), " %, ",
                        FormatEnum(v1::CapacityState_descriptor(), node.pool().capacity().state())),
           absl::StrCat(node.volumes_size()),
           FormatEnum(v1::RedundancyState_descriptor(), node.pool().redundancy())});
    }
  }
  for (const auto& sds : topology.unassigned_sdss()) {
    parts.Add({"sds", sds.name(), StateName(sds.state()) + ", in no protection domain"});
  }
  for (const auto& sdc : topology.sdcs()) parts.Add({"sdc", sdc.name(), StateName(sdc.state())});
  parts.Print(std::cout);
  std::cout << "\n";
  pools.Print(std::cout);
}

std::vector<v1::VolumeHealth> AllVolumes(Client* client) {
  std::vector<v1::VolumeHealth> all;
  v1::ListVolumeHealthRequest request;
  do {
    const auto page = client->Call<Health>(&Health::Stub::ListVolumeHealth, request);
    all.insert(all.end(), page.volumes().begin(), page.volumes().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return all;
}

// "degraded, rebuilding 42 %, 13 s left".
std::string VerdictOf(const v1::VolumeHealth& volume) {
  std::string verdict = FormatEnum(v1::VolumeVerdict_descriptor(), volume.verdict());
  if (!volume.rebuilding()) return verdict;
  absl::StrAppend(&verdict, ", rebuilding ", volume.percent(), " %");
  if (volume.eta_ms() != 0) {
    absl::StrAppend(&verdict, ", ", FormatDuration(volume.eta_ms()), " left");
  }
  return verdict;
}

void PrintVolumes(const std::vector<v1::VolumeHealth>& volumes) {
  if (volumes.empty()) return;
  std::cout << "\n";
  Table table({"VOLUME", "VERDICT", "CAUSE", "WHAT TO DO"});
  for (const v1::VolumeHealth& volume : volumes) {
    table.Add({volume.name(), VerdictOf(volume), volume.cause().empty() ? "-" : volume.cause(),
               volume.action().empty() ? "-" : volume.action()});
  }
  table.Print(std::cout);
}

void PrintSds(const v1::Sds& sds, const std::string& indent) {
  std::cout << indent << "sds " << sds.name() << " (" << sds.sds_id() << ", "
            << StateName(sds.state()) << ", " << sds.endpoints().data() << ")\n";
  for (const auto& device : sds.devices()) {
    std::cout << indent << "  device " << device.device_id() << " " << device.description().path()
              << ": " << FormatSize(device.description().used_bytes()) << " of "
              << FormatSize(device.description().capacity_bytes()) << ", "
              << device.placement_groups() << " placement groups, " << StateName(device.state())
              << "\n";
  }
}

void PrintTopology(const v1::Topology& topology) {
  std::cout << "cluster " << topology.cluster_uuid() << "\n";
  for (const auto& domain : topology.protection_domains()) {
    std::cout << "  domain " << domain.protection_domain().name() << " ("
              << domain.protection_domain().protection_domain_id() << ")\n";
    for (const auto& set : domain.fault_sets()) {
      std::cout << "    fault set " << set.name() << " (" << set.fault_set_id() << ")\n";
    }
    for (const auto& sds : domain.sdss()) PrintSds(sds, "    ");
    for (const auto& node : domain.pools()) {
      std::cout << "    pool " << node.pool().name() << " (" << node.pool().pool_id() << ", "
                << node.pool().replica_count() << " copies)\n";
      for (const auto& volume : node.volumes()) {
        std::cout << "      volume " << volume.volume().name() << " ("
                  << volume.volume().volume_id() << ", " << FormatSize(volume.volume().size_bytes())
                  << ")\n";
        for (const auto& replica : volume.replicas()) {
          std::cout << "        on sds " << replica.sds_id() << " device " << replica.device_id()
                    << ": " << replica.in_sync() << " in sync, " << replica.learning()
                    << " learning, " << replica.out_of_sync() << " out of sync\n";
        }
        for (const auto& mapping : volume.volume().mappings()) {
          std::cout << "        mapped to " << mapping.sdc_name() << "\n";
        }
      }
    }
  }
  for (const auto& sds : topology.unassigned_sdss()) PrintSds(sds, "  unassigned ");
  for (const auto& sdc : topology.sdcs()) {
    std::cout << "  sdc " << sdc.name() << " (" << sdc.sdc_id() << ", " << StateName(sdc.state())
              << ", " << sdc.mappings_size() << " volumes)\n";
  }
}

}  // namespace

void AddStatusCommands(CLI::App* app, Client* client, int* exit_code) {
  auto* status = app->add_subcommand("status", "One screen: verdict, causes, parts, pools.");
  status->callback([=] {
    const auto health =
        client->Call<Health>(&Health::Stub::GetClusterHealth, v1::GetClusterHealthRequest());
    if (health.verdict() != v1::CLUSTER_VERDICT_OK) *exit_code = kDegraded;
    if (client->globals().output == Output::kJson) return PrintJson(std::cout, health);
    PrintStatus(health, GetTopology(client));
    PrintVolumes(AllVolumes(client));
    v1::ListOperationsRequest running;
    running.set_running_only(true);
    const std::vector<v1::Operation> operations = ListOperations(client, running);
    if (operations.empty()) return;
    std::cout << "\n";
    PrintOperations(operations);
  });

  auto* health =
      app->add_subcommand("health", "One verdict for each volume, with cause and action.");
  health->callback([=] {
    const std::vector<v1::VolumeHealth> volumes = AllVolumes(client);
    for (const v1::VolumeHealth& volume : volumes) {
      if (volume.verdict() != v1::VOLUME_VERDICT_HEALTHY) *exit_code = kDegraded;
    }
    if (client->globals().output != Output::kJson) return PrintVolumes(volumes);
    v1::ListVolumeHealthResponse response;
    response.mutable_volumes()->Add(volumes.begin(), volumes.end());
    PrintJson(std::cout, response);
  });

  auto* topology = app->add_subcommand("topology", "The whole cluster as a tree.");
  topology->callback([=] {
    const v1::Topology tree = GetTopology(client);
    if (client->globals().output == Output::kJson) return PrintJson(std::cout, tree);
    PrintTopology(tree);
  });

  auto* event = app->add_subcommand("event", "What happened.")->require_subcommand(1);
  auto after = std::make_shared<uint64_t>(0);
  auto* list = event->add_subcommand("list", "Lists events, oldest first.");
  list->add_option("--after", *after, "Only newer than this id.");
  list->callback([=] {
    v1::ListEventsRequest request;
    request.set_after_event_id(*after);
    request.set_page_size(1000);
    const auto response = client->Call<Health>(&Health::Stub::ListEvents, request);
    if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
    Table table({"ID", "SEVERITY", "CODE", "MESSAGE"});
    for (const auto& item : response.events()) {
      table.Add({absl::StrCat(item.event_id()),
                 FormatEnum(v1::EventSeverity_descriptor(), item.severity()), item.code(),
                 item.message()});
    }
    table.Print(std::cout);
  });
}

}  // namespace tessera::cli
