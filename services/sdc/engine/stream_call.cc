#include "services/sdc/engine/stream_call.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grpcpp/create_channel_posix.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tessera::sdc {
namespace {

constexpr char kMethod[] = "/tessera.v1.ChunkService/Io";
constexpr char kUnixScheme[] = "unix:";
constexpr int kSendBufferBytes = 4 << 20;

grpc::ChannelArguments StreamArguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  arguments.SetMaxSendMessageSize(64 << 20);
  // A stopped or vanished server must show within the detection time, also while it only flushes.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1'500);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1'500);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 8 << 20);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

union SocketAddress {
  sockaddr any;
  sockaddr_un local;
  sockaddr_in ip4;
  sockaddr_in6 ip6;
};

// The bytes of it that count; 0 when the target is neither a unix socket nor a numeric address.
socklen_t ParseTarget(const std::string& target, SocketAddress* address) {
  std::memset(address, 0, sizeof(*address));
  if (absl::StartsWith(target, kUnixScheme)) {
    const std::string path = target.substr(sizeof(kUnixScheme) - 1);
    if (path.size() >= sizeof(address->local.sun_path)) return 0;
    address->local.sun_family = AF_UNIX;
    std::memcpy(address->local.sun_path, path.data(), path.size());
    return sizeof(address->local);
  }
  const size_t colon = target.rfind(':');
  if (colon == std::string::npos) return 0;
  uint16_t port = 0;
  const char* end = target.data() + target.size();
  if (std::from_chars(target.data() + colon + 1, end, port).ptr != end) return 0;
  std::string host = target.substr(0, colon);
  if (inet_pton(AF_INET, host.c_str(), &address->ip4.sin_addr) == 1) {
    address->ip4.sin_family = AF_INET;
    address->ip4.sin_port = htons(port);
    return sizeof(address->ip4);
  }
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  if (inet_pton(AF_INET6, host.c_str(), &address->ip6.sin6_addr) == 1) {
    address->ip6.sin6_family = AF_INET6;
    address->ip6.sin6_port = htons(port);
    return sizeof(address->ip6);
  }
  return 0;
}

}  // namespace

StreamCall::StreamCall(EventLoop& loop, StreamQueue& queue, Listener* listener)
    : loop_(loop), queue_(queue), listener_(listener) {}

StreamCall::~StreamCall() { CloseDescriptors(); }

void StreamCall::CloseDescriptors() {
  for (int* descriptor : {&connecting_, &readable_, &writable_}) {
    if (*descriptor < 0) continue;
    loop_.Unwatch(*descriptor);
    ::close(std::exchange(*descriptor, -1));
  }
}

void StreamCall::Start(const std::string& target,
                       std::shared_ptr<grpc::ChannelCredentials> credentials) {
  self_ = shared_from_this();
  SocketAddress address;
  const bool own_socket = credentials == nullptr && ParseTarget(target, &address) != 0;
  if (!own_socket) {
    if (credentials == nullptr) credentials = grpc::InsecureChannelCredentials();
    Begin(grpc::CreateCustomChannel(target, credentials, StreamArguments()), queue_.threaded());
    return;
  }
  if (const std::string problem = OpenSocket(target); !problem.empty()) FailSoon(problem);
}

