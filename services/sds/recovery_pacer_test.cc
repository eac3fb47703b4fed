// The pace of copying beside clients: a server in miniature whose clients suffer in proportion to
// what is copied.
#include "services/sds/recovery_pacer.h"

#include <catch2/catch.hpp>

namespace tessera::sds {
namespace {

constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kChunk = 1u << 20;

// Clients at 1,000 operations a second, whose time is `base` plus what the copying costs them.
struct Server {
  RecoveryPacer pacer;
  uint64_t now = 1'000 * kMillisecond;
  double base_nanos = 300'000;
  double nanos_per_mib_per_second = 0;  // felt by each operation
  bool clients = true;

  // Copies as fast as it may; returns bytes a second.
  uint64_t Copy(uint64_t milliseconds) {
    const uint64_t end = now + milliseconds * kMillisecond;
    const uint64_t began = now;
    uint64_t copied = 0;
    uint64_t next_copy = now;
    while (now < end) {
      while (next_copy <= now) {
        copied += kChunk;
        next_copy = now + std::max<uint64_t>(pacer.Reserve(kChunk, now), 1);
      }
      Clients();
    }
    return copied * 1000 / ((now - began) / kMillisecond);
  }
  void Alone(uint64_t milliseconds) {
    for (uint64_t i = 0; i < milliseconds; ++i) Clients(true);
  }
  void Clients(bool alone = false) {
    now += kMillisecond;
    if (!clients) return;
    const double rate = alone ? 0 : static_cast<double>(pacer.bytes_per_second()) / (1 << 20);
    pacer.Observe(1, static_cast<uint64_t>(base_nanos + rate * nanos_per_mib_per_second), now);
  }
};

TEST_CASE("without clients copying is as fast as it can be") {
  Server server;
  server.clients = false;
  server.Copy(2'000);
  CHECK(server.pacer.bytes_per_second() > 1u << 30);
}

TEST_CASE("clients that do not feel it let it grow") {
  Server server;
  server.Alone(1'000);
  server.Copy(4'000);
  CHECK(server.pacer.bytes_per_second() > 400u << 20);
}

TEST_CASE("clients that suffer make it yield, and it settles where they do not") {
  Server server;
  server.nanos_per_mib_per_second = 3'000;  // 100 MiB/s double their time
  server.Alone(1'000);
  server.Copy(2'000);
  const uint64_t rate = server.Copy(5'000);
  CHECK(rate > 50u << 20);
  CHECK(rate < 140u << 20);
}

TEST_CASE("it never starves") {
  Server server;
  server.nanos_per_mib_per_second = 1'000'000;
  server.Alone(1'000);
  server.Copy(2'000);
  const uint64_t rate = server.Copy(3'000);
  CHECK(rate >= (15u << 20));
  CHECK(rate <= (20u << 20));
}

TEST_CASE("clients that are slow by themselves do not stop it") {
  Server server;
  server.base_nanos = 20e6;  // a slow disk
  server.Alone(1'000);
  server.Copy(4'000);
  CHECK(server.pacer.bytes_per_second() > 400u << 20);
}

}  // namespace
}  // namespace tessera::sds
