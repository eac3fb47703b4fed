#include "services/mgmt/web/grpcweb_codec.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace tessera::mgmt {
namespace {

constexpr uint8_t kTrailersFlag = 0x80;
constexpr uint8_t kCompressedFlag = 0x01;
constexpr size_t kTimeoutDigitsMax = 8;
constexpr size_t kQuotedBytesMax = 64;

absl::string_view AsAbsl(std::string_view text) { return {text.data(), text.size()}; }

// For error messages: what was got, short and printable.
std::string Quoted(std::string_view text) {
  return absl::StrCat("'", absl::CHexEscape(AsAbsl(text.substr(0, kQuotedBytesMax))),
                      text.size() > kQuotedBytesMax ? "…'" : "'");
}

bool IsPrintable(char c) { return c >= ' ' && c <= '~'; }

std::string Frame(uint8_t flags, std::string_view bytes) {
  std::string frame;
  frame.reserve(kFrameHeaderBytes + bytes.size());
  frame.push_back(static_cast<char>(flags));
  for (const int shift : {24, 16, 8, 0}) {
    frame.push_back(static_cast<char>((bytes.size() >> shift) & 0xff));
  }
  frame.append(bytes);
  return frame;
}

std::string InForm(GrpcWebForm form, std::string frame) {
  return form == GrpcWebForm::kText ? absl::Base64Escape(frame) : frame;
}

// The value of each base64 digit, -1 for other bytes.
constexpr std::array<int8_t, 256> MakeDigits() {
  std::array<int8_t, 256> digits{};
  for (auto& digit : digits) digit = -1;
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < kAlphabet.size(); ++i) {
    digits[static_cast<uint8_t>(kAlphabet[i])] = static_cast<int8_t>(i);
  }
  return digits;
}
constexpr std::array<int8_t, 256> kDigits = MakeDigits();

absl::Status NotBase64(size_t at, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("not base64 at byte ", at, ": ", AsAbsl(why)));
}

// One group of up to four digits, without padding: appends the bytes that are complete in it.
void AppendGroup(const std::array<uint32_t, 4>& group, size_t digits, std::string* bytes) {
  const uint32_t bits = group[0] << 18 | group[1] << 12 | group[2] << 6 | group[3];
  if (digits >= 2) bytes->push_back(static_cast<char>(bits >> 16 & 0xff));
  if (digits >= 3) bytes->push_back(static_cast<char>(bits >> 8 & 0xff));
  if (digits == 4) bytes->push_back(static_cast<char>(bits & 0xff));
}

}  // namespace

absl::StatusOr<GrpcWebForm> FormOfContentType(std::string_view content_type) {
  std::string type(content_type.substr(0, content_type.find(';')));
  absl::StripAsciiWhitespace(&type);
  absl::AsciiStrToLower(&type);
  if (type == "application/grpc-web" || type == "application/grpc-web+proto") {
    return GrpcWebForm::kBinary;
  }
  if (type == "application/grpc-web-text" || type == "application/grpc-web-text+proto") {
    return GrpcWebForm::kText;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("content-type must be application/grpc-web+proto or "
                   "application/grpc-web-text+proto, not ",
                   Quoted(content_type)));
}

std::string_view ContentTypeOf(GrpcWebForm form) {
  return form == GrpcWebForm::kText ? "application/grpc-web-text+proto"
                                    : "application/grpc-web+proto";
}

absl::StatusOr<std::string> DecodeRequestBody(GrpcWebForm form, std::string_view body,
                                              size_t message_limit) {
  std::string decoded;
  if (form == GrpcWebForm::kText) {
    absl::StatusOr<std::string> bytes = DecodeBase64Runs(body);
    if (!bytes.ok()) return bytes.status();
    decoded = *std::move(bytes);
    body = decoded;
  }
  if (body.size() < kFrameHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body must be one frame: a byte of flags, the message's length in four "
                     "bytes (big endian), the message; it has only ",
                     body.size(), " bytes"));
  }
  const auto flags = static_cast<uint8_t>(body[0]);
  uint32_t length = 0;
  for (size_t i = 1; i < kFrameHeaderBytes; ++i)
    length = length << 8 | static_cast<uint8_t>(body[i]);
  if (flags == kCompressedFlag) {
    return absl::UnimplementedError("compressed messages are not accepted: send flags 0");
  }
  if (flags != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a request's frame has flags 0, not ", static_cast<int>(flags),
                     (flags & kTrailersFlag) != 0 ? ": trailers are for answers" : ""));
  }
  if (length > message_limit) {
    return absl::ResourceExhaustedError(absl::StrCat("the message has ", length, " bytes; at most ",
                                                     message_limit, " are accepted"));
  }
  const size_t present = body.size() - kFrameHeaderBytes;
  if (present != length) {
    return absl::InvalidArgumentError(absl::StrCat("the frame says ", length, " bytes and ",
                                                   present,
                                                   " follow: a request is exactly one frame"));
  }
  if (form == GrpcWebForm::kText) return decoded.substr(kFrameHeaderBytes);
  return std::string(body.substr(kFrameHeaderBytes));
}

