// What is known of a part between its lives.
#include "services/mdm/health_monitor.h"

#include <catch2/catch.hpp>
#include <string>

#include "services/common/clock.h"

namespace tessera::mdm {
namespace {

v1::HeartbeatRequest BeatWith(uint64_t incarnation, const std::string& device_uuid) {
  v1::HeartbeatRequest request;
  request.set_incarnation(incarnation);
  request.add_devices()->set_device_uuid(device_uuid);
  return request;
}

TEST_CASE("devices are those of a server's present life, whatever comes late", "[health]") {
  ManualClock clock;
  const MdmTime time(&clock, "boot-a", {});
  HealthMonitor health({}, &time);
  const ComponentId server{v1::COMPONENT_KIND_SDS, 7};
  health.Registered(server, "sds-a", 1);
  health.Beat(server, BeatWith(1, "old"));
  CHECK(health.DeviceNow(7, "old").has_value());
  health.Registered(server, "sds-a", 1);  // it has only lost its connection
  CHECK(health.DeviceNow(7, "old").has_value());

  health.Registered(server, "sds-a", 2);
  CHECK_FALSE(health.DeviceNow(7, "old").has_value());
  health.Beat(server, BeatWith(1, "old"));  // sent before it ended
  CHECK_FALSE(health.DeviceNow(7, "old").has_value());
  CHECK(health.IncarnationOf(server) == 2);
  health.Beat(server, BeatWith(2, "new"));
  CHECK(health.DeviceNow(7, "new").has_value());
  CHECK_FALSE(health.DeviceNow(7, "old").has_value());
}

}  // namespace
}  // namespace tessera::mdm
