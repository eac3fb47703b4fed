// Serves block devices in memory over NBD, for tests and measurements of the NBD server alone.
//
//   nbd_memory_server [--tcp PORT] [--unix PATH] [--size BYTES] [--read-only]
//                     [--tls allowed|required --certificate FILE --key FILE [--authority FILE]]
//
// Exports `memory` of the given size (default 1 GiB), alone, so that it is the default export too.
// Prints one line for each listener: `tcp PORT` or `unix PATH`. Ends on SIGINT or SIGTERM.
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/numbers.h"
#include "services/sdc/event_loop.h"
#include "services/sdc/nbd/memory_device.h"
#include "services/sdc/nbd/nbd_server.h"

namespace {

using namespace tessera::sdc;  // NOLINT: one file, one program

struct Arguments {
  std::optional<uint16_t> tcp_port;
  std::string unix_path;
  uint64_t size_bytes = 1ull << 30;
  bool read_only = false;
  bool verbose = false;
  NbdServerOptions options;
};

// Nothing for an argument that is not understood.
std::optional<Arguments> Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--read-only") {
      arguments.read_only = true;
      continue;
    }
    if (name == "--verbose") {
      arguments.verbose = true;
      continue;
    }
    if (++i == argc) return std::nullopt;
    const std::string value = argv[i];
    uint64_t number = 0;
    if (name == "--tcp" && absl::SimpleAtoi(value, &number) && number <= UINT16_MAX) {
      arguments.tcp_port = static_cast<uint16_t>(number);
    } else if (name == "--unix") {
      arguments.unix_path = value;
    } else if (name == "--size" && absl::SimpleAtoi(value, &number)) {
      arguments.size_bytes = number;
    } else if (name == "--tls" && (value == "allowed" || value == "required")) {
      arguments.options.tls_mode = value == "allowed" ? TlsMode::kAllowed : TlsMode::kRequired;
    } else if (name == "--certificate") {
      arguments.options.tls_files.certificate_chain = value;
    } else if (name == "--key") {
      arguments.options.tls_files.private_key = value;
    } else if (name == "--authority") {
      arguments.options.tls_files.client_authority = value;
    } else {
      return std::nullopt;
    }
  }
  if (!arguments.tcp_port.has_value() && arguments.unix_path.empty()) return std::nullopt;
  return arguments;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "nbd_memory_server: %s\n", status.ToString().c_str());
  return 1;
}

int Serve(Arguments arguments) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  const int signal_descriptor = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);

  EventLoop loop;
  nbd::MemoryExportTable exports;
  BlockDeviceInfo info;
  info.size_bytes = arguments.size_bytes;
  info.read_only = arguments.read_only;
  info.description = "memory of the NBD test server";
  exports.Add("memory", std::make_shared<nbd::MemoryDevice>(loop, info));
  if (arguments.verbose) {
    arguments.options.log = [](std::string_view line) {
      std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
    };
  }
  auto server = NbdServer::Create(loop, exports, arguments.options);
  if (!server.ok()) return Fail(server.status());
  if (arguments.tcp_port.has_value()) {
    const auto port = (*server)->ListenTcp("127.0.0.1", *arguments.tcp_port);
    if (!port.ok()) return Fail(port.status());
    std::printf("tcp %u\n", unsigned{*port});
  }
  if (!arguments.unix_path.empty()) {
    const absl::Status status = (*server)->ListenUnix(arguments.unix_path, 0600);
    if (!status.ok()) return Fail(status);
    std::printf("unix %s\n", arguments.unix_path.c_str());
  }
  std::fflush(stdout);
  loop.Watch(signal_descriptor, EventLoop::kReadable, [&loop](uint32_t) { loop.Stop(); });
  loop.Run();
  loop.Unwatch(signal_descriptor);
  ::close(signal_descriptor);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::optional<Arguments> arguments = Parse(argc, argv);
  if (!arguments.has_value()) {
    std::fprintf(
        stderr,
        "usage: nbd_memory_server [--tcp PORT] [--unix PATH] [--size BYTES] [--read-only]\n"
        "  [--verbose] [--tls allowed|required --certificate FILE --key FILE "
        "[--authority FILE]]\n");
    return 2;
  }
  return Serve(*std::move(arguments));
}
