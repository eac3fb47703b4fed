#include "integration/sim/run.h"

#include <functional>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "integration/sim/addresses.h"
#include "integration/sim/application.h"
#include "integration/sim/cluster.h"
#include "integration/sim/coverage.h"
#include "integration/sim/faults.h"
#include "integration/sim/mdm_node.h"
#include "integration/sim/oracle.h"
#include "integration/sim/resizes.h"
#include "integration/sim/sdc_node.h"
#include "integration/sim/sds_node.h"
#include "integration/sim/snapshots.h"
#include "integration/sim/world.h"

namespace tessera::sim {
namespace {

constexpr Nanos kStartBound = 60 * kSecond;
// Once faults have stopped everything is answered and whole again within this.
constexpr Nanos kLivenessBound = 240 * kSecond;

class Run {
 public:
  Run(const RunOptions& options, const std::string& folder)
      : world_(options.seed), options_(Draw(options, world_.random())), cluster_(options_, folder) {
    world_.set_trace(options.trace);
  }

  RunResult Go() {
    Bring();
    if (world_.violation().empty()) Work();
    if (world_.violation().empty()) Rest();
    RunResult result;
    result.steps = world_.steps();
    result.virtual_seconds = static_cast<double>(world_.now()) / 1e9;
    result.hash = world_.hash();
    result.violation = world_.violation();
    return result;
  }

 private:
  static RunOptions Draw(RunOptions options, chunk::SeededRandom& random) {
    options.servers = static_cast<uint32_t>(random.Between(3, 7));
    options.replicas = random.Chance(1, 3) ? 3 : 2;
    options.groups = uint32_t{1} << random.Between(1, 3);
    options.clients = static_cast<uint32_t>(random.Between(2, 3));
    options.applications = static_cast<uint32_t>(random.Between(2, 4));
    return options;
  }

  // Runs until `done`, for at most `bound`; false when the bound was reached.
  bool RunUntil(Nanos bound, const std::function<bool()>& done) {
    const Nanos end = world_.now() + bound;
    while (world_.violation().empty() && !done()) {
      if (world_.now() > end || !world_.Step()) return false;
      faults_.AfterStep();
    }
    return true;
  }

  void Fail(const std::string& what) { world_.Violation(what); }
  void Bring();
  void MakeVolumes();
  void Work();
  void Rest();
  void Rebuild();

