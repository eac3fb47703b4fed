// tessera-grpcweb-echo: the real frontend and gateway before an echo service, for
// integration/grpcweb. Prints "web=<address>" and serves until its standard input ends.
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "services/common/grpc_server.h"
#include "services/common/metrics.h"
#include "services/common/node.h"
#include "services/mgmt/web/testing/echo_service.h"
#include "services/mgmt/web/web_server.h"

int main(int argc, char** argv) {
  using namespace tessera;  // NOLINT(google-build-using-namespace)
  BlockTerminationSignals();
  mgmt::WebServerOptions options;
  int64_t write_timeout_ms = options.frontend.write_timeout.count();
  CLI::App app{"gRPC-Web before an echo service, for tests."};
  app.add_option("--console-dir", options.console_folder, "Files to serve.");
  app.add_option("--web-certificate", options.frontend.certificate_file, "PEM file, for TLS.");
  app.add_option("--web-key", options.frontend.key_file, "PEM file, for TLS.");
  app.add_option("--calls-per-session", options.gateway.calls_per_session_limit, "Open at once.");
  app.add_option("--write-timeout-ms", write_timeout_ms, "In which a client must take a byte.");
  CLI11_PARSE(app, argc, argv);
  options.frontend.write_timeout = std::chrono::milliseconds(write_timeout_ms);
  options.frontend.certificate_check_interval = std::chrono::milliseconds(50);

  MetricRegistry metrics("grpcweb_echo");
  mgmt::EchoService echo;
  GrpcServerOptions grpc_options;
  grpc_options.listen = {"127.0.0.1:0"};
  grpc_options.security.insecure = true;
  auto grpc_server = GrpcServer::Start(grpc_options, {&echo});
  if (!grpc_server.ok()) {
    std::cerr << grpc_server.status() << "\n";
    return 1;
  }
  auto web = mgmt::WebServer::Start(
      options, [&] { return (*grpc_server)->InProcessChannel(); }, [] { return std::string(); },
      &metrics);
  if (!web.ok()) {
    std::cerr << web.status() << "\n";
    return 1;
  }
  std::cout << "web=" << (*web)->address() << "\ngrpc=" << (*grpc_server)->addresses()[0]
            << std::endl;
  std::string ignored;
  while (std::getline(std::cin, ignored)) {
  }
  return 0;
}
