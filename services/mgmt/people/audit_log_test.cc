#include "services/mgmt/people/audit_log.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/mgmt/people/audit_rules.h"
#include "services/mgmt/people/audit_service.h"
#include "services/mgmt/people/people_fixture.h"
#include "tessera/v1/alert.pb.h"
#include "tessera/v1/console.pb.h"
#include "tessera/v1/discovery.pb.h"
#include "tessera/v1/health.pb.h"
#include "tessera/v1/monitoring.pb.h"
#include "tessera/v1/operation.pb.h"
#include "tessera/v1/placement.pb.h"
#include "tessera/v1/repair.pb.h"
#include "tessera/v1/schedule.pb.h"
#include "tessera/v1/scrub.pb.h"
#include "tessera/v1/token.pb.h"
#include "tessera/v1/topology.pb.h"
#include "tessera/v1/usage.pb.h"
#include "tessera/v1/volume.pb.h"

namespace tessera::mgmt {
namespace {

constexpr char kDeleteVolume[] = "tessera.v1.VolumeService/DeleteVolume";

Caller Jo() {
  Caller caller;
  caller.name = "jo";
  caller.credential = "session.7";
  caller.peer = kDesk;
  caller.roles = {v1::ROLE_OPERATOR, v1::ROLE_VIEWER};
  return caller;
}

class Fixture : public PeopleFixture {
 public:
  explicit Fixture(uint64_t bytes_max = kAuditBytesMax)
      : log(AuditLog::Open(db.get(), &clock, metrics.get(), bytes_max).value()) {}

  void Delete(uint64_t volume_id, const absl::Status& result = absl::OkStatus()) {
    v1::DeleteVolumeRequest request;
    request.set_volume_id(volume_id);
    log->Observe(Jo(), kDeleteVolume, request, result);
  }
  std::vector<v1::AuditEntry> All() { return log->List({}, 0, 1000).value(); }
  std::string Problem() { return log->Verify().value().problem(); }
  // As somebody who owns the file: triggers are dropped first.
  void Tamper(const std::string& sql) {
    Execute(
        "DROP TRIGGER audit_entry_is_never_changed; DROP TRIGGER audit_entry_is_never_deleted;" +
        sql);
  }

