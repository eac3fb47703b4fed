#include "services/mgmt/web/static_files.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "services/common/auth.h"
#include "services/common/node.h"
#include "services/common/sha256.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kFolderBytesMax = 64 << 20;
constexpr size_t kEtagBytes = 16;
constexpr std::string_view kNotBuilt = R"(<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Tessera</title></head>
<body>
<h1>The console was not built</h1>
<p>The management service runs, but it has no console to show. Build it and start again with its folder:</p>
<pre>(cd gui &amp;&amp; npm ci &amp;&amp; npm run build)
tessera-mgmt --console-dir FOLDER</pre>
<p>Meanwhile everything can be done with the command <code>tessera</code>.</p>
</body>
</html>
)";

absl::string_view AsAbsl(std::string_view text) { return {text.data(), text.size()}; }

std::string_view ContentTypeOfName(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 14> kTypes = {{
      {".html", "text/html; charset=utf-8"},
      {".js", "text/javascript; charset=utf-8"},
      {".mjs", "text/javascript; charset=utf-8"},
      {".css", "text/css; charset=utf-8"},
      {".svg", "image/svg+xml"},
      {".png", "image/png"},
      {".ico", "image/x-icon"},
      {".webp", "image/webp"},
      {".json", "application/json"},
      {".map", "application/json"},
      {".webmanifest", "application/manifest+json"},
      {".woff2", "font/woff2"},
      {".wasm", "application/wasm"},
      {".txt", "text/plain; charset=utf-8"},
  }};
  const size_t dot = name.rfind('.');
  if (dot != std::string_view::npos) {
    for (const auto& [suffix, type] : kTypes) {
      if (name.substr(dot) == suffix) return type;
    }
  }
  return "application/octet-stream";
}

// "/assets/main-K3JH5X2A.js"
bool HasHash(std::string_view path) {
  constexpr size_t kHashBytes = 8;
  if (!absl::StartsWith(AsAbsl(path), "/assets/")) return false;
  const std::string_view name = path.substr(path.rfind('/') + 1);
  const size_t dot = name.find('.');
  const size_t dash = name.substr(0, dot).rfind('-');
  if (dot == std::string_view::npos || dash == std::string_view::npos) return false;
  const std::string_view hash = name.substr(dash + 1, dot - dash - 1);
  return hash.size() >= kHashBytes && std::all_of(hash.begin(), hash.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '_';
         });
}

// A strong validator: of these very bytes, so that packed copies have their own.
std::string EtagOf(std::string_view bytes) {
  Sha256 hash;
  hash.Add(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return absl::StrCat("\"", ToHex(hash.Digest().substr(0, kEtagBytes)), "\"");
}

// Whether If-None-Match names the validator.
bool IsKnown(std::string_view if_none_match, std::string_view etag) {
  for (absl::string_view known : absl::StrSplit(AsAbsl(if_none_match), ',')) {
    known = absl::StripPrefix(absl::StripAsciiWhitespace(known), "W/");
    if (known == "*" || known == AsAbsl(etag)) return true;
  }
  return false;
}

void Append(HttpHeaders more, HttpHeaders* headers) {
  for (auto& header : more) headers->push_back(std::move(header));
}

}  // namespace

HttpHeaders PageHeaders(bool tls) {
  HttpHeaders headers = {
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
       "connect-src 'self'; worker-src 'self'; font-src 'self'; base-uri 'none'; "
       "form-action 'self'; frame-ancestors 'none'"},
      {"X-Content-Type-Options", "nosniff"},
      {"X-Frame-Options", "DENY"},
      {"Referrer-Policy", "no-referrer"},
      {"Cross-Origin-Opener-Policy", "same-origin"},
      {"Cross-Origin-Resource-Policy", "same-origin"},
      {"Permissions-Policy",
       "camera=(), microphone=(), geolocation=(), payment=(), usb=(), display-capture=()"}};
  if (tls) headers.emplace_back("Strict-Transport-Security", "max-age=31536000");
  return headers;
}

bool AcceptsCoding(std::string_view accept_encoding, std::string_view coding) {
  bool any = false;
  for (const absl::string_view item : absl::StrSplit(AsAbsl(accept_encoding), ',')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(item, ';');
    const absl::string_view name = absl::StripAsciiWhitespace(parts[0]);
    double weight = 1;
    for (size_t i = 1; i < parts.size(); ++i) {
      absl::string_view parameter = absl::StripAsciiWhitespace(parts[i]);
      if (absl::ConsumePrefix(&parameter, "q=") && !absl::SimpleAtod(parameter, &weight)) {
        weight = 0;
      }
    }
    if (absl::EqualsIgnoreCase(name, AsAbsl(coding))) return weight > 0;
    if (name == "*") any = weight > 0;
  }
  return any;
}

