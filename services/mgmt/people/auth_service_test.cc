// Signing in, sessions, users, tokens: at the handlers, with the authenticator, without gRPC.
#include "services/mgmt/people/auth_service.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/mgmt/people/first_admin.h"
#include "services/mgmt/people/people_fixture.h"

namespace tessera::mgmt {
namespace {

absl::StatusOr<v1::CreateApiTokenResponse> MakeToken(PeopleFixture* people, const Caller& caller,
                                                     v1::Role role, uint64_t lifetime_s = 3600) {
  v1::CreateApiTokenRequest request;
  request.set_description("backup");
  request.set_role(role);
  request.set_lifetime_s(lifetime_s);
  v1::CreateApiTokenResponse response;
  const absl::Status status = people->Do(caller, request, &response);
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::UpdateUserResponse> Update(PeopleFixture* people, const Caller& caller,
                                              const v1::UpdateUserRequest& request) {
  v1::UpdateUserResponse response;
  const absl::Status status = people->Do(caller, request, &response);
  if (!status.ok()) return status;
  return response;
}

v1::UpdateUserRequest Locking(uint64_t user_id, bool locked) {
  v1::UpdateUserRequest request;
  request.set_user_id(user_id);
  request.set_locked(locked);
  return request;
}

absl::StatusOr<std::string> ChangePassword(PeopleFixture* people, const Caller& caller,
                                           const std::string& before, const std::string& after) {
  v1::ChangePasswordRequest request;
  request.set_old_password(before);
  request.set_new_password(after);
  v1::ChangePasswordResponse response;
  const absl::Status status = people->auth->Do(
      caller, [people](const std::string& token) { people->cookie = token; }, request, &response);
  if (!status.ok()) return status;
  return response.session_token();
}

absl::Status Keep(const std::string&) { return absl::OkStatus(); }

TEST_CASE("a sign-in gives a session that is let in with the user's roles") {
  PeopleFixture people;
  const auto answer = people.SignIn("jo");
  REQUIRE(answer.ok());
  REQUIRE(answer->user().user_name() == "jo");
  REQUIRE(answer->session().peer() == "192.0.2.7");
  const auto caller = people.CallerOf(answer->session_token());
  REQUIRE(caller.ok());
  REQUIRE(caller->name == "jo");
  REQUIRE(caller->credential == absl::StrCat("session.", answer->session().session_id()));
  REQUIRE(caller->Has(v1::ROLE_OPERATOR));
  REQUIRE(caller->Has(v1::ROLE_VIEWER));
  REQUIRE_FALSE(caller->Has(v1::ROLE_ADMIN));
}

TEST_CASE("nothing in the database lets anybody in: secrets and passwords are not there") {
  PeopleFixture people;
  const std::string token = people.SignIn("jo").value().session_token();
  const std::string secret = token.substr(token.rfind('.') + 1);
  REQUIRE(secret.size() == 64);
  REQUIRE(people.db
              ->Read([&](SQLite::Database& db) {
                const auto row = FindSession(db, 1);
                REQUIRE(row.has_value());
                REQUIRE(ToHex(row->secret_hash) != secret);
                REQUIRE(FindUserByName(db, "jo")->password_hash.rfind("$argon2id$", 0) == 0);
                return absl::OkStatus();
              })
              .ok());
}

TEST_CASE("a wrong password, an unknown name and a locked user are answered alike") {
  PeopleFixture people;
  REQUIRE(Update(&people, people.Enter("root"), Locking(people.UserId("vi"), true)).ok());
  const absl::Status wrong = people.SignIn("jo", "a wrong password").status();
  REQUIRE(absl::IsUnauthenticated(wrong));
  REQUIRE(ReasonOf(wrong) == "SIGN_IN_FAILED");
  REQUIRE(people.SignIn("nobody").status() == wrong);
  REQUIRE(people.SignIn("Not A Name\n").status() == wrong);
  REQUIRE(people.SignIn("vi").status() == wrong);
}

TEST_CASE("an unknown name costs as many hashes as a known one") {
  PeopleFixture people;
  const auto hashes_of = [&](const std::string& name, const std::string& password) {
    const uint64_t before = people.hasher->computed();
    (void)people.SignIn(name, password);
    return people.hasher->computed() - before;
  };
  REQUIRE(hashes_of("jo", "a wrong password") == 1);
  REQUIRE(hashes_of("nobody", "a wrong password") == 1);
  REQUIRE(hashes_of("NOT A NAME", "a wrong password") == 1);
  REQUIRE(hashes_of("jo", std::string(5000, 'x')) == 1);
  REQUIRE(hashes_of("nobody", std::string(5000, 'x')) == 1);
  REQUIRE(hashes_of("jo", "") == 1);
}

TEST_CASE("a password that only begins like the right one is wrong, however long it is") {
  PeopleFixture people;
  const std::string longest(kPasswordBytesMax, 'p');
  REQUIRE(ChangePassword(&people, people.Enter("jo"), kPassword, longest).ok());
  REQUIRE(people.SignIn("jo", longest).ok());
  REQUIRE_FALSE(people.SignIn("jo", longest + "p").ok());
  REQUIRE_FALSE(people.SignIn("jo", longest.substr(1)).ok());
}

TEST_CASE("brute force is locked out, told for how long, and costs no more hashes") {
  PeopleFixture people;
  for (int i = 0; i < 5; ++i) {
    REQUIRE(absl::IsUnauthenticated(people.SignIn("root", absl::StrCat("guess ", i)).status()));
  }
  const uint64_t hashes = people.hasher->computed();
  // The right one, too: nothing is learnt while it is closed.
  const absl::Status locked = people.SignIn("root").status();
  REQUIRE(absl::IsResourceExhausted(locked));
  REQUIRE(ReasonOf(locked) == "SIGN_IN_LOCKED");
  REQUIRE(std::string(locked.message()).find("15 seconds") != std::string::npos);
  REQUIRE(people.hasher->computed() == hashes);
  people.clock.AdvanceMillis(15'000);
  REQUIRE(people.SignIn("root").ok());
}

TEST_CASE("who is locked out in one place signs in from another") {
  PeopleFixture people;
  for (int i = 0; i < 20; ++i) (void)people.SignIn("root", "a wrong password", kElsewhere);
  REQUIRE(absl::IsResourceExhausted(people.SignIn("root", kPassword, kElsewhere).status()));
  REQUIRE(people.SignIn("root", kPassword, kDesk).ok());
}

TEST_CASE(
    "an attack on a name from everywhere leaves open the place where it has signed in, also "
    "after a restart") {
  PeopleFixture people;
  REQUIRE(people.SignIn("root").ok());
  people.Reopen();
  for (int i = 0; i < 60; ++i) {
    (void)people.SignIn("root", "a wrong password", absl::StrCat("ipv4:203.0.113.", i, ":1"));
  }
  REQUIRE(absl::IsResourceExhausted(people.SignIn("root", kPassword, kElsewhere).status()));
  REQUIRE(people.SignIn("root", kPassword, kDesk).ok());
}

TEST_CASE("wrong old passwords in ChangePassword count as wrong tries") {
  PeopleFixture people;
  const Caller jo = people.Enter("jo");
  for (int i = 0; i < 5; ++i) {
    REQUIRE(
        ReasonOf(ChangePassword(&people, jo, "a wrong password", "another password").status()) ==
        "SIGN_IN_FAILED");
  }
  REQUIRE(absl::IsResourceExhausted(
      ChangePassword(&people, jo, kPassword, "another password").status()));
}

TEST_CASE("each sign-in has a session of its own, and ends the one that was carried") {
  PeopleFixture people;
  const std::string first = people.SignIn("jo").value().session_token();
  const std::string second =
      people.SignIn("jo", kPassword, kDesk, "Bearer " + first).value().session_token();
  REQUIRE(first != second);
  REQUIRE_FALSE(people.CallerOf(first).ok());
  REQUIRE(people.CallerOf(second).ok());
}

TEST_CASE("a session that somebody planted is never taken over") {
  PeopleFixture people;
  const std::string planted = "session.77." + std::string(64, 'a');
  const std::string token =
      people.SignIn("jo", kPassword, kDesk, "Bearer " + planted).value().session_token();
  REQUIRE(token != planted);
  REQUIRE_FALSE(people.CallerOf(planted).ok());
  // Nor somebody else's real one: an attacker's session in the victim's browser ends there.
  const std::string attackers = people.SignIn("vi", kPassword, kElsewhere).value().session_token();
  const std::string victims =
      people.SignIn("root", kPassword, kDesk, "Bearer " + attackers).value().session_token();
  REQUIRE_FALSE(people.CallerOf(attackers).ok());
  REQUIRE(people.CallerOf(victims).value().name == "root");
}

TEST_CASE("a failed sign-in leaves the session that was carried") {
  PeopleFixture people;
  const std::string token = people.SignIn("jo").value().session_token();
  REQUIRE_FALSE(people.SignIn("root", "a wrong password", kDesk, "Bearer " + token).ok());
  REQUIRE(people.CallerOf(token).ok());
}

TEST_CASE("over the gateway the secret goes into the cookie and not into the answer") {
  PeopleFixture people;
  Caller browser;
  browser.peer = kDesk;
  browser.over_gateway = true;
  browser.user_agent = "Mozilla\n/5.0";
  v1::SignInRequest request;
  request.set_user_name("jo");
  request.set_password(kPassword);
  v1::SignInResponse response;
  std::string cookie;
  const SetCookie set_cookie = [&cookie](const std::string& token) { cookie = token; };
  REQUIRE(people.auth->Do(browser, set_cookie, request, &response).ok());
  REQUIRE(response.session_token().empty());
  REQUIRE(response.session().user_agent() == "Mozilla?/5.0");
  REQUIRE(people.CallerOf(cookie).ok());

  Caller jo = people.CallerOf(cookie).value();
  jo.over_gateway = true;
  v1::SignOutResponse nothing;
  REQUIRE(people.auth->Do(jo, set_cookie, v1::SignOutRequest(), &nothing).ok());
  REQUIRE(cookie.empty());
  REQUIRE(people.Rows("user_session") == 0);
}

TEST_CASE("signing out ends the session") {
  PeopleFixture people;
  const std::string token = people.SignIn("jo").value().session_token();
  v1::SignOutResponse nothing;
  REQUIRE(people.auth
              ->Do(
                  people.CallerOf(token).value(), [](const std::string&) {}, v1::SignOutRequest(),
                  &nothing)
              .ok());
  const absl::Status over = people.CallerOf(token).status();
  REQUIRE(absl::IsUnauthenticated(over));
  REQUIRE(ReasonOf(over) == "SESSION_EXPIRED");
}

TEST_CASE("a session that is not used ends after half an hour, one that is used after twelve") {
  PeopleFixture people;
  const std::string token = people.SignIn("jo").value().session_token();
  uint64_t used_ms = 0;
  while (people.CallerOf(token).ok()) {
    people.clock.AdvanceMillis(20 * 60'000);
    used_ms += 20 * 60'000;
  }
  REQUIRE(used_ms == 12 * 3'600'000);

  const std::string idle = people.SignIn("jo").value().session_token();
  people.clock.AdvanceMillis(30 * 60'000 - 1);
  REQUIRE(people.authenticator->IsCredentialGood(idle.substr(0, idle.rfind('.'))));
  people.clock.AdvanceMillis(1);
  REQUIRE_FALSE(people.authenticator->IsCredentialGood(idle.substr(0, idle.rfind('.'))));
  REQUIRE(ReasonOf(people.CallerOf(idle).status()) == "SESSION_EXPIRED");
}

TEST_CASE("the last use of a session is written at most once a minute") {
  PeopleFixture people;
  const std::string token = people.SignIn("jo").value().session_token();
  const auto last_used_ms = [&] {
    v1::GetCurrentUserResponse response;
    REQUIRE(people.Do(people.CallerOf(token).value(), v1::GetCurrentUserRequest(), &response).ok());
    return response.session().last_used_ms();
  };
  const uint64_t begun_ms = last_used_ms();
  people.clock.AdvanceMillis(59'999);
  REQUIRE(last_used_ms() == begun_ms);
  people.clock.AdvanceMillis(1);
  REQUIRE(last_used_ms() == begun_ms + 60'000);
}

TEST_CASE("sessions and their ends outlive a restart") {
  PeopleFixture people;
  const std::string open = people.SignIn("jo").value().session_token();
  const std::string ended = people.SignIn("vi").value().session_token();
  v1::EndSessionRequest request;
  request.set_session_id(2);
  v1::EndSessionResponse nothing;
  REQUIRE(people.Do(people.CallerOf(ended).value(), request, &nothing).ok());
  people.Reopen();
  REQUIRE(people.CallerOf(open).ok());
  REQUIRE_FALSE(people.CallerOf(ended).ok());
}

TEST_CASE("a credential with a wrong secret, id or kind is no good") {
  PeopleFixture people;
  const std::string token = people.SignIn("jo").value().session_token();
  std::string wrong = token;
  wrong.back() = wrong.back() == '0' ? '1' : '0';
  for (const std::string& bearer :
       {wrong, "session.99" + token.substr(token.rfind('.')), "token.1" + token.substr(9),
        std::string("mdm.1.aa"), std::string("session.1.zz"), std::string("nonsense")}) {
    INFO(bearer);
    REQUIRE(absl::IsUnauthenticated(people.CallerOf(bearer).status()));
  }
  REQUIRE(ReasonOf(people.authenticator->Authenticate("").status()) == "SIGN_IN_REQUIRED");
  REQUIRE_FALSE(people.authenticator->IsCredentialGood("session.99"));
  REQUIRE_FALSE(people.authenticator->IsCredentialGood("nonsense"));
  REQUIRE(people.authenticator->IsCredentialGood(""));
}

TEST_CASE("a change of password ends the other sessions and gives this one a new secret") {
  PeopleFixture people;
  const std::string other = people.SignIn("jo").value().session_token();
  const std::string token = people.SignIn("jo").value().session_token();
  const auto changed =
      ChangePassword(&people, people.CallerOf(token).value(), kPassword, "another password");
  REQUIRE(changed.ok());
  REQUIRE_FALSE(people.CallerOf(token).ok());
  REQUIRE_FALSE(people.CallerOf(other).ok());
  REQUIRE(people.CallerOf(*changed).ok());
  REQUIRE_FALSE(people.SignIn("jo", kPassword).ok());
  REQUIRE(people.SignIn("jo", "another password").ok());
}

TEST_CASE("a new password must be from 10 to 128 bytes and not the old one again") {
  PeopleFixture people;
  const Caller jo = people.Enter("jo");
  REQUIRE(absl::IsInvalidArgument(ChangePassword(&people, jo, kPassword, "too short").status()));
  REQUIRE(absl::IsInvalidArgument(
      ChangePassword(&people, jo, kPassword, std::string(129, 'x')).status()));
  REQUIRE(absl::IsInvalidArgument(ChangePassword(&people, jo, kPassword, kPassword).status()));
  REQUIRE(people.SignIn("jo").ok());
}

TEST_CASE("who has a made-up password can only change it, and then everything again") {
  PeopleFixture people;
  v1::CreateUserRequest request;
  request.set_user_name("new.one");
  request.set_role(v1::ROLE_ADMIN);
  v1::CreateUserResponse created;
  REQUIRE(people.Do(people.Enter("root"), request, &created).ok());
  REQUIRE(created.user().password_change_required());
  const std::string token =
      people.SignIn("new.one", created.one_time_password()).value().session_token();
  const Caller newcomer = people.CallerOf(token).value();
  REQUIRE(newcomer.roles == std::vector{v1::ROLE_NEWCOMER});
  const auto changed =
      ChangePassword(&people, newcomer, created.one_time_password(), "my own password");
  REQUIRE(changed.ok());
  REQUIRE(people.CallerOf(*changed).value().Has(v1::ROLE_ADMIN));
}

TEST_CASE("a user is not made with a bad name, role or password, nor twice") {
  PeopleFixture people;
  const Caller root = people.Enter("root");
  const auto create = [&](const std::string& name, v1::Role role, const std::string& password) {
    v1::CreateUserRequest request;
    request.set_user_name(name);
    request.set_role(role);
    request.set_password(password);
    v1::CreateUserResponse response;
    return people.Do(root, request, &response);
  };
  for (const char* name : {"", "Root", "1st", "a b", "-x", "a/b", "ä"}) {
    INFO(name);
    REQUIRE(absl::IsInvalidArgument(create(name, v1::ROLE_VIEWER, kPassword)));
  }
  REQUIRE(absl::IsInvalidArgument(create(std::string(65, 'a'), v1::ROLE_VIEWER, kPassword)));
  for (const v1::Role role : {v1::ROLE_UNSPECIFIED, v1::ROLE_ANYONE, v1::ROLE_MDM, v1::ROLE_SDS,
                              v1::ROLE_MGMT, v1::ROLE_NEWCOMER, static_cast<v1::Role>(99)}) {
    REQUIRE(absl::IsInvalidArgument(create("someone", role, kPassword)));
  }
  REQUIRE(absl::IsInvalidArgument(create("someone", v1::ROLE_VIEWER, "short")));
  REQUIRE(absl::IsAlreadyExists(create("jo", v1::ROLE_VIEWER, kPassword)));
  REQUIRE(create("someone", v1::ROLE_VIEWER, kPassword).ok());
  REQUIRE(people.SignIn("someone").ok());
}

TEST_CASE("users are listed by name in pages, without their hashes") {
  PeopleFixture people;
  const Caller root = people.Enter("root");
  std::vector<std::string> names;
  v1::ListUsersRequest request;
  request.set_page_size(1);
  do {
    v1::ListUsersResponse page;
    REQUIRE(people.Do(root, request, &page).ok());
    for (const v1::User& user : page.users()) names.push_back(user.user_name());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  REQUIRE(names == std::vector<std::string>{"jo", "root", "vi"});
}

TEST_CASE("a change of role, a lock and a reset of the password end the user's sessions") {
  PeopleFixture people;
  const Caller root = people.Enter("root");
  v1::UpdateUserRequest request;
  request.set_user_id(people.UserId("jo"));
  const auto ends_sessions = [&](const std::string& password) {
    const std::string token = people.SignIn("jo", password).value().session_token();
    const auto updated = Update(&people, root, request);
    REQUIRE(updated.ok());
    return !people.CallerOf(token).ok();
  };
  REQUIRE_FALSE(ends_sessions(kPassword));  // nothing changes
  request.set_role(v1::ROLE_VIEWER);
  REQUIRE(ends_sessions(kPassword));
  REQUIRE_FALSE(ends_sessions(kPassword));  // it has that role now
  request.set_locked(true);
  REQUIRE(ends_sessions(kPassword));
  REQUIRE_FALSE(people.SignIn("jo").ok());
  request.set_locked(false);
  REQUIRE(Update(&people, root, request).ok());
  request.set_reset_password(true);
  REQUIRE(ends_sessions(kPassword));
  REQUIRE_FALSE(people.SignIn("jo").ok());
  const std::string made_up = Update(&people, root, request).value().one_time_password();
  REQUIRE(people.SignIn("jo", made_up).value().user().password_change_required());
}

TEST_CASE("unlocking a user forgets wrong tries, too") {
  PeopleFixture people;
  for (int i = 0; i < 6; ++i) (void)people.SignIn("jo", "a wrong password");
  REQUIRE(absl::IsResourceExhausted(people.SignIn("jo").status()));
  REQUIRE(Update(&people, people.Enter("root"), Locking(people.UserId("jo"), false)).ok());
  REQUIRE(people.SignIn("jo").ok());
}

TEST_CASE("the last admin who can sign in is neither deleted, locked nor demoted") {
  PeopleFixture people;
  const Caller root = people.Enter("root");
  const uint64_t root_id = people.UserId("root");
  v1::UpdateUserRequest promote;
  promote.set_user_id(people.UserId("jo"));
  promote.set_role(v1::ROLE_ADMIN);
  REQUIRE(Update(&people, root, promote).ok());
  REQUIRE(Update(&people, root, Locking(people.UserId("jo"), true)).ok());
  // jo is an admin, but locked: root is the last.
  REQUIRE(ReasonOf(Update(&people, root, Locking(root_id, true)).status()) == "LAST_ADMIN");
  v1::UpdateUserRequest demote;
  demote.set_user_id(root_id);
  demote.set_role(v1::ROLE_OPERATOR);
  REQUIRE(ReasonOf(Update(&people, root, demote).status()) == "LAST_ADMIN");
  v1::DeleteUserRequest remove;
  remove.set_user_id(root_id);
  v1::DeleteUserResponse nothing;
  REQUIRE(ReasonOf(people.Do(root, remove, &nothing)) == "LAST_ADMIN");
  REQUIRE(people.CallerOf(people.SignIn("root").value().session_token()).ok());
  REQUIRE(Update(&people, root, Locking(people.UserId("jo"), false)).ok());
  REQUIRE(people.Do(root, remove, &nothing).ok());
  REQUIRE_FALSE(people.SignIn("root").ok());
}

TEST_CASE("a deleted user's sessions and tokens go along, and the id is never used again") {
  PeopleFixture people;
  const Caller root = people.Enter("root");
  const std::string session = people.SignIn("jo").value().session_token();
  const std::string token =
      MakeToken(&people, people.CallerOf(session).value(), v1::ROLE_OPERATOR).value().secret();
  const uint64_t id = people.UserId("jo");
  v1::DeleteUserRequest remove;
  remove.set_user_id(id);
  v1::DeleteUserResponse nothing;
  REQUIRE(people.Do(root, remove, &nothing).ok());
  REQUIRE_FALSE(people.CallerOf(session).ok());
  REQUIRE_FALSE(people.CallerOf(token).ok());
  REQUIRE(absl::IsNotFound(people.Do(root, remove, &nothing)));
  v1::CreateUserRequest create;
  create.set_user_name("jo");
  create.set_role(v1::ROLE_VIEWER);
  v1::CreateUserResponse created;
  REQUIRE(people.Do(root, create, &created).ok());
  REQUIRE(created.user().user_id() > id);
}

TEST_CASE("nobody makes a token with a greater role than his own") {
  PeopleFixture people;
  REQUIRE(
      absl::IsPermissionDenied(MakeToken(&people, people.Enter("jo"), v1::ROLE_ADMIN).status()));
  REQUIRE(
      absl::IsPermissionDenied(MakeToken(&people, people.Enter("vi"), v1::ROLE_OPERATOR).status()));
  REQUIRE(MakeToken(&people, people.Enter("jo"), v1::ROLE_VIEWER).ok());
  for (const v1::Role role : {v1::ROLE_UNSPECIFIED, v1::ROLE_ANYONE, v1::ROLE_MDM, v1::ROLE_MGMT}) {
    REQUIRE(absl::IsInvalidArgument(MakeToken(&people, people.Enter("root"), role).status()));
  }
}

TEST_CASE("a token does what its role says, and no more than its user may by now") {
  PeopleFixture people;
  const Caller root = people.Enter("root");
  const std::string viewer = MakeToken(&people, root, v1::ROLE_VIEWER).value().secret();
  REQUIRE(people.CallerOf(viewer).value().roles == std::vector{v1::ROLE_VIEWER});
  const std::string token =
      MakeToken(&people, people.Enter("jo"), v1::ROLE_OPERATOR).value().secret();
  REQUIRE(people.CallerOf(token).value().Has(v1::ROLE_OPERATOR));
  v1::UpdateUserRequest demote;
  demote.set_user_id(people.UserId("jo"));
  demote.set_role(v1::ROLE_VIEWER);
  REQUIRE(Update(&people, root, demote).ok());
  REQUIRE_FALSE(people.CallerOf(token).value().Has(v1::ROLE_OPERATOR));
  REQUIRE(Update(&people, root, Locking(people.UserId("jo"), true)).ok());
  REQUIRE_FALSE(people.CallerOf(token).ok());
}

TEST_CASE("a token makes no tokens and changes no password") {
  PeopleFixture people;
  const Caller script =
      people.CallerOf(MakeToken(&people, people.Enter("root"), v1::ROLE_ADMIN).value().secret())
          .value();
  REQUIRE(ReasonOf(MakeToken(&people, script, v1::ROLE_VIEWER).status()) == "SESSION_REQUIRED");
  REQUIRE(ReasonOf(ChangePassword(&people, script, kPassword, "another password").status()) ==
          "SESSION_REQUIRED");
}

TEST_CASE("a token ends when it says, and must say when") {
  PeopleFixture people;
  const Caller jo = people.Enter("jo");
  REQUIRE(absl::IsInvalidArgument(MakeToken(&people, jo, v1::ROLE_VIEWER, 0).status()));
  REQUIRE(
      absl::IsInvalidArgument(MakeToken(&people, jo, v1::ROLE_VIEWER, 366 * 86'400 + 1).status()));
  const std::string token = MakeToken(&people, jo, v1::ROLE_VIEWER, 60).value().secret();
  people.clock.AdvanceMillis(59'999);
  REQUIRE(people.CallerOf(token).ok());
  REQUIRE(people.authenticator->IsCredentialGood("token.1"));
  people.clock.AdvanceMillis(1);
  REQUIRE(absl::IsUnauthenticated(people.CallerOf(token).status()));
  REQUIRE_FALSE(people.authenticator->IsCredentialGood("token.1"));
}

TEST_CASE("tokens rest while their user's password has to be changed") {
  PeopleFixture people;
  const std::string token =
      MakeToken(&people, people.Enter("jo"), v1::ROLE_OPERATOR).value().secret();
  v1::UpdateUserRequest reset;
  reset.set_user_id(people.UserId("jo"));
  reset.set_reset_password(true);
  const std::string password =
      Update(&people, people.Enter("root"), reset).value().one_time_password();
  REQUIRE_FALSE(people.CallerOf(token).ok());
  const Caller jo = people.CallerOf(people.SignIn("jo", password).value().session_token()).value();
  REQUIRE(ChangePassword(&people, jo, password, "my own password").ok());
  REQUIRE(people.CallerOf(token).ok());
}

TEST_CASE("others than admins see and end only their own sessions and tokens") {
  PeopleFixture people;
  const Caller root = people.Enter("root");  // session 1
  const Caller jo = people.Enter("jo");      // session 2
  REQUIRE(MakeToken(&people, root, v1::ROLE_VIEWER).ok());
  REQUIRE(MakeToken(&people, jo, v1::ROLE_VIEWER).ok());
  v1::ListSessionsResponse sessions;
  REQUIRE(people.Do(jo, v1::ListSessionsRequest(), &sessions).ok());
  REQUIRE(sessions.sessions_size() == 1);
  REQUIRE(sessions.sessions(0).user_name() == "jo");
  REQUIRE(sessions.sessions(0).current());
  v1::ListApiTokensResponse tokens;
  REQUIRE(people.Do(jo, v1::ListApiTokensRequest(), &tokens).ok());
  REQUIRE(tokens.api_tokens_size() == 1);
  REQUIRE(tokens.api_tokens(0).user_name() == "jo");

  v1::EndSessionRequest end;
  end.set_session_id(1);
  v1::EndSessionResponse ended;
  const absl::Status others = people.Do(jo, end, &ended);
  end.set_session_id(99);
  REQUIRE(absl::IsNotFound(others));
  REQUIRE(people.Do(jo, end, &ended).code() == others.code());
  v1::RevokeApiTokenRequest revoke;
  revoke.set_api_token_id(1);
  v1::RevokeApiTokenResponse revoked;
  REQUIRE(absl::IsNotFound(people.Do(jo, revoke, &revoked)));

  sessions.Clear();
  REQUIRE(people.Do(root, v1::ListSessionsRequest(), &sessions).ok());
  REQUIRE(sessions.sessions_size() == 2);
  end.set_session_id(2);
  REQUIRE(people.Do(root, end, &ended).ok());
  REQUIRE_FALSE(people.authenticator->IsCredentialGood("session.2"));
  revoke.set_api_token_id(2);
  REQUIRE(people.Do(root, revoke, &revoked).ok());
  REQUIRE_FALSE(people.authenticator->IsCredentialGood("token.2"));
}

TEST_CASE("a person with a client certificate is somebody, but no user") {
  PeopleFixture people;
  Caller certificate;
  certificate.name = "spiffe://cluster/admin/1";
  certificate.roles = {v1::ROLE_ADMIN, v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
  v1::GetCurrentUserResponse who;
  REQUIRE(people.Do(certificate, v1::GetCurrentUserRequest(), &who).ok());
  REQUIRE(who.user().user_id() == 0);
  REQUIRE(who.user().user_name() == certificate.name);
  REQUIRE(who.user().role() == v1::ROLE_ADMIN);
  REQUIRE(ReasonOf(MakeToken(&people, certificate, v1::ROLE_ADMIN).status()) == "SESSION_REQUIRED");
  certificate.roles = {v1::ROLE_VIEWER};
  v1::ListSessionsResponse sessions;
  people.Enter("root");
  REQUIRE(people.Do(certificate, v1::ListSessionsRequest(), &sessions).ok());
  REQUIRE(sessions.sessions().empty());
}

TEST_CASE("the first start makes one admin whose password is good for changing it alone") {
  PeopleFixture people;
  REQUIRE(
      EnsureFirstAdmin(people.db.get(), people.hasher.get(), &people.clock, Keep).value().empty());
  people.Execute("DELETE FROM user_account");
  const std::string password =
      EnsureFirstAdmin(people.db.get(), people.hasher.get(), &people.clock, Keep).value();
  REQUIRE(password.size() == 23);
  const std::string token = people.SignIn("admin", password).value().session_token();
  REQUIRE(people.CallerOf(token).value().roles == std::vector{v1::ROLE_NEWCOMER});
}

TEST_CASE("a first password that can't be kept is good for nothing") {
  PeopleFixture people;
  people.Execute("DELETE FROM user_account");
  std::string lost;
  const auto status = EnsureFirstAdmin(people.db.get(), people.hasher.get(), &people.clock,
                                       [&](const std::string& password) {
                                         lost = password;
                                         return absl::ResourceExhaustedError("the disk is full");
                                       });
  REQUIRE(absl::IsResourceExhausted(status.status()));
  REQUIRE_FALSE(people.SignIn("admin", lost).ok());
  REQUIRE(people.Rows("user_account") == 0);
}

TEST_CASE("who has forgotten everything gets admin back, and whoever had it is out") {
  PeopleFixture people;
  const std::string first =
      ResetFirstAdmin(people.db.get(), people.hasher.get(), &people.clock, Keep).value();
  const Caller admin =
      people.CallerOf(people.SignIn("admin", first).value().session_token()).value();
  const std::string session = ChangePassword(&people, admin, first, "my own password").value();
  const std::string token =
      MakeToken(&people, people.CallerOf(session).value(), v1::ROLE_ADMIN).value().secret();
  REQUIRE(Update(&people, people.Enter("root"), Locking(people.UserId("admin"), true)).ok());
  const std::string second =
      ResetFirstAdmin(people.db.get(), people.hasher.get(), &people.clock, Keep).value();
  REQUIRE_FALSE(people.CallerOf(session).ok());
  REQUIRE_FALSE(people.CallerOf(token).ok());
  REQUIRE_FALSE(people.SignIn("admin", first).ok());
  REQUIRE_FALSE(people.SignIn("admin", "my own password").ok());
  const Caller again =
      people.CallerOf(people.SignIn("admin", second).value().session_token()).value();
  // Not even afterwards: it may have been the thief's.
  REQUIRE(ChangePassword(&people, again, second, "yet another password").ok());
  REQUIRE_FALSE(people.CallerOf(token).ok());
}

TEST_CASE("on a full disk a change fails with RESOURCE_EXHAUSTED and nothing is changed") {
  PeopleFixture people;
  const Caller root = people.Enter("root");
  const std::string before = people.SignIn("jo").value().session_token();
  people.Execute("PRAGMA max_page_count=1");  // the least that SQLite takes: what there is now
  int created = 0;
  absl::Status status;
  for (; created < 1000; ++created) {
    v1::CreateUserRequest request;
    request.set_user_name(absl::StrCat("user", created));
    request.set_role(v1::ROLE_VIEWER);
    request.set_password(kPassword);
    v1::CreateUserResponse response;
    status = people.Do(root, request, &response);
    if (!status.ok()) break;
  }
  INFO(status.ToString());
  REQUIRE(absl::IsResourceExhausted(status));
  REQUIRE(people.Rows("user_account") == 3 + static_cast<uint64_t>(created));
  // Who is signed in is let in still.
  people.clock.AdvanceMillis(120'000);
  REQUIRE(people.CallerOf(before).ok());
  people.Execute("PRAGMA max_page_count=1000000");
  REQUIRE(people.SignIn("vi").ok());
}

TEST_CASE("a user has at most a hundred sessions: the oldest make room") {
  PeopleFixture people;
  const std::string first = people.SignIn("jo").value().session_token();
  for (uint64_t i = 0; i < kSessionsOfUserMax; ++i) REQUIRE(people.SignIn("jo").ok());
  REQUIRE(people.Rows("user_session") == kSessionsOfUserMax);
  REQUIRE_FALSE(people.CallerOf(first).ok());
}

}  // namespace
}  // namespace tessera::mgmt
