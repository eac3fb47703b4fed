#include "services/sdc/nbd/request.h"

#include <algorithm>
#include <cerrno>

namespace tessera::sdc::nbd {
namespace {

Verdict Refuse(int error, std::string_view message) {
  return {Verdict::Action::kRefuse, error, message, std::nullopt};
}

// The flags that the specification documents for a command. FUA is fine with any of them.
uint16_t AllowedFlags(WireCommand command, const Session& session) {
  switch (command) {
    case WireCommand::kRead:
      return kCommandFlagFua |
             (session.structured_replies ? uint16_t{kCommandFlagDontFragment} : uint16_t{0});
    case WireCommand::kWriteZeroes:
      return kCommandFlagFua | kCommandFlagNoHole | kCommandFlagFastZero;
    case WireCommand::kBlockStatus:
      return kCommandFlagFua | kCommandFlagRequestOne;
    default:
      return kCommandFlagFua;
  }
}

bool ChangesData(WireCommand command) {
  return command == WireCommand::kWrite || command == WireCommand::kTrim ||
         command == WireCommand::kWriteZeroes;
}

bool InsideDevice(const RequestHeader& header, uint64_t size_bytes) {
  return header.offset_bytes <= size_bytes &&
         header.length_bytes <= size_bytes - header.offset_bytes;
}

Verdict RefuseRange(const RequestHeader& header, uint64_t size_bytes) {
  const bool grows =
      header.command == WireCommand::kWrite || header.command == WireCommand::kWriteZeroes;
  Verdict verdict = Refuse(grows ? ENOSPC : EINVAL, "the range goes past the end of the export");
  // Without a wrap around 2^64 the first byte that does not exist lies inside the range.
  if (header.length_bytes > 0 && header.offset_bytes <= UINT64_MAX - header.length_bytes) {
    verdict.error_offset_bytes = std::max(header.offset_bytes, size_bytes);
  }
  return verdict;
}

Verdict JudgeRange(const RequestHeader& header, const Session& session) {
  const BlockDeviceInfo& info = session.info;
  if (info.read_only && ChangesData(header.command)) {
    return Refuse(EPERM, "the export is read-only");
  }
  if (!InsideDevice(header, info.size_bytes)) return RefuseRange(header, info.size_bytes);
  if (header.command == WireCommand::kRead && header.length_bytes > info.maximum_payload_bytes) {
    return (header.flags & kCommandFlagDontFragment) != 0
               ? Refuse(EOVERFLOW, "too long to be read without fragments")
               : Refuse(EINVAL, "longer than the maximum payload");
  }
  const uint64_t unit = std::max<uint32_t>(1, info.minimum_block_bytes);
  if (header.offset_bytes % unit != 0 || header.length_bytes % unit != 0) {
    return Refuse(EINVAL, "not a multiple of the minimum block size");
  }
  if (header.length_bytes == 0) {
    // A block status answer needs at least one extent that is not empty.
    if (header.command == WireCommand::kBlockStatus) return Refuse(EINVAL, "an empty range");
    return {Verdict::Action::kSucceed, 0, {}, std::nullopt};
  }
  return {};
}

}  // namespace

std::optional<RequestHeader> DecodeRequest(std::span<const std::byte, kRequestBytes> bytes) {
  if (LoadBig<uint32_t>(bytes.data()) != kRequestMagic) return std::nullopt;
  RequestHeader header;
  header.flags = LoadBig<uint16_t>(bytes.data() + 4);
  header.command = static_cast<WireCommand>(LoadBig<uint16_t>(bytes.data() + 6));
  header.cookie = LoadBig<uint64_t>(bytes.data() + 8);
  header.offset_bytes = LoadBig<uint64_t>(bytes.data() + 16);
  header.length_bytes = LoadBig<uint32_t>(bytes.data() + 24);
  return header;
}

uint32_t PayloadBytes(const RequestHeader& header) {
  return header.command == WireCommand::kWrite ? header.length_bytes : 0;
}

Verdict Judge(const RequestHeader& header, const Session& session) {
  if (header.command == WireCommand::kDisconnect) {
    return {Verdict::Action::kDisconnect, 0, {}, std::nullopt};
  }
  if (PayloadBytes(header) > session.info.maximum_payload_bytes) {
    return {Verdict::Action::kBreak, 0, "a write of more than the maximum payload", std::nullopt};
  }
  switch (header.command) {
    case WireCommand::kRead:
    case WireCommand::kWrite:
    case WireCommand::kFlush:
    case WireCommand::kTrim:
    case WireCommand::kCache:
    case WireCommand::kWriteZeroes:
    case WireCommand::kBlockStatus:
      break;
    case WireCommand::kResize:
      return Refuse(EINVAL, "a client cannot resize an export");
    default:
      return Refuse(EINVAL, "unknown command");
  }
  if ((header.flags & ~AllowedFlags(header.command, session)) != 0) {
    return Refuse(EINVAL, "a flag that this command does not have");
  }
  if (header.command == WireCommand::kFlush) {
    if (header.offset_bytes != 0 || header.length_bytes != 0) {
      return Refuse(EINVAL, "offset and length of a flush must be zero");
    }
    return {};
  }
  if (header.command == WireCommand::kBlockStatus && !session.base_allocation) {
    return Refuse(EINVAL, "no metadata context was negotiated");
  }
  return JudgeRange(header, session);
}

int NbdError(int error) {
  switch (error) {
    case 0:
    case EPERM:
    case EIO:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case ENOTSUP:
    case ESHUTDOWN:
      return error;
    case EROFS:
    case EACCES:
      return EPERM;
    case EDQUOT:
    case EFBIG:
      return ENOSPC;
    default:
      return EIO;
  }
}

}  // namespace tessera::sdc::nbd
