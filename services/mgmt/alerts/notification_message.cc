#include "services/mgmt/alerts/notification_message.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "services/mgmt/alerts/alert_rules.h"
#include "services/mgmt/alerts/text_template.h"

namespace tessera::mgmt {
namespace {

// Written out, fields in a fixed order: every try of a message has the same bytes.
using Json = std::string;

// Alertmanager takes an alert as over when it has no end and is not sent again; it is sent once, so
// that it is given one this far ahead.
constexpr uint64_t kAlertmanagerHoldMs = uint64_t{30} * 86'400'000;
constexpr size_t kPagerDutySummaryMax = 1'024;
constexpr size_t kOpsgenieMessageMax = 130;

Json Text(const std::string& text) {
  google::protobuf::Value value;
  value.set_string_value(text);
  Json json;
  // A string always has a JSON form.
  static_cast<void>(google::protobuf::util::MessageToJsonString(value, &json));
  return json;
}
Json Number(uint64_t number) { return absl::StrCat(number); }
Json Flag(bool flag) { return flag ? "true" : "false"; }
Json Object(const std::vector<std::pair<std::string, Json>>& fields) {
  Json json = "{";
  for (const auto& [name, value] : fields) {
    absl::StrAppend(&json, json.size() > 1 ? "," : "", Text(name), ":", value);
  }
  return json + "}";
}
Json List(const std::vector<Json>& entries) {
  return absl::StrCat("[", absl::StrJoin(entries, ","), "]");
}

std::string Rfc3339(uint64_t ms) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::FromUnixMillis(static_cast<int64_t>(ms)),
                          absl::UTCTimeZone());
}

bool Resolved(const Notification& notification) {
  return notification.event == NotificationEvent::kResolved;
}
std::string Title(const Notification& notification) {
  const v1::Alert& alert = notification.alert;
  const std::string label =
      Resolved(notification) ? "RESOLVED" : absl::AsciiStrToUpper(SeverityName(alert.severity()));
  return absl::StrCat("[", label, "] ", alert.summary());
}
// One incident from raise to resolve.
std::string Incident(const Notification& notification) {
  return absl::StrCat("tessera/", notification.alert.rule(), "/", notification.alert.subject(), "/",
                      notification.alert.alert_id());
}

Json Generic(const NotificationTarget& target, const Notification& notification) {
  const v1::Alert& alert = notification.alert;
  return Object({
      {"version", Number(1)},
      {"event", Text(Resolved(notification) ? "resolved" : "raised")},
      {"idempotency_key", Text(notification.idempotency_key)},
      {"alert_id", Number(alert.alert_id())},
      {"rule", Text(alert.rule())},
      {"subject", Text(alert.subject())},
      {"subject_name", Text(alert.subject_name())},
      {"severity", Text(SeverityName(alert.severity()))},
      {"summary", Text(alert.summary())},
      {"detail", Text(alert.detail())},
      {"remedy", Text(alert.remedy())},
      {"raised_at", Text(Rfc3339(alert.raised_ms()))},
      {"resolved_at", Text(alert.resolved_ms() == 0 ? "" : Rfc3339(alert.resolved_ms()))},
      {"flaps", Number(alert.flaps())},
      {"console_url", Text(target.console_url)},
  });
}

