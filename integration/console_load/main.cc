// console_load_cluster: an MDM, servers and clients that answer what the management service asks
// them, in one process on few ports. Says `mdm=<address>` when it listens; ends with a signal.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/node.h"
#include "services/mgmt/monitor/testing/fake_cluster.h"

namespace {

using tessera::mgmt::FakeMdm;
using tessera::mgmt::FakePart;
using tessera::mgmt::FakeServer;
namespace v1 = tessera::v1;

constexpr uint64_t kVolumeBytes = uint64_t{64} << 30;
// A real part has so many figures of its RPC methods.
constexpr int kMethods = 60;

// An answer as large as a real part's, with counters that grow.
FakePart::Answer Part(v1::ComponentKind kind, uint64_t id, uint64_t volumes_from,
                      uint64_t volumes_until) {
  return [=, count = 0.0](v1::GetStatusResponse* answer) mutable {
    count += 1'234;
    tessera::mgmt::DescribePart(kind, id, count, answer);
    const auto figure = [&](std::string name, double value) {
      v1::Figure* added = answer->add_figures();
      added->set_name(std::move(name));
      added->set_value(value);
    };
    for (int method = 0; method < kMethods; ++method) {
      figure(absl::StrCat("tessera_grpc_server_handled_total{code=\"OK\",method=\"Method", method,
                          "\",service=\"tessera.v1.SomeService\"}"),
             count);
    }
    for (int reason = 0; reason < kMethods; ++reason) {
      figure(absl::StrCat("tessera_other_figures_total{reason=\"number", reason, "\"}"), count);
    }
    for (uint64_t volume = volumes_from; volume < volumes_until; ++volume) {
      for (const char* operation : {"read", "write"}) {
        const std::string labels = absl::StrCat("{op=\"", operation, "\",volume=\"", volume, "\"}");
        figure("tessera_volume_io_requests_total" + labels, count + static_cast<double>(volume));
        figure("tessera_volume_io_bytes_total" + labels, count * 4'096);
      }
    }
  };
}

struct Cluster {
  FakeMdm mdm;
  std::vector<std::unique_ptr<FakePart>> parts;
  std::vector<std::unique_ptr<FakeServer>> servers;

  // Serves the part, with other services beside it.
  const std::string& Serve(FakePart::Answer answer, std::vector<grpc::Service*> beside = {}) {
    parts.push_back(std::make_unique<FakePart>(std::move(answer)));
    beside.push_back(parts.back().get());
    servers.push_back(std::make_unique<FakeServer>(beside));
    return servers.back()->address();
  }
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("A simulated cluster for measuring the management service", "console_load_cluster");
  uint64_t servers = 90;
  uint64_t clients = 9;
  uint64_t volumes = 1'000;
  app.add_option("--servers", servers, "Servers; they share one port.");
  app.add_option("--clients", clients, "Clients, each with a port and its part of the volumes.");
  app.add_option("--volumes", volumes, "Volumes.");
  CLI11_PARSE(app, argc, argv);
  tessera::BlockTerminationSignals();

  Cluster cluster;
  const std::string mdm =
      cluster.Serve(Part(v1::COMPONENT_KIND_MDM, 1, 0, 0), cluster.mdm.services());
  const std::string server = cluster.Serve(Part(v1::COMPONENT_KIND_SDS, 1, 0, 0));
  cluster.mdm.Change([&](FakeMdm::State* state) {
    state->topology.set_cluster_uuid("5e5e5e5e-0000-4000-8000-000000000000");
    for (uint64_t id = 1; id <= servers; ++id) {
      tessera::mgmt::AddPart(v1::COMPONENT_KIND_SDS, id, server, &state->topology);
    }
    for (uint64_t id = 1; id <= clients; ++id) {
      const std::string client =
          cluster.Serve(Part(v1::COMPONENT_KIND_SDC, id, (id - 1) * volumes / clients + 1,
                             id * volumes / clients + 1));
      tessera::mgmt::AddPart(v1::COMPONENT_KIND_SDC, id, client, &state->topology);
    }
    for (uint64_t id = 1; id <= volumes; ++id) {
      v1::Volume& volume = state->volumes.emplace_back();
      volume.set_volume_id(id);
      volume.set_name(absl::StrCat("volume-", id));
      volume.set_size_bytes(kVolumeBytes);
      volume.set_kind(v1::VOLUME_KIND_VOLUME);
      volume.set_pool_name("pool");
      v1::VolumeHealth& health = state->volume_health.emplace_back();
      health.set_volume_id(id);
      health.set_name(volume.name());
      health.set_verdict(v1::VOLUME_VERDICT_HEALTHY);
    }
  });
  std::printf("mdm=%s\n", mdm.c_str());
  std::fflush(stdout);
  tessera::WaitForTermination();
  cluster.mdm.EndWatches();
  return 0;
}
