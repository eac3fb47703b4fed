#include "services/mgmt/web/gateway_rules.h"

#include <catch2/catch.hpp>

namespace tessera::mgmt {
namespace {

WebRequest With(HttpHeaders headers, bool tls = false) {
  WebRequest request;
  request.method = "POST";
  request.path = "/tessera.v1.VolumeService/GetVolume";
  request.headers = std::move(headers);
  request.peer = "ipv4:192.0.2.7:4711";
  request.tls = tls;
  return request;
}

std::string ValueOf(const MetadataList& metadata, const std::string& name) {
  std::string joined;
  for (const auto& [key, value] : metadata) {
    if (key == name) joined += (joined.empty() ? "" : "|") + value;
  }
  return joined;
}

TEST_CASE("Only the console's own pages may call") {
  const auto is_refused = [](HttpHeaders headers, bool tls) {
    headers.emplace_back("host", "console.example:5000");
    const auto refusal = RefuseForeign(With(std::move(headers), tls));
    if (refusal.has_value()) CHECK(refusal->status == 403);
    return refusal.has_value();
  };
  CHECK_FALSE(is_refused({}, false));
  CHECK_FALSE(is_refused({{"origin", "http://console.example:5000"}}, false));
  CHECK_FALSE(is_refused({{"origin", "http://Console.Example:5000"}}, false));
  CHECK_FALSE(is_refused({{"origin", "https://console.example:5000"}}, true));
  CHECK_FALSE(is_refused({{"sec-fetch-site", "same-origin"}}, true));
  CHECK_FALSE(is_refused({{"sec-fetch-site", "none"}}, true));
  // Behind a proxy that ends TLS.
  CHECK_FALSE(is_refused({{"origin", "https://console.example:5000"}}, false));
  CHECK(is_refused({{"origin", "http://console.example:5000"}}, true));
  for (const char* origin :
       {"null", "", "https://evil.example", "https://console.example",
        "https://console.example:5001", "https://evil.console.example:5000",
        "https://console.example:5000.evil.example", "https://console.example:5000/",
        "ftp://console.example:5000", "console.example:5000", "https://"}) {
    CAPTURE(origin);
    CHECK(is_refused({{"origin", origin}}, true));
  }
  CHECK(is_refused({{"sec-fetch-site", "cross-site"}}, true));
  CHECK(is_refused({{"sec-fetch-site", "same-site"}}, true));
  // The second of two must not be overlooked.
  CHECK(is_refused({{"origin", "https://console.example:5000"}, {"origin", "https://evil.example"}},
                   true));
}

TEST_CASE("A method's path has a package, a service and a method") {
  CHECK(IsMethodPath("/tessera.v1.VolumeService/GetVolume"));
  for (const char* path : {"", "/", "/index.html", "/assets/a.js", "/volumes/7", "/a.b", "/a.b/",
                           "/a.b/c/d", "/a.b/c.d", "a.b/c", "/a.b/c%20d", "/a.b/c?d", "/../b"}) {
    CAPTURE(path);
    CHECK_FALSE(IsMethodPath(path));
  }
  CHECK_FALSE(IsMethodPath("/a.b/" + std::string(300, 'c')));
}

TEST_CASE("The session's cookie is found among others, and only in its form") {
  const auto of = [](const std::string& cookie, bool tls = false) {
    return SessionOfCookies(With({{"cookie", cookie}}, tls)).value_or("-");
  };
  CHECK(of("tessera-session=session.7.ab") == "session.7.ab");
  CHECK(of("a=b; tessera-session=session.7.ab;c=d") == "session.7.ab");
  CHECK(of("__Host-tessera-session=session.7.ab", true) == "session.7.ab");
  // With TLS the name without prefix could have been planted by a sibling host.
  CHECK(of("tessera-session=session.7.ab", true) == "-");
  CHECK(of("__Host-tessera-session=session.7.ab") == "-");
  CHECK(of("xtessera-session=session.7.ab") == "-");
  CHECK(of("tessera-session=session.7.ab; tessera-session=session.8.cd") == "-");
  CHECK(of("tessera-session=session.7.ab; tessera-session=session.7.ab") == "session.7.ab");
  for (const char* value : {"", "session", "session.7", "session.7.", "session..ab", "token.7.ab",
                            "session.x.ab", "session.7.a b", "session.7.a\"b", "session.7.ab.cd"}) {
    CAPTURE(value);
    CHECK(of("tessera-session=" + std::string(value)) == "-");
  }
  CHECK(of("tessera-session=session.7." + std::string(600, 'a')) == "-");
}

TEST_CASE("The cookie that is set is for this server's pages alone and out of scripts' reach") {
  CHECK(*SetCookie("session.7.ab", false) ==
        "tessera-session=session.7.ab; Path=/; HttpOnly; SameSite=Strict");
  CHECK(*SetCookie("session.7.ab", true) ==
        "__Host-tessera-session=session.7.ab; Path=/; HttpOnly; SameSite=Strict; Secure");
  CHECK(*SetCookie("", true) ==
        "__Host-tessera-session=; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=0");
  CHECK_FALSE(SetCookie("session.7.ab; Domain=example", true).has_value());
  CHECK_FALSE(SetCookie("session.7.ab\r\nX: y", true).has_value());
}

TEST_CASE("Of a request's headers only those that are meant for servers go on") {
  const auto metadata = MetadataOfRequest(With({{"host", "h"},
                                                {"cookie", "tessera-session=session.7.ab"},
                                                {"user-agent", "Browser\xc3\xbc 1"},
                                                {"x-gw-peer", "ipv4:10.0.0.1:1"},
                                                {"x-gw-user-agent", "forged"},
                                                {"x-gw-anything", "forged"},
                                                {"x-tessera-on-behalf-of", "admin.root"},
                                                {"x-forwarded-for", "10.0.0.1"},
                                                {"x-request-id", "r1"},
                                                {"tessera-a", "b"},
                                                {"tessera-c-bin", "AQ==, Ag"},
                                                {"grpc-timeout", "1S"},
                                                {"te", "trailers"}}));
  REQUIRE(metadata.ok());
  CHECK(ValueOf(*metadata, "authorization") == "Bearer session.7.ab");
  CHECK(ValueOf(*metadata, "x-gw-peer") == "ipv4:192.0.2.7:4711");
  CHECK(ValueOf(*metadata, "x-gw-user-agent") == "Browser?? 1");
  CHECK(ValueOf(*metadata, "x-request-id") == "r1");
  CHECK(ValueOf(*metadata, "tessera-a") == "b");
  CHECK(ValueOf(*metadata, "tessera-c-bin") == "\1|\2");
  CHECK(metadata->size() == 7);
}

TEST_CASE("An authorization of the page's own goes before the cookie") {
  const auto metadata = MetadataOfRequest(
      With({{"cookie", "tessera-session=session.7.ab"}, {"authorization", "Bearer token.3.cd"}}));
  REQUIRE(metadata.ok());
  CHECK(ValueOf(*metadata, "authorization") == "Bearer token.3.cd");
  CHECK(HolderOfCall(With({}), *metadata) == "token.3");
}

TEST_CASE("Headers that cannot be metadata are named") {
  for (const HttpHeaders& headers : std::vector<HttpHeaders>{{{"tessera-a", "\xc3\xbc"}},
                                                             {{"authorization", "Bearer \x01"}},
                                                             {{"tessera-b-bin", "%%"}}}) {
    const auto metadata = MetadataOfRequest(With(headers));
    CHECK(metadata.status().code() == absl::StatusCode::kInvalidArgument);
    CHECK_THAT(std::string(metadata.status().message()),
               Catch::Matchers::Contains(headers[0].first));
  }
}

TEST_CASE("Calls are counted for the credential, or else for the address") {
  CHECK(HolderOfCall(With({}), {{"authorization", "Bearer session.7.ab"}}) == "session.7");
  CHECK(HolderOfCall(With({}), {}) == "ipv4:192.0.2.7");
  CHECK(HolderOfCall(With({}), {{"authorization", "nonsense"}}) == "ipv4:192.0.2.7");
}

TEST_CASE("Of a server's metadata the browser gets what is meant for it") {
  CHECK(MayGoToBrowser("tessera-a"));
  CHECK(MayGoToBrowser("tessera-a-bin"));
  CHECK(MayGoToBrowser("x-request-id"));
  CHECK(MayGoToBrowser("grpc-status-details-bin"));
  for (const char* name :
       {"set-cookie", "x-gw-set-session", "x-gw-peer", "content-type", "grpc-status", "connection",
        "access-control-allow-origin", "tessera-a\r\nx", "Tessera-A", ""}) {
    CAPTURE(name);
    CHECK_FALSE(MayGoToBrowser(name));
  }
}

}  // namespace
}  // namespace tessera::mgmt
