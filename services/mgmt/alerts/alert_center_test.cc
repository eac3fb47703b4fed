#include "services/mgmt/alerts/alert_center.h"

#include <catch2/catch.hpp>

#include <set>
#include <string>
#include <vector>

#include "services/common/grpc_server.h"
#include "services/common/rpc.h"
#include "services/mgmt/alerts/alert_service.h"
#include "services/mgmt/alerts/testing/healthy_cluster.h"

namespace tessera::mgmt {
namespace {

constexpr char kRules[] = R"(
[[rule]]
name = "trash"
subject = "volume"
condition = "trashed == 1"
severity = "error"
raise_after = "0s"
resolve_after = "60s"
summary = "{name} is in the trash"
)";

class Fixture {
 public:
  explicit Fixture(const std::string& rules = kRules) {
    rules_file_ = database_.WriteFile("rules.toml", rules);
    Start();
  }

  void Start() {
    center_.reset();
    database_.Reopen();
    AlertCenterOptions options;
    options.rules_file = rules_file_;
    NotificationTarget target;
    target.name = "hook";
    target.severity_min = v1::ALERT_SEVERITY_ERROR;
    options.targets.push_back(target);
    target.name = "critical-only";
    target.severity_min = v1::ALERT_SEVERITY_CRITICAL;
    options.targets.push_back(target);
    options.new_key = [this] { return "key" + std::to_string(++keys_); };
    options.listener = [this](const v1::Alert& alert) { told_.push_back(alert); };
    options.outbox_filled = [this] { ++filled_; };
    absl::StatusOr<std::unique_ptr<AlertCenter>> center =
        AlertCenter::Create(std::move(options), database_.db(), &clock_, &metrics_);
    if (!center.ok()) FAIL(center.status());
    center_ = *std::move(center);
  }

  // A round `seconds` later with so many volumes, of which the first are in the trash: no built-in
  // rule minds that.
  void Round(uint64_t seconds, int over, int volumes = 3) {
    clock_.AdvanceMillis(seconds * 1000);
    Subjects subjects;
    subjects.complete.insert(SubjectKind::kVolume);
    for (int i = 0; i < volumes; ++i) {
      Subject& subject = subjects.subjects.emplace_back();
      subject.kind = SubjectKind::kVolume;
      subject.id = std::to_string(i);
      subject.name = "volume" + subject.id;
      subject.values["trashed"] = i < over ? 1 : 0;
    }
    center_->OnSubjects(subjects);
  }
  // What waits for a target, oldest first: "raised volume/0".
  std::vector<std::string> Outbox(const std::string& target = "hook") {
    std::vector<std::string> waiting;
    const absl::Status read = database_.db()->Read([&](SQLite::Database& db) {
      SQLite::Statement query(
          db, "SELECT event, alert FROM notification WHERE target = ? ORDER BY notification_id");
      query.bind(1, target);
      while (query.executeStep()) {
        v1::Alert alert;
        REQUIRE(alert.ParseFromString(query.getColumn(1).getString()));
        waiting.push_back((query.getColumn(0).getInt() == 1 ? "raised " : "resolved ") +
                          alert.subject());
      }
      return absl::OkStatus();
    });
    REQUIRE(read.ok());
    return waiting;
  }
  std::vector<v1::Alert> List(const v1::ListAlertsRequest& request = {}) {
    v1::ListAlertsResponse response;
    REQUIRE(center_->List(request, &response).ok());
    return {response.alerts().begin(), response.alerts().end()};
  }
  uint64_t SilenceSubject(const std::string& subject, uint64_t seconds) {
    v1::CreateSilenceRequest request;
    request.set_subject(subject);
    request.set_duration_s(seconds);
    request.set_comment("known");
    const absl::StatusOr<v1::Silence> silence = center_->Silence(request, "eve");
    REQUIRE(silence.ok());
    return silence->silence_id();
  }

