// Requests of the transmission phase: decoding, and the rules that say what becomes of each.
//
// Source: doc/proto.md of the NBD project, "Transmission phase", "Request types", "Error values".
// Threads: pure functions.
#ifndef TESSERA_SERVICES_SDC_NBD_REQUEST_H_
#define TESSERA_SERVICES_SDC_NBD_REQUEST_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "services/sdc/nbd/handshake.h"
#include "services/sdc/nbd/protocol.h"

namespace tessera::sdc::nbd {

struct RequestHeader {
  uint16_t flags = 0;
  WireCommand command = WireCommand::kRead;
  uint64_t cookie = 0;  // given back in the reply
  uint64_t offset_bytes = 0;
  uint32_t length_bytes = 0;
};

// Nothing if the magic is wrong: the stream is out of step and cannot be saved.
[[nodiscard]] std::optional<RequestHeader> DecodeRequest(
    std::span<const std::byte, kRequestBytes> bytes);

struct Verdict {
  enum class Action : uint8_t {
    kSubmit,      // to the device
    kSucceed,     // nothing to do: an empty range
    kRefuse,      // answer `error` and `message`
    kDisconnect,  // the client says goodbye: finish what is in flight, then close
    kBreak,       // `message` says why the connection cannot go on
  };
  Action action = Action::kSubmit;
  int error = 0;             // an NBD errno, for kRefuse
  std::string_view message;  // for people; static storage
  // The first offending byte inside the request's range, where there is one.
  std::optional<uint64_t> error_offset_bytes;
};

// What to do with a request in this session. A refused write still has its payload to be read over.
[[nodiscard]] Verdict Judge(const RequestHeader& header, const Session& session);

// Bytes that follow the header on the wire.
[[nodiscard]] uint32_t PayloadBytes(const RequestHeader& header);

// The errno that NBD can carry which says best what `error` says; EIO for those without a relative.
[[nodiscard]] int NbdError(int error);

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_REQUEST_H_