absl::StatusOr<StaticFiles> StaticFiles::Load(const std::string& folder) {
  namespace fs = std::filesystem;
  StaticFiles result;
  std::error_code error;
  if (folder.empty() || !fs::is_regular_file(fs::path(folder) / "index.html", error)) return result;
  size_t total = 0;
  fs::recursive_directory_iterator entries(folder, error);
  for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
    const std::string path = absl::StrCat("/", entries->path().lexically_relative(folder).string());
    // Neither hidden files nor links that lead somewhere else.
    if (absl::StrContains(path, "/.") || !entries->is_regular_file() || entries->is_symlink()) {
      continue;
    }
    total += entries->file_size();
    if (total > kFolderBytesMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the console's folder ", folder,
                       " holds more than 64 MiB: is it the one that `npm run build` wrote?"));
    }
    absl::StatusOr<std::string> bytes = ReadFile(entries->path().string());
    if (!bytes.ok()) return bytes.status();
    const absl::string_view gzip_of = absl::StripSuffix(path, ".gz");
    const absl::string_view brotli_of = absl::StripSuffix(path, ".br");
    if (gzip_of != path) {
      result.Add(std::string(gzip_of), "gzip", *std::move(bytes));
    } else if (brotli_of != path) {
      result.Add(std::string(brotli_of), "br", *std::move(bytes));
    } else {
      result.Add(path, "", *std::move(bytes));
    }
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrCat("cannot read the console's folder ", folder, ": ", error.message()));
  }
  // A packed copy is a copy: of nothing it is no file.
  std::erase_if(result.files_, [](const auto& file) { return file.second.bodies.count("") == 0; });
  return result;
}

void StaticFiles::Add(const std::string& path, const std::string& coding, std::string bytes) {
  File& file = files_[path];
  file.content_type = std::string(ContentTypeOfName(path));
  file.immutable = HasHash(path);
  Body& body = file.bodies[coding];
  body.etag = EtagOf(bytes);
  body.bytes = std::make_shared<const std::string>(std::move(bytes));
}

const StaticFiles::File* StaticFiles::Find(std::string_view path) const {
  const auto found = files_.find(std::string(path));
  if (found != files_.end()) return &found->second;
  const std::string_view last = path.substr(path.rfind('/') + 1);
  if (last.find('.') != std::string_view::npos) return nullptr;
  const auto index = files_.find("/index.html");
  return index == files_.end() ? nullptr : &index->second;
}

WebResponse StaticFiles::Answer(const WebRequest& request) const {
  const auto with_page_headers = [&](WebResponse response) {
    Append(PageHeaders(request.tls), &response.headers);
    return response;
  };
  if (request.method != "GET" && request.method != "HEAD") {
    WebResponse refusal = TextResponse(405, "files are read by GET and HEAD");
    refusal.headers.emplace_back("Allow", "GET, HEAD");
    return with_page_headers(std::move(refusal));
  }
  if (!has_console()) {
    WebResponse page;
    page.status = 503;
    page.headers = {{"Content-Type", "text/html; charset=utf-8"}, {"Cache-Control", "no-store"}};
    page.body = std::make_shared<const std::string>(kNotBuilt);
    return with_page_headers(std::move(page));
  }
  const File* file = Find(request.path);
  if (file == nullptr) return with_page_headers(TextResponse(404, "there is no such file"));
  return AnswerFile(request, *file);
}

WebResponse StaticFiles::AnswerFile(const WebRequest& request, const File& file) const {
  const std::string_view accepted = request.Header("accept-encoding").value_or("");
  const Body* body = nullptr;
  WebResponse response;
  for (const char* coding : {"br", "gzip"}) {
    const auto packed = file.bodies.find(coding);
    if (packed == file.bodies.end() || !AcceptsCoding(accepted, coding)) continue;
    body = &packed->second;
    response.headers.emplace_back("Content-Encoding", coding);
    break;
  }
  if (body == nullptr) body = &file.bodies.at("");
  response.headers.emplace_back("Content-Type", file.content_type);
  response.headers.emplace_back("ETag", body->etag);
  response.headers.emplace_back("Vary", "Accept-Encoding");
  response.headers.emplace_back(
      "Cache-Control", file.immutable ? "public, max-age=31536000, immutable" : "no-cache");
  Append(PageHeaders(request.tls), &response.headers);
  const auto known = request.Header("if-none-match");
  if (known.has_value() && IsKnown(*known, body->etag)) {
    response.status = 304;
  } else {
    response.body = body->bytes;
  }
  return response;
}

}  // namespace tessera::mgmt