  World world_;
  const RunOptions options_;
  Cluster cluster_;
  Faults faults_{&cluster_};
  Snapshots snapshots_{&cluster_, &faults_};
  Resizes resizes_{&cluster_, &faults_};
};

void Run::Bring() {
  cluster_.StartMdm();
  if (!RunUntil(kStartBound, [&] { return cluster_.mdm() != nullptr; })) return Fail("no MDM");
  if (const absl::Status made = cluster_.mdm()->MakePool(); !made.ok()) {
    return Fail(absl::StrCat("no pool: ", made.ToString()));
  }
  for (NodeId node = kFirstSds; node < kFirstSds + options_.servers; ++node) {
    cluster_.StartSds(node);
  }
  for (NodeId node = kFirstSdc; node < kFirstSdc + options_.clients; ++node) {
    cluster_.StartSdc(node);
  }
  const auto up = [&] {
    for (NodeId node = kFirstSds; node < kFirstSds + options_.servers; ++node) {
      SdsNode* sds = cluster_.sds(node);
      if (sds == nullptr || sds->device() == nullptr || sds->device()->store() == nullptr) {
        return false;
      }
    }
    for (NodeId node = kFirstSdc; node < kFirstSdc + options_.clients; ++node) {
      if (cluster_.sdc(node)->sdc_id() == 0) return false;
    }
    return cluster_.oracle().Unrest().empty();
  };
  if (!RunUntil(kStartBound, up)) return Fail("the cluster does not come up");
  (void)RunUntil(2 * kSecond, [] { return false; });  // the layout settles
  if (world_.violation().empty()) MakeVolumes();
}

void Run::MakeVolumes() {
  bool done = false;
  faults_.Spawn([&] {
    for (uint32_t i = 0; i < kVolumes; ++i) faults_.MakeVolume();
    done = true;
  });
  if (!RunUntil(kStartBound, [&] { return done; })) return Fail("no volumes");
  world_.Trace("the cluster is up");
}

void Run::Work() {
  faults_.StartApplications();
  if (options_.faults) faults_.Start();
  // Every other seed: the others show what they showed before there were snapshots.
  if (options_.seed % 2 == 0) faults_.Spawn([this] { snapshots_.Run(); });
  // And half of those others.
  if (options_.seed % 4 == 3) faults_.Spawn([this] { resizes_.Run(); });
  const uint64_t until = world_.steps() + options_.steps;
  (void)RunUntil(UINT64_MAX / 2, [&] { return world_.steps() >= until; });
}

// A server is gone for good, under load: the others make up for it.
void Run::Rebuild() {
  // What was killed a moment ago may not have been noticed yet.
  (void)RunUntil(15 * kSecond, [] { return false; });
  const auto rests = [&] { return cluster_.oracle().Unrest().empty(); };
  if (!RunUntil(kLivenessBound, rests)) return Fail("not whole: " + cluster_.oracle().Unrest());
  const NodeId node = faults_.LoseServer();
  const uint64_t sds_id = cluster_.sds_id(node);
  const auto whole = [&] {
    return cluster_.oracle().HeldBy(sds_id).empty() && cluster_.oracle().Unrest().empty();
  };
  if (!RunUntil(kLivenessBound, whole)) {
    Fail(absl::StrCat("not whole ", kLivenessBound / kSecond, " s after a server was lost: ",
                      cluster_.oracle().HeldBy(sds_id), "; ", cluster_.oracle().Unrest()));
  }
}

void Run::Rest() {
  world_.Trace("faults end");
  faults_.HealAll();
  const auto healed = [&] { return cluster_.oracle().Unrest().empty() && faults_.healed(); };
  if (!RunUntil(kLivenessBound, healed)) {
    return Fail(absl::StrCat("not whole ", kLivenessBound / kSecond,
                             " s after faults stopped: ", cluster_.oracle().Unrest(),
                             faults_.healed() ? "" : "; a volume has no client"));
  }
  if (options_.faults && options_.servers > options_.replicas && world_.random().Chance(1, 4)) {
    Rebuild();
    if (!world_.violation().empty()) return;
  }
  snapshots_.Stop();
  resizes_.Stop();
  const auto idle = [&] { return snapshots_.idle() && resizes_.idle() && faults_.healed(); };
  if (!RunUntil(kLivenessBound, idle)) {
    return Fail("what is done with snapshots and sizes does not end");
  }
  faults_.StopApplications();
  if (!RunUntil(kLivenessBound, [&] { return !faults_.ApplicationsWait(); })) {
    return Fail("requests are not answered after faults stopped: " + faults_.Waiting());
  }
  // Clients give what they keep to replicas that lack it, and flush it by themselves.
  const auto kept = [&] {
    uint64_t bytes = 0;
    for (NodeId node = kFirstSdc; node < kFirstSdc + options_.clients; ++node) {
      SdcNode* sdc = cluster_.sdc(node);
      if (sdc != nullptr) bytes += sdc->engine().metrics().unflushed_bytes.Get();
    }
    return bytes;
  };
  if (!RunUntil(kLivenessBound, [&] { return kept() == 0; })) {
    return Fail(absl::StrCat("clients still keep ", kept(), " bytes that are not durable"));
  }
  // Writes of a client's earlier life, for which no application waits: what does not take them
  // within the time-out is taken out, and comes back.
  (void)RunUntil(5 * kSecond, [] { return false; });
  if (!RunUntil(kLivenessBound, healed)) {
    return Fail("not whole after the last writes: " + cluster_.oracle().Unrest());
  }
  if (!world_.violation().empty()) return;
  for (NodeId node = kFirstSdc; node < kFirstSdc + options_.clients; ++node) {
    if (SdcNode* sdc = cluster_.sdc(node)) {
      Hit(Coverage::kReadRepeated, sdc->engine().metrics().read_retries.Get());
    }
  }
  cluster_.mdm()->DropLayersAgain();
  if (!RunUntil(kLivenessBound, [&] { return cluster_.mdm()->pending_layer_drops() == 0; })) {
    return Fail("layers that nobody sees are not dropped");
  }
  cluster_.oracle().CheckHistories();
  cluster_.oracle().Compare();
  snapshots_.Compare();
}

}  // namespace

RunResult RunSeed(RunOptions options, const std::string& folder) {
  auto* run = new Run(options, folder);
  return run->Go();
}

}  // namespace tessera::sim
