#include "services/mgmt/web/gateway_rules.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kCredentialBytesMax = 512;
constexpr size_t kUserAgentBytesMax = 200;
constexpr size_t kPathBytesMax = 256;
constexpr absl::string_view kBearer = "Bearer ";

absl::string_view AsAbsl(std::string_view text) { return {text.data(), text.size()}; }

bool IsCredentialCharacter(char c) { return absl::ascii_isalnum(c) || c == '.' || c == '-'; }

// "session.<id>.<secret>"
bool IsSession(absl::string_view value) {
  if (value.size() > kCredentialBytesMax || !absl::StartsWith(value, "session.")) return false;
  if (!std::all_of(value.begin(), value.end(), IsCredentialCharacter)) return false;
  const std::vector<absl::string_view> parts = absl::StrSplit(value, '.');
  return parts.size() == 3 && !parts[1].empty() && !parts[2].empty() &&
         std::all_of(parts[1].begin(), parts[1].end(), absl::ascii_isdigit);
}

// Whether `origin` ("https://console.example:5000") is the page of the server that was asked.
bool IsOwnOrigin(std::string_view origin, const WebRequest& request) {
  absl::string_view rest = AsAbsl(origin);
  // Whoever ends TLS before us is asked by https while we are asked by http.
  if (!absl::ConsumePrefix(&rest, "https://") &&
      (request.tls || !absl::ConsumePrefix(&rest, "http://"))) {
    return false;
  }
  const std::string_view host = request.Header("host").value_or("");
  return !rest.empty() && absl::EqualsIgnoreCase(rest, AsAbsl(host));
}

bool IsFreeName(absl::string_view name) {
  return name == "x-request-id" || name == "traceparent" || absl::StartsWith(name, "tessera-");
}

// What gRPC takes as a name of metadata.
bool IsMetadataName(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-' || c == '_' || c == '.';
  });
}

std::string Printable(std::string_view text, size_t bytes_max) {
  return EncodeMetadataValue("", text.substr(0, bytes_max));
}

}  // namespace

std::optional<WebResponse> RefuseForeign(const WebRequest& request) {
  for (const auto& [name, value] : request.headers) {
    if (name == "origin" && !IsOwnOrigin(value, request)) {
      return TextResponse(403, absl::StrCat("pages of '", Printable(value, 100),
                                            "' may not call here: open the console itself"));
    }
    if (name == "sec-fetch-site" && value != "same-origin" && value != "none") {
      return TextResponse(403, "calls of other sites' pages are refused: open the console itself");
    }
  }
  return std::nullopt;
}

bool IsMethodPath(std::string_view path) {
  if (path.size() > kPathBytesMax || path.empty() || path[0] != '/') return false;
  const std::vector<absl::string_view> parts = absl::StrSplit(AsAbsl(path.substr(1)), '/');
  const auto is_word = [](absl::string_view word, bool dots) {
    return !word.empty() && std::all_of(word.begin(), word.end(), [dots](char c) {
      return absl::ascii_isalnum(c) || c == '_' || (dots && c == '.');
    });
  };
  return parts.size() == 2 && is_word(parts[0], true) && is_word(parts[1], false) &&
         absl::StrContains(parts[0], '.') && absl::ascii_isalnum(parts[0].front()) &&
         absl::ascii_isalnum(parts[0].back());
}

std::string_view SessionCookieName(bool tls) {
  // Browsers take a cookie of this prefix only with Secure and Path=/, and never from a sibling
  // host.
  return tls ? "__Host-tessera-session" : "tessera-session";
}

std::optional<std::string> SessionOfCookies(const WebRequest& request) {
  const std::string prefix = absl::StrCat(AsAbsl(SessionCookieName(request.tls)), "=");
  std::optional<std::string> session;
  for (const auto& [name, value] : request.headers) {
    if (name != "cookie") continue;
    for (absl::string_view cookie : absl::StrSplit(value, ';')) {
      cookie = absl::StripAsciiWhitespace(cookie);
      if (!absl::ConsumePrefix(&cookie, prefix)) continue;
      if (session.has_value() && *session != cookie) return std::nullopt;
      session = std::string(cookie);
    }
  }
  if (!session.has_value() || !IsSession(*session)) return std::nullopt;
  return session;
}

std::optional<std::string> SetCookie(std::string_view session, bool tls) {
  if (!session.empty() && !IsSession(AsAbsl(session))) return std::nullopt;
  return absl::StrCat(AsAbsl(SessionCookieName(tls)), "=", AsAbsl(session),
                      "; Path=/; HttpOnly; SameSite=Strict", tls ? "; Secure" : "",
                      session.empty() ? "; Max-Age=0" : "");
}

absl::StatusOr<MetadataList> MetadataOfRequest(const WebRequest& request) {
  MetadataList metadata;
  if (const auto authorization = request.Header("authorization")) {
    absl::StatusOr<std::string> value = DecodeMetadataValue("authorization", *authorization);
    if (!value.ok()) return value.status();
    metadata.emplace_back("authorization", *std::move(value));
  } else if (const auto session = SessionOfCookies(request)) {
    metadata.emplace_back("authorization", absl::StrCat(kBearer, *session));
  }
  metadata.emplace_back("x-gw-peer", request.peer);
  if (const auto agent = request.Header("user-agent")) {
    metadata.emplace_back("x-gw-user-agent", Printable(*agent, kUserAgentBytesMax));
  }
  for (const auto& [name, value] : request.headers) {
    if (!IsFreeName(name) || !IsMetadataName(name)) continue;
    // Several values of bytes may come in one header.
    const char separator = absl::EndsWith(name, "-bin") ? ',' : '\0';
    for (const absl::string_view part : absl::StrSplit(value, separator)) {
      absl::StatusOr<std::string> decoded =
          DecodeMetadataValue(name, std::string(absl::StripAsciiWhitespace(part)));
      if (!decoded.ok()) return decoded.status();
      metadata.emplace_back(name, *std::move(decoded));
    }
  }
  return metadata;
}

std::string HolderOfCall(const WebRequest& request, const MetadataList& metadata) {
  for (const auto& [name, value] : metadata) {
    if (name != "authorization") continue;
    const absl::string_view credential = absl::StripPrefix(value, kBearer);
    const size_t dot = credential.rfind('.');
    if (dot != absl::string_view::npos) return std::string(credential.substr(0, dot));
  }
  return request.peer.substr(0, request.peer.rfind(':'));
}

bool MayGoToBrowser(std::string_view name) {
  return IsMetadataName(name) && (IsFreeName(AsAbsl(name)) || name == "grpc-status-details-bin");
}

}  // namespace tessera::mgmt
