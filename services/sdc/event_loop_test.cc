#include "services/sdc/event_loop.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <optional>
#include <thread>
#include <vector>

namespace tessera::sdc {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

struct SocketPair {
  SocketPair() { REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()) == 0); }
  ~SocketPair() {
    for (const int end : ends) {
      if (end >= 0) ::close(end);
    }
  }
  void Fill() const { REQUIRE(::write(ends[1], "x", 1) == 1); }
  int watched() const { return ends[0]; }
  void CloseOther() {
    ::close(ends[1]);
    ends[1] = -1;
  }
  std::array<int, 2> ends{};
};

TEST_CASE("Tasks run in the order of posting, and those posted before Stop still run") {
  EventLoop loop;
  std::vector<int> order;
  loop.Post([&] {
    order.push_back(1);
    loop.Post([&] {
      order.push_back(3);
      loop.Stop();
      loop.Post([&] { order.push_back(99); });
    });
  });
  loop.Post([&] { order.push_back(2); });
  loop.Run();
  CHECK(order == std::vector<int>{1, 2, 3});
}

TEST_CASE("A task that Stop shut out is destroyed without being run") {
  EventLoop loop;
  loop.Stop();
  const auto token = std::make_shared<int>(0);
  bool ran = false;
  loop.Post([token, &ran] { ran = true; });
  CHECK(token.use_count() == 1);
  loop.Run();
  CHECK_FALSE(ran);
}

TEST_CASE("Posts from many threads all arrive, each thread's in order") {
  EventLoop loop;
  constexpr int kThreads = 4;
  constexpr int kPosts = 5000;
  std::vector<int> last(kThreads, -1);
  int finished = 0;
  bool in_order = true;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kPosts; ++i) {
        loop.Post([&, t, i] {
          in_order &= last[t] == i - 1;
          last[t] = i;
          if (i == kPosts - 1 && ++finished == kThreads) loop.Stop();
        });
      }
    });
  }
  loop.Run();
  for (auto& thread : threads) thread.join();
  CHECK(in_order);
  CHECK(last == std::vector<int>(kThreads, kPosts - 1));
}

TEST_CASE("Only the running thread is the loop thread") {
  EventLoop loop;
  CHECK_FALSE(loop.InLoopThread());
  bool inside = false;
  loop.Post([&] {
    inside = loop.InLoopThread();
    loop.Stop();
  });
  loop.Run();
  CHECK(inside);
  CHECK_FALSE(loop.InLoopThread());
}

TEST_CASE("Timers run in the order of their deadlines, not before them") {
  EventLoop loop;
  std::vector<int> order;
  const auto start = loop.Now();
  loop.After(milliseconds(20), [&] {
    order.push_back(3);
    CHECK(loop.Now() - start >= milliseconds(20));
    loop.Stop();
  });
  loop.After(milliseconds(0), [&] { order.push_back(1); });
  loop.After(milliseconds(5), [&] { order.push_back(2); });
  loop.After(hours(10000), [&] { order.push_back(99); });
  loop.Run();
  CHECK(order == std::vector<int>{1, 2, 3});
}

TEST_CASE("A timer set by a timer is armed although a later one was armed before") {
  EventLoop loop;
  bool ran = false;
  loop.After(hours(1), [] {});
  loop.Post([&] {
    loop.After(milliseconds(1), [&] {
      loop.After(milliseconds(1), [&] {
        ran = true;
        loop.Stop();
      });
    });
  });
  loop.Run();
  CHECK(ran);
}

TEST_CASE("A cancelled timer does not run, and cancelling twice or too late is fine") {
  EventLoop loop;
  bool cancelled_ran = false;
  const auto cancelled = loop.After(milliseconds(1), [&] { cancelled_ran = true; });
  std::optional<EventLoop::TimerId> own;
  loop.Cancel(cancelled);
  loop.Cancel(cancelled);
  own = loop.After(milliseconds(5), [&] {
    loop.Cancel(*own);
    loop.Stop();
  });
  loop.Run();
  CHECK_FALSE(cancelled_ran);
}

TEST_CASE("Cancelling very many timers does not disturb those that stay") {
  EventLoop loop;
  std::vector<EventLoop::TimerId> timers;
  int ran = 0;
  for (int i = 0; i < 2000; ++i) timers.push_back(loop.After(milliseconds(i % 7), [&] { ++ran; }));
  for (int i = 0; i < 2000; ++i) {
    if (i % 100 != 0) loop.Cancel(timers[i]);
  }
  loop.After(milliseconds(10), [&] { loop.Stop(); });
  loop.Run();
  CHECK(ran == 20);
}

TEST_CASE("A readable descriptor calls its handler until it is drained") {
  EventLoop loop;
  SocketPair pair;
  int calls = 0;
  loop.Watch(pair.watched(), EventLoop::kReadable, [&](uint32_t ready) {
    CHECK(ready == EventLoop::kReadable);
    if (++calls == 2) {  // level-triggered: unread bytes call again
      char byte;
      REQUIRE(::read(pair.watched(), &byte, 1) == 1);
      loop.Stop();
    }
  });
  pair.Fill();
  loop.Run();
  CHECK(calls == 2);
}

