// The NBD server of the SDC: listens, and serves the exports of a table to any number of clients.
//
// Life of a request: a socket becomes readable; one receive; every complete request in what came is
// judged and handed to the BlockDevice in order; the device answers on the loop thread, in this
// turn or later; at the end of the turn everything answered goes out in one send.
//
// Threads: made, used and destroyed on the loop thread, or before EventLoop::Run and after it has
// returned. stats() from any thread.
#ifndef TESSERA_SERVICES_SDC_NBD_NBD_SERVER_H_
#define TESSERA_SERVICES_SDC_NBD_NBD_SERVER_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/sdc/block_device.h"
#include "services/sdc/event_loop.h"
#include "services/sdc/nbd/options.h"

namespace tessera::sdc {

// One client, for people.
struct NbdConnectionInfo {
  std::string peer;         // address of the client, or the unix socket's process id
  std::string export_name;  // empty before the transmission phase
  uint32_t inflight_requests = 0;
  uint64_t inflight_bytes = 0;
};

class NbdServer {
 public:
  // `loop` and `exports` must outlive the server. INVALID_ARGUMENT for options that contradict each
  // other, FAILED_PRECONDITION for TLS files that cannot be used.
  static absl::StatusOr<std::unique_ptr<NbdServer>> Create(EventLoop& loop,
                                                           const ExportTable& exports,
                                                           NbdServerOptions options);
  // Closes every connection; answers of devices that come later are dropped.
  ~NbdServer();
  NbdServer(const NbdServer&) = delete;
  NbdServer& operator=(const NbdServer&) = delete;

  // Errors as listener.h says. The port that was bound, which is the answer to port 0.
  absl::StatusOr<uint16_t> ListenTcp(const std::string& host, uint16_t port);
  absl::Status ListenUnix(const std::string& path, mode_t mode);
  // No new connections; those that exist go on.
  void StopListening();

  // For a server that will be back: connections take no more requests, answer those in flight and
  // close; then `done` is called, on the loop thread. A client that connects again loses nothing
  // and sees no error. Once; after StopListening.
  void Drain(absl::AnyInvocable<void()> done);
  // Closes all connections; what is in flight is not answered.
  void Drop();

  // Closes the connections to a device: what is in flight is answered with ESHUTDOWN. `name` is the
  // export's name in the table; clients that asked for the default export and got it are closed
  // too. Call it while the table still knows the export, or pass the device itself.
  void CloseExport(const std::string& name);
  void CloseExport(const BlockDevice& device);

  [[nodiscard]] NbdServerStats stats() const;
  [[nodiscard]] std::vector<NbdConnectionInfo> Connections() const;

 private:
  class Impl;
  explicit NbdServer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_NBD_NBD_SERVER_H_
