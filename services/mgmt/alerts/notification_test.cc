// Notifications: configuration, formats, and sending to receivers that misbehave. The back-off runs
// on an injected clock; nothing sleeps.
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>
#include <sys/stat.h>
#include <catch2/catch.hpp>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "services/mgmt/alerts/notification_config.h"
#include "services/mgmt/alerts/notification_message.h"
#include "services/mgmt/alerts/notifier.h"
#include "services/mgmt/alerts/testing/healthy_cluster.h"
#include "services/mgmt/alerts/testing/receiver.h"

namespace tessera::mgmt {
namespace {

using Json = google::protobuf::Value;

// "a.0.b" of a JSON text, as text.
std::string At(const std::string& json, const std::string& path) {
  Json value;
  if (!google::protobuf::util::JsonStringToMessage(json, &value).ok()) return "no JSON";
  for (const absl::string_view part : absl::StrSplit(path, '.')) {
    const std::string name(part);
    Json next;
    if (value.has_list_value()) {
      const int index = std::stoi(name);
      if (index >= value.list_value().values_size()) return "not there";
      next = value.list_value().values(index);
    } else {
      const auto found = value.struct_value().fields().find(name);
      if (found == value.struct_value().fields().end()) return "not there";
      next = found->second;
    }
    value = next;
  }
  if (value.kind_case() == Json::kNumberValue) {
    return std::to_string(static_cast<int64_t>(value.number_value()));
  }
  return value.string_value();
}

Notification Sample(NotificationEvent event = NotificationEvent::kRaised) {
  Notification notification;
  notification.target = "hook";
  notification.idempotency_key = "00ff";
  notification.event = event;
  notification.queued_ms = 1'700'000'000'000;
  v1::Alert& alert = notification.alert;
  alert.set_alert_id(7);
  alert.set_rule("server-down");
  alert.set_subject("sds/3");
  alert.set_subject_name("sds3");
  alert.set_severity(v1::ALERT_SEVERITY_ERROR);
  alert.set_summary("Server sds3 is <down> & \"out\"");
  alert.set_detail("No heartbeat — since noon.");
  alert.set_remedy("Bring it back.");
  alert.set_raised_ms(1'700'000'000'000);
  if (event == NotificationEvent::kResolved) alert.set_resolved_ms(1'700'000'060'000);
  return notification;
}
NotificationTarget Webhook(NotificationFormat format, const std::string& url = "https://x/hook") {
  NotificationTarget target;
  target.name = "hook";
  target.format = format;
  target.url = url;
  target.secret = "s3cret";
  target.console_url = "https://console/";
  target.timeout_ms = 120'000;
  return target;
}
std::string HeaderOf(const HttpMessage& message, const std::string& name) {
  for (const auto& [header, value] : message.headers) {
    if (header == name) return value;
  }
  return "";
}

TEST_CASE("The generic webhook says everything of the alert and carries its key") {
  NotificationTarget target = Webhook(NotificationFormat::kJson);
  target.headers = {{"X-Team", "storage"}};
  const HttpMessage message = MakeHttpMessage(target, Sample());
  CHECK(message.url == "https://x/hook");
  CHECK(HeaderOf(message, "Idempotency-Key") == "00ff");
  CHECK(HeaderOf(message, "Authorization") == "Bearer s3cret");
  CHECK(HeaderOf(message, "X-Team") == "storage");
  CHECK(At(message.body, "event") == "raised");
  CHECK(At(message.body, "alert_id") == "7");
  CHECK(At(message.body, "severity") == "error");
  CHECK(At(message.body, "summary") == "Server sds3 is <down> & \"out\"");
  CHECK(At(message.body, "raised_at") == "2023-11-14T22:13:20.000Z");
  const HttpMessage over = MakeHttpMessage(target, Sample(NotificationEvent::kResolved));
  CHECK(At(over.body, "event") == "resolved");
  CHECK(At(over.body, "resolved_at") == "2023-11-14T22:14:20.000Z");
}

TEST_CASE("Slack gets an attachment with its special characters escaped") {
  const HttpMessage message = MakeHttpMessage(Webhook(NotificationFormat::kSlack), Sample());
  CHECK(At(message.body, "attachments.0.title") ==
        "[ERROR] Server sds3 is &lt;down&gt; &amp; \"out\"");
  CHECK(At(message.body, "attachments.0.ts") == "1700000000");
  CHECK(At(message.body, "attachments.0.title_link") == "https://console/");
}

TEST_CASE("Teams gets an adaptive card") {
  const HttpMessage message =
      MakeHttpMessage(Webhook(NotificationFormat::kTeams), Sample(NotificationEvent::kResolved));
  CHECK(At(message.body, "type") == "message");
  CHECK(At(message.body, "attachments.0.contentType") == "application/vnd.microsoft.card.adaptive");
  CHECK(At(message.body, "attachments.0.content.type") == "AdaptiveCard");
  CHECK(At(message.body, "attachments.0.content.body.0.color") == "good");
}

TEST_CASE("PagerDuty gets one incident, triggered and resolved under one key") {
  const NotificationTarget target = Webhook(NotificationFormat::kPagerDuty);
  const HttpMessage raised = MakeHttpMessage(target, Sample());
  CHECK(At(raised.body, "routing_key") == "s3cret");
  CHECK(At(raised.body, "event_action") == "trigger");
  CHECK(At(raised.body, "payload.severity") == "error");
  CHECK(At(raised.body, "payload.source") == "sds3");
  CHECK(At(raised.body, "payload.class") == "server-down");
  CHECK(HeaderOf(raised, "Authorization").empty());
  const HttpMessage over = MakeHttpMessage(target, Sample(NotificationEvent::kResolved));
  CHECK(At(over.body, "event_action") == "resolve");
  CHECK(At(over.body, "dedup_key") == At(raised.body, "dedup_key"));
}

TEST_CASE("Opsgenie gets an alert, and its end by the alias") {
  const NotificationTarget target = Webhook(NotificationFormat::kOpsgenie);
  const HttpMessage raised = MakeHttpMessage(target, Sample());
  CHECK(HeaderOf(raised, "Authorization") == "GenieKey s3cret");
  CHECK(At(raised.body, "priority") == "P2");
  CHECK(At(raised.body, "alias") == "tessera/server-down/sds/3/7");
  const HttpMessage over = MakeHttpMessage(target, Sample(NotificationEvent::kResolved));
  CHECK(over.url ==
        "https://x/hook/tessera%2fserver-down%2fsds%2f3%2f7/close?identifierType=alias");
}

TEST_CASE("Alertmanager gets labels and times, and the end when it is over") {
  const NotificationTarget target = Webhook(NotificationFormat::kAlertmanager);
  const HttpMessage raised = MakeHttpMessage(target, Sample());
  CHECK(At(raised.body, "0.labels.alertname") == "server-down");
  CHECK(At(raised.body, "0.labels.subject") == "sds/3");
  CHECK(At(raised.body, "0.startsAt") == "2023-11-14T22:13:20.000Z");
  CHECK(At(raised.body, "0.endsAt") == "2023-12-14T22:13:20.000Z");
  const HttpMessage over = MakeHttpMessage(target, Sample(NotificationEvent::kResolved));
  CHECK(At(over.body, "0.endsAt") == "2023-11-14T22:14:20.000Z");
}

TEST_CASE("A mail has a Message-ID of its key, short lines, and its text in UTF-8") {
  NotificationTarget target;
  target.from = "tessera@example.org";
  target.to = {"a@example.org", "b@example.org"};
  Notification notification = Sample();
  notification.alert.set_summary("Läufer — " + std::string(200, 'x'));
  const std::string mail = MakeMail(target, notification);
  CHECK(mail.find("\r\nMessage-ID: <00ff@example.org>\r\n") != std::string::npos);
  CHECK(mail.find("Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n") == 0);
  for (const absl::string_view line : absl::StrSplit(mail, "\r\n")) CHECK(line.size() <= 78);
  CHECK(mail.find("Subject: =?utf-8?B?") != std::string::npos);
  const size_t body = mail.find("\r\n\r\n") + 4;
  std::string text;
  REQUIRE(absl::Base64Unescape(mail.substr(body), &text));
  CHECK(text.find("No heartbeat — since noon.") != std::string::npos);
  CHECK(text.find("What to do: Bring it back.") != std::string::npos);
}

TEST_CASE("A notification file names targets of every type, and reads secrets from their files") {
  TestDatabase files;
  const std::string key = files.WriteFile("key", "abc123\n");
  const auto config = ReadNotificationConfig("n.toml", R"(
console_url = "https://console.example/"
[[target]]
name = "on-call"
type = "pagerduty"
secret_file = ")" + key + R"("
severity_min = "error"
[[target]]
name = "chat"
type = "mattermost"
url_file = ")" + files.WriteFile("url", "https://chat.example/hooks/x\n") +
                                                           R"("
send_resolved = false
timeout = "30s"
[[target]]
name = "mail"
type = "smtp"
server = "mail.example:587"
from = "tessera@example.org"
to = ["a@example.org"]
user = "tessera"
password_file = ")" + key + R"("
)");
  if (!config.ok()) FAIL(config.status());
  REQUIRE(config->targets.size() == 3);
  CHECK(config->targets[0].url == "https://events.pagerduty.com/v2/enqueue");
  CHECK(config->targets[0].secret == "abc123");
  CHECK(config->targets[0].severity_min == v1::ALERT_SEVERITY_ERROR);
  CHECK(config->targets[0].console_url == "https://console.example/");
  CHECK(config->targets[1].url == "https://chat.example/hooks/x");
  CHECK_FALSE(config->targets[1].send_resolved);
  CHECK(config->targets[1].timeout_ms == 30'000);
  CHECK(config->targets[2].password == "abc123");
  CHECK(config->targets[2].smtp_security == SmtpSecurity::kStartTls);
}

TEST_CASE("Every mistake of a notification file is told with its line") {
  TestDatabase files;
  const std::string open = files.WriteFile("open", "secret\n");
  ::chmod(open.c_str(), 0644);
  const auto config = ReadNotificationConfig("n.toml", R"(color = 1
[[target]]
name = "a b"
type = "carrier-pigeon"
[[target]]
name = "x"
type = "json"
url = "file:///etc/passwd"
secret_file = ")" + open + R"("
retry = 7
[[target]]
name = "y"
type = "json"
url = "https://user:pw@host/"
severity_min = "bad"
timeout = "1h"
headers = { "X Y" = "z" }
[[target]]
name = "x"
type = "pagerduty"
[[target]]
name = "m"
type = "smtp"
server = "mail"
security = "ssl"
from = "nobody"
to = ["a@b", "c d@e"]
user = "u"
[[target]]
name = "n"
type = "smtp"
server = "mail.example:25"
security = "none"
from = "a@b"
to = ["a@b"]
user = "u"
password_file = ")" + files.WriteFile("pw", "pw") + R"("
)");
  REQUIRE_FALSE(config.ok());
  const std::string text(config.status().message());
  UNSCOPED_INFO(text);
  for (const char* wanted :
       {"n.toml:1: 'color' is unknown", "n.toml:3: a target has a name", "n.toml:4: type is one of",
        "n.toml:8: the URL is http", "n.toml:9: secret_file: ", "chmod 600",
        "n.toml:10: 'retry' is no field of a json target", "n.toml:14: the URL is http",
        "n.toml:15: severity_min is", "n.toml:16: timeout is", "n.toml:17: a header has",
        "n.toml:18: target 'x' is there twice", "n.toml:18: secret_file is needed",
        "n.toml:24: server is host:port", "n.toml:25: security is", "n.toml:26: from is a mail",
        "n.toml:27: 'c d@e' is no mail", "n.toml:21: user and password_file go together",
        "n.toml:33: a password is not sent without TLS"}) {
    INFO(wanted);
    CHECK(text.find(wanted) != std::string::npos);
  }
}

TEST_CASE("The back-off doubles up to an hour, with jitter of a quarter") {
  CHECK(BackoffMs(1, 0.5) == 5'000);
  CHECK(BackoffMs(2, 0.5) == 10'000);
  CHECK(BackoffMs(4, 0) == 30'000);
  CHECK(BackoffMs(4, 1) == 50'000);
  CHECK(BackoffMs(11, 0.5) == 3'600'000);
  CHECK(BackoffMs(4'000'000'000, 0.5) == 3'600'000);
  CHECK_FALSE(IsGivenUp(0, kGiveUpAfterMs - 1, 100));
  CHECK(IsGivenUp(0, kGiveUpAfterMs, 100));
  CHECK_FALSE(IsGivenUp(0, kGiveUpAfterMs, 9));  // a clock that jumped ahead gives nothing up
  CHECK_FALSE(IsGivenUp(kGiveUpAfterMs, 0, 100));
}

// mgmt.db with an outbox, a clock and a pump.
class Sending {
 public:
  explicit Sending(std::vector<NotificationTarget> targets) : targets_(std::move(targets)) {
    Restart();
  }

  void Restart() {
    pump_.reset();
    database_.Reopen();
    pump_ = std::make_unique<NotificationPump>(targets_, database_.db(), &clock_, &metrics_,
                                               [] { return 0.5; });
    REQUIRE(pump_->RemoveOtherTargets().ok());
  }
  void Queue(const std::string& key, const std::string& target = "hook") {
    const absl::Status queued = database_.db()->Write([&](SQLite::Database& db) {
      Notification notification = Sample();
      notification.idempotency_key = key;
      notification.target = target;
      notification.queued_ms = clock_.WallMillis();
      CHECK(QueueNotification(db, notification) == 0);
      return absl::OkStatus();
    });
    REQUIRE(queued.ok());
    pump_->Wake();
  }
  // Until nothing is on its way, and nothing is due.
  void Drain() {
    for (int quiet = 0; quiet < 3;) {
      pump_->Step();
      if (pump_->in_flight() > 0) {
        quiet = 0;
        pump_->Wait(60'000);
      } else {
        ++quiet;
      }
    }
  }
  uint64_t Waiting(const std::string& target = "hook") {
    uint64_t count = 0;
    const absl::Status read = database_.db()->Read([&](SQLite::Database& db) {
      count = CountNotifications(db, target);
      return absl::OkStatus();
    });
    REQUIRE(read.ok());
    return count;
  }
  double Metric(const std::string& name, const std::string& target = "hook") {
    for (const auto& [figure, value] : metrics_.Figures()) {
      if (figure == "tessera_mgmt_" + name + "{target=\"" + target + "\"}") return value;
    }
    return -1;
  }

  const std::vector<NotificationTarget> targets_;
  TestDatabase database_;
  ManualClock clock_;
  MetricRegistry metrics_{"test"};
  std::unique_ptr<NotificationPump> pump_;
};

std::vector<std::string> Keys(const HttpReceiver& receiver) {
  std::vector<std::string> keys;
  for (const HttpRequest& request : receiver.requests()) {
    keys.push_back(request.headers.at("idempotency-key"));
  }
  return keys;
}
using Lines = std::vector<std::string>;

TEST_CASE("Messages arrive in order, once, and leave the outbox") {
  HttpReceiver receiver;
  receiver.Open();
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  for (const char* key : {"k1", "k2", "k3"}) sending.Queue(key);
  sending.Drain();
  CHECK(Keys(receiver) == Lines{"k1", "k2", "k3"});
  CHECK(receiver.requests()[0].line == "POST /hook HTTP/1.1");
  CHECK(receiver.requests()[0].headers.at("content-type") == "application/json");
  CHECK(At(receiver.requests()[0].body, "rule") == "server-down");
  CHECK(sending.Waiting() == 0);
  CHECK(sending.Metric("notifications_sent_total") == 3);
  CHECK(sending.Metric("notifications_queued") == 0);
}

TEST_CASE("A receiver that is down for a while gets everything when it is back, in order") {
  HttpReceiver receiver;
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  sending.Queue("k1");
  sending.Queue("k2");
  for (int i = 0; i < 5; ++i) {
    sending.Drain();
    sending.clock_.AdvanceMillis(3'600'000);
  }
  CHECK(sending.Waiting() == 2);
  CHECK(sending.Metric("notification_tries_failed_total") == 5);
  CHECK(sending.Metric("notifications_queued") == 2);
  receiver.Open();
  sending.Drain();
  CHECK(Keys(receiver) == Lines{"k1", "k2"});
  CHECK(sending.Waiting() == 0);
}

TEST_CASE("After a failure nothing is tried before the back-off is over") {
  HttpReceiver receiver([](const HttpRequest&, size_t) { return HttpAnswer{500}; });
  receiver.Open();
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  sending.Queue("k1");
  sending.Drain();
  for (const uint64_t wait_ms : {5'000, 10'000, 20'000}) {
    const size_t before = receiver.requests().size();
    sending.clock_.AdvanceMillis(wait_ms - 1);
    sending.pump_->Wake();
    sending.Drain();
    CHECK(receiver.requests().size() == before);
    sending.clock_.AdvanceMillis(1);
    sending.Drain();
    CHECK(receiver.requests().size() == before + 1);
  }
  CHECK(Keys(receiver) == Lines{"k1", "k1", "k1", "k1"});
  CHECK(sending.Waiting() == 1);
}

TEST_CASE("A receiver that names a time is not asked before it") {
  HttpReceiver receiver([](const HttpRequest&, size_t number) {
    return number == 0 ? HttpAnswer{429, "Retry-After: 120\r\n"} : HttpAnswer{};
  });
  receiver.Open();
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  sending.Queue("k1");
  sending.Drain();
  sending.clock_.AdvanceMillis(119'999);
  sending.Drain();
  CHECK(receiver.requests().size() == 1);
  sending.clock_.AdvanceMillis(1);
  sending.Drain();
  CHECK(receiver.requests().size() == 2);
  CHECK(sending.Waiting() == 0);
}

TEST_CASE(
    "A connection that is cut before the answer brings the same key again, and no other twice") {
  HttpReceiver receiver([](const HttpRequest&, size_t number) {
    HttpAnswer answer;
    answer.cut = number == 1;
    return answer;
  });
  receiver.Open();
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  for (const char* key : {"k1", "k2", "k3"}) sending.Queue(key);
  sending.Drain();
  sending.clock_.AdvanceMillis(10'000);
  sending.Drain();
  CHECK(Keys(receiver) == Lines{"k1", "k2", "k2", "k3"});
  CHECK(receiver.requests()[1].body == receiver.requests()[2].body);
  CHECK(sending.Waiting() == 0);
}

TEST_CASE("A restart between failure and success loses nothing and keeps the key") {
  HttpReceiver receiver([](const HttpRequest&, size_t number) {
    return number == 0 ? HttpAnswer{503} : HttpAnswer{};
  });
  receiver.Open();
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  sending.Queue("k1");
  sending.Queue("k2");
  sending.Drain();
  sending.Restart();
  sending.Drain();
  CHECK(Keys(receiver) == Lines{"k1", "k1", "k2"});
  sending.Restart();
  sending.Drain();
  CHECK(receiver.requests().size() == 3);
}

TEST_CASE("A message that is refused for good is dropped, and the next one goes on") {
  HttpReceiver receiver([](const HttpRequest&, size_t number) {
    return number == 0 ? HttpAnswer{400} : HttpAnswer{};
  });
  receiver.Open();
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  sending.Queue("k1");
  sending.Queue("k2");
  sending.Drain();
  CHECK(Keys(receiver) == Lines{"k1", "k2"});
  CHECK(sending.Metric("notifications_failed_total") == 1);
  CHECK(sending.Metric("notifications_sent_total") == 1);
}

TEST_CASE("A message is given up after a day of tries") {
  HttpReceiver receiver;
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  sending.Queue("k1");
  for (int hour = 0; hour < 24; ++hour) {
    sending.Drain();
    CHECK(sending.Waiting() == 1);
    sending.clock_.AdvanceMillis(3'600'000);
  }
  sending.Drain();
  CHECK(sending.Waiting() == 0);
  CHECK(sending.Metric("notifications_failed_total") == 1);
}

TEST_CASE("A redirection is not followed") {
  HttpReceiver other;
  other.Open();
  const std::string location = "Location: " + other.url() + "\r\n";
  HttpReceiver receiver([&](const HttpRequest&, size_t) { return HttpAnswer{302, location}; });
  receiver.Open();
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  sending.Queue("k1");
  sending.Drain();
  CHECK(receiver.requests().size() == 1);
  CHECK(other.requests().empty());
  CHECK(sending.Waiting() == 1);
}

TEST_CASE("A receiver that never answers delays no other, and is given up at the deadline") {
  HttpReceiver silent([](const HttpRequest&, size_t) {
    HttpAnswer answer;
    answer.hang = true;
    return answer;
  });
  silent.Open();
  HttpReceiver good;
  good.Open();
  NotificationTarget hanging = Webhook(NotificationFormat::kJson, silent.url());
  hanging.name = "silent";
  Sending sending({hanging, Webhook(NotificationFormat::kJson, good.url())});
  sending.Queue("s1", "silent");
  for (const char* key : {"k1", "k2", "k3"}) sending.Queue(key);
  while (sending.Waiting() > 0) {
    sending.pump_->Step();
    sending.pump_->Wait(10);
  }
  CHECK(Keys(good) == Lines{"k1", "k2", "k3"});
  CHECK(sending.Waiting("silent") == 1);
  // With a deadline that it misses for certain.
  hanging.timeout_ms = 50;
  HttpReceiver silent_too([](const HttpRequest&, size_t) {
    HttpAnswer answer;
    answer.hang = true;
    return answer;
  });
  silent_too.Open();
  hanging.url = silent_too.url();
  Sending late({hanging});
  late.Queue("s1", "silent");
  late.Drain();
  CHECK(late.Metric("notification_tries_failed_total", "silent") == 1);
  CHECK(late.Waiting("silent") == 1);
}

TEST_CASE("What a receiver took is not sent again when the outbox could not be written") {
  HttpReceiver receiver;
  receiver.Open();
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  const auto run = [&](const std::string& sql) {
    return sending.database_.db()->Write([&](SQLite::Database& db) {
      db.exec(sql);
      return absl::OkStatus();
    });
  };
  REQUIRE(run("CREATE TRIGGER fail BEFORE DELETE ON notification BEGIN "
              "SELECT RAISE(ABORT, 'full'); END")
              .ok());
  sending.Queue("k1");
  sending.Drain();
  CHECK(sending.Waiting() == 1);
  REQUIRE(run("DROP TRIGGER fail").ok());
  sending.clock_.AdvanceMillis(60'000);
  sending.Drain();
  CHECK(sending.Waiting() == 0);
  CHECK(Keys(receiver) == Lines{"k1"});
}

TEST_CASE("Over https a receiver without a certificate that can be verified gets nothing") {
  HttpReceiver receiver;
  receiver.Open();
  const std::string url = "https" + receiver.url().substr(sizeof("http") - 1);
  Sending sending({Webhook(NotificationFormat::kJson, url)});
  sending.Queue("k1");
  // The receiver waits for a request line that never comes: it is closed under the handshake.
  sending.pump_->Step();
  receiver.Close();
  sending.Drain();
  CHECK(receiver.requests().empty());
  CHECK(sending.Waiting() == 1);
}

NotificationTarget Mail(const std::string& server) {
  NotificationTarget target;
  target.name = "hook";
  target.format = NotificationFormat::kSmtp;
  target.server = server;
  target.smtp_security = SmtpSecurity::kNone;
  target.from = "tessera@example.org";
  target.to = {"a@example.org", "b@example.org"};
  target.user = "tessera";
  target.password = "pw";
  target.timeout_ms = 120'000;
  return target;
}
std::string MessageId(const ReceivedMail& mail) {
  const size_t at = mail.text.find("Message-ID: ");
  return mail.text.substr(at, mail.text.find("\r\n", at) - at);
}

TEST_CASE(
    "Mails go to all receivers, with a password, through a cut connection, under one Message-ID") {
  SmtpReceiver receiver([](const ReceivedMail&, size_t number) -> std::string {
    if (number == 0) return "451 later";
    if (number == 1) return "";
    return "250 ok";
  });
  Sending sending({Mail(receiver.address())});
  sending.Queue("k1");
  sending.Queue("k2");
  sending.Drain();
  CHECK(sending.Metric("notification_tries_failed_total") == 1);
  receiver.Open();
  for (int i = 0; i < 3; ++i) {
    sending.clock_.AdvanceMillis(3'600'000);
    sending.Drain();
  }
  const std::vector<ReceivedMail> mails = receiver.mails();
  REQUIRE(mails.size() == 4);
  CHECK(MessageId(mails[0]) == "Message-ID: <k1@example.org>");
  CHECK(MessageId(mails[1]) == MessageId(mails[0]));
  CHECK(MessageId(mails[2]) == MessageId(mails[0]));
  CHECK(MessageId(mails[3]) == "Message-ID: <k2@example.org>");
  CHECK(mails[3].from == "<tessera@example.org>");
  CHECK(mails[3].to == Lines{"<a@example.org>", "<b@example.org>"});
  CHECK(mails[3].login == "|tessera|pw");
  CHECK(sending.Waiting() == 0);
  CHECK(sending.Metric("notifications_sent_total") == 2);
}

TEST_CASE("A mail server that offers no STARTTLS gets neither password nor mail") {
  SmtpReceiver receiver;
  receiver.Open();
  NotificationTarget target = Mail(receiver.address());
  target.smtp_security = SmtpSecurity::kStartTls;
  Sending sending({target});
  sending.Queue("k1");
  sending.Drain();
  CHECK(receiver.mails().empty());
  CHECK(sending.Waiting() == 1);
  CHECK(sending.Metric("notification_tries_failed_total") == 1);
}

TEST_CASE("Messages of targets that are no more are forgotten at the start") {
  HttpReceiver receiver;
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url())});
  sending.Queue("k1");
  sending.Queue("old", "gone");
  sending.Restart();
  CHECK(sending.Waiting() == 1);
  CHECK(sending.Waiting("gone") == 0);
}

TEST_CASE(
    "The notifier's thread sends what it is woken for, and stops while something is on its way") {
  HttpReceiver receiver;
  receiver.Open();
  HttpReceiver silent([](const HttpRequest&, size_t) {
    HttpAnswer answer;
    answer.hang = true;
    return answer;
  });
  silent.Open();
  NotificationTarget hanging = Webhook(NotificationFormat::kJson, silent.url());
  hanging.name = "silent";
  Sending sending({Webhook(NotificationFormat::kJson, receiver.url()), hanging});
  SystemClock clock;
  Notifier notifier(sending.targets_, sending.database_.db(), &clock, &sending.metrics_,
                    [] { return 0.5; });
  notifier.Start();
  sending.Queue("s1", "silent");
  for (int i = 0; i < 5; ++i) {
    sending.Queue("k" + std::to_string(i));
    notifier.Wake();
    while (sending.Waiting() > 0) std::this_thread::yield();
  }
  notifier.Stop();
  CHECK(receiver.requests().size() == 5);
  CHECK(sending.Waiting("silent") == 1);
}

}  // namespace
}  // namespace tessera::mgmt
