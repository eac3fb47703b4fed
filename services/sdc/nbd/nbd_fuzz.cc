// Fuzzes the NBD server's state machines as one: the first byte says how, the rest is what a client
// sends. No sockets, no loop.
//
// Built with TESSERA_LIBFUZZER it is a libFuzzer target. Else it is a test: it runs the corpus
// below and mutations of it, from a seed that it prints (nbd_fuzz [SEED [ROUNDS]]).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "services/sdc/event_loop.h"
#include "services/sdc/nbd/handshake.h"
#include "services/sdc/nbd/memory_device.h"
#include "services/sdc/nbd/reply_queue.h"
#include "services/sdc/nbd/request_reader.h"
#include "services/sdc/nbd/test_client.h"

namespace tessera::sdc::nbd {
namespace {

// A broken promise of the code under test.
void Check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "nbd_fuzz: %s\n", what);
  std::abort();
}

class FixedExports : public ExportTable {
 public:
  FixedExports() {
    BlockDeviceInfo info;
    info.size_bytes = 1 << 20;
    info.maximum_payload_bytes = 1 << 16;
    info.description = "fuzzed";
    device_ = std::make_shared<MemoryDevice>(loop_, info);
  }
  std::vector<std::string> Names() const override { return {"disk"}; }
  std::shared_ptr<BlockDevice> Find(const std::string& name) const override {
    return name.empty() || name == "disk" ? device_ : nullptr;
  }

 private:
  EventLoop loop_;
  std::shared_ptr<BlockDevice> device_;
};

const FixedExports& Exports() {
  static const auto* const exports = new FixedExports();
  return *exports;
}

// What a device and the connection would do with a request, and what must hold for it.
void Answer(const RequestReader::Request& request, const Payload& payload, const Session& session,
            ReplyQueue& replies) {
  const RequestHeader& header = request.header;
  if (request.verdict.action == Verdict::Action::kSubmit) {
    Check(header.command == WireCommand::kFlush ||
              header.length_bytes <= session.info.size_bytes - header.offset_bytes,
          "a range outside of the device was let through");
    Check(payload.size_bytes() == PayloadBytes(header), "a payload of the wrong length");
    if (header.command == WireCommand::kBlockStatus) {
      const StatusExtent all{header.length_bytes, true, true};
      return replies.AddBlockStatus(header.cookie, header.length_bytes, false, {&all, 1});
    }
    return replies.AddSimple(header.cookie, 0, payload, 0);
  }
  Check(payload.pieces.empty(), "the payload of a refused request was kept");
  if (session.structured_replies) {
    replies.AddStructuredError(header.cookie, request.verdict.error, request.verdict.message,
                               request.verdict.error_offset_bytes, 0);
  } else {
    replies.AddSimple(header.cookie, request.verdict.error, {}, 0);
  }
}

void RunTransmission(std::span<const std::byte> input, size_t step, const Session& session) {
  RequestReader reader(session);
  ReplyQueue replies;
  RequestReader::Request request;
  uint64_t unsent = 0;
  while (!input.empty()) {
    const std::span<std::byte> space = reader.Space();
    Check(!space.empty(), "no space to receive into");
    const size_t count = std::min({space.size(), input.size(), step});
    std::memcpy(space.data(), input.data(), count);
    reader.Received(count);
    input = input.subspan(count);
    for (;;) {
      if (!reader.in_request()) {
        const auto outcome = reader.Peek(request);
        if (outcome == RequestReader::Outcome::kBroken) return;
        if (outcome == RequestReader::Outcome::kNeedInput) break;
        if (request.verdict.action == Verdict::Action::kDisconnect) return;
        reader.Begin(request);
      }
      Payload payload;
      if (!reader.Finish(payload)) break;
      Answer(request, payload, session, replies);
      Check(replies.size_bytes() > unsent, "a request without an answer");
      unsent = replies.size_bytes();
    }
    iovec vectors[7];
    const size_t used = replies.Gather(vectors);
    if (used > 0) replies.Sent(std::max<size_t>(1, vectors[0].iov_len / 2));
    unsent = replies.size_bytes();
  }
}

