#include "services/mgmt/monitor/console_hub.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <set>

#include "services/common/errors.h"

namespace tessera::mgmt {
namespace {

using Message = v1::WatchConsoleResponse;

// What a reader got; one that does not read only lets it pile up.
struct Reader {
  std::vector<Message> messages;
  size_t unread = 0;
  bool reads = true;
  bool closed = false;
  absl::Status status;

  [[nodiscard]] size_t Count(Message::ChangeCase change) const {
    return static_cast<size_t>(
        std::count_if(messages.begin(), messages.end(),
                      [&](const Message& message) { return message.change_case() == change; }));
  }
};

class FakeStream final : public ConsoleStream {
 public:
  explicit FakeStream(std::shared_ptr<Reader> reader) : reader_(std::move(reader)) {}
  bool Send(Message message) override {
    if (reader_->closed) return false;
    reader_->messages.push_back(std::move(message));
    if (!reader_->reads) ++reader_->unread;
    return true;
  }
  [[nodiscard]] size_t queued() const override { return reader_->unread; }
  void Close(const absl::Status& status) override {
    reader_->closed = true;
    reader_->status = status;
  }

 private:
  const std::shared_ptr<Reader> reader_;  // shared with the test
};

Message Overview(const std::string& verdict) {
  Message message;
  message.mutable_overview()->set_verdict(verdict);
  return message;
}

Message AlertChange(uint64_t id) {
  Message message;
  message.mutable_alert()->set_alert_id(id);
  return message;
}

class Fixture {
 public:
  std::shared_ptr<Reader> Watch(const std::vector<v1::ConsoleTopic>& topics = {},
                                const std::string& credential = "session.1") {
    v1::WatchConsoleRequest request;
    for (const v1::ConsoleTopic topic : topics) request.add_topics(topic);
    auto reader = std::make_shared<Reader>();
    const absl::Status status =
        hub.Add(request, credential, first_state, std::make_unique<FakeStream>(reader));
    if (!status.ok()) {
      reader->closed = true;
      reader->status = status;
    }
    return reader;
  }

