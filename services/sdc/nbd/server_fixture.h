// A running NBD server over a memory device on a loop thread of its own, for tests.
#ifndef TESSERA_SERVICES_SDC_NBD_SERVER_FIXTURE_H_
#define TESSERA_SERVICES_SDC_NBD_SERVER_FIXTURE_H_

#include <catch2/catch.hpp>
#include <memory>
#include <utility>

#include "services/sdc/nbd/memory_device.h"
#include "services/sdc/nbd/nbd_server.h"
#include "services/sdc/nbd/test_client.h"

namespace tessera::sdc::nbd {

class ServerFixture {
 public:
  static constexpr uint64_t kSize = 64 << 20;

  explicit ServerFixture(NbdServerOptions options = {}, BlockDeviceInfo info = DefaultInfo()) {
    device = std::make_shared<MemoryDevice>(loop_thread.loop(), std::move(info));
    exports.Add("disk", device);
    loop_thread.Run([&] {
      auto created = NbdServer::Create(loop_thread.loop(), exports, std::move(options));
      if (created.ok()) server = *std::move(created);
      if (server != nullptr) port = server->ListenTcp("127.0.0.1", 0).value_or(0);
    });
    REQUIRE(port != 0);
  }
  ~ServerFixture() {
    loop_thread.Run([&] {
      server.reset();
      device.reset();
    });
  }

  static BlockDeviceInfo DefaultInfo() {
    BlockDeviceInfo info;
    info.size_bytes = kSize;
    return info;
  }

  // A client in the transmission phase.
  TestClient Enter(bool structured = false) {
    TestClient client = TestClient::Tcp(port);
    REQUIRE(client.Enter("disk", structured));
    return client;
  }
  void OnLoop(const std::function<void()>& work) { loop_thread.Run(work); }
  // Waits, turn by turn of the loop, until `reached` holds on the loop thread. False if it never
  // does.
  bool Eventually(const std::function<bool()>& reached) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < deadline) {
      bool now = false;
      OnLoop([&] { now = reached(); });
      if (now) return true;
      std::this_thread::yield();
    }
    return false;
  }
  // A whole exchange with a fresh client: the server is alive and serves.
  bool Serves() {
    TestClient client = TestClient::Tcp(port);
    if (!client.Enter("disk", false)) return false;
    return client.Do({0, WireCommand::kWrite, 1, 0, 4}, "ping") == 0u &&
           client.Do({0, WireCommand::kRead, 2, 0, 4}) == 0u;
  }

  MemoryExportTable exports;
  LoopThread loop_thread;
  std::shared_ptr<MemoryDevice> device;
  std::unique_ptr<NbdServer> server;
  uint16_t port = 0;
};

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_SERVER_FIXTURE_H_
