// Limits: what clients that are slow, silent, greedy or many can and cannot do to the server.
#include <sys/socket.h>
#include <sys/time.h>

#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <vector>

#include "services/sdc/nbd/server_fixture.h"

namespace tessera::sdc::nbd {
namespace {

using std::chrono::milliseconds;

RequestHeader Header(WireCommand command, uint64_t cookie, uint64_t offset, uint32_t length) {
  return {0, command, cookie, offset, length};
}

TEST_CASE("Options that make no sense are refused") {
  EventLoop loop;
  MemoryExportTable exports;
  NbdServerOptions options;
  options.maximum_connections = 0;
  CHECK(NbdServer::Create(loop, exports, options).status().code() ==
        absl::StatusCode::kInvalidArgument);
  options = {};
  options.handshake_timeout = milliseconds(0);
  CHECK(NbdServer::Create(loop, exports, options).status().code() ==
        absl::StatusCode::kInvalidArgument);
  options = {};
  options.tls_mode = TlsMode::kRequired;
  options.tls_files.certificate_chain = "/does/not/exist";
  CHECK(NbdServer::Create(loop, exports, options).status().code() ==
        absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("Connections over the limit are closed at once, and places are given again") {
  NbdServerOptions options;
  options.maximum_connections = 2;
  ServerFixture f(options);
  {
    TestClient first = f.Enter();
    TestClient second = f.Enter();
    TestClient third = TestClient::Tcp(f.port);
    CHECK(third.AtEnd());
    CHECK(first.Do(Header(WireCommand::kRead, 1, 0, 1)) == 0u);
  }
  REQUIRE(f.Eventually([&] { return f.server->stats().connections_open == 0; }));
  CHECK(f.Serves());
  CHECK(f.server->stats().connections_refused == 1);
}

TEST_CASE("A handshake that does not come to an end is cut off, wherever it stands") {
  NbdServerOptions options;
  options.handshake_timeout = milliseconds(50);
  ServerFixture f(options);
  TestClient silent = TestClient::Tcp(f.port);
  TestClient greeted = TestClient::Tcp(f.port);
  REQUIRE(greeted.Greet());
  TestClient halfway = TestClient::Tcp(f.port);
  REQUIRE(halfway.Greet());
  REQUIRE(halfway.Send(EncodeOption(Option::kGo, InfoData("disk")).substr(0, 20)));
  TestClient served = f.Enter();
  CHECK(silent.Receive(19).size() == 18);  // the greeting and then the end
  CHECK(greeted.AtEnd());
  CHECK(halfway.AtEnd());
  CHECK(served.Do(Header(WireCommand::kRead, 1, 0, 1)) == 0u);
  CHECK(f.server->stats().connections_timed_out == 3);
}

TEST_CASE("Idle clients are let go if that is wanted, busy ones are not") {
  NbdServerOptions options;
  options.idle_timeout = milliseconds(40);
  options.sweep_period = milliseconds(10);
  ServerFixture f(options);
  TestClient idle = f.Enter();
  TestClient waiting = f.Enter();
  f.OnLoop([&] { f.device->Hold(); });
  REQUIRE(waiting.SendRequest(Header(WireCommand::kRead, 1, 0, 4)));
  CHECK(idle.AtEnd());
  f.OnLoop([&] { f.device->Release(); });
  CHECK(waiting.ReceiveSimple()->error == 0);
}

TEST_CASE("Half a request and then silence blocks nobody else") {
  ServerFixture f;
  TestClient header = f.Enter();
  REQUIRE(header.Send(EncodeRequest(Header(WireCommand::kRead, 1, 0, 4)).substr(0, 13)));
  TestClient payload = f.Enter();
  REQUIRE(payload.Send(EncodeRequest(Header(WireCommand::kWrite, 1, 0, 32 << 20)) + "a little"));
  for (int i = 0; i < 10; ++i) CHECK(f.Serves());
}

TEST_CASE("Requests over the limit wait in the socket until replies have gone") {
  NbdServerOptions options;
  options.connection_inflight_requests = 8;
  ServerFixture f(options);
  f.OnLoop([&] { f.device->Hold(); });
  TestClient client = f.Enter();
  for (uint64_t cookie = 0; cookie < 100; ++cookie) {
    REQUIRE(client.SendRequest(Header(WireCommand::kFlush, cookie, 0, 0)));
  }
  REQUIRE(f.Eventually([&] { return f.device->pending() == 8; }));
  CHECK(f.server->stats().inflight_requests == 8);
  f.OnLoop([&] { f.device->Release(); });
  for (uint64_t cookie = 0; cookie < 100; ++cookie) {
    const auto reply = client.ReceiveSimple();
    REQUIRE(reply.has_value());
    CHECK(reply->cookie == cookie);
  }
}

TEST_CASE("Bytes in flight are bounded for one connection, and a long request alone gets in") {
  NbdServerOptions options;
  options.connection_inflight_bytes = 100000;
  ServerFixture f(options);
  f.OnLoop([&] { f.device->Hold(); });
  TestClient client = f.Enter();
  for (uint64_t cookie = 0; cookie < 10; ++cookie) {
    REQUIRE(client.SendRequest(Header(WireCommand::kRead, cookie, 0, 30000)));
  }
  REQUIRE(f.Eventually([&] { return f.device->pending() == 3; }));
  CHECK(f.server->stats().inflight_bytes == 90000);
  f.OnLoop([&] { f.device->Release(); });
  for (uint64_t cookie = 0; cookie < 10; ++cookie) {
    CHECK(client.ReceiveSimple()->error == 0);
    CHECK(client.Receive(30000).size() == 30000);
  }
  CHECK(client.Do(Header(WireCommand::kRead, 11, 0, 5000000)) == 0u);
}

TEST_CASE("A flood of requests by a client that never reads is bounded and harms nobody") {
  NbdServerOptions options;
  options.connection_inflight_bytes = 1 << 20;
  options.connection_inflight_requests = 64;
  ServerFixture f(options);
  TestClient flood = f.Enter();
  const timeval patience{0, 100000};
  ::setsockopt(flood.descriptor(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  std::string requests;
  for (uint64_t i = 0; i < 1000; ++i) {
    requests += EncodeRequest(Header(WireCommand::kRead, i, 0, 65536));
    requests += EncodeRequest(Header(static_cast<WireCommand>(99), i, 0, 0));
  }
  while (flood.Send(requests)) {
  }
  CHECK(f.server->stats().inflight_requests <= 64);
  CHECK(f.server->stats().inflight_bytes <= 1 << 20);
  CHECK(f.Serves());
}

TEST_CASE("A client that floods the handshake with options and reads nothing is not listened to") {
  ServerFixture f;
  TestClient client = TestClient::Tcp(f.port);
  REQUIRE(client.Send(Bytes().Number<uint32_t>(3).text()));
  std::string lists;
  for (int i = 0; i < 3000; ++i) lists += EncodeOption(Option::kList, "");
  (void)client.Send(lists);
  CHECK(f.Serves());
  client.FinishSending();
  while (client.Receive(4096).size() == 4096) {
  }
  CHECK(client.AtEnd());
}

TEST_CASE(
    "When all connections together are at the limit, small requests still get in, and long "
    "ones wait for their turn") {
  NbdServerOptions options;
  options.total_inflight_bytes = 1 << 20;
  ServerFixture f(options);
  f.OnLoop([&] { f.device->Hold(); });
  TestClient greedy = f.Enter();
  REQUIRE(greedy.SendRequest(Header(WireCommand::kRead, 1, 0, 1 << 20)));
  REQUIRE(f.Eventually([&] { return f.device->pending() == 1; }));
  TestClient small = f.Enter();
  TestClient large = f.Enter();
  REQUIRE(small.SendRequest(Header(WireCommand::kRead, 2, 0, 4096)));
  REQUIRE(large.SendRequest(Header(WireCommand::kRead, 3, 0, 1 << 20)));
  REQUIRE(f.Eventually([&] { return f.device->pending() == 2; }));
  f.OnLoop([&] { f.device->Release(); });
  CHECK(small.ReceiveSimple()->error == 0);
  CHECK(greedy.ReceiveSimple()->error == 0);
  CHECK(greedy.Receive(1 << 20).size() == 1 << 20);
  CHECK(large.ReceiveSimple()->error == 0);
  CHECK(large.Receive(1 << 20).size() == 1 << 20);
}

TEST_CASE("A client that stalls while memory is short is disconnected, and others go on") {
  NbdServerOptions options;
  options.total_inflight_bytes = 16 << 20;
  options.connection_inflight_bytes = 16 << 20;
  options.stall_timeout = milliseconds(50);
  options.sweep_period = milliseconds(10);
  ServerFixture f(options);
  TestClient stalled = f.Enter();
  REQUIRE(stalled.Send(EncodeRequest(Header(WireCommand::kWrite, 1, 0, 16 << 20)) + "a little"));
  REQUIRE(f.Eventually([&] { return f.server->stats().inflight_bytes == 16 << 20; }));
  TestClient good = f.Enter();
  CHECK(good.Do(Header(WireCommand::kRead, 1, 0, 1 << 20)) == 0u);
  CHECK(stalled.AtEnd());
  CHECK(f.server->stats().connections_timed_out == 1);
}

TEST_CASE("Random bytes in either phase end in an answer or a disconnect, never in the server") {
  const uint64_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  ServerFixture f;
  for (int round = 0; round < 200; ++round) {
    TestClient client = TestClient::Tcp(f.port);
    if (round % 2 == 0) REQUIRE(client.Enter("disk", round % 4 == 0));
    std::string garbage(random() % 3000, '\0');
    for (char& byte : garbage) byte = static_cast<char>(random());
    if (round % 3 == 0) garbage.insert(0, EncodeRequest(Header(WireCommand::kRead, 1, 0, 10)));
    (void)client.Send(garbage);
  }
  CHECK(f.Serves());
  CHECK(f.Eventually([&] { return f.server->stats().connections_open == 0; }));
}

}  // namespace
}  // namespace tessera::sdc::nbd
