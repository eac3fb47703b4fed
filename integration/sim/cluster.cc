#include "integration/sim/cluster.h"

#include <sys/stat.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "integration/sim/coverage.h"
#include "integration/sim/disk_speed.h"
#include "integration/sim/io_connection.h"
#include "integration/sim/mdm_node.h"
#include "integration/sim/oracle.h"
#include "integration/sim/sdc_node.h"
#include "integration/sim/sds_node.h"

namespace tessera::sim {
namespace {

Cluster* g_cluster = nullptr;

}  // namespace

Nanos CycleNanos(const Life& life) { return Cluster::Get().disk(life.node).cycle; }

NodeId NodeOf(const std::string& address) {
  absl::string_view number = address;
  NodeId node = kNodeLimit;
  if (!absl::ConsumePrefix(&number, "sim:") || !absl::SimpleAtoi(number, &node)) return kNodeLimit;
  return node;
}

std::string AddressOf(NodeId node) { return absl::StrCat("sim:", node); }

Cluster::Cluster(const RunOptions& options, std::string folder)
    : options_(options), folder_(std::move(folder)), oracle_(std::make_unique<Oracle>(this)) {
  g_cluster = this;
  for (NodeId node = 0; node < kNodeLimit; ++node) {
    network_.machine(node).id = node;
    network_.machine(node).clock.Boot();
  }
  for (NodeId node = kFirstSds; node < kFirstSds + options_.servers; ++node) {
    const std::string path = absl::StrCat(folder_, "/s", node);
    (void)mkdir(path.c_str(), 0700);
    (void)mkdir((path + "/device").c_str(), 0700);
    disks_[node].medium = std::make_unique<chunk::SimulatedDisk>(
        chunk::SimulatedDiskOptions{.seed = World::Get().random().Next()});
  }
  IoConnection::SetUp(
      &network_,
      [this](NodeId node) { return sds_[node] == nullptr ? nullptr : sds_[node]->io_server(); },
      [this](NodeId client, NodeId server, const grpc::ByteBuffer& message) {
        if (tap_) tap_(client, server, message);
      });
}

Cluster& Cluster::Get() { return *g_cluster; }

SdsNode* Cluster::FindSds(uint64_t sds_id) {
  for (SdsNode* sds : sds_) {
    if (sds != nullptr && sds->sds_id() == sds_id) return sds;
  }
  return nullptr;
}

Life* Cluster::NewLife(NodeId node, const std::string& name) {
  auto* life = new Life;
  life->name = name;
  life->node = node;
  life->clock = &network_.machine(node).clock;
  if (disks_[node].medium != nullptr) {
    life->muted = [medium = disks_[node].medium.get()] { return medium->off(); };
  }
  network_.machine(node).life = life;
  return life;
}

void Cluster::StartMdm() {
  Life* life = NewLife(kMdm, "mdm");
  World::Get().Spawn(life, [this, life] {
    auto metrics = std::make_unique<MetricRegistry>("mdm");
    absl::StatusOr<mdm::StateFolder> state =
        mdm::OpenStateFolder(folder_ + "/mdm", /*join_token_file=*/"", life->clock, metrics.get());
    if (!state.ok()) {
      World::Get().Violation(absl::StrCat("the MDM does not open: ", state.status().ToString()));
      return;
    }
    auto* mdm = new MdmNode(this, *std::move(state), std::move(metrics));
    if (const absl::Status started = mdm->Start(); !started.ok()) {
      World::Get().Violation(absl::StrCat("the MDM does not start: ", started.ToString()));
    }
    mdm_ = mdm;
    World::Get().Trace("MDM up");
  });
}

void Cluster::StartSds(NodeId node) {
  Life* life = NewLife(node, absl::StrCat("s", node));
  World::Get().Spawn(life, [this, node] {
    sds_[node] = new SdsNode(this, node, absl::StrCat(folder_, "/s", node), &disks_[node]);
    sds_[node]->Start();
  });
}

namespace {

SdcNode::Identity& IdentityOf(NodeId node) {
  static std::array<SdcNode::Identity, kNodeLimit> identities;
  return identities[node];
}

}  // namespace

void Cluster::StartSdc(NodeId node) {
  SdcNode::Identity& identity = IdentityOf(node);
  identity.uuid = absl::StrCat("00000000-0000-4000-8000-0000000000", 10 + node);
  Life* life = NewLife(node, absl::StrCat("c", node));
  World::Get().RunAs(life, [&] {
    sdc_[node] = new SdcNode(this, node, &identity);
    sdc_[node]->Start();
  });
}

void Cluster::End(NodeId node) {
  Machine& machine = network_.machine(node);
  if (machine.life == nullptr) return;
  machine.life->running = false;
  machine.life = nullptr;
  if (node == kMdm && mdm_ != nullptr) mdm_->Ended();
  if (node == kMdm) mdm_ = nullptr;
  sds_[node] = nullptr;
  sdc_[node] = nullptr;
}

void Cluster::Kill(NodeId node) {
  Life* const life = network_.machine(node).life;
  if (life == nullptr) return;
  World::Get().Trace(absl::StrCat("killed: ", life->name));
  End(node);
  if (disks_[node].medium != nullptr) disks_[node].medium->CrashProcess();
  for (const auto& [over, tell] : life->if_killed) {
    if (!*over) tell();
  }
}

void Cluster::PowerOff(NodeId node) {
  World::Get().Trace(absl::StrCat("power lost: machine ", node));
  Machine& machine = network_.machine(node);
  End(node);
  machine.powered = false;
  if (disks_[node].medium != nullptr) disks_[node].medium->LosePower();
  if (sds_ids_[node] != 0) oracle_->PowerLost(sds_ids_[node]);
  ++IdentityOf(node).boots;
}

void Cluster::PowerOn(NodeId node) {
  Machine& machine = network_.machine(node);
  if (machine.powered) return;
  machine.powered = true;
  machine.clock.Boot();
}

}  // namespace tessera::sim
