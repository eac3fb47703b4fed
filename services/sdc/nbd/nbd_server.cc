#include "services/sdc/nbd/nbd_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "services/sdc/nbd/connection.h"
#include "services/sdc/nbd/listener.h"
#include "services/sdc/nbd/tls.h"
#include "services/sdc/nbd/transport.h"

namespace tessera::sdc {
namespace {

using nbd::Connection;
using nbd::Listener;

// Connections accepted in one turn; more wait for the next, so that clients are not starved.
constexpr int kAcceptsPerTurn = 64;
// Without descriptors or memory accept fails at once, again and again.
constexpr auto kAcceptPause = std::chrono::milliseconds(200);

std::string PeerName(int fd, const sockaddr_storage& address, socklen_t length) {
  if (address.ss_family == AF_INET || address.ss_family == AF_INET6) {
    char host[NI_MAXHOST];
    char port[NI_MAXSERV];
    if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host, sizeof(host), port,
                      sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
      return absl::StrCat(host, ":", port);
    }
    return "tcp";
  }
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0) {
    return absl::StrCat("process ", credentials.pid);
  }
  return "unix";
}

absl::Status Validate(const NbdServerOptions& options) {
  if (options.maximum_connections == 0 || options.connection_inflight_requests == 0 ||
      options.connection_inflight_bytes == 0 || options.total_inflight_bytes == 0) {
    return absl::InvalidArgumentError("NBD server: every limit must be at least 1");
  }
  if (options.handshake_timeout <= options.handshake_timeout.zero() ||
      options.sweep_period <= options.sweep_period.zero()) {
    return absl::InvalidArgumentError(
        "NBD server: handshake timeout and sweep period must be longer than nothing");
  }
  return absl::OkStatus();
}

}  // namespace

class NbdServer::Impl : public nbd::ConnectionHost {
 public:
  Impl(EventLoop& loop, const ExportTable& exports, NbdServerOptions options,
       std::unique_ptr<nbd::TlsContext> tls)
      : loop_(loop), exports_(exports), options_(std::move(options)), tls_(std::move(tls)) {
    hook_ = loop_.AddTurnEndHook([this] { EndTurn(); });
  }

  ~Impl() override {
    StopListening();
    for (const auto& connection : AllConnections()) connection->Abort("the server is closing");
    if (sweep_timer_.has_value()) loop_.Cancel(*sweep_timer_);
    loop_.RemoveTurnEndHook(hook_);
  }

  void AddListener(Listener listener) {
    auto added = std::make_unique<ListenerState>(ListenerState{std::move(listener), {}});
    ListenerState* const state = added.get();
    listeners_.push_back(std::move(added));
    loop_.Watch(state->listener.descriptor(), EventLoop::kReadable,
                [this, state](uint32_t /*ready*/) { AcceptSome(*state); });
  }

  void StopListening() {
    for (const auto& state : listeners_) {
      loop_.Unwatch(state->listener.descriptor());
      if (state->pause_timer.has_value()) loop_.Cancel(*state->pause_timer);
    }
    listeners_.clear();
  }

  void Drain(absl::AnyInvocable<void()> done) {
    drained_ = std::move(done);
    for (const auto& connection : AllConnections()) connection->Drain("the server is restarting");
    TellIfDrained();
  }

  void Drop() {
    for (const auto& connection : AllConnections()) connection->Drop("the server is restarting");
  }

  template <typename Matches>
  void CloseWhere(Matches matches, std::string_view reason) {
    for (const auto& connection : AllConnections()) {
      if (matches(*connection)) connection->Abort(reason);
    }
  }

  std::vector<std::shared_ptr<Connection>> AllConnections() const {
    std::vector<std::shared_ptr<Connection>> all;
    all.reserve(connections_.size());
    for (const auto& [key, connection] : connections_) all.push_back(connection);
    return all;
  }

  // ConnectionHost
  EventLoop& loop() override { return loop_; }
  const NbdServerOptions& options() const override { return options_; }
  const ExportTable& exports() const override { return exports_; }
  const nbd::TlsContext* tls() override {
    if (tls_ != nullptr && nbd::StampOf(options_.tls_files) != tls_stamp_) LoadTlsAgain();
    return tls_.get();
  }
  nbd::ServerCounters& counters() override { return counters_; }

