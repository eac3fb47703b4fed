// A stream of ChunkService.Io between a client's StreamCall and a server's engine.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_IO_CONNECTION_H_
#define TESSERA_INTEGRATION_SIM_IO_CONNECTION_H_

#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <memory>
#include <string>

#include "integration/sim/network.h"
#include "services/sds/io_engine.h"
#include "tessera/v1/chunk.pb.h"

namespace tessera::sim {

// A server as streams find it.
struct IoServer {
  sds::IoEngine* engine = nullptr;
  std::function<v1::SdsHello()> hello;
};

class IoConnection;

// Sees every message that a server takes; for those who record and replay.
using IoTap = std::function<void(NodeId client, NodeId server, const grpc::ByteBuffer& message)>;

class IoConnection : public std::enable_shared_from_this<IoConnection> {
 public:
  // What the client's end hears, in order, until Leave.
  struct ClientEnd {
    std::function<void(const grpc::ByteBuffer&)> received;
    std::function<void(const std::string& why)> ended;
  };
  // `find` says who listens on a machine; null: nobody.
  using FindServer = std::function<IoServer*(NodeId)>;
  static void SetUp(Network* network, FindServer find, IoTap tap);

  // From the current life to the machine.
  static std::shared_ptr<IoConnection> Open(NodeId server, ClientEnd end);
  void Send(const grpc::ByteBuffer& message);
  // The client's end is closed: it hears nothing more.
  void Leave();

 private:
  class ServerEnd;
  void Connect();
  void Accept();
  [[nodiscard]] bool ServerGone();
  void Arrived(const grpc::ByteBuffer& message);
  void ToClient(std::function<void(IoConnection&)> what);
  void EndClient(const std::string& why);
  void KeepAlive();

  NodeId client_node_ = 0;
  NodeId server_node_ = 0;
  Life* client_life_ = nullptr;
  Life* server_life_ = nullptr;
  IoServer* server_ = nullptr;
  ClientEnd end_;
  bool client_over_ = false;
  const std::shared_ptr<bool> left_ = std::make_shared<bool>(false);  // the same, for its life
  bool server_over_ = false;
  Nanos last_heard_ = 0;
  std::shared_ptr<Pipe> up_;
  std::shared_ptr<Pipe> down_;
  std::shared_ptr<sds::ClientSession> session_;  // shared with the server's engine
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_IO_CONNECTION_H_
