// Clients that exceed their limits, at one server: rules under a time of the test's own, and a
// whole server. Where real time passes, only that no less passes than must is asserted.
#include "services/sds/client_limits.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "services/common/clock.h"
#include "services/sds/held_operations.h"
#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kMilli = 1'000'000;
constexpr uint64_t kGroup = kTestPool * 65536;
constexpr IoCost kOne{1, 4096};

token::Grant Limited(uint32_t iops, uint64_t issued_ms, uint64_t volume_id = 1,
                     uint64_t sdc_id = 2) {
  token::Grant grant;
  grant.grant_id = 1000 * volume_id + issued_ms;
  grant.volume_id = volume_id;
  grant.sdc_id = sdc_id;
  grant.iops_limit = iops;
  grant.burst_seconds = 1;
  grant.issued_ms = issued_ms;
  return grant;
}

// Operations that may begin at once.
int BeginAtOnce(ClientLimit* limit, uint64_t now) {
  for (int begun = 0; begun < 100'000; ++begun) {
    const ClientLimit::Decision decision = limit->Admit(kOne, false, now);
    if (decision.refused || decision.begin_nanos > now) return begun;
  }
  return 100'000;
}

TEST_CASE("an honest client never waits at a server, wherever its load is", "[limits]") {
  ClientLimits limits;
  ClientLimit& limit = *limits.Find(Limited(100, 1), 0).limit;
  RateLimiter own;
  own.Configure({100, 0, 1}, 0);
  uint64_t now = 0;
  uint64_t sent = 0;
  while (now < 60 * kSecond) {
    if (const uint64_t wait = own.Pass(kOne, now); wait > 0) {
      now += wait;
      continue;
    }
    // Some arrive late, and together with what comes after.
    const uint64_t arrival = now + (++sent % 200 < 20 ? 300 * kMilli : 0);
    REQUIRE(limit.Admit(kOne, false, arrival).begin_nanos <= arrival);
  }
}

TEST_CASE("a bucket follows its client from grant to grant, and over streams", "[limits]") {
  ClientLimits limits;
  const auto first = limits.Find(Limited(100, 1), 0).limit;
  CHECK(BeginAtOnce(first.get(), 0) == 166);  // 1.1 * 100 * 1.5, and one into debt
  const auto renewed = limits.Find(Limited(100, 2), 0).limit;
  CHECK(renewed == first);
  CHECK(BeginAtOnce(renewed.get(), 0) == 0);
  // Another client and another volume have their own.
  CHECK(BeginAtOnce(limits.Find(Limited(100, 1, 1, 3), 0).limit.get(), 0) == 166);
  CHECK(BeginAtOnce(limits.Find(Limited(100, 1, 9, 2), 0).limit.get(), 0) == 166);
  CHECK(limits.size() == 3);
}

