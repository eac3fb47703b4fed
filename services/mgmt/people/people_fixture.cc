#include "services/mgmt/people/people_fixture.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "services/common/sql.h"
#include "services/mgmt/people/people_schema.h"

namespace tessera::mgmt {
namespace {

constexpr PasswordHasherOptions kCheapHashes{.memory_bytes = 8192, .passes = 1};

}  // namespace

PeopleFixture::PeopleFixture() {
  std::string path = (std::filesystem::temp_directory_path() / "mgmt-people-XXXXXX").string();
  REQUIRE(mkdtemp(path.data()) != nullptr);
  folder = path;
  Reopen();
  const std::string hash = hasher->Hash(kPassword).value();
  REQUIRE(db->Write([&](SQLite::Database& database) {
              const auto add = [&](const char* name, v1::Role role) {
                UserRow row;
                row.password_hash = hash;
                row.user.set_user_name(name);
                row.user.set_role(role);
                row.user.set_created_ms(clock.WallMillis());
                InsertUser(database, row);
              };
              add("root", v1::ROLE_ADMIN);
              add("jo", v1::ROLE_OPERATOR);
              add("vi", v1::ROLE_VIEWER);
              return absl::OkStatus();
            }).ok());
}

PeopleFixture::~PeopleFixture() {
  auth.reset();
  authenticator.reset();
  db.reset();
  std::filesystem::remove_all(folder);
}

void PeopleFixture::Reopen() {
  auth.reset();
  authenticator.reset();
  db.reset();
  metrics = std::make_unique<MetricRegistry>("mgmt");
  db = MgmtDb::Open(folder + "/mgmt.db", {kPeopleSchema}).value();
  hasher = PasswordHasher::Create(kCheapHashes).value();
  limiter = std::make_unique<SignInLimiter>();
  authenticator = std::make_unique<MgmtAuthenticator>(db.get(), limits, &clock);
  AuthService::Parts parts;
  parts.db = db.get();
  parts.hasher = hasher.get();
  parts.limiter = limiter.get();
  parts.clock = &clock;
  parts.metrics = metrics.get();
  parts.limits = limits;
  auth = std::make_unique<AuthService>(nullptr, parts);
}

absl::StatusOr<v1::SignInResponse> PeopleFixture::SignIn(const std::string& user_name,
                                                         const std::string& password,
                                                         const std::string& peer,
                                                         const std::string& authorization) {
  v1::SignInRequest request;
  request.set_user_name(user_name);
  request.set_password(password);
  // A method for anyone: a credential that is no good makes a caller who is nobody.
  Caller caller = authenticator->Authenticate(authorization).value_or(Caller{});
  caller.peer = peer;
  v1::SignInResponse response;
  const absl::Status status = auth->Do(
      caller, [this](const std::string& token) { cookie = token; }, request, &response);
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<Caller> PeopleFixture::CallerOf(const std::string& bearer) const {
  absl::StatusOr<Caller> caller = authenticator->Authenticate("Bearer " + bearer);
  if (caller.ok()) caller->peer = kDesk;
  return caller;
}

Caller PeopleFixture::Enter(const std::string& user_name) {
  return CallerOf(SignIn(user_name).value().session_token()).value();
}

uint64_t PeopleFixture::UserId(const std::string& user_name) {
  uint64_t user_id = 0;
  REQUIRE(db->Read([&](SQLite::Database& database) {
              user_id = FindUserByName(database, user_name).value().user.user_id();
              return absl::OkStatus();
            }).ok());
  return user_id;
}

void PeopleFixture::Execute(const std::string& sql) {
  const absl::Status status = db->Read([&](SQLite::Database& database) {
    database.exec(sql);
    return absl::OkStatus();
  });
  INFO(status.ToString());
  REQUIRE(status.ok());
}

uint64_t PeopleFixture::Rows(const std::string& table) {
  uint64_t rows = 0;
  REQUIRE(db->Read([&](SQLite::Database& database) {
              Sql query(database, absl::StrCat("SELECT count(*) FROM ", table).c_str());
              rows = query.Next() ? query.Unsigned(0) : 0;
              return absl::OkStatus();
            }).ok());
  return rows;
}

}  // namespace tessera::mgmt
