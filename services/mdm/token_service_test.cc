// Tokens, what became of them, and keys.
#include <catch2/catch.hpp>

#include "libtoken/token.h"
#include "services/mdm/mdm_fixture.h"

namespace tessera::mdm {
namespace {

using grpc::StatusCode;

TEST_CASE_METHOD(ClusterFixture, "a write token is its volume's writer for one write") {
  const v1::Volume volume = MakeVolume("v");
  v1::RequestTokenRequest request;
  request.set_volume_name("v");
  request.set_operation(v1::IO_OPERATION_TYPE_WRITE);
  request.set_offset_bytes((1 << 20) - 4096);
  request.set_length_bytes(8192);
  v1::RequestTokenResponse response;
  auto ask = TESSERA_CALL(TokenService, RequestToken);
  REQUIRE(Call(ask, request, &response).ok());
  REQUIRE(response.plan_size() == 4);  // two chunks on two servers
  CHECK(response.hmac().size() == 32);
  v1::VerifyTokenRequest verify;
  v1::VerifyTokenResponse verdict;
  auto check = TESSERA_CALL(TokenService, VerifyToken);
  for (const v1::PlannedOperation& planned : response.plan()) {
    *verify.mutable_operation() = planned.operation();
    verify.set_sds_id(planned.sds_id());
    REQUIRE(Call(check, verify, &verdict).ok());
    INFO(verdict.refusal());
    CHECK(verdict.valid());
  }
  verify.mutable_operation()->mutable_operation()->set_length_bytes(512);
  REQUIRE(Call(check, verify, &verdict).ok());
  CHECK(verdict.refusal() == "bad_signature");
  v1::RequestTokenResponse second;
  CHECK(Reason(Call(ask, request, &second)) == "WRITE_TOKEN_OUT");
  CHECK(Map(volume, client).error_code() == StatusCode::FAILED_PRECONDITION);
  // Both servers acknowledge: it is done, and the next may come.
  for (FakeSds* sds : {&a, &b}) {
    v1::AckTokensRequest ack;
    ack.set_incarnation(1);
    ack.set_report_sequence(1);
    v1::TokenAck* entry = ack.add_acks();
    entry->set_token_id(response.token_id());
    entry->set_writes(2);
    entry->set_write_bytes(8192);
    v1::AckTokensResponse acknowledged;
    auto report = TESSERA_CALL(TokenService, AckTokens);
    REQUIRE(Call(report, ack, &acknowledged, "sds", sds->sds_id, sds->secret).ok());
    REQUIRE(Call(report, ack, &acknowledged, "sds", sds->sds_id, sds->secret).ok());
  }
  v1::GetTokenRequest get;
  get.set_token_id(response.token_id());
  v1::GetTokenResponse record;
  REQUIRE(Call(TESSERA_CALL(TokenService, GetToken), get, &record).ok());
  CHECK(record.token().state() == v1::TOKEN_STATE_ACKNOWLEDGED);
  CHECK(record.token().writes() == 4);
  CHECK(Call(ask, request, &second).ok());
}

TEST_CASE_METHOD(ClusterFixture, "tokens outside the volume or of a mapped one are refused") {
  const v1::Volume volume = MakeVolume("v");
  v1::RequestTokenRequest request;
  request.set_volume_name("v");
  request.set_operation(v1::IO_OPERATION_TYPE_READ);
  request.set_offset_bytes(volume.size_bytes());
  request.set_length_bytes(512);
  v1::RequestTokenResponse response;
  auto ask = TESSERA_CALL(TokenService, RequestToken);
  CHECK(Call(ask, request, &response).error_code() == StatusCode::OUT_OF_RANGE);
  request.set_offset_bytes(1);
  CHECK(Call(ask, request, &response).error_code() == StatusCode::INVALID_ARGUMENT);
  request.set_offset_bytes(0);
  request.set_operation(v1::IO_OPERATION_TYPE_FLUSH);
  CHECK(Call(ask, request, &response).error_code() == StatusCode::INVALID_ARGUMENT);
  REQUIRE(Map(volume, client).ok());
  request.set_operation(v1::IO_OPERATION_TYPE_WRITE);
  CHECK(Reason(Call(ask, request, &response)) == "VOLUME_MAPPED");
  request.set_operation(v1::IO_OPERATION_TYPE_READ);
  CHECK(Call(ask, request, &response).ok());
}

TEST_CASE_METHOD(ClusterFixture, "ending tokens raises the generation at every server") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  REQUIRE(Acquire(volume, client, nullptr).ok());
  v1::ExpireTokensRequest request;
  v1::ExpireTokensResponse response;
  auto expire = TESSERA_CALL(TokenService, ExpireTokens);
  CHECK(Call(expire, request, &response).error_code() == StatusCode::INVALID_ARGUMENT);
  request.set_volume_id(volume.volume_id());
  REQUIRE(Call(expire, request, &response).ok());
  CHECK(response.expired() == 1);
  CHECK(a.GenerationOf(volume.volume_id()) == response.generation());
  v1::GetTokenStatsResponse stats;
  REQUIRE(Call(TESSERA_CALL(TokenService, GetTokenStats), v1::GetTokenStatsRequest(), &stats).ok());
  CHECK(stats.revoked() == 1);
  CHECK(stats.issued_total() == 1);
}

TEST_CASE_METHOD(ClusterFixture, "a new key signs once servers have it; the old one can go then") {
  const v1::Volume volume = MakeVolume("v");
  REQUIRE(Map(volume, client).ok());
  v1::RotateKeyResponse rotated;
  REQUIRE(Call(TESSERA_CALL(TokenService, RotateKey), v1::RotateKeyRequest(), &rotated).ok());
  CHECK(rotated.active_key_id() == 2);
  v1::IssuedGrant grant;
  REQUIRE(Acquire(volume, client, &grant).ok());
  CHECK(token::DecodeGrant(grant.grant())->key_id == 1);
  for (int i = 0; i < 2; ++i) {
    REQUIRE(Beat(&a).ok());
    REQUIRE(Beat(&b).ok());
  }
  CHECK(a.keys.size() == 2);
  v1::RevokeKeyRequest revoke;
  revoke.set_key_id(1);
  v1::RevokeKeyResponse revoked;
  auto take = TESSERA_CALL(TokenService, RevokeKey);
  CHECK(Reason(Call(take, revoke, &revoked)) == "KEY_IN_USE");
  REQUIRE(Acquire(volume, client, &grant).ok());
  CHECK(token::DecodeGrant(grant.grant())->key_id == 2);
  CHECK(Call(take, revoke, &revoked).ok());
  REQUIRE(Beat(&a).ok());
  CHECK(a.keys.size() == 1);
  CHECK(a.keys.contains(2));
  revoke.set_key_id(2);
  CHECK(Call(take, revoke, &revoked).error_code() == StatusCode::FAILED_PRECONDITION);
  revoke.set_key_id(9);
  CHECK(Call(take, revoke, &revoked).error_code() == StatusCode::NOT_FOUND);
  // Secrets of nodes do not hang on these keys.
  a.incarnation = 2;
  CHECK(Register(&a).ok());
}

}  // namespace
}  // namespace tessera::mdm