  TestDatabase database_;
  ManualClock clock_;
  MetricRegistry metrics_{"test"};
  std::string rules_file_;
  int keys_ = 0;
  int filled_ = 0;
  std::vector<v1::Alert> told_;
  std::unique_ptr<AlertCenter> center_;
};

using Lines = std::vector<std::string>;

TEST_CASE("A raised alert is listed, told to the listener and put into the outbox") {
  Fixture fixture;
  fixture.Round(10, 1);
  const std::vector<v1::Alert> active = fixture.center_->Active();
  REQUIRE(active.size() == 1);
  CHECK(active[0].subject() == "volume/0");
  CHECK(active[0].summary() == "volume0 is in the trash");
  CHECK(active[0].state() == v1::ALERT_STATE_ACTIVE);
  CHECK(active[0].raised_ms() == fixture.clock_.WallMillis());
  CHECK(fixture.List().size() == 1);
  REQUIRE(fixture.told_.size() == 1);
  CHECK(fixture.told_[0].alert_id() == active[0].alert_id());
  CHECK(fixture.Outbox() == Lines{"raised volume/0"});
  CHECK(fixture.Outbox("critical-only").empty());
  CHECK(fixture.filled_ == 1);
  fixture.Round(10, 1);
  CHECK(fixture.Outbox().size() == 1);
  CHECK(fixture.told_.size() == 1);
  CHECK(fixture.List()[0].last_seen_ms() == fixture.clock_.WallMillis());
}

TEST_CASE("A resolved alert moves to the history, and its end is sent") {
  Fixture fixture;
  fixture.Round(10, 1);
  fixture.Round(10, 0);
  fixture.Round(30, 1);
  fixture.Round(10, 0);
  CHECK(fixture.center_->Active().at(0).flaps() == 1);
  fixture.Round(60, 0);
  CHECK(fixture.center_->Active().empty());
  CHECK(fixture.List().empty());
  v1::ListAlertsRequest all;
  all.set_include_resolved(true);
  const std::vector<v1::Alert> history = fixture.List(all);
  REQUIRE(history.size() == 1);
  CHECK(history[0].state() == v1::ALERT_STATE_RESOLVED);
  CHECK(history[0].resolved_ms() == fixture.clock_.WallMillis());
  CHECK(history[0].flaps() == 1);
  CHECK(fixture.Outbox() == Lines{"raised volume/0", "resolved volume/0"});
  CHECK(fixture.told_.back().state() == v1::ALERT_STATE_RESOLVED);
}

TEST_CASE("A restart keeps active alerts, their times, acknowledgements and silences") {
  Fixture fixture;
  fixture.Round(10, 2);
  const uint64_t raised_ms = fixture.clock_.WallMillis();
  const uint64_t id = fixture.center_->Active().at(0).alert_id();
  REQUIRE(fixture.center_->Acknowledge(id, "on it", "eve").ok());
  fixture.SilenceSubject("volume/0", 3'600);
  fixture.clock_.AdvanceMillis(100'000);
  fixture.Start();
  REQUIRE(fixture.center_->Active().size() == 2);
  const v1::Alert alert = fixture.center_->Active().at(0);
  CHECK(alert.alert_id() == id);
  CHECK(alert.raised_ms() == raised_ms);
  CHECK(alert.state() == v1::ALERT_STATE_ACKNOWLEDGED);
  CHECK(alert.comment() == "on it");
  CHECK(fixture.center_->Active().at(1).silenced());
  fixture.Round(10, 2);
  CHECK(fixture.Outbox().size() == 2);  // nothing is sent again
  CHECK(fixture.center_->Active().size() == 2);
  fixture.Round(10, 0);
  fixture.Round(60, 0);
  CHECK(fixture.center_->Active().empty());
  CHECK(fixture.Outbox().size() == 4);
}

TEST_CASE("What a restart finds gone is resolved, and what it can't know stays") {
  Fixture fixture;
  fixture.Round(10, 2);
  fixture.Start();
  fixture.center_->OnSubjects({});
  CHECK(fixture.center_->Active().size() == 2);
  fixture.Round(10, 2, 1);
  REQUIRE(fixture.center_->Active().size() == 1);
  CHECK(fixture.center_->Active()[0].subject() == "volume/0");
}

TEST_CASE("A silenced alert is raised and shown but not sent, until the silence ends") {
  Fixture fixture;
  fixture.SilenceSubject("volume/0", 300);
  fixture.Round(10, 2);
  CHECK(fixture.Outbox() == Lines{"raised volume/1"});
  for (const v1::Alert& alert : fixture.center_->Active()) {
    CHECK(alert.silenced() == (alert.subject() == "volume/0"));
  }
  fixture.told_.clear();
  fixture.Round(290, 2);
  CHECK(fixture.Outbox() == Lines{"raised volume/1", "raised volume/0"});
  bool told = false;
  for (const v1::Alert& alert : fixture.told_)
    told |= alert.subject() == "volume/0" && !alert.silenced();
  CHECK(told);
  CHECK(fixture.center_->Silences().empty());
}

TEST_CASE("An alert that came and went under a silence is never sent") {
  Fixture fixture;
  const uint64_t silence = fixture.SilenceSubject("volume/0", 3'600);
  fixture.Round(10, 1);
  fixture.Round(10, 0);
  fixture.Round(60, 0);
  REQUIRE(fixture.center_->Unsilence(silence).ok());
  fixture.Round(10, 0);
  CHECK(fixture.Outbox().empty());
}

TEST_CASE("Whoever was told that an alert began is told that it is over, silence or not") {
  Fixture fixture;
  fixture.Round(10, 1);
  fixture.SilenceSubject("volume/0", 3'600);
  CHECK(fixture.told_.back().silenced());
  fixture.Round(10, 0);
  fixture.Round(60, 0);
  CHECK(fixture.Outbox() == Lines{"raised volume/0", "resolved volume/0"});
}

TEST_CASE("A silence that is taken away lets its alerts be sent") {
  Fixture fixture;
  const uint64_t silence = fixture.SilenceSubject("volume/0", 3'600);
  fixture.Round(10, 1);
  CHECK(fixture.Outbox().empty());
  REQUIRE(fixture.center_->Unsilence(silence).ok());
  CHECK_FALSE(fixture.told_.back().silenced());
  CHECK(fixture.center_->Unsilence(silence).code() == absl::StatusCode::kNotFound);
  fixture.Round(10, 1);
  CHECK(fixture.Outbox() == Lines{"raised volume/0"});
}

TEST_CASE("Silences that match everything, last too long or say no reason are refused") {
  Fixture fixture;
  const auto refused = [&](const std::string& rule, const std::string& subject, uint64_t seconds,
                           const std::string& comment) {
    v1::CreateSilenceRequest request;
    request.set_rule(rule);
    request.set_subject(subject);
    request.set_duration_s(seconds);
    request.set_comment(comment);
    return fixture.center_->Silence(request, "eve").status().code() ==
           absl::StatusCode::kInvalidArgument;
  };
  CHECK(refused("", "", 60, "why"));
  CHECK(refused("trash", "", 0, "why"));
  CHECK(refused("trash", "", uint64_t{367} * 86'400, "why"));
  CHECK(refused("trash", "", 60, ""));
  CHECK(refused("no-such-rule", "", 60, "why"));
  CHECK(refused("", "sausage/1", 60, "why"));
  CHECK_FALSE(refused("trash", "volume/9", 60, "why"));
}

TEST_CASE("An acknowledged alert stays active until it resolves") {
  Fixture fixture;
  fixture.Round(10, 1);
  const uint64_t id = fixture.center_->Active().at(0).alert_id();
  const absl::StatusOr<v1::Alert> alert = fixture.center_->Acknowledge(id, "looking", "eve");
  REQUIRE(alert.ok());
  CHECK(alert->acknowledged_by() == "eve");
  CHECK(alert->acknowledged_ms() == fixture.clock_.WallMillis());
  CHECK(fixture.told_.back().state() == v1::ALERT_STATE_ACKNOWLEDGED);
  fixture.Round(10, 1);
  CHECK(fixture.List().at(0).comment() == "looking");
  CHECK(fixture.center_->Acknowledge(id, "still", "bob")->comment() == "still");
  CHECK(fixture.center_->Acknowledge(99, "", "eve").status().code() == absl::StatusCode::kNotFound);
  CHECK(fixture.center_->Acknowledge(id, std::string(1'001, 'x'), "eve").status().code() ==
        absl::StatusCode::kInvalidArgument);
  fixture.Round(10, 0);
  fixture.Round(60, 0);
  CHECK(fixture.center_->Acknowledge(id, "", "eve").status().code() ==
        absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("Alerts are listed in pages, newest first, by the conditions that are set") {
  Fixture fixture;
  for (int i = 1; i <= 25; ++i) fixture.Round(10, i, 25);
  v1::ListAlertsRequest request;
  request.set_page_size(10);
  std::vector<uint64_t> ids;
  std::string token;
  int pages = 0;
  do {
    request.set_page_token(token);
    v1::ListAlertsResponse response;
    REQUIRE(fixture.center_->List(request, &response).ok());
    for (const v1::Alert& alert : response.alerts()) ids.push_back(alert.alert_id());
    token = response.next_page_token();
    ++pages;
  } while (!token.empty());
  CHECK(pages == 3);
  CHECK(ids.size() == 25);
  CHECK(std::is_sorted(ids.rbegin(), ids.rend()));
  CHECK(std::set<uint64_t>(ids.begin(), ids.end()).size() == 25);

  v1::ListAlertsRequest one;
  one.set_subject("volume/3");
  CHECK(fixture.List(one).size() == 1);
  v1::ListAlertsRequest severe;
  severe.set_severity_min(v1::ALERT_SEVERITY_CRITICAL);
  CHECK(fixture.List(severe).empty());
  v1::ListAlertsRequest other;
  other.set_rule("other");
  CHECK(fixture.List(other).empty());
  v1::ListAlertsRequest recent;
  recent.set_from_ms(fixture.clock_.WallMillis() - 10'000);
  CHECK(fixture.List(recent).size() == 2);
  recent.set_until_ms(fixture.clock_.WallMillis());
  CHECK(fixture.List(recent).size() == 1);
  v1::ListAlertsResponse response;
  request.set_page_token("x");
  CHECK(fixture.center_->List(request, &response).code() == absl::StatusCode::kInvalidArgument);
  recent.set_until_ms(1);
  CHECK(fixture.center_->List(recent, &response).code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("The history keeps the newest, up to its bound and its age") {
  TestDatabase database;
  const absl::Status done = database.db()->Write([](SQLite::Database& db) {
    for (uint64_t i = 1; i <= 20; ++i) {
      StoredAlert stored;
      stored.alert.set_rule("r" + std::to_string(i));
      stored.alert.set_subject("cluster");
      stored.alert.set_severity(v1::ALERT_SEVERITY_INFO);
      stored.alert.set_raised_ms(i);
      stored.alert.set_alert_id(InsertAlert(db, stored));
      if (i <= 15) stored.alert.set_resolved_ms(i * 1'000'000'000);
      UpdateAlert(db, stored);
    }
    v1::ListAlertsRequest all;
    all.set_include_resolved(true);
    PruneAlerts(db, 15'000'000'000, 10);
    CHECK(ListAlerts(db, all, 0, 100).size() == 15);
    PruneAlerts(db, 10'500'000'000 + kAlertHistoryMs, 10);
    const std::vector<StoredAlert> left = ListAlerts(db, all, 0, 100);
    CHECK(left.size() == 10);
    CHECK(left.back().alert.alert_id() == 11);
    return absl::OkStatus();
  });
  CHECK(done.ok());
}

TEST_CASE("A round that can't be stored is done again, and nothing is told before") {
  Fixture fixture;
  const auto run = [&](const std::string& sql) {
    return fixture.database_.db()->Write([&](SQLite::Database& db) {
      db.exec(sql);
      return absl::OkStatus();
    });
  };
  REQUIRE(run("CREATE TRIGGER fail BEFORE INSERT ON notification BEGIN "
              "SELECT RAISE(ABORT, 'full'); END")
              .ok());
  fixture.Round(10, 1);
  CHECK(fixture.center_->Active().empty());
  CHECK(fixture.List().empty());
  CHECK(fixture.told_.empty());
  REQUIRE(run("DROP TRIGGER fail").ok());
  fixture.Round(10, 1);
  CHECK(fixture.List().size() == 1);
  CHECK(fixture.Outbox() == Lines{"raised volume/0"});
  CHECK(fixture.told_.size() == 1);
}

TEST_CASE("Reloading takes the new file; with mistakes it tells them all and nothing changes") {
  Fixture fixture;
  fixture.Round(10, 1);
  const auto write = [&](const std::string& text) {
    return fixture.database_.WriteFile("rules.toml", text);
  };
  write("[[rule]]\nname = \"trash\"\nsubject = \"pol\"\n[[rule]]\nname = \"x\"\n");
  const absl::Status bad = fixture.center_->ReloadRules().status();
  CHECK(bad.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(bad.message()).find("rules.toml:3: ") != std::string::npos);
  CHECK(std::string(bad.message()).find("rules.toml:4: ") != std::string::npos);
  fixture.Round(10, 2);
  CHECK(fixture.center_->Active().size() == 2);

  std::string changed = kRules;
  changed.replace(changed.find("\"error\""), 7, "\"critical\"");
  write(changed);
  const absl::StatusOr<uint32_t> count = fixture.center_->ReloadRules();
  REQUIRE(count.ok());
  CHECK(*count == fixture.center_->Rules().size());
  fixture.Round(10, 2);
  CHECK(fixture.center_->Active().at(0).severity() == v1::ALERT_SEVERITY_CRITICAL);

  write("");
  REQUIRE(fixture.center_->ReloadRules().ok());
  fixture.Round(10, 2);
  CHECK(fixture.center_->Active().empty());
}

TEST_CASE("The outbox of a target keeps the newest up to its bound") {
  TestDatabase database;
  const absl::Status done = database.db()->Write([](SQLite::Database& db) {
    uint64_t dropped = 0;
    for (int i = 0; i < 8; ++i) {
      Notification notification;
      notification.target = i % 4 == 3 ? "b" : "a";
      notification.idempotency_key = std::to_string(i);
      dropped += QueueNotification(db, notification, 4);
    }
    CHECK(dropped == 2);
    CHECK(NextNotification(db, "a")->idempotency_key == "2");
    CHECK(CountNotifications(db, "b") == 2);
    CHECK(RemoveOtherTargets(db, {"a"}) == 2);
    CHECK(CountNotifications(db, "a") == 4);
    return absl::OkStatus();
  });
  CHECK(done.ok());
}

// Whoever says "user.1.<role>" is that.
class Roles final : public Authenticator {
 public:
  absl::StatusOr<Caller> Authenticate(std::string_view authorization) const override {
    const std::map<std::string, v1::Role> roles{{"Bearer user.1.aa", v1::ROLE_ADMIN},
                                                {"Bearer user.1.bb", v1::ROLE_OPERATOR},
                                                {"Bearer user.1.cc", v1::ROLE_VIEWER}};
    const auto found = roles.find(std::string(authorization));
    if (found == roles.end()) return absl::UnauthenticatedError("who?");
    Caller caller;
    caller.roles = {found->second};
    caller.name = "eve";
    return caller;
  }
};

TEST_CASE("Over gRPC viewers look, operators acknowledge and silence, admins reload") {
  Fixture fixture;
  fixture.Round(10, 1);
  auto dispatcher = RpcDispatcher::Create({{"tessera.v1.AlertService"}, 2, 1},
                                          std::make_shared<Roles>(), &fixture.metrics_);
  REQUIRE(dispatcher.ok());
  AlertServiceImpl service(dispatcher->get(), fixture.center_.get());
  GrpcServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.security.insecure = true;
  auto server = GrpcServer::Start(options, {&service});
  REQUIRE(server.ok());
  const auto stub = v1::AlertService::NewStub(
      NewChannel((*server)->addresses()[0], grpc::InsecureChannelCredentials()));
  const auto call = [&](const std::string& who, auto method, const auto& request, auto* response) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer user.1." + who);
    return ((*stub).*method)(&context, request, response).error_code();
  };
  using Stub = v1::AlertService::Stub;
  v1::ListAlertsResponse alerts;
  CHECK(call("cc", &Stub::ListAlerts, v1::ListAlertsRequest(), &alerts) == grpc::OK);
  REQUIRE(alerts.alerts_size() == 1);
  v1::AcknowledgeAlertRequest acknowledge;
  acknowledge.set_alert_id(alerts.alerts(0).alert_id());
  v1::AcknowledgeAlertResponse acknowledged;
  CHECK(call("cc", &Stub::AcknowledgeAlert, acknowledge, &acknowledged) == grpc::PERMISSION_DENIED);
  CHECK(call("bb", &Stub::AcknowledgeAlert, acknowledge, &acknowledged) == grpc::OK);
  CHECK(acknowledged.alert().acknowledged_by() == "eve");
  v1::CreateSilenceRequest create;
  create.set_rule("trash");
  create.set_duration_s(60);
  create.set_comment("why");
  v1::CreateSilenceResponse created;
  CHECK(call("cc", &Stub::CreateSilence, create, &created) == grpc::PERMISSION_DENIED);
  CHECK(call("bb", &Stub::CreateSilence, create, &created) == grpc::OK);
  CHECK(created.silence().created_by() == "eve");
  v1::ListSilencesResponse silences;
  CHECK(call("cc", &Stub::ListSilences, v1::ListSilencesRequest(), &silences) == grpc::OK);
  CHECK(silences.silences_size() == 1);
  v1::DeleteSilenceRequest remove;
  remove.set_silence_id(created.silence().silence_id());
  v1::DeleteSilenceResponse removed;
  CHECK(call("bb", &Stub::DeleteSilence, remove, &removed) == grpc::OK);
  CHECK(call("bb", &Stub::DeleteSilence, remove, &removed) == grpc::NOT_FOUND);
  v1::ListAlertRulesResponse rules;
  CHECK(call("cc", &Stub::ListAlertRules, v1::ListAlertRulesRequest(), &rules) == grpc::OK);
  CHECK(rules.rules_size() > 30);
  v1::ReloadAlertRulesResponse reloaded;
  CHECK(call("bb", &Stub::ReloadAlertRules, v1::ReloadAlertRulesRequest(), &reloaded) ==
        grpc::PERMISSION_DENIED);
  CHECK(call("aa", &Stub::ReloadAlertRules, v1::ReloadAlertRulesRequest(), &reloaded) == grpc::OK);
  CHECK(call("dd", &Stub::ListAlerts, v1::ListAlertsRequest(), &alerts) == grpc::UNAUTHENTICATED);
  (*server)->Shutdown();
  (*dispatcher)->Shutdown();
}

}  // namespace
}  // namespace tessera::mgmt
