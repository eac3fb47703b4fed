#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tessera/v1/token.grpc.pb.h"
#include "tools/cli/client.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"

namespace tessera::cli {
namespace {

using Tokens = v1::TokenService;

struct Options {
  std::string volume;
  std::string operation = "read";
  std::string offset = "0";
  std::string length = "4096";
  uint64_t token_id = 0;
  uint32_t key_id = 0;
  bool active_only = false;
  bool force = false;
};

void PrintTokens(const std::vector<v1::TokenRecord>& tokens) {
  Table table({"ID", "KIND", "VOLUME", "SDC", "GENERATION", "STATE", "READS", "WRITES", "ERRORS",
               "ENDED BY"});
  for (const auto& token : tokens) {
    table.Add({absl::StrCat(token.token_id()), token.transaction() ? "token" : "grant",
               absl::StrCat(token.volume_id()), absl::StrCat(token.sdc_id()),
               absl::StrCat(token.generation()),
               FormatEnum(v1::TokenState_descriptor(), token.state()), absl::StrCat(token.reads()),
               absl::StrCat(token.writes()), absl::StrCat(token.errors()),
               token.end_reason().empty() ? "-" : token.end_reason()});
  }
  table.Print(std::cout);
}

void Request(Client* client, const Options& options) {
  static const std::map<std::string, v1::IoOperationType> kOperations{
      {"read", v1::IO_OPERATION_TYPE_READ},
      {"write", v1::IO_OPERATION_TYPE_WRITE},
      {"write-zeroes", v1::IO_OPERATION_TYPE_WRITE_ZEROES},
      {"trim", v1::IO_OPERATION_TYPE_TRIM}};
  const auto offset = ParseSize(options.offset);
  if (!offset.ok()) throw CommandError(offset.status());
  const auto length = ParseSize(options.length);
  if (!length.ok()) throw CommandError(length.status());
  const NameOrId volume = ParseNameOrId(options.volume);
  v1::RequestTokenRequest request;
  request.set_volume_id(volume.id);
  request.set_volume_name(volume.name);
  request.set_operation(kOperations.at(options.operation));
  request.set_offset_bytes(*offset);
  request.set_length_bytes(*length);
  // The plan is for programs: JSON whatever the output asked for.
  PrintJson(std::cout, client->Call<Tokens>(&Tokens::Stub::RequestToken, request));
}

void List(Client* client, const Options& options) {
  v1::ListTokensRequest request;
  v1::ListTokensResponse all;
  request.set_active_only(options.active_only);
  request.set_page_size(1000);
  do {
    const auto page = client->Call<Tokens>(&Tokens::Stub::ListTokens, request);
    all.mutable_tokens()->MergeFrom(page.tokens());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, all);
  PrintTokens({all.tokens().begin(), all.tokens().end()});
}

void Show(Client* client, const Options& options) {
  v1::GetTokenRequest request;
  request.set_token_id(options.token_id);
  const auto token = client->Call<Tokens>(&Tokens::Stub::GetToken, request).token();
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, token);
  PrintTokens({token});
}

void Stats(Client* client) {
  const auto stats = client->Call<Tokens>(&Tokens::Stub::GetTokenStats, v1::GetTokenStatsRequest());
  if (client->globals().output == Output::kJson) return PrintJson(std::cout, stats);
  Table table({"FIGURE", "VALUE"});
  table.Add({"active", absl::StrCat(stats.active())});
  table.Add({"acknowledged", absl::StrCat(stats.acknowledged())});
  table.Add({"expired", absl::StrCat(stats.expired())});
  table.Add({"revoked", absl::StrCat(stats.revoked())});
  table.Add({"issued", absl::StrCat(stats.issued_total())});
  table.Add({"renewed", absl::StrCat(stats.renewed_total())});
  table.Add({"IOs acknowledged", absl::StrCat(stats.acknowledged_io_total())});
  table.Add({"bytes acknowledged", FormatSize(stats.acknowledged_bytes_total())});
  table.Add({"refusals and errors", absl::StrCat(stats.error_total())});
  table.Add({"active key", absl::StrCat(stats.active_key_id())});
  table.Add({"accepted keys", absl::StrJoin(stats.key_ids(), ", ")});
  table.Print(std::cout);
}

}  // namespace

void AddTokenCommands(CLI::App* app, Client* client) {
  auto options = std::make_shared<Options>();
  auto* token =
      app->add_subcommand("token", "Tokens, grants and their keys.")->require_subcommand(1);

  auto* request =
      token->add_subcommand("request", "A single-transaction token with its IO plan, as JSON.");
  request->add_option("VOLUME", options->volume, "Name or id.")->required();
  request->add_option("--operation", options->operation, "read, write, write-zeroes or trim.")
      ->check(CLI::IsMember({"read", "write", "write-zeroes", "trim"}))
      ->capture_default_str();
  request->add_option("--offset", options->offset, "512-byte aligned.")->capture_default_str();
  request->add_option("--length", options->length, "512-byte aligned.")->capture_default_str();
  request->callback([=] { Request(client, *options); });

  auto* list = token->add_subcommand("list", "Lists tokens and grants, newest first.");
  list->add_flag("--active", options->active_only, "Only those that are good now.");
  list->callback([=] { List(client, *options); });

  auto* show = token->add_subcommand("show", "Shows one token or grant.");
  show->add_option("ID", options->token_id, "Its id.")->required();
  show->callback([=] { Show(client, *options); });

  token->add_subcommand("stats", "Counts over all tokens and grants.")->callback([=] {
    Stats(client);
  });

  auto* expire = token->add_subcommand("expire", "Ends a token or grant before its time.");
  expire->add_option("ID", options->token_id, "Its id.")->required();
  expire->callback([=] {
    v1::ExpireTokensRequest expire_request;
    expire_request.set_token_id(options->token_id);
    const auto response = client->Call<Tokens>(&Tokens::Stub::ExpireTokens, expire_request);
    if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
    std::cout << response.expired() << " ended\n";
  });

  token->add_subcommand("cleanup", "Forgets tokens and grants that have ended.")->callback([=] {
    const auto response =
        client->Call<Tokens>(&Tokens::Stub::CleanupTokens, v1::CleanupTokensRequest());
    if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
    std::cout << response.removed() << " forgotten\n";
  });

  token->add_subcommand("rotate-key", "Makes a new cluster secret the active one.")->callback([=] {
    const auto response = client->Call<Tokens>(&Tokens::Stub::RotateKey, v1::RotateKeyRequest());
    if (client->globals().output == Output::kJson) return PrintJson(std::cout, response);
    std::cout << "key " << response.active_key_id() << " is active\n";
  });

  auto* revoke =
      token->add_subcommand("revoke-key", "Withdraws a cluster secret that is not active.");
  revoke->add_option("KEY", options->key_id, "Its id.")->required();
  revoke->add_flag("--force", options->force, "Also while grants under it are good.");
  revoke->callback([=] {
    v1::RevokeKeyRequest revoke_request;
    revoke_request.set_key_id(options->key_id);
    revoke_request.set_force(options->force);
    client->Call<Tokens>(&Tokens::Stub::RevokeKey, revoke_request);
  });
}

}  // namespace tessera::cli
