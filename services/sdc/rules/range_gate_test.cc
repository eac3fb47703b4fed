#include "services/sdc/rules/range_gate.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>

#include "libchunk/seeded_random.h"

namespace tessera::sdc {
namespace {

using Kind = RangeGate::Kind;

struct Waiter {
  Kind kind;
  ByteRange range;
  RangeGate::Ticket ticket = 0;
  uint64_t arrival = 0;
  bool ready = false;
};

class GateTest {
 public:
  Waiter* Enter(Kind kind, uint64_t begin, uint64_t end) {
    auto waiter = std::make_unique<Waiter>(Waiter{kind, {begin, end}});
    waiter->arrival = next_++;
    const auto entry = gate_.Enter(kind, waiter->range, waiter.get());
    waiter->ticket = entry.ticket;
    waiter->ready = entry.ready;
    waiters_.push_back(std::move(waiter));
    return waiters_.back().get();
  }
  void Leave(Waiter* waiter) {
    std::vector<void*> ready;
    gate_.Leave(waiter->ticket, &ready);
    for (void* owner : ready) static_cast<Waiter*>(owner)->ready = true;
    std::erase_if(waiters_, [waiter](const auto& w) { return w.get() == waiter; });
  }
  RangeGate gate_;
  std::vector<std::unique_ptr<Waiter>> waiters_;
  uint64_t next_ = 0;
};

bool MustWait(const Waiter& later, const Waiter& earlier) {
  if (!later.range.Overlaps(earlier.range)) return false;
  if (later.kind == Kind::kWrite) return earlier.kind == Kind::kReadModifyWrite;
  return earlier.kind != Kind::kRead;
}

TEST_CASE("a read waits for the overlapping write before it and for no other", "[range_gate]") {
  GateTest t;
  Waiter* write = t.Enter(Kind::kWrite, 0, 4096);
  Waiter* far = t.Enter(Kind::kRead, 4096, 8192);
  Waiter* near = t.Enter(Kind::kRead, 4095, 4097);
  CHECK(far->ready);
  CHECK_FALSE(near->ready);
  t.Leave(write);
  CHECK(near->ready);
}

TEST_CASE("writes do not wait for writes or reads", "[range_gate]") {
  GateTest t;
  t.Enter(Kind::kWrite, 0, 4096);
  t.Enter(Kind::kRead, 0, 4096);
  CHECK(t.Enter(Kind::kWrite, 0, 4096)->ready);
}

TEST_CASE("a read-modify-write excludes writes on both sides", "[range_gate]") {
  GateTest t;
  Waiter* before = t.Enter(Kind::kWrite, 0, 512);
  Waiter* unaligned = t.Enter(Kind::kReadModifyWrite, 0, 512);
  Waiter* after = t.Enter(Kind::kWrite, 0, 512);
  CHECK_FALSE(unaligned->ready);
  CHECK_FALSE(after->ready);
  t.Leave(before);
  CHECK(unaligned->ready);
  CHECK_FALSE(after->ready);
  t.Leave(unaligned);
  CHECK(after->ready);
}

TEST_CASE("one that leaves before its turn holds nobody up and its place is not mixed up",
          "[range_gate]") {
  GateTest t;
  Waiter* write = t.Enter(Kind::kWrite, 0, 512);
  Waiter* gone = t.Enter(Kind::kReadModifyWrite, 0, 512);
  t.Leave(gone);
  Waiter* next = t.Enter(Kind::kWrite, 0, 512);
  CHECK(next->ready);
  t.Leave(write);
  t.Leave(next);
  CHECK(t.gate_.size() == 0);
  CHECK(t.Enter(Kind::kReadModifyWrite, 0, 512)->ready);
}

TEST_CASE("in random schedules each is ready exactly when nobody earlier stands in its way",
          "[range_gate]") {
  const uint64_t seed = GENERATE(1, 2, 3, 4, 5, 6, 7, 8);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  GateTest t;
  for (int step = 0; step < 3000; ++step) {
    if (t.waiters_.size() < 24 && random.Chance(1, 2)) {
      const uint64_t begin = random.Below(64);
      t.Enter(static_cast<Kind>(random.Below(3)), begin, begin + 1 + random.Below(8));
    } else if (!t.waiters_.empty()) {
      Waiter* waiter = t.waiters_[random.Below(t.waiters_.size())].get();
      if (waiter->ready || random.Chance(1, 8)) t.Leave(waiter);
    }
    for (const auto& later : t.waiters_) {
      bool waits = false;
      for (const auto& earlier : t.waiters_) {
        waits |= earlier->arrival < later->arrival && MustWait(*later, *earlier);
      }
      REQUIRE(later->ready == !waits);
    }
  }
}

}  // namespace
}  // namespace tessera::sdc
