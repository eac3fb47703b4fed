// alert: what somebody has to look at.
#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/common/clock.h"
#include "tessera/v1/alert.grpc.pb.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/mgmt_client.h"
#include "tools/cli/volume_view.h"

namespace tessera::cli {
namespace {

using Alerts = v1::AlertService;

struct Options {
  v1::AlertSeverity severity = v1::ALERT_SEVERITY_UNSPECIFIED;
  bool resolved = false;
  uint64_t id = 0;
  std::string rule;
  std::string subject;
  std::string comment;
  std::string duration;
};

std::string StateText(const v1::Alert& alert) {
  std::string text = FormatEnum(v1::AlertState_descriptor(), alert.state());
  if (!alert.acknowledged_by().empty()) absl::StrAppend(&text, " by ", alert.acknowledged_by());
  if (alert.silenced()) text += ", silenced";
  return text;
}

void List(MgmtClient* client, const Options& options) {
  v1::ListAlertsRequest request;
  request.set_page_size(1000);
  request.set_include_resolved(options.resolved);
  request.set_severity_min(options.severity);
  request.set_rule(options.rule);
  request.set_subject(options.subject);
  v1::ListAlertsResponse all;
  do {
    const auto page = client->Call<Alerts>(&Alerts::Stub::ListAlerts, request);
    all.mutable_alerts()->MergeFrom(page.alerts());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (client->json()) return PrintJson(std::cout, all);
  const uint64_t now_ms = SystemClock().WallMillis();
  Table table({"ID", "SEVERITY", "STATE", "RAISED", "RULE", "SUBJECT", "SUMMARY"});
  for (const v1::Alert& alert : all.alerts()) {
    table.Add({absl::StrCat(alert.alert_id()),
               FormatEnum(v1::AlertSeverity_descriptor(), alert.severity()), StateText(alert),
               FormatAge(alert.raised_ms(), now_ms), alert.rule(), alert.subject(),
               alert.summary()});
  }
  table.Print(std::cout);
}

void Acknowledge(MgmtClient* client, const Options& options) {
  v1::AcknowledgeAlertRequest request;
  request.set_alert_id(options.id);
  request.set_comment(options.comment);
  const auto response = client->Call<Alerts>(&Alerts::Stub::AcknowledgeAlert, request);
  if (client->json()) PrintJson(std::cout, response);
}

void PrintSilences(const MgmtClient& client, const v1::ListSilencesResponse& silences) {
  if (client.json()) return PrintJson(std::cout, silences);
  Table table({"ID", "RULE", "SUBJECT", "UNTIL", "BY", "COMMENT"});
  for (const v1::Silence& silence : silences.silences()) {
    table.Add({absl::StrCat(silence.silence_id()), silence.rule().empty() ? "-" : silence.rule(),
               silence.subject().empty() ? "-" : silence.subject(), TimeText(silence.ends_ms()),
               silence.created_by(), silence.comment()});
  }
  table.Print(std::cout);
}

void Silence(MgmtClient* client, const Options& options) {
  v1::CreateSilenceRequest request;
  request.set_rule(options.rule);
  request.set_subject(options.subject);
  request.set_duration_s(ParseSeconds("--for", options.duration));
  request.set_comment(options.comment);
  v1::ListSilencesResponse made;
  *made.add_silences() = client->Call<Alerts>(&Alerts::Stub::CreateSilence, request).silence();
  PrintSilences(*client, made);
}

void Unsilence(MgmtClient* client, const Options& options) {
  v1::DeleteSilenceRequest request;
  request.set_silence_id(options.id);
  client->Call<Alerts>(&Alerts::Stub::DeleteSilence, request);
}

void ListRules(MgmtClient* client) {
  const auto response =
      client->Call<Alerts>(&Alerts::Stub::ListAlertRules, v1::ListAlertRulesRequest());
  if (client->json()) return PrintJson(std::cout, response);
  Table table({"RULE", "SEVERITY", "FROM", "STATE", "CONDITION"});
  for (const v1::AlertRule& rule : response.rules()) {
    table.Add({rule.rule(), FormatEnum(v1::AlertSeverity_descriptor(), rule.severity()),
               rule.from_file() ? "file" : "built in", rule.disabled() ? "off" : "on",
               rule.condition()});
  }
  table.Print(std::cout);
}

}  // namespace

void AddAlertCommands(CLI::App* app, Client* client) {
  auto mgmt = std::make_shared<MgmtClient>(client);
  auto options = std::make_shared<Options>();
  auto* alert =
      app->add_subcommand("alert", "What somebody has to look at.")->require_subcommand(1);

  auto* list = alert->add_subcommand("list", "Lists alerts, newest first.");
  list->add_flag("--resolved", options->resolved, "Those that are over, too.");
  list->add_option("--severity", options->severity, "Only this and worse.")
      ->transform(CLI::CheckedTransformer(std::map<std::string, v1::AlertSeverity>{
                                              {"info", v1::ALERT_SEVERITY_INFO},
                                              {"warning", v1::ALERT_SEVERITY_WARNING},
                                              {"error", v1::ALERT_SEVERITY_ERROR},
                                              {"critical", v1::ALERT_SEVERITY_CRITICAL}})
                      .description(""))
      ->type_name("info|warning|error|critical");
  list->add_option("--rule", options->rule, "Only of this rule.");
  list->add_option("--subject", options->subject, "Only of this subject, such as sds/3.");
  list->callback([=] { List(mgmt.get(), *options); });

  auto* acknowledge = alert->add_subcommand("ack", "Says that somebody takes care of it.");
  acknowledge->add_option("ID", options->id, "Which.")->required();
  acknowledge->add_option("--comment", options->comment, "What to say.");
  acknowledge->callback([=] { Acknowledge(mgmt.get(), *options); });

  auto* silence = alert->add_subcommand("silence", "Keeps alerts from being sent out for a while.");
  auto* which = silence->add_option_group("which", "At least one of these.");
  which->add_option("--rule", options->rule, "Those of this rule.");
  which->add_option("--subject", options->subject, "Those of this subject, such as sds/3.");
  which->require_option(1, 2);
  silence->add_option("--for", options->duration, "How long, such as 2h or 7d.")->required();
  silence->add_option("--comment", options->comment, "Why.")->required();
  silence->callback([=] { Silence(mgmt.get(), *options); });

  alert->add_subcommand("silences", "Lists silences.")->callback([=] {
    PrintSilences(*mgmt,
                  mgmt->Call<Alerts>(&Alerts::Stub::ListSilences, v1::ListSilencesRequest()));
  });
  auto* unsilence = alert->add_subcommand("unsilence", "Ends a silence.");
  unsilence->add_option("ID", options->id, "Which silence.")->required();
  unsilence->callback([=] { Unsilence(mgmt.get(), *options); });
  alert->add_subcommand("rules", "Lists the rules in force.")->callback([=] {
    ListRules(mgmt.get());
  });
  alert->add_subcommand("reload", "Reads the rules file again.")->callback([=] {
    const auto response =
        mgmt->Call<Alerts>(&Alerts::Stub::ReloadAlertRules, v1::ReloadAlertRulesRequest());
    std::cout << response.rules() << " rules in force\n";
  });
}

}  // namespace tessera::cli