TEST_CASE("the newest grant counts, not the most generous one", "[limits]") {
  ClientLimits limits;
  const auto limit = limits.Find(Limited(1'000, 5), 0).limit;
  (void)limits.Find(Limited(10, 6), 0);
  (void)limits.Find(Limited(1'000, 5), 0);
  CHECK(BeginAtOnce(limit.get(), 0) <= 17);
  // Limits taken away: what is known of the client stays.
  CHECK(limits.Find(Limited(0, 7), 0).limit == limit);
  CHECK(BeginAtOnce(limit.get(), 0) == 100'000);
}

TEST_CASE("clients without limits and one-time tokens have no entry", "[limits]") {
  ClientLimits limits;
  CHECK(limits.Find(Limited(0, 1), 0).limit == nullptr);
  CHECK(limits.Find(Limited(100, 1, 1, 0), 0).limit == nullptr);
  CHECK(limits.size() == 0);
}

TEST_CASE("the table is bounded, and forgets what says nothing", "[limits]") {
  ClientLimits limits(2);
  (void)limits.Find(Limited(100, 1, 1), 0);
  (void)limits.Find(Limited(100, 1, 2), 0).limit->Admit({1'000, 0}, false, 0);
  CHECK_FALSE(limits.Find(Limited(100, 1, 3), 0).full);  // 1 was full
  CHECK(limits.size() == 2);
  (void)limits.Find(Limited(100, 1, 3), 0).limit->Admit({1'000, 0}, false, 0);
  CHECK(limits.Find(Limited(100, 1, 4), 0).full);
  CHECK_FALSE(limits.Find(Limited(100, 1, 4), 60 * kSecond).full);
}

TEST_CASE("a cap comes and goes, also for who shows a grant without limits", "[limits]") {
  ClientLimits limits;
  const uint64_t before = limits.version();
  v1::ClientCap cap;
  cap.set_volume_id(1);
  cap.set_sdc_id(2);
  cap.set_operations_per_second(10);
  limits.SetCaps(std::vector{cap}, 0);
  CHECK(limits.version() > before);  // streams look again
  const auto limit = limits.Find(Limited(0, 1), 0).limit;
  REQUIRE(limit != nullptr);
  CHECK(BeginAtOnce(limit.get(), 0) <= 11);
  limits.SetCaps(std::vector{cap}, 0);
  CHECK(BeginAtOnce(limit.get(), 0) == 0);
  limits.SetCaps({}, 0);
  CHECK(BeginAtOnce(limit.get(), 0) == 100'000);
}

TEST_CASE("nothing waits for longer than a second", "[limits]") {
  ClientLimits limits;
  ClientLimit& limit = *limits.Find(Limited(10, 1), 0).limit;
  int admitted = 0;
  while (true) {
    const ClientLimit::Decision decision = limit.Admit(kOne, admitted > 0, 0);
    if (decision.refused) break;
    REQUIRE(decision.begin_nanos <= ClientLimit::kWaitMaxNanos);
    ++admitted;
  }
  CHECK(admitted <= 11 * 1.5 + 11 + 1);
  // What costs nothing is never refused: it keeps its place.
  CHECK_FALSE(limit.Admit({}, true, 0).refused);
}

// ---- The queues.

struct NoClient final : IoClient {
  void Deliver(IoResponseFrame) override {}
  void Release(size_t bytes) override { released += bytes; }
  void Break(const absl::Status&) override {}
  size_t released = 0;
};

struct QueueFixture {
  QueueFixture() {
    limited->grant = Limited(10, 1, 1);
    limited->limit = limits.Find(limited->grant, 0).limit;
    BeginAtOnce(limited->limit.get(), 0);
    free->grant = Limited(0, 1, 2);
  }
  // A message with one operation.
  IoOperationRef Message(const std::shared_ptr<ShownGrant>& grant, v1::IoOperationType type,
                         size_t bytes = 5'000) {
    IoOperationRef operation;
    operation.batch = std::make_shared<RequestBatch>(session, bytes);
    v1::IoOperation* what = operation.batch->frame.header.add_operations();
    what->set_type(type);
    what->set_tag(++tag);
    what->set_length_bytes(type == v1::IO_OPERATION_TYPE_FLUSH ? 0 : 4096);
    operation.operation = what;
    operation.grant = grant;
    return operation;
  }
  HeldOperations::Outcome Offer(IoOperationRef operation, uint64_t now) {
    return held.Offer(&operation, now);
  }
  static std::shared_ptr<ShownGrant> NewShown() {
    return std::make_shared<ShownGrant>(
        ShownGrant{.bytes = {}, .grant = {}, .key = token::GrantKey::FromBytes({})});
  }

  MetricRegistry registry{"test"};
  SdsMetrics metrics{&registry};
  ClientLimits limits;
  std::shared_ptr<NoClient> client = std::make_shared<NoClient>();
  std::shared_ptr<ClientSession> session = std::make_shared<ClientSession>(client);
  std::shared_ptr<ShownGrant> limited = NewShown();
  std::shared_ptr<ShownGrant> free = NewShown();
  uint64_t tag = 0;
  std::vector<uint64_t> begun;
  absl::Duration wake = absl::InfiniteDuration();
  HeldOperations held{&metrics,
                      [this](IoOperationRef operation) {
                        begun.push_back(operation.operation->tag());
                        CHECK(operation.admitted_nanos > 0);
                      },
                      [this](absl::Duration delay) { wake = delay; }};
};

using Outcome = HeldOperations::Outcome;

TEST_CASE_METHOD(QueueFixture, "held operations begin in order, what costs nothing among them",
                 "[limits]") {
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_WRITE), 0) == Outcome::kHeld);
  CHECK(wake > absl::ZeroDuration());
  CHECK(wake <= absl::Milliseconds(200));
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_FLUSH), 0) == Outcome::kHeld);
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_POSITION), 0) == Outcome::kHeld);
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_READ), 0) == Outcome::kHeld);
  held.ReleaseDue(1);
  CHECK(begun.empty());
  // A later one has its turn by its cost, but not before the others.
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_FLUSH), 900 * kMilli) == Outcome::kHeld);
  held.ReleaseDue(900 * kMilli);
  CHECK(begun == std::vector<uint64_t>{1, 2, 3, 4, 5});
  CHECK(held.size() == 0);
  CHECK(session->held_bytes == 0);
  CHECK(client->released == 5 * 5'000);
  // Nobody waits: the next goes by itself.
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_WRITE), 3 * kSecond) == Outcome::kBegin);
}

