// The server over real sockets: commands, replies, and the ways in which a connection ends.
#include "services/sdc/nbd/nbd_server.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <set>
#include <string>

#include "services/sdc/nbd/server_fixture.h"

namespace tessera::sdc::nbd {
namespace {

RequestHeader Header(WireCommand command, uint64_t cookie, uint64_t offset, uint32_t length,
                     uint16_t flags = 0) {
  return {flags, command, cookie, offset, length};
}

uint32_t ErrorOf(const TestClient::Chunk& chunk) {
  REQUIRE(chunk.data.size() >= 6);
  return LoadBig<uint32_t>(reinterpret_cast<const std::byte*>(chunk.data.data()));
}

TEST_CASE("What is written is read back, on this connection and on another") {
  ServerFixture f;
  TestClient client = f.Enter();
  TestClient other = f.Enter();
  const std::string data(100001, 'd');
  CHECK(client.Do(Header(WireCommand::kWrite, 1, 777, 100001), data) == 0u);
  std::string read;
  CHECK(other.Do(Header(WireCommand::kRead, 2, 777, 100001), {}, &read) == 0u);
  CHECK(read == data);
  CHECK(client.Do(Header(WireCommand::kFlush, 3, 0, 0)) == 0u);
  CHECK(client.Do(Header(WireCommand::kWrite, 4, 0, 1, kCommandFlagFua), "x") == 0u);
  f.OnLoop([&] {
    CHECK(f.device->flushes() == 1);
    CHECK(f.device->forced_writes() == 1);
  });
}

TEST_CASE("A flush names the connection that it came on, which is closed with it") {
  ServerFixture f;
  std::vector<std::shared_ptr<LossCursor>> clients;
  f.OnLoop([&] {
    f.device->SetFault([&clients](const BlockRequest& request) {
      if (request.command == Command::kFlush) clients.push_back(request.client);
      return 0;
    });
  });
  TestClient client = f.Enter();
  {
    TestClient other = f.Enter();
    CHECK(client.Do(Header(WireCommand::kFlush, 1, 0, 0)) == 0u);
    CHECK(other.Do(Header(WireCommand::kFlush, 2, 0, 0)) == 0u);
    CHECK(client.Do(Header(WireCommand::kFlush, 3, 0, 0)) == 0u);
  }
  CHECK(f.Eventually([&] { return f.server->stats().connections_open == 1; }));
  f.OnLoop([&] {
    REQUIRE(clients.size() == 3);
    REQUIRE(clients[0] != nullptr);
    REQUIRE(clients[1] != nullptr);
    CHECK(clients[0] == clients[2]);
    CHECK(clients[0] != clients[1]);
    CHECK_FALSE(clients[0]->closed);
    CHECK(clients[1]->closed);
    f.device->SetFault(nullptr);
  });
}

TEST_CASE("Trim and write zeroes read as zeros; cache does nothing and succeeds") {
  ServerFixture f;
  TestClient client = f.Enter();
  std::string read;
  for (const auto command : {WireCommand::kTrim, WireCommand::kWriteZeroes}) {
    CHECK(client.Do(Header(WireCommand::kWrite, 1, 0, 100000), std::string(100000, 'x')) == 0u);
    CHECK(client.Do(Header(command, 2, 10, 99980)) == 0u);
    CHECK(client.Do(Header(WireCommand::kRead, 3, 0, 100000), {}, &read) == 0u);
    CHECK(read == std::string(10, 'x') + std::string(99980, '\0') + std::string(10, 'x'));
  }
  CHECK(client.Do(Header(WireCommand::kCache, 4, 0, 1 << 20)) == 0u);
}

TEST_CASE("A structured read is one data chunk at its offset") {
  ServerFixture f;
  TestClient client = f.Enter(true);
  REQUIRE(client.SendRequest(Header(WireCommand::kWrite, 1, 4096, 3), "abc"));
  CHECK(client.ReceiveSimple()->error == 0);
  for (const uint16_t flags : {uint16_t{0}, uint16_t{kCommandFlagDontFragment}}) {
    REQUIRE(client.SendRequest(Header(WireCommand::kRead, 2, 4096, 3, flags)));
    const auto chunk = client.ReceiveChunk();
    REQUIRE(chunk.has_value());
    CHECK(chunk->flags == kReplyFlagDone);
    CHECK(chunk->type == ReplyChunk::kOffsetData);
    CHECK(chunk->cookie == 2);
    CHECK(chunk->data == Bytes().Number<uint64_t>(4096).Text("abc").text());
  }
  REQUIRE(client.SendRequest(Header(WireCommand::kRead, 3, 0, 0)));
  CHECK(client.ReceiveChunk()->type == ReplyChunk::kNone);
}

TEST_CASE("Block status tells holes from data; one extent when one is asked for") {
  ServerFixture f;
  TestClient client = f.Enter(true);
  const auto page = static_cast<uint32_t>(MemoryDevice::kPageBytes);
  REQUIRE(client.SendRequest(Header(WireCommand::kWrite, 1, page, 3), "abc"));
  CHECK(client.ReceiveSimple()->error == 0);
  const auto extents = [&](uint16_t flags) {
    REQUIRE(client.SendRequest(Header(WireCommand::kBlockStatus, 2, 0, 4 * page, flags)));
    const auto chunk = client.ReceiveChunk();
    REQUIRE(chunk.has_value());
    CHECK(chunk->type == ReplyChunk::kBlockStatus);
    return chunk->data.substr(4);
  };
  CHECK(extents(0) == Bytes()
                          .Number(page)
                          .Number<uint32_t>(3)
                          .Number(page)
                          .Number<uint32_t>(0)
                          .Number(2 * page)
                          .Number<uint32_t>(3)
                          .text());
  CHECK(extents(kCommandFlagRequestOne) == Bytes().Number(page).Number<uint32_t>(3).text());
}

TEST_CASE("Refused requests get their error and the connection goes on") {
  ServerFixture f;
  TestClient client = f.Enter();
  const uint64_t end = ServerFixture::kSize;
  CHECK(client.Do(Header(WireCommand::kRead, 1, end, 1)) == uint32_t{EINVAL});
  CHECK(client.Do(Header(WireCommand::kWrite, 2, end - 1, 2), "xy") == uint32_t{ENOSPC});
  CHECK(client.Do(Header(WireCommand::kWrite, 3, UINT64_MAX, 9), "123456789") == uint32_t{ENOSPC});
  CHECK(client.Do(Header(static_cast<WireCommand>(42), 4, 0, 0)) == uint32_t{EINVAL});
  CHECK(client.Do(Header(WireCommand::kRead, 5, 0, 1, 0x8000)) == uint32_t{EINVAL});
  CHECK(client.Do(Header(WireCommand::kBlockStatus, 6, 0, 512)) == uint32_t{EINVAL});
  CHECK(client.Do(Header(WireCommand::kResize, 7, 0, 512)) == uint32_t{EINVAL});
  CHECK(client.Do(Header(WireCommand::kRead, 8, 0, 512)) == 0u);
  const NbdServerStats stats = f.server->stats();
  CHECK(stats.requests_refused == 7);
  CHECK(stats.requests[static_cast<size_t>(Command::kRead)] == 1);
  CHECK(stats.errors[3] == 5);  // EINVAL
  CHECK(stats.errors[4] == 2);  // ENOSPC
}

TEST_CASE("Structured errors carry a message, and an offset where the command has a range") {
  ServerFixture f;
  TestClient client = f.Enter(true);
  const uint64_t end = ServerFixture::kSize;
  REQUIRE(client.SendRequest(Header(WireCommand::kRead, 1, end - 4, 8)));
  auto chunk = client.ReceiveChunk();
  REQUIRE(chunk.has_value());
  CHECK(chunk->type == ReplyChunk::kErrorOffset);
  CHECK(ErrorOf(*chunk) == EINVAL);
  CHECK(chunk->data.substr(chunk->data.size() - 8) == Bytes().Number(end).text());
  CHECK(chunk->data.find("past the end") != std::string::npos);
  REQUIRE(client.SendRequest(Header(static_cast<WireCommand>(42), 2, 0, 0)));
  chunk = client.ReceiveChunk();
  REQUIRE(chunk.has_value());
  CHECK(chunk->type == ReplyChunk::kError);
}

TEST_CASE("A device's errors reach the client, mapped to what NBD knows") {
  ServerFixture f;
  int error = 0;
  f.OnLoop([&] { f.device->SetFault([&error](const BlockRequest&) { return error; }); });
  TestClient client = f.Enter();
  TestClient structured = f.Enter(true);
  for (const auto& [device_error, wire_error] :
       {std::pair{EIO, EIO}, {EDQUOT, ENOSPC}, {ETIMEDOUT, EIO}, {ENOTSUP, ENOTSUP}}) {
    f.OnLoop([&, device_error = device_error] { error = device_error; });
    CHECK(client.Do(Header(WireCommand::kRead, 1, 0, 512)) == static_cast<uint32_t>(wire_error));
    CHECK(client.Do(Header(WireCommand::kWrite, 2, 0, 3), "abc") ==
          static_cast<uint32_t>(wire_error));
    CHECK(client.Do(Header(WireCommand::kFlush, 3, 0, 0)) == static_cast<uint32_t>(wire_error));
    REQUIRE(structured.SendRequest(Header(WireCommand::kRead, 4, 512, 512)));
    const auto chunk = structured.ReceiveChunk();
    REQUIRE(chunk.has_value());
    CHECK(ErrorOf(*chunk) == static_cast<uint32_t>(wire_error));
    CHECK(chunk->data.find("injected") != std::string::npos);
  }
}

TEST_CASE("Read-only exports say so and refuse changes, payload and all") {
  BlockDeviceInfo info = ServerFixture::DefaultInfo();
  info.read_only = true;
  ServerFixture f({}, info);
  TestClient client = f.Enter();
  CHECK(client.Do(Header(WireCommand::kWrite, 1, 0, 100000), std::string(100000, 'w')) ==
        uint32_t{EPERM});
  CHECK(client.Do(Header(WireCommand::kTrim, 2, 0, 512)) == uint32_t{EPERM});
  CHECK(client.Do(Header(WireCommand::kRead, 3, 0, 512)) == 0u);
}

TEST_CASE("Answers come in the order of the device, not of the requests") {
  ServerFixture f;
  f.OnLoop([&] { f.device->Hold(); });
  TestClient client = f.Enter();
  for (uint64_t cookie = 1; cookie <= 100; ++cookie) {
    REQUIRE(client.SendRequest(Header(WireCommand::kFlush, cookie, 0, 0)));
  }
  REQUIRE(f.Eventually([&] { return f.device->pending() == 100; }));
  f.OnLoop([&] { f.device->Release(true); });
  for (uint64_t cookie = 100; cookie >= 1; --cookie) {
    const auto reply = client.ReceiveSimple();
    REQUIRE(reply.has_value());
    CHECK(reply->cookie == cookie);
  }
}

TEST_CASE("DISC lets everything in flight finish, then the server closes") {
  ServerFixture f;
  f.OnLoop([&] { f.device->Hold(); });
  TestClient client = f.Enter();
  REQUIRE(client.SendRequest(Header(WireCommand::kWrite, 1, 0, 3), "abc"));
  REQUIRE(client.SendRequest(Header(WireCommand::kDisconnect, 2, 0, 0)));
  REQUIRE(f.Eventually([&] { return f.device->pending() == 1; }));
  f.OnLoop([&] { f.device->Release(); });
  const auto reply = client.ReceiveSimple();
  REQUIRE(reply.has_value());
  CHECK(reply->cookie == 1);
  CHECK(client.AtEnd());
}

TEST_CASE("A client that only finishes sending still gets its replies") {
  ServerFixture f;
  f.OnLoop([&] { f.device->Hold(); });
  TestClient client = f.Enter();
  REQUIRE(client.SendRequest(Header(WireCommand::kFlush, 1, 0, 0)));
  REQUIRE(client.Send(EncodeRequest(Header(WireCommand::kWrite, 2, 0, 100)) + "half a payload"));
  client.FinishSending();
  REQUIRE(f.Eventually([&] { return f.device->pending() == 1; }));
  f.OnLoop([&] { f.device->Release(); });
  CHECK(client.ReceiveSimple()->cookie == 1);
  CHECK(client.AtEnd());
  CHECK(f.Eventually([&] { return f.server->stats().inflight_requests == 0; }));
}

TEST_CASE("Answers for a connection that has gone are dropped") {
  ServerFixture f;
  f.OnLoop([&] { f.device->Hold(); });
  {
    TestClient client = f.Enter();
    for (uint64_t cookie = 0; cookie < 50; ++cookie) {
      REQUIRE(client.SendRequest(Header(WireCommand::kWrite, cookie, 0, 3), "abc"));
    }
    REQUIRE(client.Send("garbage that breaks the connection"));
    REQUIRE(client.AtEnd());
  }
  f.OnLoop([&] {
    CHECK(f.device->pending() == 50);
    f.device->Release();
  });
  CHECK(f.Serves());
  CHECK(f.Eventually([&] { return f.server->stats().inflight_requests == 0; }));
  CHECK(f.server->stats().connections_broken == 1);
}

TEST_CASE("The server may go while its device still has requests") {
  ServerFixture f;
  f.OnLoop([&] { f.device->Hold(); });
  TestClient client = f.Enter();
  REQUIRE(client.SendRequest(Header(WireCommand::kRead, 1, 0, 4096)));
  REQUIRE(f.Eventually([&] { return f.device->pending() == 1; }));
  f.OnLoop([&] {
    f.server.reset();
    f.device->Release();
  });
  const auto reply = client.ReceiveSimple();
  REQUIRE(reply.has_value());
  CHECK(reply->error == ESHUTDOWN);
  CHECK(client.AtEnd());
}

TEST_CASE("A device that drops requests has them answered with ESHUTDOWN") {
  ServerFixture f;
  f.OnLoop([&] { f.device->Hold(); });
  TestClient client = f.Enter();
  REQUIRE(client.SendRequest(Header(WireCommand::kRead, 1, 0, 4096)));
  REQUIRE(f.Eventually([&] { return f.device->pending() == 1; }));
  f.OnLoop([&] { f.device->DropPending(); });
  CHECK(client.ReceiveSimple()->error == ESHUTDOWN);
}

TEST_CASE("Closing an export ends its connections and no others") {
  ServerFixture f;
  f.OnLoop([&] {
    BlockDeviceInfo info;
    info.size_bytes = 1 << 20;
    f.exports.Add("other", std::make_shared<MemoryDevice>(f.loop_thread.loop(), info));
    f.device->Hold();
  });
  TestClient client = f.Enter();
  TestClient other = TestClient::Tcp(f.port);
  REQUIRE(other.Enter("other", false));
  REQUIRE(client.SendRequest(Header(WireCommand::kFlush, 1, 0, 0)));
  REQUIRE(f.Eventually([&] { return f.device->pending() == 1; }));
  f.OnLoop([&] {
    CHECK(f.server->Connections().size() == 2);
    f.server->CloseExport("disk");
    f.exports.Remove("disk");
  });
  CHECK(client.ReceiveSimple()->error == ESHUTDOWN);
  CHECK(client.AtEnd());
  CHECK(other.Do(Header(WireCommand::kRead, 2, 0, 512)) == 0u);
  CHECK_FALSE(TestClient::Tcp(f.port).Enter("disk", false));
  f.OnLoop([&] {
    CHECK(f.server->Connections().size() <= 2);
    f.device->Release();
  });
}

TEST_CASE(
    "A server that restarts answers what is in flight, takes nothing more, and tells no error") {
  ServerFixture f;
  f.OnLoop([&] { f.device->Hold(); });
  TestClient client = f.Enter();
  TestClient idle = f.Enter();
  REQUIRE(client.SendRequest(Header(WireCommand::kFlush, 1, 0, 0)));
  REQUIRE(f.Eventually([&] { return f.device->pending() == 1; }));
  bool drained = false;
  f.OnLoop([&] {
    f.server->StopListening();
    f.server->Drain([&drained] { drained = true; });
  });
  CHECK(idle.AtEnd());
  // It comes too late: its sender will send it again elsewhere.
  REQUIRE(client.SendRequest(Header(WireCommand::kRead, 2, 0, 512)));
  f.OnLoop([&] {
    CHECK_FALSE(drained);
    f.device->Release();
  });
  const auto reply = client.ReceiveSimple();
  REQUIRE(reply.has_value());
  CHECK(reply->cookie == 1);
  CHECK(reply->error == 0);
  CHECK(client.Receive(1).empty());
  CHECK(f.Eventually([&] { return drained; }));
}

TEST_CASE("What does not finish in time is not answered, and a server without clients is drained") {
  ServerFixture f;
  f.OnLoop([&] { f.device->Hold(); });
  bool drained = false;
  {
    TestClient client = f.Enter();
    REQUIRE(client.SendRequest(Header(WireCommand::kFlush, 1, 0, 0)));
    REQUIRE(f.Eventually([&] { return f.device->pending() == 1; }));
    f.OnLoop([&] {
      f.server->StopListening();
      f.server->Drain([&drained] { drained = true; });
      f.server->Drop();
    });
    CHECK(client.Receive(1).empty());
  }
  CHECK(f.Eventually([&] { return drained; }));
  bool again = false;
  f.OnLoop([&] {
    f.device->Release();
    f.server->Drain([&again] { again = true; });
    CHECK(again);
  });
}

TEST_CASE("Closing an export reaches clients that asked for the default one") {
  ServerFixture f;
  TestClient client = TestClient::Tcp(f.port);
  REQUIRE(client.Enter("", false));
  f.OnLoop([&] { f.server->CloseExport("disk"); });
  CHECK(client.AtEnd());
}

TEST_CASE("A whole conversation may arrive byte by byte") {
  ServerFixture f;
  TestClient client = TestClient::Tcp(f.port);
  std::string talk = Bytes().Number<uint32_t>(3);
  talk += EncodeOption(Option::kStructuredReply, "");
  talk += EncodeOption(Option::kGo, InfoData("disk"));
  talk += EncodeRequest(Header(WireCommand::kWrite, 1, 0, 5)) + "hello";
  talk += EncodeRequest(Header(WireCommand::kRead, 2, 0, 5));
  for (const char byte : talk) REQUIRE(client.Send({&byte, 1}));
  CHECK(client.Receive(18).size() == 18);
  CHECK(client.ReceiveOptionAnswer()->type == OptionReply::kAck);
  while (client.ReceiveOptionAnswer()->type != OptionReply::kAck) {
  }
  CHECK(client.ReceiveSimple()->cookie == 1);
  CHECK(client.ReceiveChunk()->data.substr(8) == "hello");
}

TEST_CASE("Statistics count connections, requests, bytes and what is in flight") {
  ServerFixture f;
  {
    TestClient client = f.Enter();
    CHECK(client.Do(Header(WireCommand::kWrite, 1, 0, 1000), std::string(1000, 'x')) == 0u);
    CHECK(client.Do(Header(WireCommand::kRead, 2, 0, 500)) == 0u);
    f.OnLoop([&] { f.device->Hold(); });
    REQUIRE(client.SendRequest(Header(WireCommand::kRead, 3, 0, 700)));
    REQUIRE(f.Eventually([&] { return f.device->pending() == 1; }));
    const NbdServerStats stats = f.server->stats();
    CHECK(stats.connections_accepted == 1);
    CHECK(stats.connections_open == 1);
    CHECK(stats.handshakes_completed == 1);
    CHECK(stats.written_bytes == 1000);
    CHECK(stats.read_bytes == 500);
    CHECK(stats.inflight_requests == 1);
    CHECK(stats.inflight_bytes == 700);
    f.OnLoop([&] { f.device->Release(); });
  }
  CHECK(f.Eventually([&] { return f.server->stats().connections_open == 0; }));
  CHECK(f.server->stats().inflight_bytes == 0);
}

}  // namespace
}  // namespace tessera::sdc::nbd