  std::unique_ptr<AuditLog> log;
};

TEST_CASE(
    "an entry says who changed what, by which credential, from where, when, with what result") {
  Fixture audit;
  audit.Delete(5, absl::NotFoundError("there is no volume 5"));
  const auto entries = audit.All();
  REQUIRE(entries.size() == 1);
  REQUIRE(entries[0].audit_id() == 1);
  REQUIRE(entries[0].time_ms() == audit.clock.WallMillis());
  REQUIRE(entries[0].user_name() == "jo");
  REQUIRE(entries[0].credential() == "session.7");
  REQUIRE(entries[0].peer() == "192.0.2.7");
  REQUIRE(entries[0].method() == kDeleteVolume);
  REQUIRE(entries[0].request_json() == R"({"volume_id":"5"})");
  REQUIRE(entries[0].result() == "NOT_FOUND");
  REQUIRE(entries[0].error_message() == "there is no volume 5");
  REQUIRE(entries[0].hash().size() == 32);
}

TEST_CASE("what only reads is not recorded, nor what nobody in particular was refused") {
  Fixture audit;
  audit.log->Observe(Jo(), "tessera.v1.VolumeService/GetVolume", v1::GetVolumeRequest(),
                     absl::OkStatus());
  Caller nobody;
  nobody.peer = kElsewhere;
  audit.log->Observe(nobody, kDeleteVolume, v1::DeleteVolumeRequest(),
                     absl::UnauthenticatedError("sign in first"));
  v1::SignInRequest sign_in;
  sign_in.set_user_name("root");
  audit.log->Observe(nobody, kSignInMethod, sign_in, absl::ResourceExhaustedError("too many"));
  REQUIRE(audit.All().empty());
  audit.log->Observe(Jo(), kDeleteVolume, v1::DeleteVolumeRequest(),
                     absl::PermissionDeniedError("not yours"));
  audit.log->Observe(nobody, kSignInMethod, sign_in, absl::UnauthenticatedError("wrong"));
  const auto entries = audit.All();
  REQUIRE(entries.size() == 2);
  REQUIRE(entries[1].result() == "PERMISSION_DENIED");
  REQUIRE(entries[0].user_name() == "root");
  REQUIRE(entries[0].credential() == "none");
}

TEST_CASE("passwords, secrets and tokens are masked, at any depth; page tokens are not") {
  v1::SignInRequest sign_in;
  sign_in.set_user_name("jo");
  sign_in.set_password("hunter2hunter2");
  REQUIRE(MaskedJson(sign_in) == R"({"user_name":"jo","password":"***"})");
  v1::ChangePasswordRequest change;
  change.set_old_password("hunter2");
  change.set_new_password("hunter3");
  REQUIRE_FALSE(absl::StrContains(MaskedJson(change), "hunter"));
  v1::CreateApiTokenResponse token;
  token.set_secret("token.1.hunter2");
  token.mutable_api_token()->set_description("for backups");
  REQUIRE_FALSE(absl::StrContains(MaskedJson(token), "hunter"));
  REQUIRE(absl::StrContains(MaskedJson(token), "for backups"));
  v1::NodeIdentity join;
  join.set_join_token("hunter2");
  REQUIRE_FALSE(absl::StrContains(MaskedJson(join), "hunter"));
  v1::ListUsersRequest list;
  list.set_page_token("jo");
  REQUIRE(MaskedJson(list) == R"({"page_token":"jo"})");
}

TEST_CASE("no field of any request that could hold a secret is shown") {
  // All messages of the API: whatever is called like a secret, and is text or bytes, is masked.
  std::set<std::string> secret_words;
  for (const google::protobuf::FileDescriptor* descriptor :
       {v1::SignInRequest::descriptor()->file(), v1::NodeIdentity::descriptor()->file(),
        v1::TokenRecord::descriptor()->file(), v1::Volume::descriptor()->file(),
        v1::GetTopologyRequest::descriptor()->file()}) {
    for (int i = 0; i < descriptor->message_type_count(); ++i) {
      const auto* type = descriptor->message_type(i);
      const std::unique_ptr<google::protobuf::Message> message(
          google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
      for (int j = 0; j < type->field_count(); ++j) {
        const auto* field = type->field(j);
        if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_STRING) continue;
        const bool secret = absl::StrContains(field->name(), "password") ||
                            absl::StrContains(field->name(), "secret") ||
                            (absl::EndsWith(field->name(), "token") &&
                             !absl::EndsWith(field->name(), "page_token"));
        if (!secret || field->is_repeated()) continue;
        message->GetReflection()->SetString(message.get(), field, "hunter2hunter2");
        secret_words.insert(field->full_name());
      }
      INFO(type->full_name());
      REQUIRE_FALSE(absl::StrContains(MaskedJson(*message), "hunter2"));
      // Bytes are shown in base64.
      REQUIRE_FALSE(absl::StrContains(MaskedJson(*message), "aHVudGVyM"));
    }
  }
  REQUIRE(secret_words.size() >= 8);
}

TEST_CASE("a password that was typed where the name belongs is not kept") {
  Fixture audit;
  v1::SignInRequest request;
  request.set_user_name("My Secret Passw0rd");
  audit.log->Observe(Caller{}, kSignInMethod, request, absl::UnauthenticatedError("wrong"));
  const auto entries = audit.All();
  REQUIRE(entries.size() == 1);
  REQUIRE(entries[0].user_name() == "***");
  REQUIRE_FALSE(absl::StrContains(entries[0].DebugString(), "Secret"));
}

TEST_CASE("a request is shown in at most 4 KiB of JSON, and still is JSON") {
  v1::CreateVolumeRequest request;
  for (const char* filling : {"x", "\"", "\u00e4", "<", "\n"}) {
    std::string name;
    while (name.size() < 20'000) name += filling;
    request.set_name(name);
    const std::string json = MaskedJson(request);
    REQUIRE(json.size() <= kRequestJsonBytesMax);
    REQUIRE(json.size() > 500);
    REQUIRE(absl::StartsWith(json, "{\"truncated\":\""));
    REQUIRE(absl::EndsWith(json, "\"}"));
  }
}

TEST_CASE("entries are listed newest first, by page, user, method, time and failure") {
  Fixture audit;
  for (uint64_t i = 1; i <= 5; ++i) {
    audit.Delete(i, i == 3 ? absl::AbortedError("no") : absl::OkStatus());
    audit.clock.AdvanceMillis(1000);
  }
  AuditService service(nullptr, audit.log.get());
  v1::ListAuditEntriesRequest request;
  request.set_page_size(2);
  std::vector<uint64_t> ids;
  do {
    v1::ListAuditEntriesResponse page;
    REQUIRE(service.Do(request, &page).ok());
    for (const auto& entry : page.entries()) ids.push_back(entry.audit_id());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  REQUIRE(ids == std::vector<uint64_t>{5, 4, 3, 2, 1});

  const auto count = [&](auto set) {
    v1::ListAuditEntriesRequest conditions;
    set(&conditions);
    v1::ListAuditEntriesResponse found;
    REQUIRE(service.Do(conditions, &found).ok());
    return found.entries_size();
  };
  const uint64_t third_ms = audit.All()[2].time_ms();
  REQUIRE(count([](auto* c) { c->set_failed_only(true); }) == 1);
  REQUIRE(count([](auto* c) { c->set_user_name("jo"); }) == 5);
  REQUIRE(count([](auto* c) { c->set_user_name("root"); }) == 0);
  REQUIRE(count([](auto* c) { c->set_method_contains("Volume"); }) == 5);
  REQUIRE(count([](auto* c) { c->set_method_contains("%"); }) == 0);
  REQUIRE(count([&](auto* c) { c->set_from_ms(third_ms); }) == 3);
  REQUIRE(count([&](auto* c) { c->set_until_ms(third_ms); }) == 2);
  REQUIRE(count([](auto* c) { c->set_until_ms(UINT64_MAX); }) == 5);
  request.set_page_token("nonsense");
  v1::ListAuditEntriesResponse none;
  REQUIRE(absl::IsInvalidArgument(service.Do(request, &none)));
}

TEST_CASE("the database itself refuses to change or delete an entry") {
  Fixture audit;
  audit.Delete(1);
  for (const char* sql : {"UPDATE audit_entry SET user_name = 'x'", "DELETE FROM audit_entry",
                          "INSERT OR REPLACE INTO audit_entry SELECT * FROM audit_entry"}) {
    const absl::Status status = audit.db->Write([&](SQLite::Database& db) {
      db.exec(sql);
      return absl::OkStatus();
    });
    INFO(sql);
    REQUIRE_FALSE(status.ok());
  }
  REQUIRE(audit.Problem().empty());
}

TEST_CASE("a chain that nobody touched is whole, also after a restart") {
  Fixture audit;
  for (uint64_t i = 1; i <= 1200; ++i) audit.Delete(i);
  auto verdict = audit.log->Verify().value();
  REQUIRE(verdict.problem().empty());
  REQUIRE(verdict.entries() == 1200);
  REQUIRE(verdict.last_hash() == audit.All()[0].hash());
  audit.log.reset();
  audit.Reopen();
  audit.log = AuditLog::Open(audit.db.get(), &audit.clock, audit.metrics.get()).value();
  audit.Delete(1201);
  verdict = audit.log->Verify().value();
  REQUIRE(verdict.problem().empty());
  REQUIRE(verdict.entries() == 1201);
}

TEST_CASE("every field of an entry is under its hash") {
  for (const char* change :
       {"time_ms = time_ms + 1", "user_name = 'root'", "credential = 'none'", "peer = '::1'",
        "method = 'tessera.v1.VolumeService/GetVolume'", "request_json = '{}'", "result = 'OK'",
        "error_message = ''", "hash = zeroblob(32)"}) {
    Fixture audit;
    for (uint64_t i = 1; i <= 5; ++i) audit.Delete(i, absl::AbortedError("no"));
    audit.Tamper(absl::StrCat("UPDATE audit_entry SET ", change, " WHERE id = 3"));
    INFO(change);
    REQUIRE(audit.Problem() == "entry 3 was altered");
  }
}

TEST_CASE("moving bytes from one field to the next shows") {
  Fixture audit;
  audit.Delete(1);
  audit.Tamper("UPDATE audit_entry SET user_name = 'josess', credential = 'ion.7'");
  REQUIRE(audit.Problem() == "entry 1 was altered");
}

TEST_CASE("entries that were taken out show, in the middle, at the beginning and at the end") {
  const auto problem_without = [](const std::string& condition) {
    Fixture audit;
    for (uint64_t i = 1; i <= 6; ++i) audit.Delete(i);
    audit.Tamper("DELETE FROM audit_entry WHERE " + condition);
    audit.log = AuditLog::Open(audit.db.get(), &audit.clock, audit.metrics.get()).value();
    return audit.Problem();
  };
  REQUIRE(problem_without("id = 3") == "entry 3 is missing");
  REQUIRE(problem_without("id IN (2, 3)") == "entries 2 to 3 are missing");
  REQUIRE(problem_without("id = 1") == "entry 1 is missing");
  REQUIRE(problem_without("id > 4") == "entries 5 to 6 are missing at the end");
}

TEST_CASE("an end that was cut off shows also when the log has gone on") {
  Fixture audit;
  for (uint64_t i = 1; i <= 6; ++i) audit.Delete(i);
  audit.Tamper("DELETE FROM audit_entry WHERE id > 4");
  audit.Delete(7);
  REQUIRE(audit.Problem() == "entries 5 to 6 are missing");
}

TEST_CASE(
    "an end that was cut off together with SQLite's own count shows while the process lives") {
  Fixture audit;
  for (uint64_t i = 1; i <= 6; ++i) audit.Delete(i);
  audit.Tamper("DELETE FROM audit_entry WHERE id > 4; DELETE FROM sqlite_sequence");
  REQUIRE(audit.Problem() == "entries 5 to 6 are missing at the end");
}

TEST_CASE("a log that is full lets its oldest entries go, says so, and stays whole") {
  Fixture audit(20'000);
  for (uint64_t i = 1; i <= 500; ++i) audit.Delete(i);
  const auto entries = audit.All();
  REQUIRE(entries.size() < 150);
  REQUIRE(entries.back().audit_id() > 300);
  bool said = false;
  for (const auto& entry : entries) said |= entry.method() == kTrimMethod;
  REQUIRE(said);
  REQUIRE(audit.Problem().empty());
  // And the count of bytes that it goes by is the database's.
  audit.log = AuditLog::Open(audit.db.get(), &audit.clock, audit.metrics.get(), 20'000).value();
  for (uint64_t i = 1; i <= 500; ++i) audit.Delete(i);
  REQUIRE(audit.All().size() < 150);
  REQUIRE(audit.Problem().empty());
}

TEST_CASE("an anchor that the log does not speak of hides nothing") {
  Fixture audit;
  for (uint64_t i = 1; i <= 6; ++i) audit.Delete(i);
  audit.Execute(
      "INSERT INTO audit_anchor SELECT id, hash FROM audit_entry WHERE id = 3;"
      "DELETE FROM audit_entry WHERE id <= 3");
  REQUIRE(audit.Problem() == "entries up to 3 are missing");
}

TEST_CASE("on a full disk entries wait in memory and are written when there is room") {
  Fixture audit;
  audit.Delete(1);
  audit.Execute("PRAGMA max_page_count=1");
  uint64_t deleted = 1;
  const uint64_t limit = 2000;
  const auto written = [&] { return audit.Rows("audit_entry"); };
  while (written() == deleted && deleted < limit) audit.Delete(++deleted);
  REQUIRE(deleted < limit);
  for (int i = 0; i < 5; ++i) audit.Delete(++deleted);
  REQUIRE(written() < deleted);
  audit.Execute("PRAGMA max_page_count=1000000");
  audit.Delete(++deleted);
  REQUIRE(written() == deleted);
  REQUIRE(audit.Problem().empty());
  REQUIRE(absl::StrContains(audit.All()[1].request_json(), absl::StrCat(deleted - 1)));
}

TEST_CASE("every method that the console can reach is known to be a change or not") {
  std::set<std::string> reads;
  std::set<std::string> changes;
  for (const google::protobuf::FileDescriptor* file :
       {v1::SignInRequest::descriptor()->file(), v1::AuditEntry::descriptor()->file(),
        v1::Alert::descriptor()->file(), v1::Setting::descriptor()->file(),
        v1::GetStatusRequest::descriptor()->file(), v1::Volume::descriptor()->file(),
        v1::GetTopologyRequest::descriptor()->file(), v1::Operation::descriptor()->file(),
        v1::SnapshotSchedule::descriptor()->file(), v1::GetUsageRequest::descriptor()->file(),
        v1::RepairSettings::descriptor()->file(), v1::ScrubSettings::descriptor()->file(),
        v1::NodeMetrics::descriptor()->file(), v1::Replica::descriptor()->file(),
        v1::TokenRecord::descriptor()->file(), v1::NodeIdentity::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) {
      const auto* service = file->service(i);
      for (int j = 0; j < service->method_count(); ++j) {
        const std::string name = service->method(j)->name();
        const bool change = IsChange(absl::StrCat(service->full_name(), "/", name));
        (change ? changes : reads).insert(name);
        // Who may only look can't reach a change, whatever it is called; but for what everybody
        // does about himself.
        const auto& roles = service->method(j)->options().GetExtension(v1::access).roles();
        const bool viewers = std::find(roles.begin(), roles.end(), v1::ROLE_VIEWER) != roles.end();
        static const std::set<std::string> kOwn{"ChangePassword", "EndSession", "CreateApiToken",
                                                "RevokeApiToken"};
        INFO(service->full_name() << "/" << name);
        CHECK((!change || !viewers || kOwn.count(name) > 0));
      }
    }
  }
  REQUIRE(changes.count("SignIn") == 1);
  REQUIRE(changes.count("DeleteVolume") == 1);
  REQUIRE(changes.count("AcknowledgeAlert") == 1);
  REQUIRE(reads.count("ExplainLatency") + reads.count("QueryHistory") >= 1);
  REQUIRE(reads.count("VerifyAuditLog") == 1);
  REQUIRE(IsChange("tessera.v1.X/GetawayCar"));
  REQUIRE(IsChange("tessera.v1.X/Listen"));
  REQUIRE_FALSE(IsChange("tessera.v1.X/List"));
  REQUIRE_FALSE(IsChange("GetThing"));
}

}  // namespace
}  // namespace tessera::mgmt
