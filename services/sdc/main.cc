// tessera-sdc: reads the flags, runs the process until a signal.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/probe_server.h"
#include "services/common/settings.h"
#include "services/common/version.h"
#include "services/sdc/cache/cache_folder.h"
#include "services/sdc/control/sdc_process.h"

namespace {

using tessera::sdc::SdcOptions;
using tessera::sdc::TlsMode;

struct Flags {
  SdcOptions sdc;
  tessera::LogOptions log;
  std::string join_token_file;
  bool check_config = false;
  std::string log_format = "text";
  std::string nbd_tls = "off";
  double replica_timeout_seconds = 2;
  double flush_timeout_seconds = 10;
  double io_timeout_seconds = 0;
  double full_wait_seconds = 0;
  std::string cache_size = "10GiB";
  uint64_t unflushed_mib = SdcOptions{}.unflushed_bytes >> 20;
};

constexpr int kUsageError = 2;

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "tessera-sdc: %s\n", std::string(status.message()).c_str());
  return code;
}

std::string HostName() {
  char name[64] = {};
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "sdc";
  return name;
}

void AddFlags(CLI::App* app, Flags* flags) {
  SdcOptions& sdc = flags->sdc;
  sdc.name = HostName();
  sdc.state_folder = "/var/lib/tessera/sdc";
  sdc.mdm_address = "127.0.0.1:8001";
  app->add_option("--state-dir", sdc.state_folder,
                  "Folder for this client's identity, grants, endpoints file and NBD socket.")
      ->capture_default_str();
  app->add_option("--mdm", sdc.mdm_address, "Address of the MDM, host:port.")
      ->capture_default_str();
  app->add_option("--name", sdc.name,
                  "Name for people, unique among clients; used at the first start only.")
      ->capture_default_str();
  app->add_option("--join-token-file", flags->join_token_file,
                  "File with the cluster's join token, needed at the first start only.");
  app->add_option("--control-listen", sdc.control_listen, "Control plane (gRPC), host:port.")
      ->capture_default_str();
  app->add_option("--management-listen", sdc.management_listen,
                  "Management plane (gRPC), host:port.")
      ->capture_default_str();
  app->add_option("--metrics-listen", sdc.metrics_listen,
                  "Prometheus metrics and probes (HTTP), host:port.")
      ->capture_default_str();
  app->add_option("--nbd-listen", sdc.nbd_listen, "NBD over TCP, host:port; empty for none.")
      ->capture_default_str();
  app->add_option(
      "--nbd-socket", sdc.nbd_socket,
      "NBD over a unix socket: its path; 'none' for none. Default: <state-dir>/nbd.sock.");
  app->add_option("--advertise-host", sdc.advertised_host,
                  "Host by which others reach this one, where listening addresses don't say.");
  app->add_option("--host-id", sdc.host_id,
                  "Identity of this host; parts with the same one use unix sockets. Default: "
                  "/etc/machine-id.");
  app->add_option("--replica-timeout", flags->replica_timeout_seconds,
                  "Seconds without an answer after which a replica counts as failed.")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  app->add_option("--flush-timeout", flags->flush_timeout_seconds,
                  "The same for flushes, which wait for the disk.")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  app->add_option("--io-timeout", flags->io_timeout_seconds,
                  "Seconds after which a request that can't be served fails; 0: it waits for ever.")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  app->add_option(
         "--full-wait", flags->full_wait_seconds,
         "Seconds that a write waits for space when the pool is full, before it fails with "
         "ENOSPC. Trims and reads go on meanwhile.")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  app->add_option(
         "--unflushed-mib", flags->unflushed_mib,
         "MiB of writes, answered and not flushed, that are kept and given again to servers that "
         "lost them with their power. At half of it, and every 5 s, a volume flushes by itself. "
         "0: none are kept.")
      ->capture_default_str()
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 20));
  app->add_option("--resume-dir", sdc.resume_folder,
                  "Folder in memory (tmpfs) for what a restart goes on with: grants, the map, and "
                  "writes that are in flight or kept. Empty: none, and a restart needs the MDM.")
      ->capture_default_str();
  app->add_option("--cache-dir", sdc.cache_folder,
                  "Folder on a local disk where what is read from servers is kept, to be read from "
                  "there the next time. Default: none.");
  app->add_option("--cache-size", flags->cache_size,
                  "How much of that disk is used: bytes, or a number with MiB, GiB or TiB.")
      ->capture_default_str();
  app->add_option("--nbd-tls", flags->nbd_tls, "TLS for NBD over TCP: off, allowed or required.")
      ->capture_default_str()
      ->check(CLI::IsMember({"off", "allowed", "required"}));
  app->add_option("--nbd-tls-certificate", sdc.nbd.tls_files.certificate_chain,
                  "PEM file with the NBD server's certificate chain.");
  app->add_option("--nbd-tls-key", sdc.nbd.tls_files.private_key, "PEM file with its private key.");
  app->add_option("--nbd-tls-client-ca", sdc.nbd.tls_files.client_authority,
                  "PEM file with the authority that NBD clients must be signed by.");
  app->add_option("--nbd-connections", sdc.nbd.maximum_connections, "NBD connections at once.")
      ->capture_default_str();
  sdc.security.AddFlags(app);
  app->add_option("--log-level", flags->log.level, "trace, debug, info, warning or error.")
      ->capture_default_str();
  app->add_option("--log-format", flags->log_format, "text or json.")
      ->capture_default_str()
      ->check(CLI::IsMember({"text", "json"}));
  app->add_flag("--check-config", flags->check_config,
                "Check flags and files, start nothing, and exit.");
  app->set_version_flag("--version", tessera::kVersion);
  app->footer(
      "Ports may be 0: the addresses that were bound are in <state-dir>/endpoints.\n"
      "SIGTERM and SIGINT finish the IO in flight, flush, and end the process.");
}