TEST_CASE_METHOD(QueueFixture, "other volumes of the stream go on", "[limits]") {
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_WRITE), 0) == Outcome::kHeld);
  CHECK(Offer(Message(free, v1::IO_OPERATION_TYPE_WRITE), 0) == Outcome::kBegin);
  const auto other = NewShown();
  other->grant = Limited(100, 1, 3);
  other->limit = limits.Find(other->grant, 0).limit;
  CHECK(Offer(Message(other, v1::IO_OPERATION_TYPE_WRITE), 0) == Outcome::kBegin);
}

TEST_CASE_METHOD(QueueFixture, "an earlier turn of another client is not slept through",
                 "[limits]") {
  for (int i = 0; i < 5; ++i) (void)Offer(Message(limited, v1::IO_OPERATION_TYPE_WRITE), 0);
  const auto other = NewShown();
  other->grant = Limited(1'000, 1, 3);
  other->limit = limits.Find(other->grant, 0).limit;
  BeginAtOnce(other->limit.get(), 0);
  const absl::Duration before = wake;
  CHECK(Offer(Message(other, v1::IO_OPERATION_TYPE_WRITE), 0) == Outcome::kHeld);
  CHECK(wake < before);
}

TEST_CASE_METHOD(QueueFixture, "what is kept of one client is bounded, and the rest refused",
                 "[limits]") {
  constexpr size_t kMessage = 3u << 20;
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_WRITE, kMessage), 0) == Outcome::kHeld);
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_WRITE, kMessage), 0) == Outcome::kHeld);
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_WRITE, kMessage), 0) == Outcome::kRefused);
  CHECK(session->held_bytes == 2 * kMessage);
  // Another stream of the client has no more room.
  const auto own = session;
  session = std::make_shared<ClientSession>(client);
  CHECK(Offer(Message(limited, v1::IO_OPERATION_TYPE_WRITE, kMessage), 0) == Outcome::kRefused);
  session = own;
  // By time, too.
  int held_now = 2;
  while (Offer(Message(limited, v1::IO_OPERATION_TYPE_WRITE, 100), 0) == Outcome::kHeld) ++held_now;
  CHECK(held_now <= 12);
  CHECK(metrics.limit_refused->Value() == 3);
  held.End(1);
  CHECK(begun.size() == static_cast<size_t>(held_now));
  CHECK(session->held_bytes == 0);
  CHECK(limited->limit->Hold(ClientLimit::kHeldBytesMax));
}

// ---- A whole server.

struct Server {
  explicit Server(uint32_t iops) : client(&mdm, &sds, MakeGrant(iops)) {
    mdm.Commit(GroupOf(kGroup, {{&sds, v1::REPLICA_ROLE_IN_SYNC}}));
    REQUIRE(sds.AwaitEpoch(kGroup, 1));
  }
  token::Grant MakeGrant(uint32_t iops) {
    token::Grant grant = NewGrant(mdm, 1, 5);
    grant.iops_limit = iops;
    grant.burst_seconds = 1;
    return grant;
  }
  // Writes in one message; how many were done, and how many refused because there were too many.
  std::pair<int, int> Write(int count) {
    v1::IoRequest request;
    std::string payload;
    for (int i = 0; i < count; ++i) {
      const std::string data(4096, static_cast<char>('a' + i % 26));
      *request.add_operations() =
          client.NewWrite(kGroup, 0, static_cast<uint32_t>(4096 * (i % 64)), data);
      payload += data;
    }
    request.set_payload(payload);
    int done = 0;
    int refused = 0;
    for (const auto& [tag, result] : client.Send(request).results) {
      done += result.status() == v1::IO_STATUS_OK ? 1 : 0;
      refused += result.status() == v1::IO_STATUS_OVERLOADED ? 1 : 0;
    }
    return {done, refused};
  }
  double Seconds() { return static_cast<double>(clock.BootNanos() - began) * 1e-9; }

