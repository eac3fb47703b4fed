#include "services/sdc/nbd/reply_queue.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "services/sdc/nbd/test_client.h"

namespace tessera::sdc::nbd {
namespace {

Payload Data(const std::string& text, size_t piece_bytes = SIZE_MAX) {
  auto owner = std::make_shared<std::string>(text);
  Payload payload;
  std::span<const std::byte> rest = std::as_bytes(std::span(*owner));
  while (!rest.empty()) {
    const size_t count = std::min(piece_bytes, rest.size());
    payload.pieces.push_back(rest.first(count));
    rest = rest.subspan(count);
  }
  payload.owner = owner;
  return payload;
}

// Sends everything, at most `step` bytes and `vectors` vectors at a time.
std::string SendAll(ReplyQueue& queue, size_t step = SIZE_MAX, size_t vectors = 512,
                    ReplyQueue::Released* total = nullptr) {
  std::string sent;
  std::vector<iovec> space(vectors);
  while (!queue.empty()) {
    const size_t used = queue.Gather(space);
    REQUIRE(used > 0);
    std::string offered;
    for (size_t i = 0; i < used; ++i) {
      REQUIRE(space[i].iov_len > 0);
      offered.append(static_cast<const char*>(space[i].iov_base), space[i].iov_len);
    }
    offered.resize(std::min(offered.size(), step));
    sent += offered;
    const ReplyQueue::Released released = queue.Sent(offered.size());
    if (total != nullptr) {
      total->replies += released.replies;
      total->charged_bytes += released.charged_bytes;
    }
  }
  CHECK(queue.size_bytes() == 0);
  return sent;
}

TEST_CASE("A simple reply is magic, error, cookie and data") {
  ReplyQueue queue;
  queue.AddSimple(0x1122334455667788, 0, Data("data"), 4);
  queue.AddSimple(2, EIO, {}, 0);
  CHECK(SendAll(queue) == Bytes()
                              .Number(kSimpleReplyMagic)
                              .Number<uint32_t>(0)
                              .Number<uint64_t>(0x1122334455667788)
                              .Text("data")
                              .Number(kSimpleReplyMagic)
                              .Number<uint32_t>(EIO)
                              .Number<uint64_t>(2)
                              .text());
}

TEST_CASE("Structured replies are laid out as the specification says") {
  ReplyQueue queue;
  queue.AddReadChunk(7, 4096, Data("0123"), 4);
  queue.AddStructuredDone(8);
  queue.AddStructuredError(9, EINVAL, "why", std::nullopt, 0);
  queue.AddStructuredError(10, EIO, "why", 512, 0);
  const auto chunk = [](ReplyChunk type, uint64_t cookie, uint32_t length) {
    return Bytes()
        .Number(kStructuredReplyMagic)
        .Number<uint16_t>(1)
        .Number(static_cast<uint16_t>(type))
        .Number(cookie)
        .Number(length)
        .text();
  };
  CHECK(SendAll(queue) == Bytes()
                              .Text(chunk(ReplyChunk::kOffsetData, 7, 12))
                              .Number<uint64_t>(4096)
                              .Text("0123")
                              .Text(chunk(ReplyChunk::kNone, 8, 0))
                              .Text(chunk(ReplyChunk::kError, 9, 9))
                              .Number<uint32_t>(EINVAL)
                              .Number<uint16_t>(3)
                              .Text("why")
                              .Text(chunk(ReplyChunk::kErrorOffset, 10, 17))
                              .Number<uint32_t>(EIO)
                              .Number<uint16_t>(3)
                              .Text("why")
                              .Number<uint64_t>(512)
                              .text());
}

std::vector<std::pair<uint32_t, uint32_t>> StatusOf(uint32_t length, bool one,
                                                    const std::vector<StatusExtent>& extents) {
  ReplyQueue queue;
  queue.AddBlockStatus(1, length, one, extents);
  const std::string sent = SendAll(queue);
  const auto* bytes = reinterpret_cast<const std::byte*>(sent.data());
  CHECK(LoadBig<uint16_t>(bytes + 6) == static_cast<uint16_t>(ReplyChunk::kBlockStatus));
  REQUIRE(LoadBig<uint32_t>(bytes + 16) == sent.size() - kStructuredReplyBytes);
  CHECK(LoadBig<uint32_t>(bytes + 20) == kBaseAllocationId);
  std::vector<std::pair<uint32_t, uint32_t>> found;
  for (size_t at = 24; at < sent.size(); at += 8) {
    found.emplace_back(LoadBig<uint32_t>(bytes + at), LoadBig<uint32_t>(bytes + at + 4));
  }
  return found;
}

TEST_CASE("Block status extents are merged, cut to the request, and never none") {
  using Extents = std::vector<std::pair<uint32_t, uint32_t>>;
  const std::vector<StatusExtent> extents = {{100, false, false},
                                             {50, false, false},
                                             {0, true, true},
                                             {200, true, true},
                                             {9000, false, true}};
  CHECK(StatusOf(1000, false, extents) == Extents{{150, 0}, {200, 3}, {650, 2}});
  CHECK(StatusOf(1000, true, extents) == Extents{{150, 0}});
  CHECK(StatusOf(120, false, extents) == Extents{{120, 0}});
  CHECK(StatusOf(1000, false, {}) == Extents{{1000, 0}});
  CHECK(StatusOf(UINT32_MAX, false, {{UINT64_MAX, true, true}}) == Extents{{UINT32_MAX, 3}});
}

TEST_CASE("A very long list of extents ends early, which the protocol allows") {
  std::vector<StatusExtent> extents;
  for (int i = 0; i < 100000; ++i) extents.push_back({1, i % 2 == 0, false});
  CHECK(StatusOf(100000, false, extents).size() == 16384);
}

TEST_CASE("Partial sends of any size give the same stream") {
  const auto fill = [](ReplyQueue& queue) {
    queue.AddRaw("hello");
    for (uint64_t i = 0; i < 600; ++i) {
      queue.AddSimple(i, 0, Data(std::string(i % 90, static_cast<char>('a' + i % 26)), 7), i % 90);
      queue.AddStructuredError(i, EIO, "message", i, 1);
    }
  };
  ReplyQueue whole;
  fill(whole);
  const std::string expected = SendAll(whole, SIZE_MAX, 1 << 14);
  for (const size_t step : {1, 13, 5000}) {
    for (const size_t vectors : {1, 3, 512}) {
      ReplyQueue queue;
      fill(queue);
      ReplyQueue::Released released;
      CHECK(SendAll(queue, step, vectors, &released) == expected);
      CHECK(released.replies == 1200);  // the greeting is no reply
      CHECK(released.charged_bytes > 600);
    }
  }
}

TEST_CASE("A payload is let go as soon as it has been sent, and not before") {
  ReplyQueue queue;
  Payload first = Data("first");
  const std::weak_ptr<const void> watched = first.owner;
  queue.AddSimple(1, 0, std::move(first), 5);
  queue.AddSimple(2, 0, Data("second"), 6);
  queue.Sent(kSimpleReplyBytes + 4);
  CHECK_FALSE(watched.expired());
  const auto released = queue.Sent(1);
  CHECK(watched.expired());
  CHECK(released.replies == 1);
  CHECK(released.charged_bytes == 5);
  queue.Clear();
  CHECK(queue.empty());
  CHECK(queue.size_bytes() == 0);
}

TEST_CASE("Very long error texts are cut") {
  ReplyQueue queue;
  queue.AddStructuredError(1, EIO, std::string(100000, 'x'), 3, 0);
  CHECK(queue.size_bytes() < 1200);
}

}  // namespace
}  // namespace tessera::sdc::nbd
