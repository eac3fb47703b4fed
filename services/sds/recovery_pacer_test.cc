// The pace of copying beside clients: a server in miniature whose clients are held up by chunks
// that are copied.
#include "services/sds/recovery_pacer.h"

#include <array>
#include <catch2/catch.hpp>
#include <random>

namespace tessera::sds {
namespace {

constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kChunk = 1u << 20;

// Clients at 1,000 operations a second. Each takes `base`, one of 500 ten times that; and an
// operation that comes while a chunk is copied takes `stall` more.
struct Server {
  RecoveryPacer pacer;
  std::mt19937_64 random{7};
  uint64_t now = 1'000 * kMillisecond;
  uint64_t base_nanos = 300'000;
  uint64_t stall_nanos = 0;
  double held_up_by_chunk = 1;  // operations
  bool clients = true;
  uint64_t operations = 0, held_up = 0;

  [[nodiscard]] bool Chance(double share) {
    return static_cast<double>(random() % 1'000'000) < share * 1e6;
  }

  // Copies as fast as it may; returns bytes a second.
  uint64_t Copy(uint64_t milliseconds) {
    const uint64_t end = now + milliseconds * kMillisecond;
    const uint64_t began = now;
    uint64_t copied = 0;
    uint64_t next_copy = now;
    operations = held_up = 0;
    while (now < end) {
      uint64_t chunks = 0;
      while (next_copy <= now) {
        copied += kChunk;
        ++chunks;
        next_copy =
            now + std::max<uint64_t>(pacer.Reserve(RecoveryPacer::Direction::kIn, kChunk, now), 1);
      }
      Clients(static_cast<double>(chunks) * held_up_by_chunk);
    }
    return copied * 1000 / ((now - began) / kMillisecond);
  }
  void Alone(uint64_t milliseconds) {
    for (uint64_t i = 0; i < milliseconds; ++i) Clients(0);
  }
  void Clients(double share) {
    now += kMillisecond;
    if (!clients) return;
    const bool stalls = Chance(share);
    const uint64_t takes = (Chance(0.002) ? 10 : 1) * base_nanos + (stalls ? stall_nanos : 0);
    ++operations;
    held_up += stalls ? 1 : 0;
    const std::array<uint64_t, 1> arrived = {now - takes};
    pacer.Observe(arrived, now);
  }
};

TEST_CASE("without clients copying is as fast as it can be") {
  Server server;
  server.clients = false;
  server.Copy(2'000);
  CHECK(server.pacer.bytes_per_second() > 1u << 30);
}

TEST_CASE("what clients take when nothing is copied is the measure") {
  Server server;
  server.Alone(20'000);
  CHECK(server.pacer.slow_nanos() > 600'000);
  CHECK(server.pacer.slow_nanos() < 1'200'000);
  server.base_nanos = 5'000'000;
  server.Alone(20'000);
  CHECK(server.pacer.slow_nanos() > 10'000'000);
}

TEST_CASE("clients that do not feel it let it grow") {
  Server server;
  server.Alone(5'000);
  server.Copy(40'000);
  CHECK(server.pacer.bytes_per_second() > 200u << 20);
}

TEST_CASE("clients that suffer make it yield: of 100 operations one is held up, at most") {
  Server server;
  server.stall_nanos = 3'000'000;
  server.held_up_by_chunk = 0.1;  // at 20 MiB/s one of 500
  server.Alone(5'000);
  server.Copy(20'000);
  const uint64_t rate = server.Copy(60'000);
  CHECK(static_cast<double>(server.held_up) < 0.01 * static_cast<double>(server.operations));
  // More than the floor, though one of 500 is slow by itself.
  CHECK(rate > 8u << 20);
  CHECK(rate < 60u << 20);
}

TEST_CASE("it never starves") {
  Server server;
  server.stall_nanos = 50'000'000;
  server.Alone(5'000);
  server.Copy(5'000);
  const uint64_t rate = server.Copy(10'000);
  CHECK(rate >= (5u << 20));
  CHECK(rate <= (9u << 20));
}

TEST_CASE("who writes small pieces does not wait for those who are handed chunks") {
  RecoveryPacer pacer;
  const uint64_t now = 1'000 * kMillisecond;
  for (int i = 0; i < 8; ++i) {
    (void)pacer.Reserve(RecoveryPacer::Direction::kOut, kChunk, now);
  }
  CHECK(pacer.Reserve(RecoveryPacer::Direction::kIn, 64 << 10, now) == 0);
  CHECK(pacer.Reserve(RecoveryPacer::Direction::kIn, 64 << 10, now) < 12 * kMillisecond);
  CHECK(pacer.Reserve(RecoveryPacer::Direction::kOut, kChunk, now) > 900 * kMillisecond);
}

TEST_CASE("clients that are slow by themselves do not stop it") {
  Server server;
  server.base_nanos = 20'000'000;  // a slow disk
  server.Alone(20'000);
  server.Copy(120'000);
  CHECK(server.pacer.bytes_per_second() > 200u << 20);
}

}  // namespace
}  // namespace tessera::sds