absl::StatusOr<std::string> DecodeBase64Runs(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 3);
  std::array<uint32_t, 4> group{};
  size_t digits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '=') {
      // Two digits want two signs, three want one.
      if (digits < 2) return NotBase64(i, "'=' may follow two or three digits of a group of four");
      const size_t signs = 4 - digits;
      if (text.substr(i, signs) != std::string_view("==").substr(0, signs)) {
        return NotBase64(i, "two digits of a group want '==' after them, three want '='");
      }
      AppendGroup(group, digits, &bytes);
      group = {};
      digits = 0;
      i += signs - 1;
      continue;
    }
    const int8_t value = kDigits[static_cast<uint8_t>(text[i])];
    if (value < 0) return NotBase64(i, absl::StrCat(Quoted(text.substr(i, 1)), " is no digit"));
    group[digits++] = static_cast<uint32_t>(value);
    if (digits == 4) {
      AppendGroup(group, digits, &bytes);
      group = {};
      digits = 0;
    }
  }
  if (digits == 1) return NotBase64(text.size(), "the last group has a single digit");
  AppendGroup(group, digits, &bytes);
  return bytes;
}

std::string EncodeMessage(GrpcWebForm form, std::string_view message) {
  return InForm(form, Frame(0, message));
}

std::string EncodeTrailers(GrpcWebForm form, int code, std::string_view message,
                           const MetadataList& metadata) {
  std::string lines = absl::StrCat("grpc-status: ", code, "\r\n");
  if (!message.empty()) absl::StrAppend(&lines, "grpc-message: ", PercentEncode(message), "\r\n");
  for (const auto& [name, value] : metadata) {
    absl::StrAppend(&lines, name, ": ", EncodeMetadataValue(name, value), "\r\n");
  }
  return InForm(form, Frame(kTrailersFlag, lines));
}

absl::StatusOr<std::chrono::nanoseconds> ParseTimeout(std::string_view value) {
  const auto wrong = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("grpc-timeout must be 1 to 8 digits and a unit of H, M, S, m, u, n, such as "
                     "'500m' for half a second, not ",
                     Quoted(value)));
  };
  if (value.size() < 2 || value.size() > kTimeoutDigitsMax + 1) return wrong();
  int64_t amount = 0;
  for (const char c : value.substr(0, value.size() - 1)) {
    if (c < '0' || c > '9') return wrong();
    amount = amount * 10 + (c - '0');
  }
  switch (value.back()) {
    case 'H':
      // 99,999,999 hours are more nanoseconds than there is room for.
      return std::chrono::hours(std::min<int64_t>(amount, 24 * 365));
    case 'M':
      return std::chrono::minutes(std::min<int64_t>(amount, 60 * 24 * 365));
    case 'S':
      return std::chrono::seconds(std::min<int64_t>(amount, 3600 * 24 * 365));
    case 'm':
      return std::chrono::milliseconds(amount);
    case 'u':
      return std::chrono::microseconds(amount);
    case 'n':
      return std::chrono::nanoseconds(amount);
    default:
      return wrong();
  }
}

std::string PercentEncode(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string encoded;
  encoded.reserve(text.size());
  for (const char c : text) {
    if (IsPrintable(c) && c != '%') {
      encoded.push_back(c);
      continue;
    }
    const auto byte = static_cast<uint8_t>(c);
    encoded.push_back('%');
    encoded.push_back(kHex[byte >> 4]);
    encoded.push_back(kHex[byte & 15]);
  }
  return encoded;
}

std::string EncodeMetadataValue(std::string_view name, std::string_view value) {
  if (name.size() >= 4 && name.substr(name.size() - 4) == "-bin") {
    std::string encoded = absl::Base64Escape(AsAbsl(value));
    while (!encoded.empty() && encoded.back() == '=') encoded.pop_back();
    return encoded;
  }
  std::string cleaned(value);
  for (char& c : cleaned) {
    if (!IsPrintable(c)) c = '?';
  }
  return cleaned;
}

absl::StatusOr<std::string> DecodeMetadataValue(std::string_view name, std::string_view value) {
  if (name.size() >= 4 && name.substr(name.size() - 4) == "-bin") {
    absl::StatusOr<std::string> bytes = DecodeBase64Runs(value);
    if (bytes.ok()) return bytes;
    return absl::InvalidArgumentError(
        absl::StrCat("header ", AsAbsl(name), ": ", bytes.status().message()));
  }
  if (!std::all_of(value.begin(), value.end(), IsPrintable)) {
    return absl::InvalidArgumentError(
        absl::StrCat("header ", AsAbsl(name), " must be printable ASCII, not ", Quoted(value),
                     ": send bytes in a header whose name ends with -bin, as base64"));
  }
  return std::string(value);
}

}  // namespace tessera::mgmt
