#include "services/common/grpc_server.h"

#include <grpc/grpc.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_posix.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "services/common/grpc_queue.h"
#include "services/common/health_service.h"
#include "services/common/tls.h"

namespace tessera {
namespace {

constexpr int kKeepaliveMillis = 10'000;
constexpr int kKeepaliveTimeoutMillis = 5'000;

bool IsLoopback(const std::string& address) {
  return absl::StartsWith(address, "unix:") || absl::StartsWith(address, "127.") ||
         absl::StartsWith(address, "[::1]") || absl::StartsWith(address, "localhost:");
}

}  // namespace

void SecurityOptions::AddFlags(CLI::App* app) {
  app->add_flag("--insecure", insecure,
                "No TLS and no sign-in: whoever reaches a port is administrator. Loopback only.");
  app->add_option("--tls-certificate", certificate_file,
                  "PEM file with this part's certificate chain.");
  app->add_option("--tls-key", key_file, "PEM file with its private key.");
  app->add_option("--tls-ca", ca_file, "PEM file with the authority that peers must be signed by.");
}

absl::Status SecurityOptions::Check(const std::vector<std::string>& listen_addresses) const {
  if (insecure) {
    for (const std::string& address : listen_addresses) {
      if (!address.empty() && !IsLoopback(address)) {
        return absl::InvalidArgumentError(
            absl::StrCat("--insecure listens on loopback only, not on '", address,
                         "': use 127.0.0.1, or give --tls-certificate, --tls-key and --tls-ca"));
      }
    }
    return absl::OkStatus();
  }
  for (const auto& [flag, value] :
       {std::pair{"--tls-certificate", &certificate_file}, std::pair{"--tls-key", &key_file},
        std::pair{"--tls-ca", &ca_file}}) {
    if (value->empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, " is missing: give it, or --insecure for a cluster on loopback"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> SecurityOptions::ForServer() const {
  if (insecure) return grpc::InsecureServerCredentials();
  return TlsServerCredentialsOf({certificate_file, key_file, ca_file});
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> SecurityOptions::ForClient(
    const std::vector<std::string>& roles) const {
  if (insecure) return grpc::InsecureChannelCredentials();
  return TlsChannelCredentialsOf({certificate_file, key_file, ca_file}, roles);
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<grpc::Service*>& services) {
  // The reference keeps the linker from dropping the reflection library.
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::EnableDefaultHealthCheckService(true);
  // Keeps health.proto's descriptors linked in, without which reflection can't show the service.
  google::protobuf::LinkMessageReflection<grpc::health::v1::HealthCheckRequest>();
  auto credentials = options.security.ForServer();
  if (!credentials.ok()) return credentials.status();

  grpc::ServerBuilder builder;
  std::vector<int> ports(options.listen.size(), 0);
  for (size_t i = 0; i < options.listen.size(); ++i) {
    if (absl::StartsWith(options.listen[i], "unix:/")) unlink(options.listen[i].c_str() + 5);
    builder.AddListeningPort(options.listen[i], *credentials, &ports[i]);
  }
  for (grpc::Service* service : services) builder.RegisterService(service);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.SetMaxSendMessageSize(options.max_message_bytes);
  // Two parts must never share a port unknowingly.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMillis);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMillis);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  if (options.data_plane) {
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 20);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
  }
  std::unique_ptr<GrpcServer> result(new GrpcServer);
  if (options.queues > 0) {
    for (int i = 0; i < options.queues; ++i) {
      result->queues_.push_back(builder.AddCompletionQueue());
    }
    // gRPC's own health service has callback methods.
    result->health_ = std::make_unique<HealthService>();
    builder.SetResourceQuota(
        grpc::ResourceQuota("synchronous methods").SetMaxThreads(options.synchronous_threads));
  }
  grpc::Service* const health = options.health != nullptr ? options.health : result->health_.get();
  if (health != nullptr) {
    builder.SetOption(std::make_unique<grpc::HealthCheckServiceServerBuilderOption>(nullptr));
    builder.RegisterService(health);
  }
  if (options.generic != nullptr) builder.RegisterCallbackGenericService(options.generic);
  result->max_message_bytes_ = options.max_message_bytes;
  result->server_ = builder.BuildAndStart();
  for (size_t i = 0; i < options.listen.size(); ++i) {
    const std::string& address = options.listen[i];
    const bool is_unix = absl::StartsWith(address, "unix:");
    if (result->server_ == nullptr || (!is_unix && ports[i] == 0)) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", address,
                                                 ": is the port taken, or the address not local?"));
    }
    result->addresses_.push_back(
        is_unix ? address : absl::StrCat(address.substr(0, address.rfind(':')), ":", ports[i]));
  }
  return result;
}

GrpcServer::~GrpcServer() {
  Shutdown(0);
  // The last tags of the queues speak of the server still.
  for (const auto& queue : queues_) DrainQueue(queue.get());
}

void GrpcServer::Shutdown(int grace_ms) {
  if (server_ == nullptr || std::exchange(stopped_, true)) return;
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(grace_ms));
  server_->Wait();
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> GrpcServer::InProcessChannel() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot make a socket pair: ", strerror(errno)));
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(max_message_bytes_);
  arguments.SetMaxSendMessageSize(max_message_bytes_);
  // gRPC names the peer of a descriptor "fd:<number>": see CameOverInProcessChannel.
  grpc::AddInsecureChannelFromFd(server_.get(), ends[0]);
  return grpc::CreateCustomInsecureChannelFromFd("in-process", ends[1], arguments);
}

bool CameOverInProcessChannel(const grpc::ServerContextBase& context) {
  // The peers of ports are "ipv4:…", "ipv6:…" and "unix:…", whatever they send.
  return absl::StartsWith(context.peer(), "fd:");
}

std::shared_ptr<grpc::Channel> NewChannel(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  arguments.SetMaxSendMessageSize(64 << 20);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMillis);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMillis);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  // What one attempt may take, the TLS handshake included.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 3'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
  // Who is back under his name may have another address (Kubernetes); gRPC's own 30 s is long.
  arguments.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 500);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 20);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
  // A connection of its own for each channel.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, credentials, arguments);
}

void PrepareCall(grpc::ClientContext* context, int timeout_ms, const std::string& bearer) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
  if (!bearer.empty()) context->AddMetadata("authorization", bearer);
}

}  // namespace tessera
