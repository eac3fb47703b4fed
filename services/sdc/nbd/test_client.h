// Tools of the NBD tests: a loop on its own thread, and a blocking client that says exactly what it
// is told to, right or wrong.
#ifndef TESSERA_SERVICES_SDC_NBD_TEST_CLIENT_H_
#define TESSERA_SERVICES_SDC_NBD_TEST_CLIENT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "services/sdc/event_loop.h"
#include "services/sdc/nbd/protocol.h"
#include "services/sdc/nbd/request.h"

namespace tessera::sdc::nbd {

// A byte string of big-endian numbers and text, to write messages down as the specification does.
class Bytes {
 public:
  template <typename T>
  Bytes& Number(T value) {
    AppendBig<T>(text_, value);
    return *this;
  }
  Bytes& Text(std::string_view text) {
    text_ += text;
    return *this;
  }
  operator const std::string&() const { return text_; }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

[[nodiscard]] std::string EncodeOption(Option option, std::string_view data);
[[nodiscard]] std::string EncodeRequest(const RequestHeader& header);
// The data of INFO and GO.
[[nodiscard]] std::string InfoData(std::string_view export_name,
                                   std::vector<InfoType> requests = {});
// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
[[nodiscard]] std::string MetaData(std::string_view export_name, std::vector<std::string> queries);

// An EventLoop that runs on a thread of its own until destroyed.
class LoopThread {
 public:
  LoopThread() : thread_([this] { loop_.Run(); }) {}
  ~LoopThread() {
    loop_.Stop();
    thread_.join();
  }
  EventLoop& loop() { return loop_; }
  // Runs `work` on the loop thread and waits for it.
  void Run(const std::function<void()>& work);

 private:
  EventLoop loop_;
  std::thread thread_;
};

// All receiving functions give up after ten seconds, which shows as a missing answer.
class TestClient {
 public:
  struct OptionAnswer {
    Option option;
    OptionReply type;
    std::string data;
  };
  struct SimpleReply {
    uint32_t error;
    uint64_t cookie;
  };
  struct Chunk {
    uint16_t flags;
    ReplyChunk type;
    uint64_t cookie;
    std::string data;
  };

  static TestClient Tcp(uint16_t port);
  static TestClient Unix(const std::string& path);
  explicit TestClient(int descriptor);
  TestClient(TestClient&& other) noexcept;
  ~TestClient();

  [[nodiscard]] int descriptor() const { return descriptor_; }
  // False when the server does not take it any more.
  bool Send(std::string_view bytes);
  // Exactly `count` bytes, or fewer if the connection ended.
  std::string Receive(size_t count);
  // The server has closed the connection and sent nothing before that.
  bool AtEnd();
  // The client says that it will send no more.
  void FinishSending();

  // Greeting and client flags.
  bool Greet(uint32_t client_flags = kFlagFixedNewstyle | kFlagNoZeroes);
  std::optional<OptionAnswer> ReceiveOptionAnswer();
  // Sends an option and receives all answers up to ACK or an error.
  std::vector<OptionAnswer> Ask(Option option, std::string_view data = {});
  // Everything up to the transmission phase, asking for structured replies and base:allocation if
  // `structured`. False if the server refused.
  bool Enter(std::string_view export_name, bool structured);

  bool SendRequest(const RequestHeader& header, std::string_view payload = {});
  std::optional<SimpleReply> ReceiveSimple();
  std::optional<Chunk> ReceiveChunk();
  // A whole request with a simple reply; `data` of a read goes to `read_data`. Nothing if the
  // connection ended.
  std::optional<uint32_t> Do(const RequestHeader& header, std::string_view payload = {},
                             std::string* read_data = nullptr);

 private:
  int descriptor_;
};

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_TEST_CLIENT_H_
