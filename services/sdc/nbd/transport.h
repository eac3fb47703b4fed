// A connected socket, in the clear or under TLS, as the connection sees it: never blocking.
//
// Threads: one caller at a time. The transport owns the descriptor and closes it.
#ifndef TESSERA_SERVICES_SDC_NBD_TRANSPORT_H_
#define TESSERA_SERVICES_SDC_NBD_TRANSPORT_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace tessera::sdc::nbd {

class Transport {
 public:
  enum class State : uint8_t {
    kOpen,        // bytes were moved
    kWouldBlock,  // none could be: wait for the descriptor
    kEnd,         // the peer has finished sending
    kFailed,      // `error` says why; nothing will work any more
  };
  struct Result {
    size_t bytes = 0;
    State state = State::kOpen;
    std::string error;
  };

  virtual ~Transport() = default;
  [[nodiscard]] virtual int descriptor() const = 0;
  [[nodiscard]] virtual Result Read(std::span<std::byte> into) = 0;
  // Takes a prefix of the vectors. What it has taken need not be given again.
  [[nodiscard]] virtual Result Write(std::span<const iovec> vectors) = 0;
  // Bytes that were taken by Write and still wait for the socket; call Write again, also with
  // nothing, when it is writable.
  [[nodiscard]] virtual bool HasBufferedOutput() const = 0;
  // Bytes that Read would give although the socket is empty.
  [[nodiscard]] virtual bool HasBufferedInput() const = 0;
  // The last Read can go on only once the socket is writable (a TLS handshake).
  [[nodiscard]] virtual bool ReadWantsWritable() const = 0;
  // Says goodbye where the protocol has a word for it. Best effort.
  virtual void Shutdown() = 0;
};

// Takes the descriptor, which must be a non-blocking stream socket.
[[nodiscard]] std::unique_ptr<Transport> MakePlainTransport(int descriptor);

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_TRANSPORT_H_
