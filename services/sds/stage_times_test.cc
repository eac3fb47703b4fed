// Stages at a server: the rules by themselves, and what a whole server says under a clock that the
// store moves.
#include "services/sds/stage_times.h"

#include <catch2/catch.hpp>

#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"
#include "services/sds/testing/test_store.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kGroup = kTestPool * 65536;
constexpr uint64_t kMicro = 1'000;
// Far above anything that a loaded machine adds.
constexpr uint64_t kStepMillis = 200'000;
constexpr uint32_t kStep = kStepMillis * 1'000;

TEST_CASE("stages follow each other from arrival to answer", "[stages]") {
  const Arrival arrival{.arrived_nanos = 1'000 * kMicro,
                        .away_nanos = 70 * kMicro,
                        .token_nanos = 20 * kMicro,
                        .begun_nanos = 0};
  const StoreWork work{
      .began_nanos = 1'050 * kMicro, .journal_nanos = 300 * kMicro, .ended_nanos = 1'350 * kMicro};
  v1::StageTimes times;
  CHECK(FillStageTimes(arrival, work, &times) == 1'350 * kMicro);
  CHECK(times.away_micros() == 70);
  CHECK(times.token_micros() == 20);
  CHECK(times.queue_micros() == 30);
  CHECK(times.journal_micros() == 300);
  CHECK(times.held_micros() == 0);
}

TEST_CASE("what was held is not queued", "[stages]") {
  const Arrival arrival{.arrived_nanos = 1'000 * kMicro,
                        .away_nanos = 0,
                        .token_nanos = 20 * kMicro,
                        .begun_nanos = 5'020 * kMicro};
  const StoreWork work{
      .began_nanos = 5'060 * kMicro, .memory_nanos = 10 * kMicro, .ended_nanos = 5'070 * kMicro};
  v1::StageTimes times;
  CHECK(FillStageTimes(arrival, work, &times) == 5'070 * kMicro);
  CHECK(times.held_micros() == 4'000);
  CHECK(times.queue_micros() == 40);
  CHECK(times.memory_micros() == 10);
}

TEST_CASE("what the store had nothing to do with has no queue", "[stages]") {
  v1::StageTimes times;
  const Arrival arrival{.arrived_nanos = 1'000 * kMicro, .token_nanos = 20 * kMicro};
  CHECK(FillStageTimes(arrival, {}, &times) == 1'020 * kMicro);
  CHECK(times.queue_micros() == 0);
  CHECK(times.token_micros() == 20);
}

TEST_CASE("a flush waits for the sync that was under way, and shares the next", "[stages]") {
  FlushTimeline timeline;
  CHECK(timeline.Done(100, 200) == 100);  // nothing was under way
  CHECK(timeline.Done(150, 300) == 200);  // it was asked for during that one
  CHECK(timeline.Done(180, 301) == 200);  // of the same sync
  CHECK(timeline.Done(250, 400) == 300);  // during the second, whose end was seen at 300
  CHECK(timeline.Done(900, 950) == 900);  // long after
}

struct Slow {
  explicit Slow(StoreFaults* faults)
      : sds(&mdm, "sds-a", FaultyStores(faults)), client(&mdm, &sds, NewGrant(mdm, 1, 5)) {
    mdm.Commit(GroupOf(kGroup, {{&sds, v1::REPLICA_ROLE_IN_SYNC}}));
    REQUIRE(sds.AwaitEpoch(kGroup, 1));
  }
  v1::StageTimes Send(const v1::IoOperation& operation, const std::string& data = "") {
    v1::IoRequest request;
    *request.add_operations() = operation;
    request.set_payload(data);
    const TestClient::Outcome outcome = client.Send(request);
    REQUIRE(outcome.results.size() == 1);
    REQUIRE(outcome.results.begin()->second.status() == v1::IO_STATUS_OK);
    REQUIRE(outcome.times.size() == 1);
    return outcome.times.begin()->second;
  }
  FakeMdm mdm;
  TestSds sds;
  TestClient client;
};

// All of them, but for how long the thread looked away.
uint64_t Sum(const v1::StageTimes& times) {
  return uint64_t{times.queue_micros()} + times.token_micros() + times.held_micros() +
         times.journal_micros() + times.memory_micros() + times.disk_micros() +
         times.flush_wait_micros() + times.flush_sync_micros() + times.reply_micros();
}

TEST_CASE("each answer says where the store's time went", "[stages]") {
  StoreFaults faults;
  Slow slow(&faults);
  const auto step = [&slow] { slow.sds.clock()->AdvanceMillis(kStepMillis); };
  const std::string data(4096, 'x');

  faults.during_apply = step;
  v1::StageTimes times = slow.Send(slow.client.NewWrite(kGroup, 0, 0, data), data);
  CHECK(times.journal_micros() >= kStep);
  CHECK(Sum(times) - times.journal_micros() < kStep);

  faults.during_read = step;
  times = slow.Send(slow.client.NewRead(kGroup, 0, 0, 4096));
  CHECK(times.memory_micros() >= kStep);
  CHECK(Sum(times) - times.memory_micros() < kStep);
  faults.never_cached = true;
  times = slow.Send(slow.client.NewRead(kGroup, 0, 0, 4096));
  CHECK(times.disk_micros() >= kStep);
  CHECK(Sum(times) - times.disk_micros() < kStep);

  faults.during_flush = step;
  times = slow.Send(slow.client.NewFlush(kGroup));
  CHECK(times.flush_sync_micros() >= kStep);
  CHECK(Sum(times) - times.flush_sync_micros() < kStep);
}

TEST_CASE("a write that is to be durable has the times of both", "[stages]") {
  StoreFaults faults;
  Slow slow(&faults);
  const auto step = [&slow] { slow.sds.clock()->AdvanceMillis(kStepMillis); };
  faults.during_apply = faults.during_flush = step;
  const std::string data(4096, 'x');
  v1::IoOperation write = slow.client.NewWrite(kGroup, 0, 0, data);
  write.set_force_unit_access(true);
  slow.client.Sign(&write);
  const v1::StageTimes times = slow.Send(write, data);
  CHECK(times.journal_micros() >= kStep);
  CHECK(times.flush_sync_micros() >= kStep);
  CHECK(Sum(times) - times.journal_micros() - times.flush_sync_micros() < kStep);
}

TEST_CASE("results of one message that had the same times are one run", "[stages]") {
  StoreFaults faults;
  Slow slow(&faults);
  v1::IoRequest request;
  std::string payload;
  for (uint32_t i = 0; i < 20; ++i) {
    const std::string data(4096, static_cast<char>('a' + i));
    *request.add_operations() = slow.client.NewWrite(kGroup, i % 3, i * 4096, data);
    payload += data;
  }
  for (uint32_t i = 0; i < 5; ++i) {
    *request.add_operations() = slow.client.NewRead(kGroup, i % 3, i * 4096, 4096);
  }
  request.set_payload(payload);
  const TestClient::Outcome outcome = slow.client.Send(request);
  REQUIRE(outcome.results.size() == 25);
  REQUIRE(outcome.times.size() == 25);  // each result has its times
  CHECK(outcome.runs == 2);
  const MetricRegistry::Labels journal{{"stage", "journal"}};
  (void)slow.sds.server()->registry()->Text();
  CHECK(slow.sds.server()->engine()->workers()[0]->stages() != nullptr);
}

}  // namespace
}  // namespace tessera::sds