std::string StreamCall::OpenSocket(const std::string& target) {
  SocketAddress address;
  const socklen_t size = ParseTarget(target, &address);
  connecting_ = ::socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (connecting_ < 0) return absl::StrCat("no socket: ", std::strerror(errno));
  if (address.any.sa_family != AF_UNIX) {
    const int on = 1;
    ::setsockopt(connecting_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  // A message of large writes should fit, else it leaves in pieces, one each time the server has
  // read some. The privileged form goes beyond the system's limit; without the right the limit has
  // to do.
  const int bytes = kSendBufferBytes;
  if (::setsockopt(connecting_, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0) {
    ::setsockopt(connecting_, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
  }
  // Watched also when it is connected at once: what follows is not begun inside the caller.
  if (::connect(connecting_, &address.any, size) != 0 && errno != EINPROGRESS) {
    return absl::StrCat("cannot connect: ", std::strerror(errno));
  }
  loop_.Watch(connecting_, EventLoop::kWritable, [this](uint32_t) { AwaitConnection(); });
  return "";
}

void StreamCall::AwaitConnection() {
  int error = 0;
  socklen_t size = sizeof(error);
  ::getsockopt(connecting_, SOL_SOCKET, SO_ERROR, &error, &size);
  loop_.Unwatch(connecting_);
  const int socket = std::exchange(connecting_, -1);
  const int watched = error == 0 ? ::fcntl(socket, F_DUPFD_CLOEXEC, 0) : -1;
  if (watched < 0) {
    ::close(socket);
    End(absl::StrCat("cannot connect: ", std::strerror(error == 0 ? errno : error)));
    return;
  }
  readable_ = watched;
  loop_.Watch(readable_, EventLoop::kReadable, [this](uint32_t) { queue_.Poll(); });
  Begin(grpc::CreateCustomInsecureChannelFromFd("tessera", socket, StreamArguments()),
        queue_.watched());
}

void StreamCall::Begin(std::shared_ptr<grpc::Channel> channel, grpc::CompletionQueue* queue) {
  completions_ = queue;
  queue_.CallBegan();
  stub_ = std::make_unique<grpc::GenericStub>(std::move(channel));
  rpc_ = stub_->PrepareCall(&context_, kMethod, queue);
  ++operations_;
  rpc_->StartCall(static_cast<QueueTag*>(&started_));
}

void StreamCall::Read() {
  if (std::exchange(reading_, true)) return;
  ++operations_;
  rpc_->Read(&incoming_, static_cast<QueueTag*>(&read_));
}

void StreamCall::FailSoon(const std::string& why) {
  loop_.Post([self = shared_from_this(), why] { self->End(why); });
}

void StreamCall::Write(const grpc::ByteBuffer& message) {
  writing_ = true;
  ++operations_;
  rpc_->Write(message, static_cast<QueueTag*>(&written_));
  Read();
}

void StreamCall::ReadWhenIdle() {
  idle_told_ = false;
  if (!finishing_) Read();
}

void StreamCall::ExpectWritten() {
  if (completions_ != queue_.watched() || std::exchange(asked_, true)) return;
  loop_.Post([self = shared_from_this()] {
    self->asked_ = false;
    if (self->over_) return;
    self->queue_.Poll();
    if (self->writing_ && !self->over_) self->WatchWritable();
  });
}

// Each time that the socket takes more (edge), since a message may wait for its stream's window
// instead while the socket could take it all.
void StreamCall::WatchWritable() {
  if (writable_ >= 0) return;
  writable_ = ::fcntl(readable_, F_DUPFD_CLOEXEC, 0);
  if (writable_ < 0) return;  // the queue's tick goes on
  loop_.Watch(writable_, EventLoop::kWritable | EventLoop::kEdge,
              [this](uint32_t) { queue_.Poll(); });
}

void StreamCall::Release() {
  if (std::exchange(released_, true) || over_) return;
  if (rpc_ == nullptr) {
    CloseDescriptors();
    FailSoon("given up");
    return;
  }
  context_.TryCancel();
  if (started_call_ && !finishing_) Read();  // whose failure is the end
}

void StreamCall::WaitUntilOver() {
  const std::shared_ptr<StreamCall> keep = shared_from_this();
  if (rpc_ == nullptr) End("given up");
  while (!over_) queue_.RunOne(completions_);
}

// Nothing is read before: the server greets at once, and the listener may then write, which gRPC
// does not allow until it is told here that the call has started.
void StreamCall::OnStarted(bool) {
  started_call_ = true;
  Read();
  OperationEnded();
}

void StreamCall::OnRead(bool ok) {
  reading_ = false;
  if (ok && !released_) {
    grpc::ByteBuffer message;
    message.Swap(&incoming_);
    const bool more = listener_ == nullptr || listener_->CallReceived(*this, message);
    if (more || released_) {
      Read();
    } else if (!reading_ && !std::exchange(idle_told_, true)) {
      queue_.ReadAtNextTick(weak_from_this());
    }
  } else if (!std::exchange(finishing_, true)) {
    ++operations_;
    rpc_->Finish(&status_, static_cast<QueueTag*>(&finished_));
  }
  OperationEnded();
}

void StreamCall::OnWritten(bool ok) {
  writing_ = false;
  if (writable_ >= 0) {
    loop_.Unwatch(writable_);
    ::close(std::exchange(writable_, -1));
  }
  // When it failed, the read side sees the end, too.
  if (ok && !released_ && listener_ != nullptr) listener_->CallWrote(*this);
  OperationEnded();
}

void StreamCall::OnFinished(bool) { OperationEnded(); }

void StreamCall::OperationEnded() {
  if (--operations_ > 0 || !finishing_) return;
  queue_.CallEnded();
  End(absl::StrCat("the stream ended: ",
                   status_.ok() ? "closed by the server" : status_.error_message()));
}

void StreamCall::End(const std::string& why) {
  if (std::exchange(over_, true)) return;
  const std::shared_ptr<StreamCall> keep = std::move(self_);
  CloseDescriptors();
  if (listener_ != nullptr) listener_->CallEnded(*this, why);
}

}  // namespace tessera::sdc
