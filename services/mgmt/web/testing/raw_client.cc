#include "services/mgmt/web/testing/raw_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tessera::mgmt {

std::string RawResponse::Header(std::string_view name) const {
  std::string joined;
  for (const auto& [key, value] : headers) {
    if (key == name) absl::StrAppend(&joined, joined.empty() ? "" : "|", value);
  }
  return joined;
}

RawClient::RawClient(const std::string& address, int receive_buffer_bytes) {
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer_bytes > 0) {
    setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  }
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + address.rfind(':') + 1)));
  inet_pton(AF_INET, "127.0.0.1", &peer.sin_addr);
  if (connect(socket_, reinterpret_cast<sockaddr*>(&peer), sizeof peer) != 0) {
    throw std::runtime_error("cannot connect to " + address);
  }
}

RawClient::~RawClient() {
  if (socket_ >= 0) close(socket_);
}

bool RawClient::Send(std::string_view bytes) const {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

std::string RawClient::ReadSome() {
  if (!pending_.empty()) return std::exchange(pending_, {});
  std::string bytes(64 << 10, '\0');
  const ssize_t received = recv(socket_, bytes.data(), bytes.size(), 0);
  bytes.resize(received > 0 ? static_cast<size_t>(received) : 0);
  return bytes;
}

std::string RawClient::ReadToEnd() {
  std::string all;
  for (std::string piece = ReadSome(); !piece.empty(); piece = ReadSome()) all += piece;
  return all;
}

size_t RawClient::ReadUntil(std::string_view text) {
  size_t at = pending_.find(text);
  while (at == std::string::npos) {
    std::string had = std::exchange(pending_, {});
    const std::string more = ReadSome();
    pending_ = had + more;
    if (more.empty()) return std::string::npos;
    at = pending_.find(text);
  }
  return at;
}

bool RawClient::ReadAtLeast(size_t bytes) {
  while (pending_.size() < bytes) {
    std::string had = std::exchange(pending_, {});
    const std::string more = ReadSome();
    pending_ = had + more;
    if (more.empty()) return false;
  }
  return true;
}

bool RawClient::ReadChunks(std::string* body) {
  while (true) {
    const size_t line = ReadUntil("\r\n");
    if (line == std::string::npos) return false;
    const size_t length = std::strtoul(pending_.c_str(), nullptr, 16);
    if (!ReadAtLeast(line + 2 + length + 2)) return false;
    body->append(pending_, line + 2, length);
    pending_.erase(0, line + 2 + length + 2);
    if (length == 0) return true;
  }
}

RawResponse RawClient::Read(bool is_head) {
  RawResponse response;
  const size_t end = ReadUntil("\r\n\r\n");
  if (end == std::string::npos) return response;
  const std::vector<std::string> lines = absl::StrSplit(pending_.substr(0, end), "\r\n");
  pending_.erase(0, end + 4);
  for (size_t i = 1; i < lines.size(); ++i) {
    const size_t colon = lines[i].find(':');
    std::string name = absl::AsciiStrToLower(lines[i].substr(0, colon));
    std::string value(absl::StripAsciiWhitespace(lines[i].substr(colon + 1)));
    response.headers.emplace_back(std::move(name), std::move(value));
  }
  bool whole = true;
  const std::string length = response.Header("content-length");
  if (!is_head && response.Header("transfer-encoding") == "chunked") {
    whole = ReadChunks(&response.body);
  } else if (!is_head && !length.empty()) {
    const auto bytes = static_cast<size_t>(std::atol(length.c_str()));
    whole = ReadAtLeast(bytes);
    response.body = pending_.substr(0, bytes);
    pending_.erase(0, bytes);
  }
  if (whole) response.status = std::atoi(lines[0].c_str() + lines[0].find(' '));
  return response;
}

void RawClient::CloseWriting() const { shutdown(socket_, SHUT_WR); }

void RawClient::Reset() {
  const linger at_once{1, 0};
  setsockopt(socket_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(socket_);
  socket_ = -1;
}

std::string PostRequest(std::string_view path, const HttpHeaders& headers, std::string_view body) {
  std::string request = absl::StrCat("POST ", absl::string_view(path.data(), path.size()),
                                     " HTTP/1.1\r\nHost: localhost\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&request, name, ": ", value, "\r\n");
  absl::StrAppend(&request, "Content-Length: ", body.size(), "\r\n\r\n",
                  absl::string_view(body.data(), body.size()));
  return request;
}

std::string GetRequest(std::string_view path, const HttpHeaders& headers) {
  std::string request = absl::StrCat("GET ", absl::string_view(path.data(), path.size()),
                                     " HTTP/1.1\r\nHost: localhost\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&request, name, ": ", value, "\r\n");
  return request + "\r\n";
}

}  // namespace tessera::mgmt
