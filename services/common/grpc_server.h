// A listening gRPC server with what every server of Tessera has: reflection, grpc.health.v1,
// message limits, and TLS or an explicit decision against it.
//
// Threads: Start and Shutdown from one thread.
#ifndef TESSERA_SERVICES_COMMON_GRPC_SERVER_H_
#define TESSERA_SERVICES_COMMON_GRPC_SERVER_H_

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace tessera {

// How a part proves itself and whom it believes. Without `insecure` all three files are needed.
struct SecurityOptions {
  bool insecure = false;         // plain text, loopback and unix sockets only
  std::string certificate_file;  // PEM chain
  std::string key_file;          // PEM
  std::string ca_file;           // PEM: peers must have certificates of it

  // --insecure, --tls-certificate, --tls-key, --tls-ca.
  void AddFlags(CLI::App* app);
  // INVALID_ARGUMENT naming the missing flag, or an address that --insecure may not listen on.
  [[nodiscard]] absl::Status Check(const std::vector<std::string>& listen_addresses) const;
  // Errors naming a file that is missing or wrong (services/common/tls.h).
  [[nodiscard]] absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ForServer() const;
  // `roles`: the parts that are expected at the other end, such as {kRoleSds}.
  [[nodiscard]] absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ForClient(
      const std::vector<std::string>& roles) const;
};

struct GrpcServerOptions {
  std::vector<std::string> listen;  // "host:port" (0: any free) or "unix:/path"
  SecurityOptions security;
  int max_message_bytes = 64 << 20;
  // Data-plane servers have large messages in flight on few connections.
  bool data_plane = false;
  // Completion queues for asynchronous methods, which their users poll (GrpcServer::queues). A
  // server that has some may have synchronous methods beside the asynchronous ones, but no callback
  // methods (see services/common/grpc_queue.h).
  int queues = 0;
  // Synchronous methods that run at once; more calls get RESOURCE_EXHAUSTED.
  int synchronous_threads = 64;
  // Instead of a health service by which the server serves while it answers; outlives the server.
  grpc::Service* health = nullptr;
  // Answers calls to methods that no service has; outlives the server.
  grpc::CallbackGenericService* generic = nullptr;
};

class GrpcServer {
 public:
  // The services must outlive the server. UNAVAILABLE with the address when it can't be bound.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, const std::vector<grpc::Service*>& services);
  // The queues must not be in use any more.
  ~GrpcServer();
  // In the order of options.listen, with the real ports.
  [[nodiscard]] const std::vector<std::string>& addresses() const { return addresses_; }
  // To be polled from now on until after Shutdown; then shut down (DrainQueue) by whoever polls.
  [[nodiscard]] const std::vector<std::unique_ptr<grpc::ServerCompletionQueue>>& queues() const {
    return queues_;
  }
  // A new channel of this process to the server over a socket pair, for calls that the server may
  // believe to be made by its own process (CameOverInProcessChannel). Plain text, whatever the
  // ports have. The server must outlive it. UNAVAILABLE when there are no descriptors left.
  [[nodiscard]] absl::StatusOr<std::shared_ptr<grpc::Channel>> InProcessChannel();
  // Ends all calls within the grace time, then the server.
  void Shutdown(int grace_ms = 2000);

 private:
  GrpcServer() = default;
  std::vector<std::unique_ptr<grpc::ServerCompletionQueue>> queues_;
  std::unique_ptr<grpc::Service> health_;  // where the default one does not do
  std::unique_ptr<grpc::Server> server_;
  bool stopped_ = false;
  int max_message_bytes_ = 0;
  std::vector<std::string> addresses_;
};

// Whether the call came over such a channel and not from outside.
[[nodiscard]] bool CameOverInProcessChannel(const grpc::ServerContextBase& context);

// A channel with Tessera's arguments (keepalive, message limits, quick reconnects). One per target;
// keep it.
[[nodiscard]] std::shared_ptr<grpc::Channel> NewChannel(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials);

// Sets the deadline and, when not empty, the authorization metadata.
void PrepareCall(grpc::ClientContext* context, int timeout_ms, const std::string& bearer);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_GRPC_SERVER_H_
