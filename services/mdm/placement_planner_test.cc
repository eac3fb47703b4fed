// Goal: the failure-domain rule always holds, load follows capacity, and a device that comes or
// goes moves little more than its own share.
#include "services/mdm/placement_planner.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>

namespace tessera::mdm {
namespace {

constexpr uint64_t kTebibyte = 1ull << 40;

PlacementRequest Request(uint32_t servers, uint32_t devices_each, uint32_t replicas,
                         uint32_t groups = 256) {
  PlacementRequest request{
      .pool_id = 1, .placement_group_count = groups, .replica_count = replicas};
  for (uint32_t sds = 1; sds <= servers; ++sds) {
    for (uint32_t i = 0; i < devices_each; ++i) {
      request.devices.push_back({sds * 100 + i, sds, 0, kTebibyte});
    }
  }
  return request;
}

std::map<uint64_t, uint32_t> Load(const PlacementRequest& request, const PlacementPlan& plan) {
  std::map<uint64_t, uint32_t> load;
  for (const auto& device : request.devices) load[device.device_id] = 0;
  for (const auto& members : plan) {
    for (size_t index : members) ++load[request.devices[index].device_id];
  }
  return load;
}

std::set<std::pair<size_t, uint64_t>> Places(const PlacementRequest& request,
                                             const PlacementPlan& plan) {
  std::set<std::pair<size_t, uint64_t>> places;
  for (size_t group = 0; group < plan.size(); ++group) {
    for (size_t index : plan[group]) places.emplace(group, request.devices[index].device_id);
  }
  return places;
}

TEST_CASE("replicas of a group are on different servers and the load is even") {
  for (uint32_t replicas : {1u, 2u, 3u}) {
    const PlacementRequest request = Request(5, 2, replicas);
    const auto plan = PlanPlacement(request);
    REQUIRE(plan.ok());
    REQUIRE(plan->size() == 256);
    for (const auto& members : *plan) {
      std::set<uint64_t> servers;
      for (size_t index : members) servers.insert(request.devices[index].sds_id);
      REQUIRE(servers.size() == replicas);
    }
    const double mean = 256.0 * replicas / 10;
    for (const auto& [device, load] : Load(request, *plan)) {
      INFO("device " << device << ", replicas " << replicas);
      CHECK(std::abs(load - mean) <= 2);
    }
  }
}

TEST_CASE("the plan is the same each time") {
  const PlacementRequest request = Request(7, 3, 3);
  CHECK(*PlanPlacement(request) == *PlanPlacement(request));
}

TEST_CASE("load follows capacity, as far as one replica a server allows") {
  PlacementRequest request = Request(4, 1, 2);
  request.devices[0].capacity_bytes = 2 * kTebibyte;
  const auto load = Load(request, *PlanPlacement(request));
  CHECK(std::abs(static_cast<int>(load.at(100)) - 205) <= 3);  // 2/5 of 512
  CHECK(std::abs(static_cast<int>(load.at(200)) - 102) <= 3);
  request.devices[0].capacity_bytes = 100 * kTebibyte;
  CHECK(Load(request, *PlanPlacement(request)).at(100) >= 254);  // each group at most once
}

TEST_CASE("replicas are in different fault sets where there are enough of them") {
  PlacementRequest request = Request(6, 1, 3);
  for (auto& device : request.devices) device.fault_set_id = 1 + device.sds_id % 3;
  const auto separated = PlanPlacement(request);
  REQUIRE(separated.ok());
  for (const auto& members : *separated) {
    std::set<uint64_t> sets;
    for (size_t index : members) sets.insert(request.devices[index].fault_set_id);
    REQUIRE(sets.size() == 3);
  }
  for (auto& device : request.devices) device.fault_set_id = 1 + device.sds_id % 2;
  const auto crowded = PlanPlacement(request);
  REQUIRE(crowded.ok());
  for (const auto& members : *crowded) REQUIRE(members.size() == 3);
}

TEST_CASE("a new device takes its share and moves little else") {
  const PlacementRequest before = Request(10, 1, 2, 1'024);
  PlacementRequest after = before;
  after.devices.push_back({1'100, 11, 0, kTebibyte});
  const auto old_places = Places(before, *PlanPlacement(before));
  const auto new_places = Places(after, *PlanPlacement(after));
  std::vector<std::pair<size_t, uint64_t>> moved;
  std::set_difference(new_places.begin(), new_places.end(), old_places.begin(), old_places.end(),
                      std::back_inserter(moved));
  const double share = 2'048.0 / 11;
  INFO("moved " << moved.size() << " of 2048, the new device's share is " << share);
  CHECK(static_cast<double>(moved.size()) < 2.0 * share);
}

TEST_CASE("partners are spread: what one device loses is copied from all others") {
  for (uint32_t replicas : {2u, 3u}) {
    for (uint32_t servers = replicas + 1; servers <= 12; ++servers) {
      for (uint64_t pool = 1; pool <= 20; ++pool) {
        PlacementRequest request = Request(servers, 1, replicas, 64);
        request.pool_id = pool;
        const auto plan = PlanPlacement(request);
        REQUIRE(plan.ok());
        std::map<std::pair<size_t, size_t>, uint32_t> common;
        for (const auto& members : *plan) {
          std::set<uint64_t> different(members.begin(), members.end());
          REQUIRE(different.size() == replicas);
          for (size_t a : members) {
            for (size_t b : members) common[{a, b}] += a != b;
          }
        }
        const double expected = 64.0 * replicas * (replicas - 1) / (servers * (servers - 1.0));
        INFO(servers << " servers, " << replicas << " replicas, pool " << pool);
        for (const auto& [devices, count] : common) {
          CHECK(count <= expected * 1.2 + 2);
        }
        for (const auto& [device, load] : Load(request, *plan)) {
          CHECK(std::abs(load - 64.0 * replicas / servers) <= 2);
        }
      }
    }
  }
}

TEST_CASE("too few servers are refused with their number") {
  const auto plan = PlanPlacement(Request(1, 3, 2));
  REQUIRE(absl::IsFailedPrecondition(plan.status()));
  CHECK(std::string(plan.status().message()).find("on 1 servers") != std::string::npos);
  CHECK(absl::IsInvalidArgument(PlanPlacement(Request(2, 1, 0)).status()));
  CHECK(absl::IsInvalidArgument(PlanPlacement(Request(2, 1, 2, 0)).status()));
}

TEST_CASE("a device without capacity does not divide by zero") {
  PlacementRequest request = Request(3, 1, 2, 16);
  for (auto& device : request.devices) device.capacity_bytes = 0;
  CHECK(PlanPlacement(request).ok());
}

TEST_CASE("usable space: copies on different servers, so the excess of a large one is lost") {
  const auto usable = [](std::vector<uint64_t> capacities, uint32_t replicas) {
    std::vector<PlacementDevice> devices;
    for (uint64_t bytes : capacities) {
      devices.push_back({devices.size() + 1, devices.size() + 1, 0, bytes});
    }
    return UsableBytes(devices, replicas);
  };
  CHECK(usable({100, 100}, 2) == 100);
  CHECK(usable({100, 300}, 2) == 100);
  CHECK(usable({100, 100, 100}, 2) == 150);
  CHECK(usable({100, 100, 500}, 2) == 200);
  CHECK(usable({100, 100, 500}, 1) == 700);
  CHECK(usable({10, 100, 500}, 3) == 10);
  CHECK(usable({100}, 2) == 0);
}

}  // namespace
}  // namespace tessera::mdm
