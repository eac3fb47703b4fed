// The handshake without sockets: a client's bytes go in, the server's bytes come out.
#include "services/sdc/nbd/handshake.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "services/sdc/nbd/memory_device.h"
#include "services/sdc/nbd/test_client.h"

namespace tessera::sdc::nbd {
namespace {

struct Answer {
  Option option;
  OptionReply type;
  std::string data;
};

std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

class Fixture {
 public:
  explicit Fixture(TlsMode tls_mode = TlsMode::kOff) : handshake(exports, tls_mode) {
    BlockDeviceInfo info;
    info.size_bytes = 1 << 20;
    info.minimum_block_bytes = 1;
    info.preferred_block_bytes = 4096;
    info.maximum_payload_bytes = 1 << 25;
    info.description = "a disk";
    exports.Add("disk", std::make_shared<MemoryDevice>(loop, info));
  }

  // Feeds `text`, `step_bytes` at a time; the last event. Output gathers in `output`.
  Handshake::Event Feed(const std::string& text, size_t step_bytes = SIZE_MAX) {
    Handshake::Step step;
    for (size_t sent = 0; sent < text.size() || sent == 0;) {
      const size_t count = std::min(step_bytes, text.size() - sent);
      buffered += text.substr(sent, count);
      sent += std::max<size_t>(1, count);
      do {
        step = handshake.Consume(AsBytes(buffered), output);
        buffered.erase(0, step.consumed_bytes);
      } while (step.event == Handshake::Event::kNeedInput && step.consumed_bytes > 0);
      if (step.event != Handshake::Event::kNeedInput) break;
    }
    return step.event;
  }

  void Greet(uint32_t flags = kFlagFixedNewstyle | kFlagNoZeroes) {
    REQUIRE(Feed(Bytes().Number(flags)) == Handshake::Event::kNeedInput);
  }

  // Cuts `output` into answers and empties it.
  std::vector<Answer> TakeAnswers() {
    std::vector<Answer> answers;
    size_t at = 0;
    while (at < output.size()) {
      const auto* bytes = reinterpret_cast<const std::byte*>(output.data()) + at;
      REQUIRE(LoadBig<uint64_t>(bytes) == kOptionReplyMagic);
      const auto length = LoadBig<uint32_t>(bytes + 16);
      answers.push_back({static_cast<Option>(LoadBig<uint32_t>(bytes + 8)),
                         static_cast<OptionReply>(LoadBig<uint32_t>(bytes + 12)),
                         output.substr(at + 20, length)});
      at += 20 + length;
    }
    output.clear();
    return answers;
  }

  // The type of the only or last answer to an option.
  OptionReply Ask(Option option, const std::string& data = {}) {
    last_event = Feed(EncodeOption(option, data));
    last_answers = TakeAnswers();
    REQUIRE_FALSE(last_answers.empty());
    for (const Answer& answer : last_answers) CHECK(answer.option == option);
    return last_answers.back().type;
  }