  SystemClock clock;
  uint64_t began = clock.BootNanos();
  FakeMdm mdm;
  TestSds sds{&mdm, "sds-a"};
  TestClient client;
};

TEST_CASE("a server holds a client that ignores its limit, in order and over renewals",
          "[limits]") {
  Server server(20);
  server.began = server.clock.BootNanos();
  // 33 at once and one into debt, then 22 a second.
  CHECK(server.Write(50) == std::pair{50, 0});
  CHECK(server.Seconds() >= 16 / 22.0);
  ++server.client.grant.issued_ms;
  server.client.Show();
  CHECK(server.Write(11) == std::pair{11, 0});
  CHECK(server.Seconds() >= 27 / 22.0);
  server.client.Connect();
  server.client.Show();
  CHECK(server.Write(11) == std::pair{11, 0});
  CHECK(server.Seconds() >= 38 / 22.0);
  CHECK(server.sds.server()->metrics()->limit_held_seconds->Collect().histogram.sample_count > 0);
}

TEST_CASE("beyond a second's worth a server refuses", "[limits]") {
  Server server(10);
  const auto [done, refused] = server.Write(200);
  CHECK(done >= 17);
  CHECK(done < 60);
  CHECK(refused > 100);
  CHECK(server.sds.server()->metrics()->limit_refused->Value() == refused);
}

TEST_CASE("a cap of the MDM holds a client whose grant has no limits", "[limits]") {
  Server server(0);
  CHECK(server.Write(200) == std::pair{200, 0});
  v1::ClientCap cap;
  cap.set_volume_id(1);
  cap.set_sdc_id(server.client.grant.sdc_id);
  cap.set_operations_per_second(10);
  server.mdm.SetClientCaps({cap});
  server.mdm.AwaitHeartbeat(server.sds.id());
  server.began = server.clock.BootNanos();
  CHECK(server.Write(15) == std::pair{15, 0});
  CHECK(server.Seconds() >= 4 / 10.0);
  server.mdm.SetClientCaps({});
  server.mdm.AwaitHeartbeat(server.sds.id());
  CHECK(server.Write(200) == std::pair{200, 0});
}

TEST_CASE("a report says what counts, and of a write the part of one replica", "[limits]") {
  FakeMdm mdm;
  TestSds a(&mdm, "sds-a");
  TestSds b(&mdm, "sds-b");
  mdm.Commit(GroupOf(kGroup, {{&a, v1::REPLICA_ROLE_IN_SYNC}, {&b, v1::REPLICA_ROLE_IN_SYNC}}));
  REQUIRE(a.AwaitEpoch(kGroup, 1));
  TestClient client(&mdm, &a, NewGrant(mdm, 1, 5));
  REQUIRE(client.Write(kGroup, 0, 0, std::string(8192, 'x')) == v1::IO_STATUS_OK);
  REQUIRE(client.Read(kGroup, 0, 0, 4096).first == v1::IO_STATUS_OK);
  v1::IoOperation trim = client.NewWrite(kGroup, 0, 0, std::string(4096, '0'));
  trim.set_type(v1::IO_OPERATION_TYPE_TRIM);
  trim.set_data_crc32c(0);
  client.Sign(&trim);
  REQUIRE(client.SendOne(trim).status() == v1::IO_STATUS_OK);
  REQUIRE(client.SendOne(client.NewFlush(kGroup)).status() == v1::IO_STATUS_OK);
  double counted = 0;
  uint64_t counted_bytes = 0;
  double of_client = 0;
  double of_client_bytes = 0;
  for (int i = 0; i < 200 && counted < 2.01; ++i) {
    mdm.AwaitHeartbeat(a.id());
    counted = of_client = of_client_bytes = 0;
    counted_bytes = 0;
    for (const v1::TokenAck& ack : mdm.NodeOf(a.id()).acks) {
      counted += ack.counted_operations();
      counted_bytes += ack.counted_bytes();
      of_client += ack.client_operations();
      of_client_bytes += ack.client_bytes();
    }
  }
  CHECK(counted == Approx(2 + 1.0 / 64));
  CHECK(counted_bytes == 8192 + 4096);
  CHECK(of_client == Approx(0.5 + 1 + 0.5 / 64));
  CHECK(of_client_bytes == Approx(4096 + 4096));
}

}  // namespace
}  // namespace tessera::sds