TEST_CASE("A hang-up shows as both bits, even with no interest at all") {
  EventLoop loop;
  SocketPair pair;
  uint32_t seen = 0;
  loop.Watch(pair.watched(), 0, [&](uint32_t ready) {
    seen = ready;
    loop.Unwatch(pair.watched());
    loop.Stop();
  });
  pair.CloseOther();
  loop.Run();
  CHECK(seen == (EventLoop::kReadable | EventLoop::kWritable));
}

TEST_CASE("Interest can be changed while registered") {
  EventLoop loop;
  SocketPair pair;
  std::vector<uint32_t> seen;
  loop.Watch(pair.watched(), EventLoop::kReadable, [&](uint32_t ready) {
    seen.push_back(ready);
    if (seen.size() == 1) {
      loop.ChangeInterest(pair.watched(), EventLoop::kWritable);
    } else {
      loop.ChangeInterest(pair.watched(), 0);
      loop.After(milliseconds(2), [&] { loop.Stop(); });
    }
  });
  pair.Fill();
  loop.Run();
  CHECK(seen == std::vector<uint32_t>{EventLoop::kReadable, EventLoop::kWritable});
}

TEST_CASE("Unwatch in a handler silences another descriptor of the same turn") {
  EventLoop loop;
  SocketPair first;
  SocketPair second;
  int calls = 0;
  const auto handler = [&](const SocketPair& other) {
    return [&](uint32_t) {
      ++calls;
      loop.Unwatch(other.watched());
      loop.After(milliseconds(2), [&] { loop.Stop(); });
      loop.Unwatch(first.watched());
      loop.Unwatch(second.watched());
    };
  };
  loop.Watch(first.watched(), EventLoop::kReadable, handler(second));
  loop.Watch(second.watched(), EventLoop::kReadable, handler(first));
  first.Fill();
  second.Fill();
  loop.Run();
  CHECK(calls == 1);
}

TEST_CASE("A handler outlives its own Unwatch until it returns") {
  EventLoop loop;
  SocketPair pair;
  const auto token = std::make_shared<int>(7);
  int value = 0;
  loop.Watch(pair.watched(), EventLoop::kReadable, [&, held = token](uint32_t) {
    loop.Unwatch(pair.watched());
    value = *held;
    loop.Stop();
  });
  pair.Fill();
  loop.Run();
  CHECK(value == 7);
  CHECK(token.use_count() == 1);  // destroyed at the end of the turn
}

TEST_CASE("A descriptor number may be watched anew in the turn in which it was given up") {
  EventLoop loop;
  SocketPair pair;
  bool second_called = false;
  loop.Watch(pair.watched(), EventLoop::kReadable, [&](uint32_t) {
    loop.Unwatch(pair.watched());
    loop.Watch(pair.watched(), EventLoop::kReadable, [&](uint32_t) {
      second_called = true;
      loop.Unwatch(pair.watched());
      loop.Stop();
    });
  });
  pair.Fill();
  loop.Run();
  CHECK(second_called);
}

TEST_CASE("Hooks run once at the end of each turn, in order, after tasks and descriptors") {
  EventLoop loop;
  std::vector<int> order;
  loop.AddTurnEndHook([&] { order.push_back(10); });
  loop.AddTurnEndHook([&] { order.push_back(20); });
  loop.Post([&] { order.push_back(1); });
  loop.Post([&] {
    order.push_back(2);
    loop.Stop();
  });
  loop.Run();
  CHECK(order == std::vector<int>{1, 2, 10, 20});
}

TEST_CASE("Hooks may remove themselves and each other, and add new ones") {
  EventLoop loop;
  std::vector<int> order;
  EventLoop::HookId first = 0;
  EventLoop::HookId second = 0;
  first = loop.AddTurnEndHook([&] {
    order.push_back(1);
    loop.RemoveTurnEndHook(first);
    loop.RemoveTurnEndHook(second);
    loop.AddTurnEndHook([&] { order.push_back(3); });
    loop.Post([&] { loop.Stop(); });
  });
  second = loop.AddTurnEndHook([&] { order.push_back(2); });
  loop.Post([] {});
  loop.Run();
  CHECK(order == std::vector<int>{1, 3});
}

TEST_CASE("An idle loop sleeps: no turn ends without work") {
  EventLoop loop;
  int turns = 0;
  loop.AddTurnEndHook([&] { ++turns; });
  loop.After(milliseconds(30), [&] { loop.Stop(); });
  loop.Run();
  CHECK(turns == 1);
}

TEST_CASE("Destroying a loop destroys what it still holds, which may call back into it") {
  struct Unwatcher {
    EventLoop* loop;
    int fd;
    ~Unwatcher() {
      loop->Unwatch(fd);
      loop->Cancel(1);
      loop->Post([] {});
    }
  };
  SocketPair pair;
  const auto token = std::make_shared<int>(0);
  {
    EventLoop loop;
    auto unwatcher = std::make_shared<Unwatcher>(Unwatcher{&loop, pair.watched()});
    loop.Watch(pair.watched(), EventLoop::kReadable, [token, unwatcher](uint32_t) {});
    loop.After(hours(1), [token, unwatcher] {});
    loop.Post([token, unwatcher = std::move(unwatcher)] {});
    loop.AddTurnEndHook([token] {});
    CHECK(token.use_count() == 5);
  }
  CHECK(token.use_count() == 1);
}

}  // namespace
}  // namespace tessera::sdc