std::chrono::milliseconds Millis(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

absl::Status Complete(Flags* flags) {
  SdcOptions& sdc = flags->sdc;
  flags->log.component = "sdc";
  flags->log.format =
      flags->log_format == "json" ? tessera::LogFormat::kJson : tessera::LogFormat::kText;
  sdc.replica_timeout = Millis(flags->replica_timeout_seconds);
  sdc.flush_timeout = Millis(flags->flush_timeout_seconds);
  sdc.io_timeout = Millis(flags->io_timeout_seconds);
  sdc.full_wait = Millis(flags->full_wait_seconds);
  sdc.unflushed_bytes = flags->unflushed_mib << 20;
  const absl::StatusOr<uint64_t> cache_bytes = tessera::sdc::ParseCacheSize(flags->cache_size);
  if (!cache_bytes.ok()) return cache_bytes.status();
  sdc.cache_bytes = *cache_bytes;
  if (flags->nbd_tls == "allowed") sdc.nbd.tls_mode = TlsMode::kAllowed;
  if (flags->nbd_tls == "required") sdc.nbd.tls_mode = TlsMode::kRequired;
  if (!flags->join_token_file.empty()) {
    absl::StatusOr<std::string> token = tessera::ReadFile(flags->join_token_file);
    if (!token.ok()) return token.status();
    while (!token->empty() && (token->back() == '\n' || token->back() == ' ')) token->pop_back();
    sdc.join_token = *std::move(token);
  }
  // Superseded: end in order, as if told to by a signal.
  sdc.superseded = [] { kill(getpid(), SIGTERM); };
  return tessera::InitLogging(flags->log);
}

}  // namespace

int main(int argc, char** argv) {
  tessera::SkipDeadlockSearch();
  tessera::BlockTerminationSignals();
  CLI::App app{"Tessera storage data client: offers volumes to applications over NBD."};
  Flags flags;
  AddFlags(&app, &flags);
  tessera::ProbeServer probes;
  probes.AddFlags(&app);
  tessera::Settings settings("TESSERA_SDC");
  settings.AddFlags(&app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageError;
  }
  absl::Status status = settings.Apply(&app, [](const char* name) { return getenv(name); });
  if (status.ok()) status = Complete(&flags);
  if (status.ok()) status = probes.Check();
  if (status.ok() && flags.check_config) status = tessera::sdc::CheckOptions(flags.sdc);
  if (!status.ok()) return Fail(status, kUsageError);
  if (flags.check_config) {
    std::printf("the configuration is good\n");
    return 0;
  }
  if (status = probes.Start(); !status.ok()) return Fail(status, 1);
  auto process = tessera::sdc::SdcProcess::Start(std::move(flags.sdc));
  if (!process.ok()) {
    tessera::LogError("cannot start", {{"why", process.status()}});
    return 1;
  }
  probes.Started([&process] { return (*process)->NotReadyReason(); });
  tessera::NotifyReady();
  tessera::LogInfo("ready");
  const int signal_number = tessera::WaitForTermination();
  probes.Stopping();
  tessera::LogInfo("stopping", {{"signal", signal_number}});
  (*process)->Stop();
  return 0;
}
