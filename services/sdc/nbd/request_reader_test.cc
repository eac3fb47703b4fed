#include "services/sdc/nbd/request_reader.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "services/sdc/nbd/test_client.h"

namespace tessera::sdc::nbd {
namespace {

std::string Text(const Payload& payload) {
  std::string text;
  for (const auto& piece : payload.pieces) {
    text.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  return text;
}

std::string Pattern(size_t size, uint64_t seed) {
  std::string text(size, '\0');
  std::mt19937_64 random(seed);
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

struct Fixture {
  Fixture() : reader(session) {
    session.info.size_bytes = 1 << 30;
    session.info.maximum_payload_bytes = 32 << 20;
  }

  struct Got {
    RequestHeader header;
    Verdict::Action action;
    Payload payload;
  };

  void Drain() {
    for (;;) {
      if (!reader.in_request()) {
        if (reader.Peek(request) != RequestReader::Outcome::kReady) return;
        reader.Begin(request);
      }
      Payload payload;
      if (!reader.Finish(payload)) return;
      got.push_back({request.header, request.verdict.action, std::move(payload)});
    }
  }

  // As a socket would, at most `step` bytes at a time.
  void Feed(std::string_view bytes, size_t step = SIZE_MAX) {
    while (!bytes.empty()) {
      const std::span<std::byte> space = reader.Space();
      REQUIRE_FALSE(space.empty());
      const size_t count = std::min({space.size(), bytes.size(), step});
      std::memcpy(space.data(), bytes.data(), count);
      reader.Received(count);
      bytes.remove_prefix(count);
      Drain();
    }
  }

  Session session;
  RequestReader reader;
  RequestReader::Request request;
  std::vector<Got> got;
};

std::string Write(uint64_t cookie, std::string_view payload, uint64_t offset = 0) {
  return EncodeRequest(
             {0, WireCommand::kWrite, cookie, offset, static_cast<uint32_t>(payload.size())})
      .append(payload);
}

TEST_CASE("Requests come out whole, however the stream is cut, and payloads stay intact") {
  const uint64_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  std::string stream;
  std::vector<std::string> payloads;
  for (uint64_t i = 0; i < 60; ++i) {
    const size_t sizes[] = {0, 1, 27, 4096, 5000, 65536, 300000};
    payloads.push_back(Pattern(sizes[random() % 7], i));
    stream += Write(i, payloads.back());
  }
  for (const size_t step : {SIZE_MAX, size_t{1} << 16, size_t{4095}, size_t{29}}) {
    Fixture f;
    f.Feed(stream, step);
    REQUIRE(f.got.size() == payloads.size());
    for (size_t i = 0; i < payloads.size(); ++i) {
      CHECK(f.got[i].header.cookie == i);
      CHECK(Text(f.got[i].payload) == payloads[i]);  // read after all later bytes have come in
    }
    CHECK_FALSE(f.reader.MidRequest());
  }
}

TEST_CASE("A payload lives on when the reader is gone") {
  Payload payload;
  const std::string data = Pattern(200000, 3);
  {
    Fixture f;
    f.Feed(Write(1, data));
    payload = std::move(f.got.at(0).payload);
  }
  CHECK(Text(payload) == data);
}

TEST_CASE("A payload is not copied: its pieces lie where the bytes were received") {
  Fixture f;
  const std::string stream = Write(1, Pattern(1000, 1));
  const std::span<std::byte> space = f.reader.Space();
  std::memcpy(space.data(), stream.data(), stream.size());
  f.reader.Received(stream.size());
  f.Drain();
  REQUIRE(f.got.size() == 1);
  CHECK(f.got[0].payload.pieces.at(0).data() == space.data() + kRequestBytes);
}

TEST_CASE("The payload of a refused write is read over and not kept") {
  Fixture f;
  f.session.info.read_only = true;
  f.Feed(Write(1, Pattern(500000, 1)));
  f.Feed(EncodeRequest({0, WireCommand::kFlush, 2, 0, 0}));
  REQUIRE(f.got.size() == 2);
  CHECK(f.got[0].action == Verdict::Action::kRefuse);
  CHECK(f.got[0].payload.pieces.empty());
  CHECK(f.got[1].header.cookie == 2);
}

TEST_CASE("A wrong magic breaks the stream for good") {
  Fixture f;
  f.Feed(std::string(28, 'x'));
  CHECK(f.got.empty());
  CHECK(f.reader.Peek(f.request) == RequestReader::Outcome::kBroken);
  CHECK_FALSE(f.reader.broken_reason().empty());
  f.Feed(EncodeRequest({0, WireCommand::kFlush, 2, 0, 0}));
  CHECK(f.got.empty());
}

TEST_CASE("A write beyond the maximum payload breaks the stream") {
  Fixture f;
  f.Feed(EncodeRequest({0, WireCommand::kWrite, 1, 0, (32 << 20) + 1}));
  CHECK(f.reader.Peek(f.request) == RequestReader::Outcome::kBroken);
}

TEST_CASE("A header that promises much takes little memory until the bytes come") {
  Fixture f;
  f.Feed(EncodeRequest({0, WireCommand::kWrite, 1, 0, 32 << 20}));
  CHECK(f.reader.in_request());
  (void)f.reader.Space();
  CHECK(f.reader.block_bytes() <= RequestReader::kLargestPayloadBlockBytes);
}

TEST_CASE("Blocks start small, grow with a busy client and go when it is idle") {
  Fixture f;
  CHECK(f.reader.block_bytes() == 0);
  f.Feed(EncodeRequest({0, WireCommand::kFlush, 1, 0, 0}));
  CHECK(f.reader.block_bytes() == RequestReader::kSmallestBlockBytes);
  std::string many;
  for (uint64_t i = 0; i < 400; ++i) many += Write(i, Pattern(4096, i));
  f.Feed(many);
  CHECK(f.reader.block_bytes() == RequestReader::kLargestBlockBytes);
  f.Feed("half a header");
  f.reader.ReleaseIdle();
  CHECK(f.reader.block_bytes() > 0);  // it is in the middle of a request

  Fixture g;
  g.Feed(many);
  g.reader.ReleaseIdle();
  CHECK(g.reader.block_bytes() == 0);
  g.Feed(EncodeRequest({0, WireCommand::kFlush, 1, 0, 0}));
  CHECK(g.got.back().header.command == WireCommand::kFlush);
}

TEST_CASE("Bytes from before the reader existed come first") {
  Fixture f;
  const std::string stream = Write(5, "payload");
  f.reader.Append(std::as_bytes(std::span(stream)).first(20));
  f.Drain();
  f.Feed(stream.substr(20));
  REQUIRE(f.got.size() == 1);
  CHECK(Text(f.got[0].payload) == "payload");
}

TEST_CASE("A request that was looked at and left is still there") {
  Fixture f;
  const std::string stream = EncodeRequest({0, WireCommand::kFlush, 9, 0, 0});
  f.reader.Append(std::as_bytes(std::span(stream)));
  CHECK(f.reader.Peek(f.request) == RequestReader::Outcome::kReady);
  CHECK(f.reader.Peek(f.request) == RequestReader::Outcome::kReady);
  CHECK(f.request.header.cookie == 9);
  CHECK(f.reader.MidRequest());
}

}  // namespace
}  // namespace tessera::sdc::nbd