// Slack's three characters that mean something.
std::string SlackText(std::string text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string Color(const Notification& notification) {
  if (Resolved(notification)) return "#2e7d32";
  switch (notification.alert.severity()) {
    case v1::ALERT_SEVERITY_CRITICAL:
      return "#b71c1c";
    case v1::ALERT_SEVERITY_ERROR:
      return "#e65100";
    case v1::ALERT_SEVERITY_WARNING:
      return "#f9a825";
    default:
      return "#1565c0";
  }
}

Json Slack(const NotificationTarget& target, const Notification& notification) {
  const v1::Alert& alert = notification.alert;
  std::vector<std::pair<std::string, Json>> attachment{
      {"color", Text(Color(notification))},
      {"fallback", Text(SlackText(Title(notification)))},
      {"title", Text(SlackText(Title(notification)))},
      {"text", Text(SlackText(Resolved(notification)
                                  ? alert.detail()
                                  : absl::StrCat(alert.detail(), "\n", alert.remedy())))},
      {"footer", Text(absl::StrCat("Tessera · ", alert.rule(), " · ", alert.subject()))},
      {"ts", Number((Resolved(notification) ? alert.resolved_ms() : alert.raised_ms()) / 1000)},
  };
  if (!target.console_url.empty()) attachment.emplace_back("title_link", Text(target.console_url));
  return Object({{"text", Text("")}, {"attachments", List({Object(attachment)})}});
}

Json TeamsBlock(const std::string& text, bool title, const std::string& color) {
  return Object({{"type", Text("TextBlock")},
                 {"text", Text(text)},
                 {"wrap", Flag(true)},
                 {"weight", Text(title ? "bolder" : "default")},
                 {"size", Text(title ? "medium" : "default")},
                 {"color", Text(color)}});
}

Json Teams(const NotificationTarget& target, const Notification& notification) {
  const v1::Alert& alert = notification.alert;
  const bool bad = alert.severity() >= v1::ALERT_SEVERITY_ERROR;
  const std::string color = Resolved(notification) ? "good" : bad ? "attention" : "warning";
  std::vector<Json> body{TeamsBlock(Title(notification), true, color),
                         TeamsBlock(alert.detail(), false, "default")};
  if (!Resolved(notification) && !alert.remedy().empty()) {
    body.push_back(TeamsBlock(alert.remedy(), false, "default"));
  }
  body.push_back(TeamsBlock(
      absl::StrCat(alert.rule(), " · ", alert.subject(), " · ", Rfc3339(alert.raised_ms())), false,
      "default"));
  std::vector<std::pair<std::string, Json>> card{
      {"$schema", Text("http://adaptivecards.io/schemas/adaptive-card.json")},
      {"type", Text("AdaptiveCard")},
      {"version", Text("1.4")},
      {"body", List(body)}};
  if (!target.console_url.empty()) {
    card.emplace_back("actions", List({Object({{"type", Text("Action.OpenUrl")},
                                               {"title", Text("Console")},
                                               {"url", Text(target.console_url)}})}));
  }
  return Object({{"type", Text("message")},
                 {"attachments",
                  List({Object({{"contentType", Text("application/vnd.microsoft.card.adaptive")},
                                {"content", Object(card)}})})}});
}

Json PagerDuty(const NotificationTarget& target, const Notification& notification) {
  const v1::Alert& alert = notification.alert;
  std::vector<std::pair<std::string, Json>> event{
      {"routing_key", Text(target.secret)},
      {"event_action", Text(Resolved(notification) ? "resolve" : "trigger")},
      {"dedup_key", Text(CutText(Incident(notification), 255))}};
  if (Resolved(notification)) return Object(event);
  // Its severities are ours by name.
  event.emplace_back("payload",
                     Object({{"summary", Text(CutText(alert.summary(), kPagerDutySummaryMax))},
                             {"source", Text(alert.subject_name())},
                             {"severity", Text(SeverityName(alert.severity()))},
                             {"timestamp", Text(Rfc3339(alert.raised_ms()))},
                             {"component", Text(alert.subject())},
                             {"group", Text("tessera")},
                             {"class", Text(alert.rule())},
                             {"custom_details", Object({{"detail", Text(alert.detail())},
                                                        {"remedy", Text(alert.remedy())}})}}));
  event.emplace_back("client", Text("Tessera"));
  if (!target.console_url.empty()) event.emplace_back("client_url", Text(target.console_url));
  return Object(event);
}

Json Opsgenie(const Notification& notification) {
  const v1::Alert& alert = notification.alert;
  if (Resolved(notification)) {
    return Object({{"source", Text("Tessera")}, {"note", Text("The condition is gone.")}});
  }
  static const std::vector<std::string> priorities{"P5", "P5", "P3", "P2", "P1"};
  return Object({{"message", Text(CutText(alert.summary(), kOpsgenieMessageMax))},
                 {"alias", Text(CutText(Incident(notification), 512))},
                 {"description", Text(absl::StrCat(alert.detail(), "\n\n", alert.remedy()))},
                 {"priority", Text(priorities.at(static_cast<size_t>(alert.severity())))},
                 {"source", Text("Tessera")},
                 {"entity", Text(alert.subject())},
                 {"tags", List({Text("tessera"), Text(alert.rule())})},
                 {"details", Object({{"rule", Text(alert.rule())},
                                     {"subject", Text(alert.subject())},
                                     {"subject_name", Text(alert.subject_name())}})}});
}

Json Alertmanager(const NotificationTarget& target, const Notification& notification) {
  const v1::Alert& alert = notification.alert;
  const uint64_t end_ms =
      Resolved(notification) ? alert.resolved_ms() : alert.raised_ms() + kAlertmanagerHoldMs;
  return List({Object({{"labels", Object({{"alertname", Text(alert.rule())},
                                          {"severity", Text(SeverityName(alert.severity()))},
                                          {"subject", Text(alert.subject())},
                                          {"subject_name", Text(alert.subject_name())},
                                          {"job", Text("tessera-mgmt")}})},
                       {"annotations", Object({{"summary", Text(alert.summary())},
                                               {"description", Text(alert.detail())},
                                               {"remedy", Text(alert.remedy())}})},
                       {"startsAt", Text(Rfc3339(alert.raised_ms()))},
                       {"endsAt", Text(Rfc3339(end_ms))},
                       {"generatorURL", Text(target.console_url)}})});
}

// RFC 3986, for one part of a path.
std::string PathPart(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) || c == '-' || c == '_' || c == '.' || c == '~') {
      out += c;
    } else {
      absl::StrAppend(&out, "%", absl::Hex(byte, absl::kZeroPad2));
    }
  }
  return out;
}

