#include "services/mgmt/web/static_files.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "services/common/node.h"

namespace tessera::mgmt {
namespace {

namespace fs = std::filesystem;

class Console {
 public:
  Console() : folder_(fs::temp_directory_path() / ("console-" + NewUuid())) {
    Write("index.html", "<!doctype html>page");
    Write("favicon.ico", "icon");
    Write("assets/main-K3JH5X2A.js", "script");
    Write("assets/main-K3JH5X2A.js.gz", "packed script");
    Write("assets/main-K3JH5X2A.js.br", "tightly packed script");
    Write("assets/plain.css", "style");
    Write("lost.js.gz", "a copy of nothing");
    Write(".secret", "hidden");
    fs::create_symlink("/etc/passwd", folder_ / "passwd.txt");
  }
  ~Console() { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << bytes;
  }
  [[nodiscard]] StaticFiles Load() const {
    auto files = StaticFiles::Load(folder_.string());
    REQUIRE(files.ok());
    return *std::move(files);
  }
  [[nodiscard]] std::string folder() const { return folder_.string(); }

 private:
  const fs::path folder_;
};

WebResponse Get(const StaticFiles& files, const std::string& path, HttpHeaders headers = {},
                bool tls = false, const std::string& method = "GET") {
  WebRequest request;
  request.method = method;
  request.path = path;
  request.headers = std::move(headers);
  request.tls = tls;
  return files.Answer(request);
}

std::string Header(const WebResponse& response, const std::string& name) {
  for (const auto& [key, value] : response.headers) {
    if (key == name) return value;
  }
  return "";
}

TEST_CASE_METHOD(Console, "Files come with their types, and only hashed ones may be kept") {
  const StaticFiles files = Load();
  const WebResponse page = Get(files, "/index.html");
  CHECK(page.status == 200);
  CHECK(*page.body == "<!doctype html>page");
  CHECK(Header(page, "Content-Type") == "text/html; charset=utf-8");
  CHECK(Header(page, "Cache-Control") == "no-cache");
  const WebResponse script = Get(files, "/assets/main-K3JH5X2A.js");
  CHECK(Header(script, "Content-Type") == "text/javascript; charset=utf-8");
  CHECK(Header(script, "Cache-Control") == "public, max-age=31536000, immutable");
  CHECK(Header(Get(files, "/assets/plain.css"), "Cache-Control") == "no-cache");
  CHECK(Header(Get(files, "/favicon.ico"), "Content-Type") == "image/x-icon");
}

TEST_CASE_METHOD(Console,
                 "Pages of the console are answered with index.html, lost files with 404") {
  const StaticFiles files = Load();
  for (const char* path : {"/", "/volumes", "/volumes/7", "/alerts/"}) {
    CAPTURE(path);
    CHECK(*Get(files, path).body == "<!doctype html>page");
  }
  for (const char* path : {"/assets/old-AAAAAAAA.js", "/lost.js", "/lost.js.gz", "/robots.txt"}) {
    CAPTURE(path);
    CHECK(Get(files, path).status == 404);
  }
}

TEST_CASE_METHOD(Console, "No path leads out of the folder, nor to what is hidden in it") {
  const StaticFiles files = Load();
  for (const char* path :
       {"/../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd",
        "/assets/../.secret", "/.secret", "//etc/passwd", "/assets/..\\..\\x", "/passwd.txt"}) {
    CAPTURE(path);
    const WebResponse response = Get(files, path);
    if (response.status == 200)
      CHECK(*response.body == "<!doctype html>page");
    else
      CHECK(response.status == 404);
  }
}

TEST_CASE_METHOD(Console,
                 "Packed copies go to browsers that take them, each with its own validator") {
  const StaticFiles files = Load();
  const std::string path = "/assets/main-K3JH5X2A.js";
  const WebResponse plain = Get(files, path);
  const WebResponse gzip = Get(files, path, {{"accept-encoding", "gzip, deflate"}});
  const WebResponse brotli = Get(files, path, {{"accept-encoding", "gzip, deflate, br"}});
  CHECK(*plain.body == "script");
  CHECK(*gzip.body == "packed script");
  CHECK(Header(gzip, "Content-Encoding") == "gzip");
  CHECK(*brotli.body == "tightly packed script");
  CHECK(Header(brotli, "Content-Encoding") == "br");
  CHECK(Header(gzip, "Content-Type") == Header(plain, "Content-Type"));
  CHECK(Header(gzip, "Vary") == "Accept-Encoding");
  CHECK(Header(plain, "ETag") != Header(gzip, "ETag"));
  CHECK(*Get(files, path, {{"accept-encoding", "br;q=0, gzip;q=0"}}).body == "script");
}

TEST_CASE("A coding is taken when it is named with any weight but zero") {
  CHECK(AcceptsCoding("gzip", "gzip"));
  CHECK(AcceptsCoding("br, GZIP;q=0.5", "gzip"));
  CHECK(AcceptsCoding("*", "gzip"));
  CHECK_FALSE(AcceptsCoding("*, gzip;q=0", "gzip"));
  CHECK_FALSE(AcceptsCoding("gzip;q=0.0", "gzip"));
  CHECK_FALSE(AcceptsCoding("gzip;q=nonsense", "gzip"));
  CHECK_FALSE(AcceptsCoding("", "gzip"));
  CHECK_FALSE(AcceptsCoding("x-gzip, brx", "br"));
}

TEST_CASE_METHOD(Console, "A file that the browser has is not sent again") {
  const StaticFiles files = Load();
  const std::string etag = Header(Get(files, "/"), "ETag");
  REQUIRE(etag.size() > 2);
  for (const std::string& known : {etag, "W/" + etag, "\"x\", " + etag, std::string("*")}) {
    CAPTURE(known);
    const WebResponse response = Get(files, "/", {{"if-none-match", known}});
    CHECK(response.status == 304);
    CHECK(response.body == nullptr);
    CHECK(Header(response, "ETag") == etag);
  }
  CHECK(Get(files, "/", {{"if-none-match", "\"other\""}}).status == 200);
}

TEST_CASE_METHOD(Console, "Every answer keeps foreign code out of the page") {
  const StaticFiles files = Load();
  for (const char* path : {"/", "/assets/plain.css", "/lost.js"}) {
    CAPTURE(path);
    const WebResponse response = Get(files, path, {}, true);
    const std::string policy = Header(response, "Content-Security-Policy");
    CHECK_THAT(policy, Catch::Matchers::StartsWith("default-src 'none';"));
    CHECK_THAT(policy, Catch::Matchers::Contains("frame-ancestors 'none'"));
    CHECK_THAT(policy, !Catch::Matchers::Contains("unsafe"));
    CHECK(Header(response, "X-Content-Type-Options") == "nosniff");
    CHECK(Header(response, "Referrer-Policy") == "no-referrer");
    CHECK_FALSE(Header(response, "Permissions-Policy").empty());
    CHECK_FALSE(Header(response, "Strict-Transport-Security").empty());
  }
  CHECK(Header(Get(files, "/"), "Strict-Transport-Security").empty());
}

TEST_CASE_METHOD(Console, "Files are read, never written") {
  const StaticFiles files = Load();
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS"}) {
    const WebResponse response = Get(files, "/", {}, false, method);
    CHECK(response.status == 405);
    CHECK(Header(response, "Allow") == "GET, HEAD");
  }
}

TEST_CASE("A console that was not built says how to build it") {
  for (const char* folder : {"", "/nonexistent"}) {
    const auto files = StaticFiles::Load(folder);
    REQUIRE(files.ok());
    CHECK_FALSE(files->has_console());
    const WebResponse page = Get(*files, "/");
    CHECK(page.status == 503);
    CHECK_THAT(*page.body, Catch::Matchers::Contains("npm run build"));
    CHECK_FALSE(Header(page, "Content-Security-Policy").empty());
  }
}

TEST_CASE_METHOD(Console, "A folder that is no console is refused, not read into memory") {
  Write("huge.bin", "");
  fs::resize_file(fs::path(folder()) / "huge.bin", 65 << 20);
  CHECK(StaticFiles::Load(folder()).status().code() == absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tessera::mgmt
