// An HTTP client that does what it is told, wrong things too: a socket, bytes out, answers in.
// Reads wait as long as it takes.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_MGMT_WEB_TESTING_RAW_CLIENT_H_
#define TESSERA_SERVICES_MGMT_WEB_TESTING_RAW_CLIENT_H_

#include <string>
#include <string_view>

#include "services/mgmt/web/http_exchange.h"

namespace tessera::mgmt {

struct RawResponse {
  int status = 0;  // 0: the connection ended before an answer was whole
  HttpHeaders headers;
  std::string body;  // chunks put together

  // The headers of that (lower-case) name, joined by "|".
  [[nodiscard]] std::string Header(std::string_view name) const;
};

class RawClient {
 public:
  // Connects to "127.0.0.1:port". `receive_buffer_bytes`: small ones make a slow reader.
  explicit RawClient(const std::string& address, int receive_buffer_bytes = 0);
  ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  // False when the server closed the connection.
  bool Send(std::string_view bytes) const;
  // The next bytes; empty: the connection has ended.
  [[nodiscard]] std::string ReadSome();
  // The next answer; `is_head`: it has no body.
  [[nodiscard]] RawResponse Read(bool is_head = false);
  [[nodiscard]] std::string ReadToEnd();
  void CloseWriting() const;
  void Reset();  // closes with RST

 private:
  // Until the pending bytes have the text; npos when the connection ended before.
  [[nodiscard]] size_t ReadUntil(std::string_view text);
  [[nodiscard]] bool ReadAtLeast(size_t bytes);
  [[nodiscard]] bool ReadChunks(std::string* body);

  int socket_ = -1;
  std::string pending_;
};

// "POST <path>" with Host and Content-Length, and the headers.
[[nodiscard]] std::string PostRequest(std::string_view path, const HttpHeaders& headers,
                                      std::string_view body);
[[nodiscard]] std::string GetRequest(std::string_view path, const HttpHeaders& headers = {});

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_TESTING_RAW_CLIENT_H_
