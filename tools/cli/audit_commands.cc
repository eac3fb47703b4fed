// audit: who changed what.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/common/auth.h"
#include "services/common/clock.h"
#include "tessera/v1/audit.grpc.pb.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/mgmt_client.h"
#include "tools/cli/volume_view.h"

namespace tessera::cli {
namespace {

struct Options {
  std::string user;
  std::string method;
  std::string since;
  bool failed = false;
  uint32_t limit = 100;
};

void List(MgmtClient* client, const Options& options) {
  v1::ListAuditEntriesRequest request;
  request.set_user_name(options.user);
  request.set_method_contains(options.method);
  request.set_failed_only(options.failed);
  if (!options.since.empty()) {
    request.set_from_ms(SystemClock().WallMillis() - ParseSeconds("--since", options.since) * 1000);
  }
  v1::ListAuditEntriesResponse all;
  do {
    request.set_page_size(
        std::min<uint32_t>(1000, options.limit - static_cast<uint32_t>(all.entries_size())));
    const auto page =
        client->Call<v1::AuditService>(&v1::AuditService::Stub::ListAuditEntries, request);
    all.mutable_entries()->MergeFrom(page.entries());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty() &&
           static_cast<uint32_t>(all.entries_size()) < options.limit);
  if (client->json()) return PrintJson(std::cout, all);
  Table table({"ID", "TIME", "USER", "CREDENTIAL", "FROM", "RESULT", "METHOD", "REQUEST"});
  for (const v1::AuditEntry& entry : all.entries()) {
    const std::string method = entry.method().substr(entry.method().rfind('/') + 1);
    table.Add({absl::StrCat(entry.audit_id()), TimeText(entry.time_ms()), entry.user_name(),
               entry.credential(), entry.peer(), entry.result(), method, entry.request_json()});
  }
  table.Print(std::cout);
}

void Verify(MgmtClient* client) {
  const auto response = client->Call<v1::AuditService>(&v1::AuditService::Stub::VerifyAuditLog,
                                                       v1::VerifyAuditLogRequest());
  if (client->json()) {
    PrintJson(std::cout, response);
  } else if (response.problem().empty()) {
    std::cout << response.entries() << " entries, whole; the newest hash is "
              << ToHex(response.last_hash()) << "\n";
  }
  if (!response.problem().empty()) {
    throw CommandError(
        absl::DataLossError(absl::StrCat("the audit log was tampered with: ", response.problem())));
  }
}

}  // namespace

void AddAuditCommands(CLI::App* app, Client* client) {
  auto mgmt = std::make_shared<MgmtClient>(client);
  auto options = std::make_shared<Options>();
  auto* audit = app->add_subcommand("audit", "Who changed what through the management service.")
                    ->require_subcommand(1);
  auto* list = audit->add_subcommand("list", "Lists changes, newest first.");
  list->add_option("--user", options->user, "Only of this user.");
  list->add_option("--method", options->method, "Only methods whose name contains this.");
  list->add_option("--since", options->since, "Only since then, such as 12h or 30d.");
  list->add_flag("--failed", options->failed, "Only those that failed.");
  list->add_option("--limit", options->limit, "At most so many.")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  list->callback([=] { List(mgmt.get(), *options); });
  audit->add_subcommand("verify", "Checks that no entry was altered or taken out.")->callback([=] {
    Verify(mgmt.get());
  });
}

}  // namespace tessera::cli
