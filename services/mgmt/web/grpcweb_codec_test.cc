#include "services/mgmt/web/grpcweb_codec.h"

#include <catch2/catch.hpp>
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tessera::mgmt {
namespace {

using std::chrono::nanoseconds;
using namespace std::string_literals;  // NOLINT(google-build-using-namespace)

constexpr size_t kLimit = 1000;

absl::StatusOr<std::string> Binary(const std::string& body) {
  return DecodeRequestBody(GrpcWebForm::kBinary, body, kLimit);
}

TEST_CASE("Four content types are gRPC-Web, with any parameters and in any case") {
  for (const char* type : {"application/grpc-web", "application/grpc-web+proto",
                           "Application/GRPC-Web+Proto; charset=utf-8"}) {
    CAPTURE(type);
    const auto form = FormOfContentType(type);
    REQUIRE(form.ok());
    CHECK(*form == GrpcWebForm::kBinary);
  }
  for (const char* type : {"application/grpc-web-text", "application/grpc-web-text+proto ;x=y"}) {
    CAPTURE(type);
    const auto form = FormOfContentType(type);
    REQUIRE(form.ok());
    CHECK(*form == GrpcWebForm::kText);
  }
  for (const char* type : {"", "text/plain", "application/grpc", "application/grpc-web+json",
                           "application/grpc-web-evil", "application/x-www-form-urlencoded",
                           "multipart/form-data; application/grpc-web"}) {
    CAPTURE(type);
    CHECK(FormOfContentType(type).status().code() == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("A request is exactly one frame, and what is wrong with another is said") {
  CHECK(*Binary("\0\0\0\0\3abc"s) == "abc");
  CHECK(Binary("\0\0\0\0\0"s)->empty());
  const auto message_of = [](const std::string& body) {
    const auto decoded = Binary(body);
    REQUIRE(decoded.status().code() == absl::StatusCode::kInvalidArgument);
    return std::string(decoded.status().message());
  };
  using Catch::Matchers::Contains;
  CHECK_THAT(message_of(""), Contains("it has only 0 bytes"));
  CHECK_THAT(message_of("\0\0\0\0"s), Contains("it has only 4 bytes"));
  CHECK_THAT(message_of("\0\0\0\0\3ab"s), Contains("says 3 bytes and 2 follow"));
  CHECK_THAT(message_of("\0\0\0\0\1ab"s), Contains("says 1 bytes and 2 follow"));
  CHECK_THAT(message_of("\0\0\0\0\1a\0\0\0\0\1b"s), Contains("exactly one frame"));
  CHECK_THAT(message_of("\x80\0\0\0\1a"s), Contains("trailers are for answers"));
  CHECK_THAT(message_of("\2\0\0\0\1a"s), Contains("flags 0, not 2"));
  CHECK(Binary("\1\0\0\0\1a"s).status().code() == absl::StatusCode::kUnimplemented);
}

TEST_CASE("A message over the limit is refused before its bytes are there") {
  const auto most = absl::StrCat("\0\0\0\3\xe8"s, std::string(1000, 'x'));
  CHECK(Binary(most)->size() == 1000);
  const auto more = Binary("\0\0\0\3\xe9"s);
  CHECK(more.status().code() == absl::StatusCode::kResourceExhausted);
  CHECK_THAT(std::string(more.status().message()),
             Catch::Matchers::Contains("1001 bytes; at most 1000"));
  CHECK(Binary("\0\xff\xff\xff\xff"s).status().code() == absl::StatusCode::kResourceExhausted);
}

TEST_CASE("Base64 is read run by run") {
  CHECK(*DecodeBase64Runs("") == "");
  CHECK(*DecodeBase64Runs("YQ==") == "a");
  CHECK(*DecodeBase64Runs("YQ==Yg==") == "ab");
  CHECK(*DecodeBase64Runs("YWI=Y2RlZg==") == "abcdef");
  CHECK(*DecodeBase64Runs("YWJj") == "abc");
  CHECK(*DecodeBase64Runs("YQ") == "a");
  CHECK(*DecodeBase64Runs("YWI") == "ab");
  CHECK(*DecodeBase64Runs("AA==/+8=") == "\0\xff\xef"s);
  for (const char* wrong :
       {"Y", "YWJjY", "=", "Y===", "YQ=", "YQ=Yg==", "YWI==", "YWJj=", "Y Q==", "YQ-_", "YQ==\n"}) {
    CAPTURE(wrong);
    CHECK(DecodeBase64Runs(wrong).status().code() == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("The text form is the binary one in base64, however it was cut") {
  const std::string frame = "\0\0\0\0\3abc"s;
  std::string cut;
  for (const char c : frame) cut += absl::Base64Escape(std::string(1, c));
  for (const std::string& body : {absl::Base64Escape(frame), cut}) {
    CHECK(*DecodeRequestBody(GrpcWebForm::kText, body, kLimit) == "abc");
  }
  CHECK(DecodeRequestBody(GrpcWebForm::kText, "not base64!", kLimit).status().code() ==
        absl::StatusCode::kInvalidArgument);
}

TEST_CASE("Messages become data frames") {
  CHECK(EncodeMessage(GrpcWebForm::kBinary, "abc") == "\0\0\0\0\3abc"s);
  CHECK(EncodeMessage(GrpcWebForm::kBinary, "") == "\0\0\0\0\0"s);
  CHECK(EncodeMessage(GrpcWebForm::kText, "abc") == absl::Base64Escape("\0\0\0\0\3abc"s));
  const std::string large = EncodeMessage(GrpcWebForm::kBinary, std::string(0x10203, 'x'));
  CHECK(large.substr(0, 5) == "\0\0\1\2\3"s);
}

TEST_CASE("The trailers frame has status, message and metadata, each on its line") {
  const std::string frame =
      EncodeTrailers(GrpcWebForm::kBinary, 5, "no vol\r\nüme 100%",
                     {{"tessera-a", "b"}, {"grpc-status-details-bin", "\1\2"}});
  CHECK(static_cast<uint8_t>(frame[0]) == 0x80);
  CHECK(frame.substr(5) ==
        "grpc-status: 5\r\ngrpc-message: no vol%0D%0A%C3%BCme 100%25\r\ntessera-a: b\r\n"
        "grpc-status-details-bin: AQI\r\n");
  CHECK(static_cast<size_t>(static_cast<uint8_t>(frame[4])) == frame.size() - 5);
  CHECK(EncodeTrailers(GrpcWebForm::kBinary, 0, "", {}).substr(5) == "grpc-status: 0\r\n");
}

TEST_CASE("No metadata value can end its line") {
  const std::string frame = EncodeTrailers(GrpcWebForm::kBinary, 0, "",
                                           {{"tessera-a", "b\r\nset-cookie: c\0d\xc3\xbc"s}});
  CHECK(frame.substr(5) == "grpc-status: 0\r\ntessera-a: b??set-cookie: c?d??\r\n");
}

TEST_CASE("Deadlines have up to eight digits and a unit") {
  CHECK(*ParseTimeout("1H") == std::chrono::hours(1));
  CHECK(*ParseTimeout("2M") == std::chrono::minutes(2));
  CHECK(*ParseTimeout("30S") == std::chrono::seconds(30));
  CHECK(*ParseTimeout("500m") == std::chrono::milliseconds(500));
  CHECK(*ParseTimeout("7u") == std::chrono::microseconds(7));
  CHECK(*ParseTimeout("99999999n") == nanoseconds(99999999));
  CHECK(*ParseTimeout("0S") == nanoseconds(0));
  CHECK(*ParseTimeout("99999999H") > std::chrono::hours(24 * 364));
  for (const char* wrong :
       {"", "S", "1", "1s", "-1S", "1.5S", "999999999n", " 1S", "1S ", "0x1S"}) {
    CAPTURE(wrong);
    CHECK(ParseTimeout(wrong).status().code() == absl::StatusCode::kInvalidArgument);
  }
}

TEST_CASE("Metadata is printable text, or bytes by the name's ending") {
  CHECK(*DecodeMetadataValue("tessera-a", "b c") == "b c");
  CHECK(*DecodeMetadataValue("tessera-a-bin", "AP8=") == "\0\xff"s);
  CHECK(*DecodeMetadataValue("tessera-a-bin", "AP8") == "\0\xff"s);
  CHECK(EncodeMetadataValue("tessera-a-bin", "\0\xff"s) == "AP8");
  CHECK_THAT(std::string(DecodeMetadataValue("tessera-a", "\xc3\xbc").status().message()),
             Catch::Matchers::Contains("tessera-a must be printable ASCII"));
  CHECK_THAT(std::string(DecodeMetadataValue("tessera-a-bin", "!").status().message()),
             Catch::Matchers::Contains("tessera-a-bin: not base64"));
  CHECK_FALSE(DecodeMetadataValue("tessera-a", "b\nc").ok());
}

// What comes out is either an error or a message that was in the body, never more than the limit.
TEST_CASE("Mutated frames are refused or decoded, and never take more than their size") {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937 random(seed);
  const auto below = [&](size_t bound) { return random() % bound; };
  const std::string good = EncodeMessage(GrpcWebForm::kBinary, "a message of thirty-two bytes...");
  size_t decoded_count = 0;
  for (int round = 0; round < 200'000; ++round) {
    std::string body = below(2) == 0 ? good : absl::Base64Escape(good);
    const GrpcWebForm form = below(2) == 0 ? GrpcWebForm::kBinary : GrpcWebForm::kText;
    for (size_t change = below(4); change > 0 && !body.empty(); --change) {
      const size_t at = below(body.size());
      switch (below(4)) {
        case 0:
          body[at] = static_cast<char>(random());
          break;
        case 1:
          body.erase(at, 1 + below(3));
          break;
        case 2:
          body.insert(at, 1, "=A\0\xff"[below(4)]);
          break;
        default:
          body.resize(at);
      }
    }
    const auto decoded = DecodeRequestBody(form, body, kLimit);
    if (!decoded.ok()) {
      REQUIRE_FALSE(decoded.status().message().empty());
      continue;
    }
    ++decoded_count;
    REQUIRE(decoded->size() <= body.size());
  }
  CHECK(decoded_count > 0);
}

TEST_CASE("Whatever is encoded in either form decodes to itself") {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 2'000; ++round) {
    std::string message(random() % kLimit, '\0');
    for (char& c : message) c = static_cast<char>(random());
    for (const GrpcWebForm form : {GrpcWebForm::kBinary, GrpcWebForm::kText}) {
      REQUIRE(*DecodeRequestBody(form, EncodeMessage(form, message), kLimit) == message);
    }
    REQUIRE(*DecodeMetadataValue("x-bin", EncodeMetadataValue("x-bin", message)) == message);
  }
}

}  // namespace
}  // namespace tessera::mgmt