  ManualClock clock;
  MetricRegistry metrics{"mgmt"};
  std::set<std::string> ended;
  ConsoleHub hub{&clock, &metrics,
                 [this](const std::string& credential) { return !ended.contains(credential); }};
  ConsoleHub::FirstState first_state = [](const std::set<v1::ConsoleTopic>& topics) {
    std::vector<Message> messages;
    if (topics.contains(v1::CONSOLE_TOPIC_OVERVIEW)) messages.push_back(Overview("first"));
    return messages;
  };
};

}  // namespace

TEST_CASE("a watcher hears the present state first, then a heartbeat, then changes in order") {
  Fixture fixture;
  const auto reader = fixture.Watch();
  fixture.hub.Publish(Overview("second"));
  fixture.hub.Publish(AlertChange(7));
  REQUIRE(reader->messages.size() == 4);
  CHECK(reader->messages[0].overview().verdict() == "first");
  CHECK(reader->messages[1].has_heartbeat());
  CHECK(reader->messages[2].overview().verdict() == "second");
  CHECK(reader->messages[3].alert().alert_id() == 7);
}

TEST_CASE("a watcher hears of its topics alone") {
  Fixture fixture;
  const auto alerts = fixture.Watch({v1::CONSOLE_TOPIC_ALERTS});
  const auto objects = fixture.Watch({v1::CONSOLE_TOPIC_OBJECTS, v1::CONSOLE_TOPIC_OPERATIONS});
  fixture.hub.Publish(Overview("x"));
  fixture.hub.Publish(AlertChange(7));
  Message changed;
  changed.mutable_objects()->set_volumes(true);
  fixture.hub.Publish(changed);
  CHECK(alerts->messages.size() == 2);
  CHECK(alerts->Count(Message::kAlert) == 1);
  CHECK(objects->messages.size() == 2);
  CHECK(objects->Count(Message::kObjects) == 1);
  const auto wrong = fixture.Watch({v1::CONSOLE_TOPIC_UNSPECIFIED});
  CHECK(absl::IsInvalidArgument(wrong->status));
}

TEST_CASE("what is published while the first state is made follows it") {
  Fixture fixture;
  fixture.first_state = [&](const std::set<v1::ConsoleTopic>&) {
    fixture.hub.Publish(AlertChange(7));
    return std::vector<Message>{Overview("first")};
  };
  const auto reader = fixture.Watch();
  REQUIRE(reader->messages.size() == 3);
  CHECK(reader->messages[0].overview().verdict() == "first");
  CHECK(reader->messages[2].alert().alert_id() == 7);
}

TEST_CASE("a heartbeat comes every 15 seconds, counted from each watcher's own begin") {
  Fixture fixture;
  const auto early = fixture.Watch();
  fixture.clock.AdvanceMillis(10'000);
  const auto late = fixture.Watch();
  fixture.clock.AdvanceMillis(4'999);
  fixture.hub.Tick();
  CHECK(early->Count(Message::kHeartbeat) == 1);
  fixture.clock.AdvanceMillis(1);
  fixture.hub.Tick();
  fixture.hub.Tick();
  CHECK(early->Count(Message::kHeartbeat) == 2);
  CHECK(late->Count(Message::kHeartbeat) == 1);
  fixture.clock.AdvanceMillis(10'000);
  fixture.hub.Tick();
  CHECK(early->Count(Message::kHeartbeat) == 2);
  CHECK(late->Count(Message::kHeartbeat) == 2);
}

TEST_CASE("a reader that does not read is spared overviews, then ended, and others go on") {
  Fixture fixture;
  const auto slow = fixture.Watch();
  const auto quick = fixture.Watch();
  slow->reads = false;
  for (int i = 0; i < 20; ++i) fixture.hub.Publish(Overview("next"));
  CHECK(slow->Count(Message::kOverview) == 1 + ConsoleHub::kOverviewsQueuedMax + 1);
  CHECK_FALSE(slow->closed);
  for (uint64_t id = 1; id <= ConsoleHub::kLagMax + 1; ++id) fixture.hub.Publish(AlertChange(id));
  CHECK(slow->closed);
  CHECK(absl::IsResourceExhausted(slow->status));
  CHECK(slow->unread <= ConsoleHub::kLagMax);
  CHECK_FALSE(quick->closed);
  CHECK(quick->Count(Message::kAlert) == ConsoleHub::kLagMax + 1);
  CHECK(fixture.hub.watchers() == 1);
}

TEST_CASE("the end of a session ends its watches, at the next heartbeat or publication") {
  Fixture fixture;
  const auto reader = fixture.Watch({}, "session.1");
  const auto other = fixture.Watch({}, "session.2");
  const auto by_certificate = fixture.Watch({}, "");
  fixture.ended = {"session.1"};
  SECTION("publication") { fixture.hub.Publish(AlertChange(1)); }
  SECTION("publication of another topic") {
    const auto narrow = fixture.Watch({v1::CONSOLE_TOPIC_ALERTS}, "session.3");
    fixture.ended.insert("session.3");
    fixture.hub.Publish(Overview("x"));
    CHECK(narrow->closed);
  }
  SECTION("heartbeat") {
    fixture.clock.AdvanceMillis(ConsoleHub::kHeartbeatMs);
    fixture.hub.Tick();
  }
  CHECK(reader->closed);
  CHECK(absl::IsUnauthenticated(reader->status));
  CHECK(ReasonOf(reader->status) == "SESSION_EXPIRED");
  CHECK(reader->Count(Message::kAlert) == 0);
  CHECK_FALSE(other->closed);
  CHECK_FALSE(by_certificate->closed);
  CHECK(fixture.Watch({}, "session.1")->closed);
}

TEST_CASE("a reader that went away is forgotten") {
  Fixture fixture;
  const auto reader = fixture.Watch();
  reader->closed = true;
  fixture.hub.Publish(AlertChange(1));
  CHECK(fixture.hub.watchers() == 0);
}

TEST_CASE("no more watch than the limit, and none after the end") {
  Fixture fixture;
  std::vector<std::shared_ptr<Reader>> readers;
  for (size_t i = 0; i < ConsoleHub::kWatchersMax; ++i) readers.push_back(fixture.Watch());
  CHECK(absl::IsResourceExhausted(fixture.Watch()->status));
  fixture.hub.Close();
  CHECK(readers[0]->closed);
  CHECK(absl::IsUnavailable(readers[0]->status));
  CHECK(absl::IsUnavailable(fixture.Watch()->status));
}

}  // namespace tessera::mgmt
