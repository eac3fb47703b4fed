#include "services/sdc/nbd/transport.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace tessera::sdc::nbd {
namespace {

Transport::Result Failure(const char* what, int error) {
  return {0, Transport::State::kFailed, std::string(what) + ": " + std::strerror(error)};
}

class PlainTransport : public Transport {
 public:
  explicit PlainTransport(int descriptor) : descriptor_(descriptor) {}
  ~PlainTransport() override { ::close(descriptor_); }
  PlainTransport(const PlainTransport&) = delete;
  PlainTransport& operator=(const PlainTransport&) = delete;

  int descriptor() const override { return descriptor_; }

  Result Read(std::span<std::byte> into) override {
    for (;;) {
      const ssize_t got = ::recv(descriptor_, into.data(), into.size(), MSG_DONTWAIT);
      if (got > 0) return {static_cast<size_t>(got), State::kOpen, {}};
      if (got == 0) return {0, State::kEnd, {}};
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return {0, State::kWouldBlock, {}};
      return Failure("receiving", errno);
    }
  }

  Result Write(std::span<const iovec> vectors) override {
    if (vectors.empty()) return {};
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(vectors.data());
    message.msg_iovlen = vectors.size();
    for (;;) {
      const ssize_t sent = ::sendmsg(descriptor_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent >= 0) return {static_cast<size_t>(sent), State::kOpen, {}};
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return {0, State::kWouldBlock, {}};
      return Failure("sending", errno);
    }
  }

  bool HasBufferedOutput() const override { return false; }
  bool HasBufferedInput() const override { return false; }
  bool ReadWantsWritable() const override { return false; }
  void Shutdown() override { ::shutdown(descriptor_, SHUT_WR); }

 private:
  const int descriptor_;
};

}  // namespace

std::unique_ptr<Transport> MakePlainTransport(int descriptor) {
  return std::make_unique<PlainTransport>(descriptor);
}

}  // namespace tessera::sdc::nbd
