#include "services/sdc/nbd/request.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <string>
#include <vector>

#include "services/sdc/nbd/test_client.h"

namespace tessera::sdc::nbd {
namespace {

constexpr uint64_t kSize = 1 << 20;

Session MakeSession() {
  Session session;
  session.info.size_bytes = kSize;
  session.info.maximum_payload_bytes = 1 << 18;
  session.structured_replies = true;
  session.base_allocation = true;
  return session;
}

RequestHeader Header(WireCommand command, uint64_t offset, uint32_t length, uint16_t flags = 0) {
  return {flags, command, 1, offset, length};
}

// 0 for what goes to the device, -1 for an empty success, else the errno.
int ErrorOf(const RequestHeader& header, const Session& session = MakeSession()) {
  const Verdict verdict = Judge(header, session);
  if (verdict.action == Verdict::Action::kSubmit) return 0;
  if (verdict.action == Verdict::Action::kSucceed) return -1;
  REQUIRE(verdict.action == Verdict::Action::kRefuse);
  CHECK_FALSE(verdict.message.empty());
  return verdict.error;
}

TEST_CASE("A request is decoded field by field, and a wrong magic is noticed") {
  std::string bytes = EncodeRequest({0x0102, WireCommand::kTrim, 0x0a0b0c0d0e0f1011, 77, 99});
  const auto view = [&bytes] {
    return std::span<const std::byte, kRequestBytes>(
        reinterpret_cast<const std::byte*>(bytes.data()), kRequestBytes);
  };
  const auto header = DecodeRequest(view());
  REQUIRE(header.has_value());
  CHECK(header->flags == 0x0102);
  CHECK(header->command == WireCommand::kTrim);
  CHECK(header->cookie == 0x0a0b0c0d0e0f1011);
  CHECK(header->offset_bytes == 77);
  CHECK(header->length_bytes == 99);
  bytes[0] = 0;
  CHECK_FALSE(DecodeRequest(view()).has_value());
}

TEST_CASE("Ranges inside the export go to the device, up to its last byte") {
  for (const auto command :
       {WireCommand::kRead, WireCommand::kWrite, WireCommand::kTrim, WireCommand::kCache,
        WireCommand::kWriteZeroes, WireCommand::kBlockStatus}) {
    CHECK(ErrorOf(Header(command, 0, 1)) == 0);
    CHECK(ErrorOf(Header(command, kSize - 1, 1)) == 0);
    CHECK(ErrorOf(Header(command, 12345, 678)) == 0);
  }
}

TEST_CASE("Ranges past the end are ENOSPC where data would grow, else EINVAL, with 64-bit care") {
  struct Case {
    WireCommand command;
    int error;
  };
  for (const Case& c : std::vector<Case>{{WireCommand::kRead, EINVAL},
                                         {WireCommand::kWrite, ENOSPC},
                                         {WireCommand::kTrim, EINVAL},
                                         {WireCommand::kCache, EINVAL},
                                         {WireCommand::kWriteZeroes, ENOSPC},
                                         {WireCommand::kBlockStatus, EINVAL}}) {
    CHECK(ErrorOf(Header(c.command, kSize, 1)) == c.error);
    CHECK(ErrorOf(Header(c.command, kSize - 1, 2)) == c.error);
    CHECK(ErrorOf(Header(c.command, kSize + 1, 0)) == c.error);
    CHECK(ErrorOf(Header(c.command, UINT64_MAX, 1)) == c.error);
    CHECK(ErrorOf(Header(c.command, UINT64_MAX - 10, 11)) == c.error);
    CHECK(ErrorOf(Header(c.command, UINT64_MAX - 10, 4096)) == c.error);
  }
}

TEST_CASE("The offset of a range error is the first missing byte, if it lies in the range") {
  const Session session = MakeSession();
  CHECK(Judge(Header(WireCommand::kRead, kSize - 10, 20), session).error_offset_bytes == kSize);
  CHECK(Judge(Header(WireCommand::kRead, kSize + 5, 20), session).error_offset_bytes == kSize + 5);
  CHECK_FALSE(
      Judge(Header(WireCommand::kRead, UINT64_MAX, 20), session).error_offset_bytes.has_value());
  CHECK_FALSE(
      Judge(Header(WireCommand::kRead, kSize + 1, 0), session).error_offset_bytes.has_value());
}

TEST_CASE("Empty ranges succeed without the device, but a block status needs a range") {
  CHECK(ErrorOf(Header(WireCommand::kRead, 5, 0)) == -1);
  CHECK(ErrorOf(Header(WireCommand::kWrite, kSize, 0)) == -1);
  CHECK(ErrorOf(Header(WireCommand::kTrim, 0, 0)) == -1);
  CHECK(ErrorOf(Header(WireCommand::kWriteZeroes, 0, 0)) == -1);
  CHECK(ErrorOf(Header(WireCommand::kBlockStatus, 0, 0)) == EINVAL);
}

TEST_CASE("A read-only export refuses changes with EPERM and serves the rest") {
  Session session = MakeSession();
  session.info.read_only = true;
  CHECK(ErrorOf(Header(WireCommand::kWrite, 0, 512), session) == EPERM);
  CHECK(ErrorOf(Header(WireCommand::kTrim, 0, 512), session) == EPERM);
  CHECK(ErrorOf(Header(WireCommand::kWriteZeroes, 0, 512), session) == EPERM);
  CHECK(ErrorOf(Header(WireCommand::kWrite, kSize, 512), session) == EPERM);
  CHECK(ErrorOf(Header(WireCommand::kRead, 0, 512), session) == 0);
  CHECK(ErrorOf(Header(WireCommand::kFlush, 0, 0), session) == 0);
}

TEST_CASE("Reads above the maximum payload are refused; writes break the connection") {
  const Session session = MakeSession();
  const uint32_t limit = session.info.maximum_payload_bytes;
  CHECK(ErrorOf(Header(WireCommand::kRead, 0, limit)) == 0);
  CHECK(ErrorOf(Header(WireCommand::kRead, 0, limit + 1)) == EINVAL);
  CHECK(ErrorOf(Header(WireCommand::kRead, 0, limit + 1, kCommandFlagDontFragment)) == EOVERFLOW);
  CHECK(ErrorOf(Header(WireCommand::kWrite, 0, limit)) == 0);
  CHECK(Judge(Header(WireCommand::kWrite, 0, limit + 1), session).action ==
        Verdict::Action::kBreak);
  // Commands without a payload know no such limit.
  CHECK(ErrorOf(Header(WireCommand::kTrim, 0, kSize)) == 0);
  CHECK(ErrorOf(Header(WireCommand::kWriteZeroes, 0, kSize)) == 0);
}

TEST_CASE("Each command takes the flags that are documented for it, and FUA") {
  struct Case {
    WireCommand command;
    uint16_t allowed;
  };
  for (const Case& c : std::vector<Case>{
           {WireCommand::kRead, kCommandFlagFua | kCommandFlagDontFragment},
           {WireCommand::kWrite, kCommandFlagFua},
           {WireCommand::kTrim, kCommandFlagFua},
           {WireCommand::kCache, kCommandFlagFua},
           {WireCommand::kWriteZeroes, kCommandFlagFua | kCommandFlagNoHole | kCommandFlagFastZero},
           {WireCommand::kBlockStatus, kCommandFlagFua | kCommandFlagRequestOne}}) {
    for (int bit = 0; bit < 16; ++bit) {
      const auto flag = static_cast<uint16_t>(1 << bit);
      CHECK(ErrorOf(Header(c.command, 0, 512, flag)) == ((c.allowed & flag) != 0 ? 0 : EINVAL));
    }
  }
  Session simple = MakeSession();
  simple.structured_replies = false;
  CHECK(ErrorOf(Header(WireCommand::kRead, 0, 512, kCommandFlagDontFragment), simple) == EINVAL);
}

TEST_CASE("A flush has no range") {
  CHECK(ErrorOf(Header(WireCommand::kFlush, 0, 0, kCommandFlagFua)) == 0);
  CHECK(ErrorOf(Header(WireCommand::kFlush, 1, 0)) == EINVAL);
  CHECK(ErrorOf(Header(WireCommand::kFlush, 0, 1)) == EINVAL);
}

TEST_CASE("Block status needs its context, resize and unknown commands are refused") {
  Session session = MakeSession();
  session.base_allocation = false;
  CHECK(ErrorOf(Header(WireCommand::kBlockStatus, 0, 512), session) == EINVAL);
  CHECK(ErrorOf(Header(WireCommand::kResize, 0, 512)) == EINVAL);
  for (const uint16_t unknown : {9, 10, 255, 65535}) {
    CHECK(ErrorOf(Header(static_cast<WireCommand>(unknown), 0, 0)) == EINVAL);
  }
}

TEST_CASE("A minimum block size is enforced") {
  Session session = MakeSession();
  session.info.minimum_block_bytes = 512;
  CHECK(ErrorOf(Header(WireCommand::kRead, 512, 1024), session) == 0);
  CHECK(ErrorOf(Header(WireCommand::kRead, 1, 512), session) == EINVAL);
  CHECK(ErrorOf(Header(WireCommand::kWrite, 0, 511), session) == EINVAL);
}

TEST_CASE("Errors that NBD cannot carry become the nearest that it can") {
  for (const int error : {0, EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN}) {
    CHECK(NbdError(error) == error);
  }
  CHECK(NbdError(EROFS) == EPERM);
  CHECK(NbdError(EDQUOT) == ENOSPC);
  CHECK(NbdError(EFBIG) == ENOSPC);
  CHECK(NbdError(ETIMEDOUT) == EIO);
}

}  // namespace
}  // namespace tessera::sdc::nbd
