// Receivers of notifications for tests: a tiny HTTP/1.1 server and a tiny SMTP server (RFC 5321) on
// 127.0.0.1, each with a thread, that answer as the test says.
//
// Until Open is called connections are refused: the port is bound, but nobody listens.
//
// Threads: any; the answers are asked for on the receiver's thread.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_TESTING_RECEIVER_H_
#define TESSERA_SERVICES_MGMT_ALERTS_TESTING_RECEIVER_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace tessera::mgmt {

// One connection as lines and bytes.
class TestConnection {
 public:
  explicit TestConnection(int socket) : socket_(socket) {}
  // Without its CR LF. False at the end.
  [[nodiscard]] bool ReadLine(std::string* line);
  [[nodiscard]] bool ReadBytes(size_t count, std::string* bytes);
  void Write(const std::string& bytes) const;
  // Until the other side goes, or the receiver does.
  void WaitForEnd();

 private:
  [[nodiscard]] bool Fill();
  const int socket_;
  std::string buffer_;
};

// Accepts connections one after the other and hands them to `serve`.
class TestListener {
 public:
  explicit TestListener(std::function<void(TestConnection&)> serve);
  ~TestListener() { Close(); }
  TestListener(const TestListener&) = delete;
  TestListener& operator=(const TestListener&) = delete;
  void Open();
  void Close();
  [[nodiscard]] std::string address() const;  // "127.0.0.1:4711"

 private:
  void Run();
  const std::function<void(TestConnection&)> serve_;
  int listener_ = -1;
  std::atomic<int> serving_{-1};  // the connection that is served, to end it
  std::atomic<bool> closing_{false};
  std::thread thread_;
};

struct HttpRequest {
  std::string line;                            // "POST /x HTTP/1.1"
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};
struct HttpAnswer {
  int status = 200;
  std::string headers;  // lines, each with CR LF
  bool cut = false;     // the connection ends instead
  bool hang = false;    // no answer until the client goes
};

class HttpReceiver {
 public:
  using Decide = std::function<HttpAnswer(const HttpRequest& request, size_t number)>;
  // `decide` is asked with the number of requests before this one.
  explicit HttpReceiver(Decide decide = nullptr);
  void Open() { listener_.Open(); }
  void Close() { listener_.Close(); }
  [[nodiscard]] std::string url() const { return "http://" + listener_.address() + "/hook"; }
  [[nodiscard]] std::vector<HttpRequest> requests() const;

 private:
  void Serve(TestConnection& connection);
  const Decide decide_;
  mutable absl::Mutex mutex_;
  std::vector<HttpRequest> requests_ ABSL_GUARDED_BY(mutex_);
  TestListener listener_;  // the last: its thread uses the others
};

struct ReceivedMail {
  std::string login;  // what AUTH PLAIN brought, decoded, zeros as '|'
  std::string from;
  std::vector<std::string> to;
  std::string text;
};

class SmtpReceiver {
 public:
  // The reply to the end of DATA: "250 ok"; empty: the connection ends instead.
  using Decide = std::function<std::string(const ReceivedMail& mail, size_t number)>;
  explicit SmtpReceiver(Decide decide = nullptr);
  void Open() { listener_.Open(); }
  [[nodiscard]] std::string address() const { return listener_.address(); }
  // Whose text arrived whole.
  [[nodiscard]] std::vector<ReceivedMail> mails() const;

 private:
  void Serve(TestConnection& connection);
  [[nodiscard]] bool TakeData(TestConnection& connection, ReceivedMail* mail);
  const Decide decide_;
  mutable absl::Mutex mutex_;
  std::vector<ReceivedMail> mails_ ABSL_GUARDED_BY(mutex_);
  TestListener listener_;  // the last: its thread uses the others
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_TESTING_RECEIVER_H_
