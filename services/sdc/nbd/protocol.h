// The numbers of the NBD protocol and its big-endian fields.
//
// Source: doc/proto.md of the Network Block Device project
// (https://github.com/NetworkBlockDevice/nbd), fixed newstyle handshake. Names follow that document
// without the NBD_ prefix.
//
// Threads: everything here is pure.
#ifndef TESSERA_SERVICES_SDC_NBD_PROTOCOL_H_
#define TESSERA_SERVICES_SDC_NBD_PROTOCOL_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::sdc::nbd {

inline constexpr uint64_t kInitMagic = 0x4e42444d41474943;         // "NBDMAGIC"
inline constexpr uint64_t kOptionMagic = 0x49484156454f5054;       // "IHAVEOPT"
inline constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;  // of every option reply
inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;

// Handshake flags (server) and client flags share their bits.
inline constexpr uint16_t kFlagFixedNewstyle = 1 << 0;
inline constexpr uint16_t kFlagNoZeroes = 1 << 1;

enum TransmissionFlag : uint16_t {
  kFlagHasFlags = 1 << 0,
  kFlagReadOnly = 1 << 1,
  kFlagSendFlush = 1 << 2,
  kFlagSendFua = 1 << 3,
  kFlagSendTrim = 1 << 5,
  kFlagSendWriteZeroes = 1 << 6,
  kFlagSendDontFragment = 1 << 7,
  kFlagCanMultiConnection = 1 << 8,
  kFlagSendCache = 1 << 10,
  kFlagSendFastZero = 1 << 11,
};

enum class Option : uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kStartTls = 5,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMetaContext = 9,
  kSetMetaContext = 10,
  kExtendedHeaders = 11,
};

enum class OptionReply : uint32_t {
  kAck = 1,
  kServer = 2,
  kInfo = 3,
  kMetaContext = 4,
  kErrorUnsupported = (1u << 31) + 1,
  kErrorPolicy = (1u << 31) + 2,
  kErrorInvalid = (1u << 31) + 3,
  kErrorTlsRequired = (1u << 31) + 5,
  kErrorUnknown = (1u << 31) + 6,
  kErrorTooBig = (1u << 31) + 9,
};

enum class InfoType : uint16_t { kExport = 0, kName = 1, kDescription = 2, kBlockSize = 3 };

// On the wire; the BlockDevice's own Command has no numbers of the protocol.
enum class WireCommand : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
  kResize = 8,
};

enum CommandFlag : uint16_t {
  kCommandFlagFua = 1 << 0,
  kCommandFlagNoHole = 1 << 1,
  kCommandFlagDontFragment = 1 << 2,
  kCommandFlagRequestOne = 1 << 3,
  kCommandFlagFastZero = 1 << 4,
};

inline constexpr uint16_t kReplyFlagDone = 1 << 0;

enum class ReplyChunk : uint16_t {
  kNone = 0,
  kOffsetData = 1,
  kBlockStatus = 5,
  kError = (1u << 15) + 1,
  kErrorOffset = (1u << 15) + 2,
};

inline constexpr uint32_t kStateHole = 1 << 0;
inline constexpr uint32_t kStateZero = 1 << 1;

inline constexpr std::string_view kBaseAllocation = "base:allocation";
inline constexpr uint32_t kBaseAllocationId = 1;  // the context id that SET_META_CONTEXT answers

inline constexpr size_t kRequestBytes = 28;
inline constexpr size_t kSimpleReplyBytes = 16;
inline constexpr size_t kStructuredReplyBytes = 20;
inline constexpr size_t kOptionHeaderBytes = 16;
inline constexpr size_t kMaximumStringBytes = 4096;    // of any string, by the specification
inline constexpr size_t kExportNameZeroesBytes = 124;  // after EXPORT_NAME, without NO_ZEROES
// Reads with DF of up to this length must be served whole.
inline constexpr uint32_t kUnfragmentedReadBytes = 65536;

// Big-endian unsigned fields. `T` is an unsigned integer type.
template <typename T>
inline void StoreBig(std::byte* to, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    to[i] = static_cast<std::byte>(value >> (8 * (sizeof(T) - 1 - i)));
  }
}

template <typename T>
inline T LoadBig(const std::byte* from) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = value << 8 | static_cast<uint64_t>(from[i]);
  return static_cast<T>(value);
}

template <typename T>
inline void AppendBig(std::string& to, T value) {
  std::byte bytes[sizeof(T)];
  StoreBig<T>(bytes, value);
  to.append(reinterpret_cast<const char*>(bytes), sizeof(T));
}

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_PROTOCOL_H_
