#include "integration/sim/io_connection.h"

#include <utility>

#include "services/common/io_codec.h"

namespace tessera::sim {
namespace {

constexpr Nanos kPing = 1'500 * kMillisecond;

Network* g_network = nullptr;
IoConnection::FindServer g_find;
IoTap g_tap;

}  // namespace

// What the engine answers to. Lives as long as operations of the stream are under way.
class IoConnection::ServerEnd final : public sds::IoClient {
 public:
  explicit ServerEnd(std::weak_ptr<IoConnection> connection, Life* life)
      : connection_(std::move(connection)), life_(life) {}
  void Deliver(IoResponseFrame frame) override {
    const auto connection = connection_.lock();
    if (connection == nullptr || connection->server_over_) return;
    if (life_->muted && life_->muted()) return;
    connection->ToClient(
        [message = EncodeIoResponse(frame)](IoConnection& to) { to.end_.received(message); });
  }
  void Release(size_t) override {}
  void Break(const absl::Status& why) override {
    const auto connection = connection_.lock();
    if (connection == nullptr || connection->server_over_) return;
    connection->server_over_ = true;
    connection->ToClient(
        [text = std::string(why.message())](IoConnection& to) { to.EndClient(text); });
  }

 private:
  const std::weak_ptr<IoConnection> connection_;
  Life* const life_;
};

void IoConnection::SetUp(Network* network, FindServer find, IoTap tap) {
  g_network = network;
  g_find = std::move(find);
  g_tap = std::move(tap);
}

std::shared_ptr<IoConnection> IoConnection::Open(NodeId server, ClientEnd end) {
  auto connection = std::make_shared<IoConnection>();
  connection->client_life_ = World::Get().current();
  connection->client_node_ = connection->client_life_->node;
  connection->server_node_ = server;
  connection->end_ = std::move(end);
  connection->last_heard_ = World::Get().now();
  connection->Connect();
  connection->client_life_->IfKilled(connection->left_, [weak = connection->weak_from_this()] {
    const auto self = weak.lock();
    if (self != nullptr) self->up_->LoseTail();
  });
  return connection;
}

void IoConnection::Connect() {
  const std::weak_ptr<IoConnection> weak = weak_from_this();
  const auto stuck = [weak] {
    if (const auto self = weak.lock(); self != nullptr) self->EndClient("keepalive timed out");
  };
  up_ = std::make_shared<Pipe>(g_network, client_node_, server_node_, stuck);
  down_ = std::make_shared<Pipe>(g_network, server_node_, client_node_, stuck);
  up_->Send([self = shared_from_this()] { self->Accept(); });
}

void IoConnection::Accept() {
  if (client_over_ || server_over_) return;
  server_life_ = g_network->machine(server_node_).life;
  server_ = server_life_ == nullptr ? nullptr : g_find(server_node_);
  if (server_ == nullptr) {
    server_over_ = true;
    ToClient([](IoConnection& to) { to.EndClient("connection refused"); });
    return;
  }
  auto over = std::make_shared<bool>(false);
  server_life_->IfKilled(over, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self == nullptr || std::exchange(self->server_over_, true)) return;
    self->ToClient([](IoConnection& to) { to.EndClient("connection reset"); });
  });
  session_ =
      server_->engine->NewSession(std::make_shared<ServerEnd>(weak_from_this(), server_life_), 0);
  // The greeting is the process's: not while it is stopped.
  World::Get().After(0, server_life_, [self = shared_from_this()] {
    IoResponseFrame greeting;
    *greeting.header.mutable_hello() = self->server_->hello();
    self->ToClient(
        [message = EncodeIoResponse(greeting)](IoConnection& to) { to.end_.received(message); });
  });
  World::Get().After(kPing, nullptr, [self = shared_from_this()] { self->KeepAlive(); });
}

void IoConnection::Send(const grpc::ByteBuffer& message) {
  if (client_life_->muted && client_life_->muted()) return;
  up_->Send([self = shared_from_this(), message] { self->Arrived(message); });
}

void IoConnection::Arrived(const grpc::ByteBuffer& message) {
  if (server_over_ || ServerGone()) return;
  if (client_over_) Hit(Coverage::kLateStreamMessage);
  if (g_tap) g_tap(client_node_, server_node_, message);
  sds::IoEngine* engine = server_->engine;
  engine->workers()[session_->home]->Post([engine, session = session_, message] {
    engine->Submit(session, message, message.Length());
  });
}

// The machine lost its power and is back: its kernel knows nothing of the connection.
bool IoConnection::ServerGone() {
  if (server_life_ == nullptr || server_life_->running) return false;
  server_over_ = true;
  ToClient([](IoConnection& to) { to.EndClient("connection reset"); });
  return true;
}

void IoConnection::ToClient(std::function<void(IoConnection&)> what) {
  down_->Send([self = shared_from_this(), what = std::move(what)] {
    self->last_heard_ = World::Get().now();
    if (self->client_over_ || !self->client_life_->running) return;
    what(*self);
  });
}

void IoConnection::KeepAlive() {
  if (client_over_ || !client_life_->running) return;
  if (World::Get().now() - last_heard_ > Network::kBreakAfter) {
    return EndClient("keepalive timed out");
  }
  up_->Send([self = shared_from_this()] {
    if (self->server_over_ || self->ServerGone() || self->server_life_ == nullptr) return;
    // A stopped process does not answer either.
    World::Get().After(0, self->server_life_, [self] { self->ToClient([](IoConnection&) {}); });
  });
  World::Get().After(kPing, nullptr, [self = shared_from_this()] { self->KeepAlive(); });
}

void IoConnection::EndClient(const std::string& why) {
  if (client_over_ || !client_life_->running) return;
  Hit(Coverage::kStreamBroke);
  const auto keep = shared_from_this();
  const ClientEnd end = end_;
  Leave();
  end.ended(why);
}

// What was sent arrives, or it does not: the server may work on it while the client has a new
// stream.
void IoConnection::Leave() {
  if (std::exchange(client_over_, true)) return;
  *left_ = true;
  down_->Close();
  if (World::Get().random().Chance(1, 2)) up_->Close();
  up_->Send([self = shared_from_this()] { self->server_over_ = true; });
}

}  // namespace tessera::sim
