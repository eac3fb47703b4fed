// What one gRPC hop costs by itself: a bidirectional stream of ChunkService.Io messages between a
// client and a server in this process, which echoes payloads. No token, no store: the floor under
// every IO.
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <thread>

#include "services/common/grpc_server.h"
#include "tessera/v1/chunk.grpc.pb.h"

namespace tessera {
namespace {

// Answers every message with one of the same payload, written from the read's callback.
class EchoReactor final : public grpc::ServerBidiReactor<v1::IoRequest, v1::IoResponse> {
 public:
  EchoReactor() { StartRead(&request_); }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      Finish(grpc::Status::OK);
      return;
    }
    response_.set_payload(std::move(*request_.mutable_payload()));
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (ok) StartRead(&request_);
  }
  void OnDone() override { delete this; }

  v1::IoRequest request_;
  v1::IoResponse response_;
};

class EchoService final : public v1::ChunkService::CallbackService {
  grpc::ServerBidiReactor<v1::IoRequest, v1::IoResponse>* Io(
      grpc::CallbackServerContext* /*context*/) override {
    return new EchoReactor;
  }
};

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// One message at a time, each with `operations` payloads of 4 KiB, for about `seconds`.
void Measure(const std::string& address, int operations, double seconds) {
  auto stub = v1::ChunkService::NewStub(NewChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  auto stream = stub->Io(&context);
  v1::IoRequest request;
  request.set_payload(std::string(4096 * static_cast<size_t>(operations), 'x'));
  v1::IoResponse response;
  const auto start = std::chrono::steady_clock::now();
  const double cpu_before = CpuSeconds();
  uint64_t messages = 0;
  std::chrono::duration<double> elapsed{};
  do {
    if (!stream->Write(request) || !stream->Read(&response)) break;
    ++messages;
    elapsed = std::chrono::steady_clock::now() - start;
  } while (elapsed.count() < seconds);
  const double cpu = CpuSeconds() - cpu_before;
  stream->WritesDone();
  const grpc::Status status = stream->Finish();
  const double total = static_cast<double>(messages) * operations;
  std::printf(
      "%-5s %3d x 4 KiB a message: %9.0f operations/s, %7.1f us a message, %6.2f us CPU an "
      "operation%s\n",
      address.compare(0, 5, "unix:") == 0 ? "unix" : "tcp", operations, total / elapsed.count(),
      elapsed.count() / static_cast<double>(messages) * 1e6, cpu / total * 1e6,
      status.ok() ? "" : " (the stream broke)");
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  double seconds = 2;
  CLI::App app("Round trips over one gRPC stream, with nothing behind it.");
  app.add_option("--seconds", seconds, "For each line.")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const std::string socket = "/tmp/tessera-hop-" + std::to_string(getpid()) + ".sock";
  tessera::EchoService service;
  tessera::GrpcServerOptions options;
  options.listen = {"127.0.0.1:0", "unix:" + socket};
  options.security.insecure = true;
  options.data_plane = true;
  auto server = tessera::GrpcServer::Start(options, {&service});
  if (!server.ok()) {
    std::fprintf(stderr, "%s\n", server.status().ToString().c_str());
    return 1;
  }
  for (const std::string& address : (*server)->addresses()) {
    for (const int operations : {1, 8, 32}) tessera::Measure(address, operations, seconds);
  }
  (*server)->Shutdown();
  unlink(socket.c_str());
  return 0;
}