// RFC 2047, in words short enough for a header.
std::string HeaderText(const std::string& text) {
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isprint(static_cast<unsigned char>(c));
  });
  if (plain && text.size() <= 70) return text;
  std::vector<std::string> words;
  for (size_t at = 0; at < text.size();) {
    const std::string piece = CutText(text.substr(at), 42);
    // Bytes that are no UTF-8 are cut anywhere.
    const std::string taken = piece.empty() ? text.substr(at, 42) : piece;
    words.push_back(absl::StrCat("=?utf-8?B?", absl::Base64Escape(taken), "?="));
    at += taken.size();
  }
  return absl::StrJoin(words, "\r\n ");
}

std::string Lines(const std::string& base64) {
  std::string out;
  for (size_t at = 0; at < base64.size(); at += 76) {
    absl::StrAppend(&out, base64.substr(at, 76), "\r\n");
  }
  return out;
}

}  // namespace

HttpMessage MakeHttpMessage(const NotificationTarget& target, const Notification& notification) {
  HttpMessage message;
  message.url = target.url;
  message.headers = {{"Content-Type", "application/json"},
                     {"Idempotency-Key", notification.idempotency_key},
                     {"User-Agent", "tessera-mgmt"}};
  std::string authorization = target.secret.empty() ? "" : absl::StrCat("Bearer ", target.secret);
  switch (target.format) {
    case NotificationFormat::kSlack:
      message.body = Slack(target, notification);
      break;
    case NotificationFormat::kTeams:
      message.body = Teams(target, notification);
      break;
    case NotificationFormat::kPagerDuty:
      message.body = PagerDuty(target, notification);
      authorization.clear();
      break;
    case NotificationFormat::kOpsgenie:
      message.body = Opsgenie(notification);
      authorization = absl::StrCat("GenieKey ", target.secret);
      if (Resolved(notification)) {
        absl::StrAppend(&message.url, "/", PathPart(CutText(Incident(notification), 512)),
                        "/close?identifierType=alias");
      }
      break;
    case NotificationFormat::kAlertmanager:
      message.body = Alertmanager(target, notification);
      break;
    case NotificationFormat::kJson:
    case NotificationFormat::kSmtp:
      message.body = Generic(target, notification);
      break;
  }
  if (!authorization.empty()) message.headers.emplace_back("Authorization", authorization);
  message.headers.insert(message.headers.end(), target.headers.begin(), target.headers.end());
  return message;
}

std::string MakeMail(const NotificationTarget& target, const Notification& notification) {
  const v1::Alert& alert = notification.alert;
  std::string text =
      absl::StrCat(alert.summary(), "\n\n", alert.detail(), "\n\n", "Rule:     ", alert.rule(),
                   "\nSubject:  ", alert.subject(), " (", alert.subject_name(),
                   ")\nSeverity: ", SeverityName(alert.severity()),
                   "\nRaised:   ", Rfc3339(alert.raised_ms()), "\n");
  if (Resolved(notification)) {
    absl::StrAppend(&text, "Resolved: ", Rfc3339(alert.resolved_ms()), "\n");
  } else if (!alert.remedy().empty()) {
    absl::StrAppend(&text, "\nWhat to do: ", alert.remedy(), "\n");
  }
  if (!target.console_url.empty()) absl::StrAppend(&text, "\n", target.console_url, "\n");
  const std::string domain = target.from.substr(target.from.find('@') + 1);
  return absl::StrCat(
      "Date: ",
      absl::FormatTime("%a, %d %b %Y %H:%M:%S +0000",
                       absl::FromUnixMillis(static_cast<int64_t>(notification.queued_ms)),
                       absl::UTCTimeZone()),
      "\r\nFrom: ", target.from, "\r\nTo: ", absl::StrJoin(target.to, ",\r\n "),
      "\r\nSubject: ", HeaderText(absl::StrCat("[Tessera] ", Title(notification))),
      "\r\nMessage-ID: <", notification.idempotency_key, "@", domain, ">",
      "\r\nAuto-Submitted: auto-generated\r\nMIME-Version: 1.0"
      "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n",
      Lines(absl::Base64Escape(text)));
}

}  // namespace tessera::mgmt
