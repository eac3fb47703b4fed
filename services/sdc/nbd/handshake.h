// The server's side of the NBD handshake ("fixed newstyle") as a state machine: bytes in, bytes
// out.
//
// Promises
//  - Holds no more than the option being read: input stays with the caller until an option is
//    complete, and data of an option that is too long is passed over without being kept.
//  - Every option gets the reply that the specification asks for, or the session ends.
//  - What was negotiated before STARTTLS does not survive it, so nothing that was injected into the
//    clear-text part has an effect later.
//  - A client is let into the transmission phase only over TLS where TLS is required.
//
// Source: doc/proto.md of the NBD project, "Handshake phase" and "TLS support".
// Threads: none of its own; one caller at a time. The ExportTable is called from inside Consume.
#ifndef TESSERA_SERVICES_SDC_NBD_HANDSHAKE_H_
#define TESSERA_SERVICES_SDC_NBD_HANDSHAKE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "services/sdc/block_device.h"
#include "services/sdc/nbd/protocol.h"

namespace tessera::sdc {

enum class TlsMode : uint8_t {
  kOff,       // STARTTLS is answered as not supported
  kAllowed,   // for those who ask
  kRequired,  // nothing but STARTTLS and ABORT works before it
};

namespace nbd {

// What both sides have agreed on when transmission begins.
struct Session {
  std::string export_name;  // as the client asked for it
  std::shared_ptr<BlockDevice> device;
  BlockDeviceInfo info;  // as it was told to the client
  uint16_t transmission_flags = 0;
  bool structured_replies = false;
  bool base_allocation = false;  // BLOCK_STATUS may be used
};

// The transmission flags that an export of this kind is offered with.
[[nodiscard]] uint16_t TransmissionFlags(const BlockDeviceInfo& info, bool structured_replies);

class Handshake {
 public:
  // Options with more data than this are answered with TOO_BIG. The caller's input buffer must have
  // room for an option of this size and its header.
  static constexpr size_t kMaximumOptionBytes = 16 << 10;
  static constexpr size_t kInputBytes = kMaximumOptionBytes + kOptionHeaderBytes;
  // Options with more data than this end the session.
  static constexpr uint32_t kMaximumSkippedBytes = 1 << 20;
  static constexpr int kMaximumOptions = 1024;

  enum class Event : uint8_t {
    kNeedInput,     // all complete options are done
    kStartTls,      // send the output, then start TLS, then call TlsStarted
    kTransmission,  // send the output; `session()` holds what was agreed
    kAborted,       // the client ended it in good order: send the output, then close
    kClose,         // the protocol is broken: close; `close_reason()` says why
  };
  struct Step {
    size_t consumed_bytes = 0;
    Event event = Event::kNeedInput;
  };

  // `exports` must outlive the handshake.
  Handshake(const ExportTable& exports, TlsMode tls_mode)
      : exports_(exports), tls_mode_(tls_mode) {}

  // Appends the server's greeting. First call.
  void Greet(std::string& output) const;
  // Handles one message of the client at the front of `input`, appending answers to `output`. Call
  // again with the rest of the input until it says kNeedInput or something else than consuming.
  [[nodiscard]] Step Consume(std::span<const std::byte> input, std::string& output);
  void TlsStarted();

  // After kTransmission.
  [[nodiscard]] Session TakeSession() { return std::move(session_); }
  [[nodiscard]] const std::string& close_reason() const { return close_reason_; }

 private:
  enum class State : uint8_t { kClientFlags, kOptions, kSkipping };

  Step ConsumeClientFlags(std::span<const std::byte> input);
  Step ConsumeOption(std::span<const std::byte> input, std::string& output);
  Step ConsumeSkipped(std::span<const std::byte> input, std::string& output);
  Event HandleOption(Option option, std::span<const std::byte> data, std::string& output);
  Event HandleExportName(std::span<const std::byte> data, std::string& output);
  void HandleList(std::span<const std::byte> data, std::string& output);
  Event HandleStartTls(std::span<const std::byte> data, std::string& output);
  Event HandleInfoOrGo(Option option, std::span<const std::byte> data, std::string& output);
  void HandleMetaContext(Option option, std::span<const std::byte> data, std::string& output);
  void AppendInfoReplies(Option option, const std::string& name, const BlockDeviceInfo& info,
                         std::span<const std::byte> requests, std::string& output) const;
  void BeginSession(const std::string& name, std::shared_ptr<BlockDevice> device);
  Step Close(std::string reason);

  const ExportTable& exports_;
  const TlsMode tls_mode_;
  State state_ = State::kClientFlags;
  bool fixed_newstyle_ = false;
  bool no_zeroes_ = false;
  bool tls_active_ = false;
  bool structured_replies_ = false;
  // The export for which base:allocation was selected, if it was.
  std::optional<std::string> base_allocation_export_;
  int options_seen_ = 0;
  uint32_t skip_bytes_left_ = 0;
  Option skipped_option_ = Option::kAbort;
  Session session_;
  std::string close_reason_;
};

}  // namespace nbd
}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_NBD_HANDSHAKE_H_
