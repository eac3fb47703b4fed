// Runs the model of the read cache (world.h) from many seeds.
#include <stdlib.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>

#include "integration/cache/world.h"
#include "services/common/logging.h"
#include "services/common/metrics.h"
#include "services/mdm/node_table.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_table.h"

namespace {

using tessera::cache_model::Coverage;
using tessera::cache_model::World;

// A volume, and two clients to map it to.
absl::Status Prepare(tessera::mdm::MdmStore& store, uint64_t* volume_id) {
  namespace mdm = tessera::mdm;
  return store.Write([&](mdm::WriteTransaction& transaction) {
    SQLite::Database& db = transaction.db;
    tessera::v1::StoragePool pool;
    pool.set_name("pool");
    tessera::v1::ProtectionDomain domain;
    domain.set_name("pd");
    pool.set_protection_domain_id(mdm::InsertProtectionDomain(db, domain));
    pool.set_replica_count(2);
    pool.set_min_replicas(1);
    pool.set_chunk_bytes(1 << 20);
    pool.set_placement_group_count(1);
    mdm::VolumeRow row;
    row.name = "v";
    row.pool_id = mdm::InsertPool(db, pool);
    row.size_bytes = 1 << 30;
    *volume_id = mdm::InsertVolume(db, row).volume_id;
    for (const char* name : {"a", "b"}) {
      mdm::SdcRow sdc;
      sdc.name = name;
      sdc.node_uuid = std::string(36, name[0]);
      sdc.incarnation = 1;
      (void)mdm::InsertSdc(db, sdc);
    }
    return absl::OkStatus();
  });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Random interleavings of everything that could make a cached read stale."};
  uint64_t seeds = 500;
  bool stop = false;
  uint64_t first = 1;
  int steps = 6'000;
  std::string folder;
  app.add_option("--seeds", seeds, "How many seeds.")->capture_default_str();
  app.add_option("--first", first, "The first of them.")->capture_default_str();
  app.add_option("--steps", steps, "Steps of each.")->capture_default_str();
  app.add_flag("--stop", stop, "End at the first seed that shows something wrong.");
  app.add_option("--folder", folder, "For files; default: a temporary one in memory.");
  CLI11_PARSE(app, argc, argv);
  (void)tessera::InitLogging({.component = "cache-model", .level = "error"});
  if (folder.empty()) {
    const bool memory = std::filesystem::is_directory("/dev/shm");
    std::string pattern = memory ? "/dev/shm/cache-model-XXXXXX" : "/tmp/cache-model-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) return 2;
    folder = pattern;
  }
  tessera::MetricRegistry metrics("mdm");
  const auto store = tessera::mdm::MdmStore::Open(folder + "/mdm.db", &metrics);
  uint64_t volume_id = 0;
  const absl::Status prepared = store.ok() ? Prepare(**store, &volume_id) : store.status();
  if (!prepared.ok()) {
    std::fprintf(stderr, "cannot make the MDM's database in %s: %s\n", folder.c_str(),
                 prepared.ToString().c_str());
    return 2;
  }
  Coverage coverage;
  uint64_t ran = 0;
  uint64_t failed = 0;
  const auto began = std::chrono::steady_clock::now();
  for (uint64_t seed = first; seed < first + seeds && !(stop && failed > 0); ++seed) {
    const std::string place = folder + "/run";
    std::filesystem::create_directory(place);
    World world(seed, place, store->get(), volume_id, &coverage);
    if (const std::string what = world.Run(steps); !what.empty()) {
      ++failed;
      std::printf("seed %lu FAILED: %s\n", static_cast<unsigned long>(seed), what.c_str());
    }
    std::filesystem::remove_all(place);
    ++ran;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  for (const auto& [what, count] : coverage.counts) {
    std::printf("%10lu %s\n", static_cast<unsigned long>(count), what.c_str());
  }
  std::printf("%lu seeds in %.1f s, %lu of them wrong\n", static_cast<unsigned long>(ran),
              took.count(), static_cast<unsigned long>(failed));
  std::filesystem::remove_all(folder);
  return failed == 0 ? 0 : 1;
}
