#include "services/mgmt/alerts/testing/receiver.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tessera::mgmt {

bool TestConnection::Fill() {
  std::array<char, 4'096> bytes{};
  const ssize_t got = ::recv(socket_, bytes.data(), bytes.size(), 0);
  if (got <= 0) return false;
  buffer_.append(bytes.data(), static_cast<size_t>(got));
  return true;
}

bool TestConnection::ReadLine(std::string* line) {
  size_t end = 0;
  while ((end = buffer_.find("\r\n")) == std::string::npos) {
    if (!Fill()) return false;
  }
  *line = buffer_.substr(0, end);
  buffer_.erase(0, end + 2);
  return true;
}

bool TestConnection::ReadBytes(size_t count, std::string* bytes) {
  while (buffer_.size() < count) {
    if (!Fill()) return false;
  }
  *bytes = buffer_.substr(0, count);
  buffer_.erase(0, count);
  return true;
}

void TestConnection::Write(const std::string& bytes) const {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t now = ::send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (now <= 0) return;  // the client is gone
    sent += static_cast<size_t>(now);
  }
}

void TestConnection::WaitForEnd() {
  while (Fill()) {
  }
}

TestListener::TestListener(std::function<void(TestConnection&)> serve) : serve_(std::move(serve)) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(listener_, reinterpret_cast<sockaddr*>(&any), sizeof any) != 0) {
    throw std::runtime_error("no port on 127.0.0.1");
  }
}

std::string TestListener::address() const {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  return absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
}

void TestListener::Open() {
  if (::listen(listener_, 16) != 0) throw std::runtime_error("can't listen");
  thread_ = std::thread([this] { Run(); });
}

void TestListener::Close() {
  closing_.store(true);
  ::shutdown(listener_, SHUT_RDWR);
  if (const int socket = serving_.load(); socket >= 0) ::shutdown(socket, SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
  if (listener_ >= 0) ::close(listener_);
  listener_ = -1;
}

void TestListener::Run() {
  while (!closing_.load()) {
    const int socket = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0) return;
    serving_.store(socket);
    if (closing_.load()) ::shutdown(socket, SHUT_RDWR);
    TestConnection connection(socket);
    serve_(connection);
    serving_.store(-1);
    ::close(socket);
  }
}

HttpReceiver::HttpReceiver(Decide decide)
    : decide_(std::move(decide)), listener_([this](TestConnection& c) { Serve(c); }) {}

std::vector<HttpRequest> HttpReceiver::requests() const {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

void HttpReceiver::Serve(TestConnection& connection) {
  HttpRequest request;
  if (!connection.ReadLine(&request.line)) return;
  std::string line;
  while (connection.ReadLine(&line) && !line.empty()) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) return;
    request.headers[absl::AsciiStrToLower(line.substr(0, colon))] =
        std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  }
  size_t length = 0;
  if (request.headers.contains("content-length") &&
      !absl::SimpleAtoi(request.headers["content-length"], &length)) {
    return;
  }
  if (!connection.ReadBytes(length, &request.body)) return;
  size_t number = 0;
  {
    absl::MutexLock lock(&mutex_);
    number = requests_.size();
    requests_.push_back(request);
  }
  const HttpAnswer answer = decide_ ? decide_(request, number) : HttpAnswer{};
  if (answer.hang) connection.WaitForEnd();
  if (answer.hang || answer.cut) return;
  connection.Write(absl::StrCat("HTTP/1.1 ", answer.status, " x\r\nContent-Length: 2\r\n",
                                answer.headers, "Connection: close\r\n\r\nok"));
}

SmtpReceiver::SmtpReceiver(Decide decide)
    : decide_(std::move(decide)), listener_([this](TestConnection& c) { Serve(c); }) {}

std::vector<ReceivedMail> SmtpReceiver::mails() const {
  absl::MutexLock lock(&mutex_);
  return mails_;
}

bool SmtpReceiver::TakeData(TestConnection& connection, ReceivedMail* mail) {
  connection.Write("354 go on\r\n");
  std::string line;
  while (connection.ReadLine(&line)) {
    if (line == ".") return true;
    if (absl::StartsWith(line, ".")) line.erase(0, 1);
    absl::StrAppend(&mail->text, line, "\r\n");
  }
  return false;
}

void SmtpReceiver::Serve(TestConnection& connection) {
  connection.Write("220 test ESMTP\r\n");
  ReceivedMail mail;
  std::string line;
  while (connection.ReadLine(&line)) {
    const std::string verb = absl::AsciiStrToUpper(line.substr(0, 4));
    if (verb == "EHLO") {
      connection.Write("250-test\r\n250 AUTH PLAIN\r\n");
    } else if (verb == "AUTH") {
      std::string secret = line.substr(std::min(line.size(), sizeof("AUTH PLAIN ") - 1));
      if (secret.empty()) {
        connection.Write("334 \r\n");
        if (!connection.ReadLine(&secret)) return;
      }
      if (!absl::Base64Unescape(secret, &mail.login)) return;
      std::replace(mail.login.begin(), mail.login.end(), '\0', '|');
      connection.Write("235 welcome\r\n");
    } else if (verb == "MAIL") {
      mail.to.clear();
      mail.text.clear();
      mail.from = line.substr(line.find('<'), line.find('>') - line.find('<') + 1);
      connection.Write("250 ok\r\n");
    } else if (verb == "RCPT") {
      mail.to.push_back(line.substr(line.find('<'), line.find('>') - line.find('<') + 1));
      connection.Write("250 ok\r\n");
    } else if (verb == "DATA") {
      if (!TakeData(connection, &mail)) return;
      size_t number = 0;
      {
        absl::MutexLock lock(&mutex_);
        number = mails_.size();
        mails_.push_back(mail);
      }
      const std::string reply = decide_ ? decide_(mail, number) : "250 ok";
      if (reply.empty()) return;
      connection.Write(absl::StrCat(reply, "\r\n"));
    } else if (verb == "QUIT") {
      connection.Write("221 bye\r\n");
      return;
    } else {
      connection.Write("500 what?\r\n");
    }
  }
}

}  // namespace tessera::mgmt
