// What a deployment may set about the NBD server, and what the server counts.
#ifndef TESSERA_SERVICES_SDC_NBD_OPTIONS_H_
#define TESSERA_SERVICES_SDC_NBD_OPTIONS_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string_view>

#include "services/sdc/block_device.h"
#include "services/sdc/nbd/handshake.h"
#include "services/sdc/nbd/tls.h"

namespace tessera::sdc {

struct NbdServerOptions {
  using Duration = std::chrono::nanoseconds;

  uint32_t maximum_connections = 1024;
  // Over either of these a connection is not read from until replies have been sent. One request is
  // always let in, however long.
  uint64_t connection_inflight_bytes = 64ull << 20;
  uint32_t connection_inflight_requests = 1024;
  // The same for all connections together; a connection with nothing in flight may still have a
  // small request.
  uint64_t total_inflight_bytes = 1ull << 30;

  // From accept to the transmission phase, TLS included.
  Duration handshake_timeout = std::chrono::seconds(10);
  // Without a byte from the client and nothing in flight; 0: never. A stopped virtual machine is
  // silent too, and wants its disk back when it goes on.
  Duration idle_timeout = Duration::zero();
  // Only while `total_inflight_bytes` is used up: a client that has taken or sent nothing for this
  // long, in the middle of a request or of a reply, is disconnected.
  Duration stall_timeout = std::chrono::seconds(30);
  // How often idle buffers, idle clients and stalled clients are looked for.
  Duration sweep_period = std::chrono::seconds(5);

  TlsMode tls_mode = TlsMode::kOff;
  TlsFiles tls_files;  // unless tls_mode is kOff

  // Called on the loop thread for each change of a connection's state; may be empty.
  std::function<void(std::string_view)> log;
};

// A copy of the counters at one moment. Counters only grow, gauges are marked.
struct NbdServerStats {
  static constexpr size_t kCommands = 7;  // indexed by sdc::Command
  static constexpr std::array<int, 8> kErrors = {1, 5, 12, 22, 28, 75, 95, 108};  // NBD's errnos

  uint64_t connections_accepted = 0;
  uint64_t connections_refused = 0;    // over the limit
  uint64_t connections_timed_out = 0;  // handshake, idle or stalled
  uint64_t connections_broken = 0;     // by a client that does not keep to the protocol
  uint64_t connections_open = 0;       // gauge
  uint64_t handshakes_completed = 0;
  uint64_t tls_sessions = 0;
  std::array<uint64_t, kCommands> requests = {};     // submitted to a device
  uint64_t requests_refused = 0;                     // answered with an error by the server itself
  uint64_t read_bytes = 0;                           // successfully
  uint64_t written_bytes = 0;                        // successfully
  std::array<uint64_t, kErrors.size()> errors = {};  // replies by errno, in the order of kErrors
  uint64_t inflight_requests = 0;                    // gauge: from the socket to the socket
  uint64_t inflight_bytes = 0;                       // gauge
};

namespace nbd {

// Counters with one writer (the loop thread) and any number of readers.
class Counter {
 public:
  void Add(uint64_t amount = 1) { Set(Get() + amount); }
  void Subtract(uint64_t amount) { Set(Get() - amount); }
  [[nodiscard]] uint64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  void Set(uint64_t value) { value_.store(value, std::memory_order_relaxed); }
  std::atomic<uint64_t> value_{0};
};

struct ServerCounters {
  Counter connections_accepted, connections_refused, connections_timed_out, connections_broken;
  Counter connections_open, handshakes_completed, tls_sessions;
  std::array<Counter, NbdServerStats::kCommands> requests;
  Counter requests_refused, read_bytes, written_bytes;
  std::array<Counter, NbdServerStats::kErrors.size()> errors;
  Counter inflight_requests, inflight_bytes;

  void CountError(int error);
  [[nodiscard]] NbdServerStats Snapshot() const;
};

}  // namespace nbd
}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_NBD_OPTIONS_H_