void RunOne(std::span<const std::byte> input) {
  if (input.empty()) return;
  const auto how = static_cast<uint8_t>(input[0]);
  input = input.subspan(1);
  const size_t step = (how & 1) != 0 ? 1 + (how >> 4) : SIZE_MAX;
  if ((how & 2) != 0) {
    Session session;
    session.info = Exports().Find("disk")->info();
    session.info.read_only = (how & 4) != 0;
    session.structured_replies = session.base_allocation = (how & 8) != 0;
    return RunTransmission(input, step, session);
  }
  Handshake handshake(Exports(), static_cast<TlsMode>((how >> 2) % 3));
  std::string output;
  size_t offered = 0;  // as if received in steps
  size_t used = 0;
  while (true) {
    offered = std::min(input.size(), step == SIZE_MAX ? input.size() : offered + step);
    const auto result = handshake.Consume(input.subspan(used, offered - used), output);
    Check(used + result.consumed_bytes <= offered, "more consumed than there was");
    used += result.consumed_bytes;
    switch (result.event) {
      case Handshake::Event::kNeedInput:
        if (result.consumed_bytes == 0 && offered == input.size()) return;
        break;
      case Handshake::Event::kStartTls:
        handshake.TlsStarted();
        break;
      case Handshake::Event::kTransmission:
        return RunTransmission(input.subspan(used), step, handshake.TakeSession());
      case Handshake::Event::kAborted:
        return;
      case Handshake::Event::kClose:
        Check(!handshake.close_reason().empty(), "closed without a reason");
        return;
    }
  }
}

// Conversations without a fault, in every mode.
std::vector<std::string> Corpus() {
  std::string handshake = Bytes().Number<uint32_t>(3);
  handshake += EncodeOption(Option::kStartTls, "");
  handshake += EncodeOption(Option::kList, "");
  handshake += EncodeOption(Option::kStructuredReply, "");
  handshake += EncodeOption(Option::kListMetaContext, MetaData("disk", {}));
  handshake += EncodeOption(Option::kSetMetaContext, MetaData("disk", {"base:allocation"}));
  handshake += EncodeOption(Option::kInfo, InfoData("disk", {InfoType::kDescription}));
  std::string requests;
  for (uint16_t command = 0; command < 10; ++command) {
    if (static_cast<WireCommand>(command) == WireCommand::kDisconnect) continue;
    for (const uint64_t offset : {uint64_t{0}, uint64_t{(1 << 20) - 100}, UINT64_MAX - 5}) {
      const RequestHeader header{0, static_cast<WireCommand>(command), offset, offset, 100};
      requests += EncodeRequest(header) + std::string(PayloadBytes(header), 'p');
    }
  }
  std::vector<std::string> corpus;
  for (int how = 0; how < 256; how += 3) {
    const char first = static_cast<char>(how);
    corpus.push_back(first + handshake + EncodeOption(Option::kGo, InfoData("disk")) + requests);
    corpus.push_back(first + handshake + EncodeOption(Option::kExportName, "disk") + requests);
    corpus.push_back(first + requests + EncodeRequest({0, WireCommand::kDisconnect, 0, 0, 0}));
  }
  return corpus;
}

#ifndef TESSERA_LIBFUZZER

std::string Mutate(std::string text, std::mt19937_64& random) {
  const int changes = 1 + static_cast<int>(random() % 6);
  for (int i = 0; i < changes && !text.empty(); ++i) {
    const size_t at = random() % text.size();
    switch (random() % 6) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text[at] = static_cast<char>(text[at] ^ (1 << (random() % 8)));
        break;
      case 2:
        text.erase(at, random() % 40);
        break;
      case 3:
        text.insert(at, text.substr(random() % text.size(), random() % 60));
        break;
      case 4: {
        const char extremes[] = {0, 1, 0x7f, static_cast<char>(0x80), static_cast<char>(0xff)};
        for (size_t k = at; k < std::min(text.size(), at + 1 + random() % 8); ++k) {
          text[k] = extremes[random() % 5];
        }
        break;
      }
      default:
        text.resize(at);
    }
  }
  return text;
}

int RunSeeded(uint64_t seed, int rounds) {
  std::printf("seed %llu, %d rounds\n", static_cast<unsigned long long>(seed), rounds);
  std::fflush(stdout);
  const std::vector<std::string> corpus = Corpus();
  for (const std::string& text : corpus) RunOne(std::as_bytes(std::span(text)));
  std::mt19937_64 random(seed);
  for (int i = 0; i < rounds; ++i) {
    const std::string text = Mutate(corpus[random() % corpus.size()], random);
    RunOne(std::as_bytes(std::span(text)));
  }
  return 0;
}

#endif

}  // namespace
}  // namespace tessera::sdc::nbd

#ifdef TESSERA_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tessera::sdc::nbd::RunOne(std::as_bytes(std::span(data, size)));
  return 0;
}

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t maximum_size);

// Now and then starts over from a faultless conversation, which mutations alone would hardly find.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t maximum_size,
                                          unsigned int seed) {
  static const auto* const corpus = new std::vector<std::string>(tessera::sdc::nbd::Corpus());
  if (seed % 64 == 0) {
    const std::string& start = (*corpus)[seed / 64 % corpus->size()];
    size = std::min(start.size(), maximum_size);
    std::memcpy(data, start.data(), size);
  }
  return LLVMFuzzerMutate(data, size, maximum_size);
}
#else
int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::random_device()();
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 100000;
  return tessera::sdc::nbd::RunSeeded(seed, rounds);
}
#endif
