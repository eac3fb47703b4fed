// login, logout, whoami, user, session: the people of the management service.
#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "services/common/clock.h"
#include "tessera/v1/auth.grpc.pb.h"
#include "tools/cli/commands.h"
#include "tools/cli/format.h"
#include "tools/cli/mgmt_client.h"
#include "tools/cli/volume_view.h"

namespace tessera::cli {
namespace {

using Auth = v1::AuthService;

struct Options {
  std::string user;
  std::optional<v1::Role> role;
  std::string lifetime = "90d";
  std::string description;
  uint64_t id = 0;
  bool ask_password = false;
  bool reset_password = false;
  bool lock = false;
  bool unlock = false;
};
using SharedOptions = std::shared_ptr<Options>;
using SharedClient = std::shared_ptr<MgmtClient>;

std::string RoleText(v1::Role role) { return FormatEnum(v1::Role_descriptor(), role); }

std::string TimeOrDash(uint64_t ms) { return ms == 0 ? "-" : TimeText(ms); }

std::string StateText(const v1::User& user) {
  if (user.locked()) return "locked";
  return user.password_change_required() ? "must change password" : "active";
}

void PrintUser(const MgmtClient& client, const v1::User& user) {
  if (client.json()) return PrintJson(std::cout, user);
  Table table({"FIELD", "VALUE"});
  table.Add({"id", absl::StrCat(user.user_id())});
  table.Add({"name", user.user_name()});
  table.Add({"role", RoleText(user.role())});
  table.Add({"state", StateText(user)});
  table.Add({"created", TimeOrDash(user.created_ms())});
  table.Add({"last sign-in", TimeOrDash(user.last_sign_in_ms())});
  table.Print(std::cout);
}

// All of a paged list, as one answer: `fields` names its repeated field.
template <typename Request, typename Response, typename Method, typename Field>
Response All(MgmtClient* client, Method method, Field field) {
  Request request;
  Response all;
  request.set_page_size(1000);
  do {
    Response page = client->Call<Auth>(method, request);
    request.set_page_token(page.next_page_token());
    field(&all)->MergeFrom(*field(&page));
  } while (!request.page_token().empty());
  return all;
}

uint64_t UserId(MgmtClient* client, const std::string& text) {
  const NameOrId which = ParseNameOrId(text);
  if (which.id != 0) return which.id;
  const auto all = All<v1::ListUsersRequest, v1::ListUsersResponse>(
      client, &Auth::Stub::ListUsers, [](auto* page) { return page->mutable_users(); });
  for (const v1::User& user : all.users()) {
    if (user.user_name() == which.name) return user.user_id();
  }
  throw CommandError(absl::NotFoundError(absl::StrCat("there is no user '", which.name, "'")));
}

void Login(MgmtClient* client, const Options& options) {
  v1::SignInRequest request;
  request.set_user_name(options.user);
  request.set_password(ReadSecret("password"));
  const auto response = client->Call<Auth>(&Auth::Stub::SignIn, request);
  client->Remember(response.session_token());
  std::cerr << "tessera: signed in as " << response.user().user_name() << ", "
            << RoleText(response.user().role()) << "\n";
  if (response.user().password_change_required()) {
    std::cerr << "tessera: the password has to be changed first: tessera user passwd\n";
  }
}

void Logout(MgmtClient* client) {
  client->Call<Auth>(&Auth::Stub::SignOut, v1::SignOutRequest());
  client->Remember("");
}

void WhoAmI(MgmtClient* client) {
  const auto response =
      client->Call<Auth>(&Auth::Stub::GetCurrentUser, v1::GetCurrentUserRequest());
  if (client->json()) return PrintJson(std::cout, response);
  PrintUser(*client, response.user());
}

void ChangePassword(MgmtClient* client) {
  v1::ChangePasswordRequest request;
  request.set_old_password(ReadSecret("old password"));
  request.set_new_password(ReadSecret("new password"));
  if (ReadSecret("new password again") != request.new_password()) {
    throw CommandError(absl::InvalidArgumentError("the new passwords differ"));
  }
  client->Remember(client->Call<Auth>(&Auth::Stub::ChangePassword, request).session_token());
}

void Create(MgmtClient* client, const Options& options) {
  v1::CreateUserRequest request;
  request.set_user_name(options.user);
  request.set_role(options.role.value());
  if (options.ask_password) request.set_password(ReadSecret("the user's password"));
  const auto response = client->Call<Auth>(&Auth::Stub::CreateUser, request);
  if (client->json()) return PrintJson(std::cout, response);
  PrintUser(*client, response.user());
  if (response.one_time_password().empty()) return;
  std::cout << "\none-time password: " << response.one_time_password() << "\n";
}

void Set(MgmtClient* client, const Options& options) {
  v1::UpdateUserRequest request;
  request.set_user_id(UserId(client, options.user));
  if (options.role.has_value()) request.set_role(*options.role);
  if (options.lock || options.unlock) request.set_locked(options.lock);
  request.set_reset_password(options.reset_password);
  const auto response = client->Call<Auth>(&Auth::Stub::UpdateUser, request);
  if (client->json()) return PrintJson(std::cout, response);
  PrintUser(*client, response.user());
  if (response.one_time_password().empty()) return;
  std::cout << "\none-time password: " << response.one_time_password() << "\n";
}

void List(MgmtClient* client) {
  const auto all = All<v1::ListUsersRequest, v1::ListUsersResponse>(
      client, &Auth::Stub::ListUsers, [](auto* page) { return page->mutable_users(); });
  if (client->json()) return PrintJson(std::cout, all);
  Table table({"ID", "NAME", "ROLE", "STATE", "LAST SIGN-IN"});
  for (const v1::User& user : all.users()) {
    table.Add({absl::StrCat(user.user_id()), user.user_name(), RoleText(user.role()),
               StateText(user), TimeOrDash(user.last_sign_in_ms())});
  }
  table.Print(std::cout);
}

void Delete(MgmtClient* client, const Options& options) {
  v1::DeleteUserRequest request;
  request.set_user_id(UserId(client, options.user));
  client->Call<Auth>(&Auth::Stub::DeleteUser, request);
}

void CreateToken(MgmtClient* client, const Options& options) {
  v1::CreateApiTokenRequest request;
  request.set_description(options.description);
  request.set_role(options.role.value());
  request.set_lifetime_s(ParseSeconds("--for", options.lifetime));
  const auto response = client->Call<Auth>(&Auth::Stub::CreateApiToken, request);
  if (client->json()) return PrintJson(std::cout, response);
  // The data is the secret alone, for TESSERA_TOKEN=$(tessera user token create …).
  std::cerr << "tessera: token " << response.api_token().api_token_id() << ", good until "
            << TimeText(response.api_token().expires_ms()) << "; it is not shown again\n";
  std::cout << response.secret() << "\n";
}

void ListTokens(MgmtClient* client) {
  const auto all = All<v1::ListApiTokensRequest, v1::ListApiTokensResponse>(
      client, &Auth::Stub::ListApiTokens, [](auto* page) { return page->mutable_api_tokens(); });
  if (client->json()) return PrintJson(std::cout, all);
  Table table({"ID", "USER", "FOR", "ROLE", "UNTIL", "LAST USED"});
  for (const v1::ApiToken& token : all.api_tokens()) {
    table.Add({absl::StrCat(token.api_token_id()), token.user_name(), token.description(),
               RoleText(token.role()), TimeText(token.expires_ms()),
               TimeOrDash(token.last_used_ms())});
  }
  table.Print(std::cout);
}

void RevokeToken(MgmtClient* client, const Options& options) {
  v1::RevokeApiTokenRequest request;
  request.set_api_token_id(options.id);
  client->Call<Auth>(&Auth::Stub::RevokeApiToken, request);
}

void ListSessions(MgmtClient* client) {
  const auto all = All<v1::ListSessionsRequest, v1::ListSessionsResponse>(
      client, &Auth::Stub::ListSessions, [](auto* page) { return page->mutable_sessions(); });
  if (client->json()) return PrintJson(std::cout, all);
  Table table({"ID", "USER", "FROM", "BEGUN", "LAST USED", "ENDS", ""});
  for (const v1::Session& session : all.sessions()) {
    table.Add({absl::StrCat(session.session_id()), session.user_name(), session.peer(),
               TimeText(session.created_ms()), TimeText(session.last_used_ms()),
               TimeText(session.expires_ms()), session.current() ? "this one" : ""});
  }
  table.Print(std::cout);
}

void EndSession(MgmtClient* client, const Options& options) {
  v1::EndSessionRequest request;
  request.set_session_id(options.id);
  client->Call<Auth>(&Auth::Stub::EndSession, request);
}

CLI::Option* AddRole(CLI::App* command, const SharedOptions& options, const std::string& what) {
  return command->add_option("--role", options->role, what)
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, v1::Role>{{"admin", v1::ROLE_ADMIN},
                                                                  {"operator", v1::ROLE_OPERATOR},
                                                                  {"viewer", v1::ROLE_VIEWER}})
              .description(""))
      ->type_name("ROLE");
}