  void RunAtTurnEnd(Connection& connection) override {
    if (std::exchange(connection.queued_for_turn_end, true)) return;
    turn_end_.push_back(connection.shared_from_this());
  }

  void WaitForBytes(Connection& connection) override {
    if (std::exchange(connection.waiting_for_bytes, true)) return;
    waiting_.push_back(connection.shared_from_this());
  }

  void Closed(Connection& connection) override {
    const auto found = connections_.find(&connection);
    if (found == connections_.end()) return;
    // The caller may be deep inside the connection: it stays for the rest of the turn.
    closed_.push_back(std::move(found->second));
    connections_.erase(found);
    counters_.connections_open.Subtract(1);
  }

 private:
  struct ListenerState {
    Listener listener;
    std::optional<EventLoop::TimerId> pause_timer;
  };

  // Connections that are open keep what they began with.
  void LoadTlsAgain() {
    tls_stamp_ = nbd::StampOf(options_.tls_files);
    auto created = nbd::TlsContext::Create(options_.tls_files);
    std::string event = "nbd: the TLS files were replaced, and are used";
    if (created.ok()) {
      tls_ = *std::move(created);
    } else {
      event = absl::StrCat("nbd: the TLS files were replaced, and are no good: ",
                           created.status().message());
    }
    if (options_.log) options_.log(event);
  }

  void AcceptSome(ListenerState& state) {
    for (int i = 0; i < kAcceptsPerTurn; ++i) {
      sockaddr_storage address{};
      socklen_t length = sizeof(address);
      const int fd = ::accept4(state.listener.descriptor(), reinterpret_cast<sockaddr*>(&address),
                               &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd >= 0) {
        AddConnection(fd, address, length);
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return;
      } else if (errno != EINTR && errno != ECONNABORTED) {
        return PauseAccepting(state, errno);
      }
    }
  }

  void PauseAccepting(ListenerState& state, int error) {
    if (options_.log) options_.log(absl::StrCat("nbd: cannot accept: ", std::strerror(error)));
    loop_.ChangeInterest(state.listener.descriptor(), 0);
    state.pause_timer = loop_.After(kAcceptPause, [this, &state] {
      state.pause_timer.reset();
      loop_.ChangeInterest(state.listener.descriptor(), EventLoop::kReadable);
    });
  }

  void AddConnection(int fd, const sockaddr_storage& address, socklen_t length) {
    if (connections_.size() >= options_.maximum_connections) {
      counters_.connections_refused.Add();
      ::close(fd);
      return;
    }
    if (address.ss_family != AF_UNIX) {
      const int on = 1;
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    }
    // What goes through a unix socket never leaves the host.
    const bool may_be_plain =
        options_.tls_mode == TlsMode::kRequired && address.ss_family == AF_UNIX;
    auto connection = std::make_shared<Connection>(
        *this, nbd::MakePlainTransport(fd), PeerName(fd, address, length),
        may_be_plain ? TlsMode::kAllowed : options_.tls_mode);
    counters_.connections_accepted.Add();
    counters_.connections_open.Add();
    connections_.emplace(connection.get(), connection);
    connection->Start();
    if (!sweep_timer_.has_value()) StartSweepTimer();
  }

  void EndTurn() {
    RunList(turn_end_, &Connection::queued_for_turn_end);
    if (!waiting_.empty() && counters_.inflight_bytes.Get() < options_.total_inflight_bytes) {
      RunList(waiting_, &Connection::waiting_for_bytes);
    }
    while (!closed_.empty()) {
      auto closed = std::exchange(closed_, {});
      closed.clear();
    }
    TellIfDrained();
  }

  void TellIfDrained() {
    if (drained_ != nullptr && connections_.empty()) std::exchange(drained_, nullptr)();
  }

  static void RunList(std::vector<std::shared_ptr<Connection>>& list, bool Connection::*listed) {
    std::vector<std::shared_ptr<Connection>> now = std::exchange(list, {});
    for (const auto& connection : now) {
      connection.get()->*listed = false;
      connection->EndTurn();
    }
    // Keep the memory for the next turn where nothing was added meanwhile.
    now.clear();
    if (list.empty()) list = std::move(now);
  }