  EventLoop loop;
  MemoryExportTable exports;
  Handshake handshake;
  std::string buffered;
  std::string output;
  Handshake::Event last_event = Handshake::Event::kNeedInput;
  std::vector<Answer> last_answers;
};

TEST_CASE("The greeting is the magic pair and the two flags of fixed newstyle") {
  Fixture f;
  f.handshake.Greet(f.output);
  CHECK(f.output == std::string("NBDMAGICIHAVEOPT\0\3", 18));
}

TEST_CASE("Client flags that the server did not offer end the session") {
  Fixture f;
  CHECK(f.Feed(Bytes().Number<uint32_t>(1 << 2)) == Handshake::Event::kClose);
  CHECK_FALSE(f.handshake.close_reason().empty());
}

TEST_CASE("EXPORT_NAME begins transmission, with the zeroes that old clients want") {
  for (const bool no_zeroes : {false, true}) {
    Fixture f;
    f.Greet(no_zeroes ? 3 : 1);
    CHECK(f.Feed(EncodeOption(Option::kExportName, "disk")) == Handshake::Event::kTransmission);
    REQUIRE(f.output.size() == (no_zeroes ? 10 : 134));
    const auto* bytes = reinterpret_cast<const std::byte*>(f.output.data());
    CHECK(LoadBig<uint64_t>(bytes) == 1 << 20);
    CHECK((LoadBig<uint16_t>(bytes + 8) & kFlagHasFlags) != 0);
    const Session session = f.handshake.TakeSession();
    CHECK(session.export_name == "disk");
    CHECK_FALSE(session.structured_replies);
    CHECK_FALSE(session.base_allocation);
  }
}

TEST_CASE("EXPORT_NAME of an unknown export ends the session without an answer") {
  Fixture f;
  f.Greet();
  CHECK(f.Feed(EncodeOption(Option::kExportName, "none")) == Handshake::Event::kClose);
  CHECK(f.output.empty());
}

TEST_CASE("Without fixed newstyle only EXPORT_NAME works") {
  Fixture f;
  f.Greet(0);
  CHECK(f.Feed(EncodeOption(Option::kList, "")) == Handshake::Event::kClose);
  Fixture g;
  g.Greet(0);
  CHECK(g.Feed(EncodeOption(Option::kExportName, "")) == Handshake::Event::kTransmission);
}

TEST_CASE("A wrong option magic ends the session") {
  Fixture f;
  f.Greet();
  CHECK(f.Feed(std::string(16, 'x')) == Handshake::Event::kClose);
}

TEST_CASE("ABORT is acknowledged") {
  Fixture f;
  f.Greet();
  CHECK(f.Ask(Option::kAbort) == OptionReply::kAck);
  CHECK(f.last_event == Handshake::Event::kAborted);
}

TEST_CASE("LIST names every export, and takes no data") {
  Fixture f;
  f.exports.Add("another", f.exports.Find("disk"));
  f.Greet();
  CHECK(f.Ask(Option::kList) == OptionReply::kAck);
  REQUIRE(f.last_answers.size() == 3);
  CHECK(f.last_answers[0].type == OptionReply::kServer);
  CHECK(f.last_answers[0].data == Bytes().Number<uint32_t>(7).Text("another").text());
  CHECK(f.last_answers[1].data == Bytes().Number<uint32_t>(4).Text("disk").text());
  CHECK(f.Ask(Option::kList, "x") == OptionReply::kErrorInvalid);
}

TEST_CASE("INFO tells size, flags and block sizes, and what else was asked for") {
  Fixture f;
  f.Greet();
  CHECK(f.Ask(Option::kInfo, InfoData("disk", {InfoType::kName, InfoType::kDescription})) ==
        OptionReply::kAck);
  CHECK(f.last_event == Handshake::Event::kNeedInput);
  REQUIRE(f.last_answers.size() == 5);
  CHECK(f.last_answers[0].data.substr(0, 10) ==
        Bytes().Number<uint16_t>(0).Number<uint64_t>(1 << 20).text());
  CHECK(f.last_answers[1].data == Bytes().Number<uint16_t>(1).Text("disk").text());
  CHECK(f.last_answers[2].data == Bytes().Number<uint16_t>(2).Text("a disk").text());
  CHECK(f.last_answers[3].data == Bytes()
                                      .Number<uint16_t>(3)
                                      .Number<uint32_t>(1)
                                      .Number<uint32_t>(4096)
                                      .Number<uint32_t>(1 << 25)
                                      .text());
}

TEST_CASE("GO begins transmission; an unknown export leaves the handshake going") {
  Fixture f;
  f.Greet();
  CHECK(f.Ask(Option::kGo, InfoData("none")) == OptionReply::kErrorUnknown);
  CHECK(f.last_event == Handshake::Event::kNeedInput);
  CHECK(f.Ask(Option::kGo, InfoData("disk")) == OptionReply::kAck);
  CHECK(f.last_event == Handshake::Event::kTransmission);
}

TEST_CASE("INFO and GO with lengths that lie are invalid, and the stream stays in step") {
  Fixture f;
  f.Greet();
  const std::string good = InfoData("disk");
  std::vector<std::string> malformed = {
      "",
      "\xff\xff\xff\xff",
      Bytes().Number<uint32_t>(400).Text("disk"),           // name longer than the data
      good + "x",                                           // data left over
      good.substr(0, good.size() - 1),                      // half a count
      Bytes().Number<uint32_t>(0).Number<uint16_t>(9),      // requests that are not there
      InfoData(std::string_view("a\0b", 3)),                // NUL in a name
      InfoData(std::string(kMaximumStringBytes + 1, 'n')),  // longer than any string may be
  };
  for (const std::string& data : malformed) {
    CHECK(f.Ask(Option::kGo, data) == OptionReply::kErrorInvalid);
    CHECK(f.Ask(Option::kInfo, data) == OptionReply::kErrorInvalid);
    CHECK(f.last_event == Handshake::Event::kNeedInput);
  }
  CHECK(f.Ask(Option::kGo, good) == OptionReply::kAck);
}

TEST_CASE("Structured replies and base:allocation are part of the session when asked for") {
  Fixture f;
  f.Greet();
  CHECK(f.Ask(Option::kStructuredReply, "data") == OptionReply::kErrorInvalid);
  CHECK(f.Ask(Option::kSetMetaContext, MetaData("disk", {"base:allocation"})) ==
        OptionReply::kErrorInvalid);  // not before structured replies
  CHECK(f.Ask(Option::kStructuredReply) == OptionReply::kAck);
  CHECK(f.Ask(Option::kSetMetaContext, MetaData("disk", {"x-other:1", "base:allocation"})) ==
        OptionReply::kAck);
  REQUIRE(f.last_answers.size() == 2);
  CHECK(f.last_answers[0].data == Bytes().Number(kBaseAllocationId).Text("base:allocation").text());
  CHECK(f.Ask(Option::kGo, InfoData("disk")) == OptionReply::kAck);
  const Session session = f.handshake.TakeSession();
  CHECK(session.structured_replies);
  CHECK(session.base_allocation);
  CHECK((session.transmission_flags & kFlagSendDontFragment) != 0);
}

TEST_CASE("Metadata contexts hold for the export they were selected for, and the last query wins") {
  Fixture f;
  f.exports.Add("other", f.exports.Find("disk"));
  f.Greet();
  f.Ask(Option::kStructuredReply);
  SECTION("another export") {
    f.Ask(Option::kSetMetaContext, MetaData("other", {"base:allocation"}));
  }
  SECTION("a later empty selection") {
    f.Ask(Option::kSetMetaContext, MetaData("disk", {"base:allocation"}));
    CHECK(f.Ask(Option::kSetMetaContext, MetaData("disk", {})) == OptionReply::kAck);
    CHECK(f.last_answers.size() == 1);
  }
  SECTION("a later failing selection") {
    f.Ask(Option::kSetMetaContext, MetaData("disk", {"base:allocation"}));
    CHECK(f.Ask(Option::kSetMetaContext, MetaData("none", {"base:allocation"})) ==
          OptionReply::kErrorUnknown);
  }
  f.Ask(Option::kGo, InfoData("disk"));
  CHECK_FALSE(f.handshake.TakeSession().base_allocation);
}

TEST_CASE(
    "LIST_META_CONTEXT answers to no query, the namespace and the name; SET to the name alone") {
  Fixture f;
  f.Greet();
  f.Ask(Option::kStructuredReply);
  const auto found = [&f](Option option, std::vector<std::string> queries) {
    CHECK(f.Ask(option, MetaData("disk", std::move(queries))) == OptionReply::kAck);
    return f.last_answers.size() - 1;
  };
  CHECK(found(Option::kListMetaContext, {}) == 1);
  CHECK(found(Option::kListMetaContext, {"base:"}) == 1);
  CHECK(found(Option::kListMetaContext, {"base:allocation"}) == 1);
  CHECK(found(Option::kListMetaContext, {"qemu:"}) == 0);
  CHECK(found(Option::kSetMetaContext, {"base:"}) == 0);
  CHECK(found(Option::kSetMetaContext, {"base:allocation"}) == 1);
  // A number of queries that the data does not hold.
  CHECK(f.Ask(Option::kListMetaContext, Bytes().Number<uint32_t>(4).Text("disk").Number<uint32_t>(
                                            4000000000u)) == OptionReply::kErrorInvalid);
}

TEST_CASE("Unknown options and extended headers are answered as unsupported") {
  Fixture f;
  f.Greet();
  CHECK(f.Ask(Option::kExtendedHeaders) == OptionReply::kErrorUnsupported);
  CHECK(f.Ask(static_cast<Option>(4)) == OptionReply::kErrorUnsupported);
  CHECK(f.Ask(static_cast<Option>(0xffffffff), "data") == OptionReply::kErrorUnsupported);
  CHECK(f.Ask(Option::kGo, InfoData("disk")) == OptionReply::kAck);
}

TEST_CASE("Data that is too long is passed over and answered; far too long ends the session") {
  Fixture f;
  f.Greet();
  const std::string large(Handshake::kMaximumOptionBytes + 1, 'x');
  CHECK(f.Ask(Option::kInfo, large) == OptionReply::kErrorTooBig);
  CHECK(f.Ask(static_cast<Option>(77), large) == OptionReply::kErrorUnsupported);
  CHECK(f.buffered.empty());
  CHECK(f.Feed(Bytes()
                   .Number(kOptionMagic)
                   .Number<uint32_t>(6)
                   .Number(Handshake::kMaximumSkippedBytes + 1)) == Handshake::Event::kClose);
}

TEST_CASE("An endless row of options ends the session") {
  Fixture f;
  f.Greet();
  std::string options;
  for (int i = 0; i <= Handshake::kMaximumOptions; ++i) {
    options += EncodeOption(Option::kStructuredReply, "");
  }
  CHECK(f.Feed(options) == Handshake::Event::kClose);
}

TEST_CASE("How the bytes are cut makes no difference") {
  std::string talk = Bytes().Number<uint32_t>(3);
  talk += EncodeOption(Option::kStructuredReply, "");
  talk += EncodeOption(Option::kSetMetaContext, MetaData("disk", {"base:allocation"}));
  talk += EncodeOption(static_cast<Option>(99), std::string(20000, 'z'));
  talk += EncodeOption(Option::kGo, InfoData("disk", {InfoType::kName}));
  std::string whole;
  for (const size_t step : {SIZE_MAX, size_t{1}, size_t{3}, size_t{17}, size_t{4096}}) {
    Fixture f;
    CHECK(f.Feed(talk, step) == Handshake::Event::kTransmission);
    if (whole.empty()) whole = f.output;
    CHECK(f.output == whole);
    CHECK(f.handshake.TakeSession().base_allocation);
  }
}

TEST_CASE("Without TLS, STARTTLS is not supported") {
  Fixture f;
  f.Greet();
  CHECK(f.Ask(Option::kStartTls) == OptionReply::kErrorUnsupported);
}

TEST_CASE("Where TLS is required, nothing but STARTTLS and ABORT works before it") {
  Fixture f(TlsMode::kRequired);
  f.Greet();
  CHECK(f.Ask(Option::kList) == OptionReply::kErrorTlsRequired);
  CHECK(f.Ask(Option::kInfo, InfoData("disk")) == OptionReply::kErrorTlsRequired);
  CHECK(f.Ask(Option::kGo, InfoData("disk")) == OptionReply::kErrorTlsRequired);
  CHECK(f.Ask(static_cast<Option>(99)) == OptionReply::kErrorTlsRequired);
  CHECK(f.Ask(Option::kInfo, std::string(20000, 'x')) == OptionReply::kErrorTlsRequired);
  CHECK(f.Ask(Option::kStartTls, "x") == OptionReply::kErrorInvalid);
  CHECK(f.Ask(Option::kStartTls) == OptionReply::kAck);
  CHECK(f.last_event == Handshake::Event::kStartTls);
  f.handshake.TlsStarted();
  CHECK(f.Ask(Option::kStartTls) == OptionReply::kErrorInvalid);
  CHECK(f.Ask(Option::kGo, InfoData("disk")) == OptionReply::kAck);
}

TEST_CASE("EXPORT_NAME before required TLS ends the session") {
  Fixture f(TlsMode::kRequired);
  f.Greet();
  CHECK(f.Feed(EncodeOption(Option::kExportName, "disk")) == Handshake::Event::kClose);
}

TEST_CASE("What was agreed in the clear is forgotten when TLS starts") {
  Fixture f(TlsMode::kAllowed);
  f.Greet();
  f.Ask(Option::kStructuredReply);
  f.Ask(Option::kSetMetaContext, MetaData("disk", {"base:allocation"}));
  CHECK(f.Ask(Option::kStartTls) == OptionReply::kAck);
  f.handshake.TlsStarted();
  CHECK(f.Ask(Option::kGo, InfoData("disk")) == OptionReply::kAck);
  const Session session = f.handshake.TakeSession();
  CHECK_FALSE(session.structured_replies);
  CHECK_FALSE(session.base_allocation);
}

TEST_CASE("Transmission flags say what an export can do") {
  BlockDeviceInfo info;
  CHECK(TransmissionFlags(info, false) ==
        (kFlagHasFlags | kFlagSendFlush | kFlagSendFua | kFlagSendTrim | kFlagSendWriteZeroes |
         kFlagSendFastZero | kFlagCanMultiConnection | kFlagSendCache));
  CHECK((TransmissionFlags(info, true) & kFlagSendDontFragment) != 0);
  info.read_only = true;
  info.multi_connection = false;
  CHECK(TransmissionFlags(info, false) ==
        (kFlagHasFlags | kFlagSendFlush | kFlagSendFua | kFlagReadOnly | kFlagSendCache));
}

}  // namespace
}  // namespace tessera::sdc::nbd
