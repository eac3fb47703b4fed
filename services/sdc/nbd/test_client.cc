#include "services/sdc/nbd/test_client.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <future>
#include <utility>

namespace tessera::sdc::nbd {
namespace {

constexpr int kPatienceSeconds = 10;

}  // namespace

std::string EncodeOption(Option option, std::string_view data) {
  return Bytes()
      .Number(kOptionMagic)
      .Number(static_cast<uint32_t>(option))
      .Number(static_cast<uint32_t>(data.size()))
      .Text(data);
}

std::string EncodeRequest(const RequestHeader& header) {
  return Bytes()
      .Number(kRequestMagic)
      .Number(header.flags)
      .Number(static_cast<uint16_t>(header.command))
      .Number(header.cookie)
      .Number(header.offset_bytes)
      .Number(header.length_bytes);
}

std::string InfoData(std::string_view export_name, std::vector<InfoType> requests) {
  Bytes data;
  data.Number(static_cast<uint32_t>(export_name.size())).Text(export_name);
  data.Number(static_cast<uint16_t>(requests.size()));
  for (const InfoType type : requests) data.Number(static_cast<uint16_t>(type));
  return data;
}

std::string MetaData(std::string_view export_name, std::vector<std::string> queries) {
  Bytes data;
  data.Number(static_cast<uint32_t>(export_name.size())).Text(export_name);
  data.Number(static_cast<uint32_t>(queries.size()));
  for (const std::string& query : queries) {
    data.Number(static_cast<uint32_t>(query.size())).Text(query);
  }
  return data;
}

void LoopThread::Run(const std::function<void()>& work) {
  std::promise<void> finished;
  loop_.Post([&] {
    work();
    finished.set_value();
  });
  finished.get_future().wait();
}

TestClient TestClient::Tcp(uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  (void)::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  return TestClient(fd);
}

TestClient TestClient::Unix(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  (void)::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  return TestClient(fd);
}

TestClient::TestClient(int descriptor) : descriptor_(descriptor) {
  const timeval patience{kPatienceSeconds, 0};
  ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  ::setsockopt(descriptor_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
}

TestClient::TestClient(TestClient&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

TestClient::~TestClient() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool TestClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

std::string TestClient::Receive(size_t count) {
  std::string bytes(count, '\0');
  size_t filled = 0;
  while (filled < count) {
    const ssize_t got = ::recv(descriptor_, bytes.data() + filled, count - filled, 0);
    if (got <= 0) break;
    filled += static_cast<size_t>(got);
  }
  bytes.resize(filled);
  return bytes;
}

bool TestClient::AtEnd() {
  char byte;
  const ssize_t got = ::recv(descriptor_, &byte, 1, 0);
  // A server that closes with input unread sends a reset.
  return got == 0 || (got < 0 && errno == ECONNRESET);
}

void TestClient::FinishSending() { ::shutdown(descriptor_, SHUT_WR); }

bool TestClient::Greet(uint32_t client_flags) {
  return Receive(18).size() == 18 && Send(Bytes().Number(client_flags).text());
}

std::optional<TestClient::OptionAnswer> TestClient::ReceiveOptionAnswer() {
  const std::string header = Receive(20);
  if (header.size() < 20) return std::nullopt;
  const auto* bytes = reinterpret_cast<const std::byte*>(header.data());
  if (LoadBig<uint64_t>(bytes) != kOptionReplyMagic) return std::nullopt;
  OptionAnswer answer;
  answer.option = static_cast<Option>(LoadBig<uint32_t>(bytes + 8));
  answer.type = static_cast<OptionReply>(LoadBig<uint32_t>(bytes + 12));
  answer.data = Receive(LoadBig<uint32_t>(bytes + 16));
  return answer;
}

std::vector<TestClient::OptionAnswer> TestClient::Ask(Option option, std::string_view data) {
  std::vector<OptionAnswer> answers;
  if (!Send(EncodeOption(option, data))) return answers;
  for (;;) {
    std::optional<OptionAnswer> answer = ReceiveOptionAnswer();
    if (!answer.has_value()) return answers;
    answers.push_back(*std::move(answer));
    const auto type = static_cast<uint32_t>(answers.back().type);
    if (answers.back().type == OptionReply::kAck || (type >> 31) != 0) return answers;
  }
}

bool TestClient::Enter(std::string_view export_name, bool structured) {
  const auto accepted = [this](Option option, std::string_view data) {
    const std::vector<OptionAnswer> answers = Ask(option, data);
    return !answers.empty() && answers.back().type == OptionReply::kAck;
  };
  if (!Greet()) return false;
  if (structured &&
      (!accepted(Option::kStructuredReply, {}) ||
       !accepted(Option::kSetMetaContext, MetaData(export_name, {std::string(kBaseAllocation)})))) {
    return false;
  }
  return accepted(Option::kGo, InfoData(export_name));
}

bool TestClient::SendRequest(const RequestHeader& header, std::string_view payload) {
  return Send(EncodeRequest(header).append(payload));
}

std::optional<TestClient::SimpleReply> TestClient::ReceiveSimple() {
  const std::string reply = Receive(kSimpleReplyBytes);
  const auto* bytes = reinterpret_cast<const std::byte*>(reply.data());
  if (reply.size() < kSimpleReplyBytes || LoadBig<uint32_t>(bytes) != kSimpleReplyMagic) {
    return std::nullopt;
  }
  return SimpleReply{LoadBig<uint32_t>(bytes + 4), LoadBig<uint64_t>(bytes + 8)};
}

std::optional<TestClient::Chunk> TestClient::ReceiveChunk() {
  const std::string header = Receive(kStructuredReplyBytes);
  const auto* bytes = reinterpret_cast<const std::byte*>(header.data());
  if (header.size() < kStructuredReplyBytes || LoadBig<uint32_t>(bytes) != kStructuredReplyMagic) {
    return std::nullopt;
  }
  return Chunk{LoadBig<uint16_t>(bytes + 4), static_cast<ReplyChunk>(LoadBig<uint16_t>(bytes + 6)),
               LoadBig<uint64_t>(bytes + 8), Receive(LoadBig<uint32_t>(bytes + 16))};
}

std::optional<uint32_t> TestClient::Do(const RequestHeader& header, std::string_view payload,
                                       std::string* read_data) {
  if (!SendRequest(header, payload)) return std::nullopt;
  const std::optional<SimpleReply> reply = ReceiveSimple();
  if (!reply.has_value() || reply->cookie != header.cookie) return std::nullopt;
  if (header.command == WireCommand::kRead && reply->error == 0) {
    std::string data = Receive(header.length_bytes);
    if (read_data != nullptr) *read_data = std::move(data);
  }
  return reply->error;
}

}  // namespace tessera::sdc::nbd