  void StartSweepTimer() {
    sweep_timer_ = loop_.After(options_.sweep_period, [this] {
      sweep_timer_.reset();
      const EventLoop::Duration now = loop_.Now();
      const bool starving = !waiting_.empty();
      for (const auto& connection : AllConnections()) connection->Sweep(now, starving);
      if (!connections_.empty()) StartSweepTimer();
    });
  }

  EventLoop& loop_;
  const ExportTable& exports_;
  const NbdServerOptions options_;
  std::unique_ptr<nbd::TlsContext> tls_;
  std::string tls_stamp_ = nbd::StampOf(options_.tls_files);  // of the files that tls_ is made of
  nbd::ServerCounters counters_;
  absl::AnyInvocable<void()> drained_;  // of a Drain that is under way
  EventLoop::HookId hook_ = 0;
  std::optional<EventLoop::TimerId> sweep_timer_;
  std::vector<std::unique_ptr<ListenerState>> listeners_;
  // Shared with requests in flight and with callbacks that may run after the close.
  absl::flat_hash_map<const Connection*, std::shared_ptr<Connection>> connections_;
  std::vector<std::shared_ptr<Connection>> turn_end_;
  std::vector<std::shared_ptr<Connection>> waiting_;
  std::vector<std::shared_ptr<Connection>> closed_;
};

absl::StatusOr<std::unique_ptr<NbdServer>> NbdServer::Create(EventLoop& loop,
                                                             const ExportTable& exports,
                                                             NbdServerOptions options) {
  if (absl::Status status = Validate(options); !status.ok()) return status;
  std::unique_ptr<nbd::TlsContext> tls;
  if (options.tls_mode != TlsMode::kOff) {
    auto created = nbd::TlsContext::Create(options.tls_files);
    if (!created.ok()) return created.status();
    tls = *std::move(created);
  }
  return std::unique_ptr<NbdServer>(
      new NbdServer(std::make_unique<Impl>(loop, exports, std::move(options), std::move(tls))));
}

NbdServer::NbdServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
NbdServer::~NbdServer() = default;

absl::StatusOr<uint16_t> NbdServer::ListenTcp(const std::string& host, uint16_t port) {
  absl::StatusOr<Listener> listener = Listener::Tcp(host, port);
  if (!listener.ok()) return listener.status();
  const uint16_t bound = listener->port();
  impl_->AddListener(*std::move(listener));
  return bound;
}

absl::Status NbdServer::ListenUnix(const std::string& path, mode_t mode) {
  absl::StatusOr<Listener> listener = Listener::Unix(path, mode);
  if (!listener.ok()) return listener.status();
  impl_->AddListener(*std::move(listener));
  return absl::OkStatus();
}

void NbdServer::StopListening() { impl_->StopListening(); }

void NbdServer::Drain(absl::AnyInvocable<void()> done) { impl_->Drain(std::move(done)); }

void NbdServer::Drop() { impl_->Drop(); }

void NbdServer::CloseExport(const std::string& name) {
  const std::shared_ptr<BlockDevice> device = impl_->exports().Find(name);
  impl_->CloseWhere(
      [&](const Connection& connection) {
        return connection.InTransmission() &&
               (connection.export_name() == name || connection.Serves(device.get()));
      },
      "the export is closed");
}

void NbdServer::CloseExport(const BlockDevice& device) {
  impl_->CloseWhere([&](const Connection& connection) { return connection.Serves(&device); },
                    "the export is closed");
}

NbdServerStats NbdServer::stats() const { return impl_->counters().Snapshot(); }

std::vector<NbdConnectionInfo> NbdServer::Connections() const {
  std::vector<NbdConnectionInfo> infos;
  for (const auto& connection : impl_->AllConnections()) {
    infos.push_back({connection->peer(), connection->export_name(), connection->inflight_requests(),
                     connection->inflight_bytes()});
  }
  return infos;
}

}  // namespace tessera::sdc