void AddTokens(CLI::App* user, const SharedClient& client, const SharedOptions& options) {
  auto* token = user->add_subcommand("token", "API tokens of scripts.")->require_subcommand(1);
  auto* create = token->add_subcommand("create", "Makes a token of yours, and prints its secret.");
  create->add_option("DESCRIPTION", options->description, "What it is for.")->required();
  AddRole(create, options, "What it may do: admin, operator or viewer, at most what you may.")
      ->required();
  create->add_option("--for", options->lifetime, "Good for so long, such as 12h or 30d.")
      ->capture_default_str();
  create->callback([=] { CreateToken(client.get(), *options); });
  token->add_subcommand("list", "Lists tokens: admins see all, others their own.")->callback([=] {
    ListTokens(client.get());
  });
  auto* revoke = token->add_subcommand("revoke", "Revokes a token.");
  revoke->add_option("ID", options->id, "Its id.")->required();
  revoke->callback([=] { RevokeToken(client.get(), *options); });
}

void AddUsers(CLI::App* app, const SharedClient& client, const SharedOptions& options) {
  auto* user = app->add_subcommand("user", "People who may sign in to the management service.")
                   ->require_subcommand(1);
  auto* create = user->add_subcommand("create", "Makes a user, with a one-time password.");
  create->add_option("NAME", options->user, "1 to 64 of a-z, 0-9, '.', '_', '-'.")->required();
  AddRole(create, options, "admin, operator or viewer.")->required();
  create->add_flag("--password", options->ask_password, "Ask for the user's password instead.");
  create->callback([=] { Create(client.get(), *options); });
  user->add_subcommand("list", "Lists users.")->callback([=] { List(client.get()); });
  auto* set = user->add_subcommand("set", "Changes role, lock or password of a user.");
  set->add_option("USER", options->user, "Name or id.")->required();
  AddRole(set, options, "admin, operator or viewer.");
  auto* lock = set->add_flag("--lock", options->lock, "Lets the user sign in no more.");
  set->add_flag("--unlock", options->unlock, "Lets the user in again.")->excludes(lock);
  set->add_flag("--reset-password", options->reset_password, "Makes up a one-time password.");
  set->callback([=] { Set(client.get(), *options); });
  auto* remove = user->add_subcommand("delete", "Deletes a user, with sessions and tokens.");
  remove->add_option("USER", options->user, "Name or id.")->required();
  remove->callback([=] { Delete(client.get(), *options); });
  user->add_subcommand("passwd", "Changes your own password.")->callback([=] {
    ChangePassword(client.get());
  });
  AddTokens(user, client, options);
}

}  // namespace

void AddUserCommands(CLI::App* app, Client* client) {
  auto mgmt = std::make_shared<MgmtClient>(client);
  auto options = std::make_shared<Options>();
  auto* login = app->add_subcommand("login", "Signs in to the management service.");
  login->add_option("USER", options->user, "Your name.")->required();
  login->callback([=] { Login(mgmt.get(), *options); });
  app->add_subcommand("logout", "Ends the session.")->callback([=] { Logout(mgmt.get()); });
  app->add_subcommand("whoami", "Shows who is signed in.")->callback([=] { WhoAmI(mgmt.get()); });
  AddUsers(app, mgmt, options);

  auto* session = app->add_subcommand("session", "Who is signed in to the management service.")
                      ->require_subcommand(1);
  session->add_subcommand("list", "Lists sessions: admins see all, others their own.")
      ->callback([=] { ListSessions(mgmt.get()); });
  auto* end = session->add_subcommand("end", "Ends a session.");
  end->add_option("ID", options->id, "Its id.")->required();
  end->callback([=] { EndSession(mgmt.get(), *options); });
}

}  // namespace tessera::cli
