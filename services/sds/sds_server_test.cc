// A whole server over real gRPC: what clients, the MDM and people get from it.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "services/common/crc32c.h"
#include "services/common/errors.h"
#include "services/common/placement_hash.h"
#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"
#include "services/sds/testing/test_store.h"
#include "tessera/v1/monitoring.grpc.pb.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kGroup = kTestPool * 65536;

std::string Block(char fill) { return std::string(4096, fill); }

// One server that is the only, in-sync member of kGroup, and a writer.
struct Single {
  explicit Single(StoreFaults* faults = nullptr)
      : sds(&mdm, "sds-a", faults == nullptr ? nullptr : FaultyStores(faults)),
        client(&mdm, &sds, NewGrant(mdm, 1, 5)) {
    mdm.Commit(GroupOf(kGroup, {{&sds, v1::REPLICA_ROLE_IN_SYNC}}));
    REQUIRE(sds.AwaitEpoch(kGroup, 1));
  }
  FakeMdm mdm;
  TestSds sds;
  TestClient client;
};

TEST_CASE("What was written is read, zeros elsewhere, in batches of any mixture") {
  Single single;
  TestClient& client = single.client;
  v1::IoRequest request;
  std::string payload;
  for (uint32_t i = 0; i < 20; ++i) {
    const std::string data = Block(static_cast<char>('a' + i));
    *request.add_operations() = client.NewWrite(kGroup, i % 3, (i / 3) * 4096, data);
    payload += data;
  }
  *request.add_operations() = client.NewFlush(kGroup);
  request.set_payload(payload);
  TestClient::Outcome outcome = client.Send(request);
  REQUIRE(outcome.results.size() == 21);
  for (const auto& [tag, result] : outcome.results) {
    CHECK(result.status() == v1::IO_STATUS_OK);
    CHECK(result.store_incarnation() != 0);
  }
  request.Clear();
  std::map<uint64_t, char> expected;
  for (uint32_t i = 0; i < 20; ++i) {
    const v1::IoOperation read = client.NewRead(kGroup, i % 3, (i / 3) * 4096, 4096);
    expected[read.tag()] = static_cast<char>('a' + i);
    *request.add_operations() = read;
  }
  outcome = client.Send(request);
  for (const auto& [tag, fill] : expected) CHECK(outcome.payload[tag] == Block(fill));
  CHECK(client.Read(kGroup, 9, 0, 4096).second == std::string(4096, '\0'));
}

TEST_CASE("Reads that wait for the disk are answered as well, and a bad block never is") {
  StoreFaults faults;
  Single single(&faults);
  REQUIRE(single.client.Write(kGroup, 0, 0, Block('x')) == v1::IO_STATUS_OK);
  faults.never_cached = true;
  CHECK(single.client.Read(kGroup, 0, 0, 4096).second == Block('x'));
  faults.read_corrupt = true;
  const auto [status, data] = single.client.Read(kGroup, 0, 0, 4096);
  CHECK(status == v1::IO_STATUS_CHECKSUM_ERROR);
  CHECK(data.empty());
}

TEST_CASE("Zeroing, trimming and mapping") {
  Single single;
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('x') + Block('y') + Block('z')) == v1::IO_STATUS_OK);
  for (const auto type : {v1::IO_OPERATION_TYPE_WRITE_ZEROES, v1::IO_OPERATION_TYPE_TRIM}) {
    v1::IoOperation operation = client.NewWrite(kGroup, 0, 0, Block('0'));
    operation.set_type(type);
    operation.set_offset_bytes(type == v1::IO_OPERATION_TYPE_TRIM ? 4096 : 0);
    operation.set_data_crc32c(0);
    client.Sign(&operation);
    REQUIRE(client.SendOne(operation).status() == v1::IO_STATUS_OK);
  }
  CHECK(client.Read(kGroup, 0, 0, 12'288).second == std::string(8192, '\0') + Block('z'));
  v1::IoOperation map = client.NewRead(kGroup, 0, 0, 16'384);
  map.set_type(v1::IO_OPERATION_TYPE_MAP);
  client.Sign(&map);
  const v1::IoResult result = client.SendOne(map);
  REQUIRE(result.status() == v1::IO_STATUS_OK);
  REQUIRE(result.extents_size() == 3);
  CHECK(result.extents(0).length_bytes() == 8192);
  CHECK_FALSE(result.extents(0).mapped());
  CHECK(result.extents(1).length_bytes() == 4096);
  CHECK(result.extents(1).mapped());
}

TEST_CASE("A repeated write is a duplicate, a later one a gap, and neither changes anything") {
  Single single;
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  client.next[kGroup] = 0;
  CHECK(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_DUPLICATE);
  client.next[kGroup] = 2;
  const v1::IoResult gap = client.SendOne(client.NewWrite(kGroup, 0, 0, Block('3')), Block('3'));
  CHECK(gap.status() == v1::IO_STATUS_SEQUENCE_GAP);
  CHECK(gap.expected_sequence() == 2);
  CHECK(client.Read(kGroup, 0, 0, 4096).second == Block('1'));
}

TEST_CASE("A store that failed where no operation met it is a failed device") {
  StoreFaults faults;
  Single single(&faults);
  IoEngine* engine = single.sds.server()->engine();
  const Device* device = engine->workers()[0]->device();
  engine->NoticeFailedDevices();
  CHECK_FALSE(device->failed());
  faults.failed = true;
  engine->NoticeFailedDevices();
  CHECK(device->failed());
  CHECK(device->Describe().failure() == "checkpoint error");
}

TEST_CASE("A replica tells its place in the order, and takes nothing") {
  Single single;
  TestClient& client = single.client;
  const auto place = [&](uint64_t generation) {
    v1::IoOperation ask = client.NewRead(kGroup, 0, 0, 512);
    ask.set_type(v1::IO_OPERATION_TYPE_POSITION);
    ask.set_generation(generation);
    client.Sign(&ask);
    return client.SendOne(ask);
  };
  const uint64_t generation = client.grant.generation;
  CHECK(place(generation).expected_sequence() == 1);
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  REQUIRE(client.Write(kGroup, 0, 4096, Block('2')) == v1::IO_STATUS_OK);
  const v1::IoResult answer = place(generation);
  CHECK(answer.status() == v1::IO_STATUS_OK);
  CHECK(answer.expected_sequence() == 3);
  CHECK(answer.payload_bytes() == 0);
  CHECK(client.Read(kGroup, 0, 0, 8192).second == Block('1') + Block('2'));
  CHECK(place(generation).expected_sequence() == 3);
}

TEST_CASE("A duplicate with forced unit access is made durable before it is answered") {
  StoreFaults faults;
  Single single(&faults);
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  const int before = faults.flushes;
  client.next[kGroup] = 0;
  v1::IoOperation again = client.NewWrite(kGroup, 0, 0, Block('1'));
  again.set_force_unit_access(true);
  CHECK(client.SendOne(again, Block('1')).status() == v1::IO_STATUS_DUPLICATE);
  CHECK(faults.flushes == before + 1);
}

TEST_CASE("The writes of one message are applied with few calls of the store") {
  StoreFaults faults;
  Single single(&faults);
  v1::IoRequest request;
  std::string payload;
  for (uint32_t i = 0; i < 100; ++i) {
    *request.add_operations() = single.client.NewWrite(kGroup, i, 0, Block('x'));
    payload += Block('x');
  }
  request.set_payload(payload);
  const int before = faults.applies;
  CHECK(single.client.Send(request).results.size() == 100);
  CHECK(faults.applies == before + 1);
}

TEST_CASE("A full device takes the sequence without the data, so that the order has no hole") {
  StoreFaults faults;
  Single single(&faults);
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  faults.full = true;
  v1::IoRequest request;
  v1::IoOperation trim = client.NewWrite(kGroup, 1, 0, Block('x'));
  trim.set_type(v1::IO_OPERATION_TYPE_TRIM);
  trim.set_data_crc32c(0);
  client.Sign(&trim);
  const v1::IoOperation second = client.NewWrite(kGroup, 0, 0, Block('2'));
  const v1::IoOperation third = client.NewWrite(kGroup, 0, 0, Block('3'));
  for (const v1::IoOperation& operation : {trim, second, third})
    *request.add_operations() = operation;
  request.set_payload(Block('2') + Block('3'));
  TestClient::Outcome outcome = client.Send(request);
  CHECK(outcome.results[trim.tag()].status() == v1::IO_STATUS_OK);
  CHECK(outcome.results[second.tag()].status() == v1::IO_STATUS_NO_SPACE);
  CHECK(outcome.results[third.tag()].status() == v1::IO_STATUS_NO_SPACE);
  CHECK(single.sds.store()->Cursor({1, kGroup}) == chunk::Version{5, 4});
  faults.full = false;
  CHECK(client.Write(kGroup, 0, 4096, Block('4')) == v1::IO_STATUS_OK);
  CHECK(client.Read(kGroup, 0, 0, 8192).second == Block('1') + Block('4'));
  // It has the version of those that took everything, and must not be taken for their equal.
  const auto chunks = single.sds.store()->ListChunks(kGroup, std::nullopt, 10);
  REQUIRE(chunks.ok());
  CHECK((*chunks)[0].version == chunk::Version{5, 5});
  CHECK((*chunks)[0].incomplete);
}

TEST_CASE("A device that fails a flush is failed for good, and says so everywhere") {
  StoreFaults faults;
  Single single(&faults);
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  faults.flush_fails = true;
  CHECK(client.SendOne(client.NewFlush(kGroup)).status() == v1::IO_STATUS_DEVICE_FAILED);
  faults.flush_fails = false;
  CHECK(client.SendOne(client.NewFlush(kGroup)).status() == v1::IO_STATUS_DEVICE_FAILED);
  CHECK(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_DEVICE_FAILED);
  CHECK(client.Read(kGroup, 0, 0, 4096).first == v1::IO_STATUS_DEVICE_FAILED);
  const auto stub = v1::MonitoringService::NewStub(NewChannel(
      single.sds.server()->endpoints().management(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext call;
  v1::GetStatusResponse status;
  REQUIRE(stub->GetStatus(&call, {}, &status).ok());
  CHECK(status.histograms_size() > 4);  // one of IO for each operation, and four
  CHECK(status.state() == v1::COMPONENT_STATE_DEGRADED);
  REQUIRE(status.problems_size() == 1);
  CHECK(status.problems(0).code() == "device_failed");
  grpc::ClientContext log_call;
  v1::ListHealthLogResponse log;
  REQUIRE(stub->ListHealthLog(&log_call, {}, &log).ok());
  REQUIRE(log.events_size() >= 1);
  CHECK(log.events(0).code() == "device_failed");
}

TEST_CASE("A write error fails the device, with every write of the batch") {
  StoreFaults faults;
  Single single(&faults);
  faults.apply_fails = true;
  CHECK(single.client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_DEVICE_FAILED);
  faults.apply_fails = false;
  CHECK(single.client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_DEVICE_FAILED);
}

TEST_CASE("Cursors, generations and the map survive a restart; tokens do not") {
  Single single;
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  REQUIRE(single.sds.RaiseGeneration(2, 9).ok());
  const v1::IoOperation old_token = client.NewRead(kGroup, 0, 0, 4096);
  single.sds.Restart();
  client.Connect();
  CHECK(client.SendOne(old_token).refusal() == v1::TOKEN_REFUSAL_WRONG_INCARNATION);
  CHECK(client.Read(kGroup, 0, 0, 4096).second == Block('1'));
  client.next[kGroup] = 0;
  CHECK(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_DUPLICATE);
  CHECK(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_OK);
  CHECK(single.sds.RaiseGeneration(2, 1)->generation() == 9);
}

TEST_CASE("A server that restarts while the MDM is away serves as before") {
  Single single;
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  REQUIRE(single.sds.RaiseGeneration(2, 9).ok());
  single.mdm.AwaitHeartbeat(single.sds.id());
  single.mdm.SetReachable(false);
  single.sds.RestartAlone();
  client.Connect();
  CHECK(client.Read(kGroup, 0, 0, 4096).second == Block('1'));
  CHECK(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_OK);
  CHECK(client.Read(kGroup, 0, 0, 4096).second == Block('2'));
  // What had ended before has not come back to life.
  TestClient old(&single.mdm, &single.sds, NewGrant(single.mdm, 2, 8));
  CHECK(old.Write(kGroup, 1, 0, Block('3')) != v1::IO_STATUS_OK);
  single.mdm.SetReachable(true);
  CHECK(single.mdm.AwaitRegistration("sds-a", 2));
  CHECK(client.Write(kGroup, 0, 0, Block('4')) == v1::IO_STATUS_OK);
}

TEST_CASE("A write without its data is never called done, also after a restart") {
  StoreFaults faults;
  Single single(&faults);
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  faults.full = true;
  REQUIRE(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_NO_SPACE);
  faults.full = false;
  const bool restarted = GENERATE(false, true);
  if (restarted) {
    single.sds.Restart();
    client.Connect();
  }
  client.next[kGroup] = 0;
  CHECK(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_DUPLICATE);
  CHECK(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_NO_SPACE);
  CHECK(client.Write(kGroup, 0, 4096, Block('3')) == v1::IO_STATUS_OK);
}

TEST_CASE("RaiseGeneration says the cursors, and ends the old writer before it answers") {
  Single single;
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  REQUIRE(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_OK);
  const auto raised = single.sds.RaiseGeneration(1, 6);
  REQUIRE(raised.ok());
  CHECK(raised->generation() == 6);
  REQUIRE(raised->cursors_size() == 1);
  CHECK(raised->cursors(0).last().generation() == 5);
  CHECK(raised->cursors(0).last().sequence() == 2);
  CHECK(raised->incarnation() == client.hello().incarnation());
  const token::Key receipt =
      token::SignMessage(single.mdm.SdsKeyOf(1, single.sds.id()), "fence",
                         token::FenceReceiptMessage(1, 6, single.sds.id(), raised->incarnation()));
  CHECK(raised->receipt_key_id() == 1);
  CHECK(raised->receipt() == std::string(receipt.begin(), receipt.end()));
  const v1::IoResult late = client.SendOne(client.NewWrite(kGroup, 0, 0, Block('3')), Block('3'));
  CHECK(late.status() == v1::IO_STATUS_STALE_GENERATION);
  CHECK(late.lowest_generation() == 6);
  // A grant proves a generation of which the MDM has not told yet.
  TestClient newer(&single.mdm, &single.sds, NewGrant(single.mdm, 1, 8));
  CHECK(newer.Write(kGroup, 0, 0, Block('4')) == v1::IO_STATUS_OK);
  CHECK(single.sds.RaiseGeneration(1, 6)->generation() == 8);
}

TEST_CASE("Under steady IO use is reported once a heartbeat, not without end") {
  Single single;
  const uint64_t id = single.sds.id();
  const FakeMdm::Node before = single.mdm.NodeOf(id);
  uint64_t heartbeats = 0;
  // Three beats' time of writes; each finds something new in the book.
  while (heartbeats < 3) {
    REQUIRE(single.client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
    heartbeats = single.mdm.NodeOf(id).heartbeats - before.heartbeats;
  }
  CHECK(single.mdm.NodeOf(id).ack_reports - before.ack_reports <= heartbeats + 1);
}

TEST_CASE("Control calls without the MDM's credentials are refused") {
  Single single;
  const auto control = single.sds.NewControlStub();
  v1::RaiseGenerationRequest request;
  request.set_volume_id(1);
  request.set_generation(99);
  v1::RaiseGenerationResponse response;
  grpc::ClientContext anonymous;
  CHECK(control->RaiseGeneration(&anonymous, request, &response).error_code() ==
        grpc::StatusCode::PERMISSION_DENIED);
  grpc::ClientContext forged;
  PrepareCall(&forged, 5'000, "Bearer mdm.1." + std::string(64, 'a'));
  CHECK(control->RaiseGeneration(&forged, request, &response).error_code() ==
        grpc::StatusCode::UNAUTHENTICATED);
  CHECK(single.client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
}

TEST_CASE("A writer shows the server a newer map entry, and a forged one changes nothing") {
  Single single;
  TestClient& client = single.client;
  v1::PlacementGroup group = single.mdm.Group(kGroup);
  const v1::SignedPlacementGroup entry = single.mdm.CommitSilently(group);
  client.epoch = 2;
  v1::IoOperation write = client.NewWrite(kGroup, 0, 0, Block('1'));
  const v1::IoResult unknown = client.SendOne(write, Block('1'));
  CHECK(unknown.status() == v1::IO_STATUS_UNKNOWN_EPOCH);
  CHECK(unknown.current_epoch() == 1);
  v1::IoRequest request;
  *request.add_placement_groups() = entry;
  *request.add_operations() = write;
  request.set_payload(Block('1'));
  CHECK(client.Send(request).results.begin()->second.status() == v1::IO_STATUS_OK);
  client.epoch = 1;
  CHECK(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_STALE_EPOCH);

  v1::SignedPlacementGroup forged = entry;
  group.set_epoch(50);
  forged.set_placement_group(group.SerializeAsString());
  request.Clear();
  client.epoch = 50;
  client.next[kGroup] = 1;
  *request.add_placement_groups() = forged;
  *request.add_operations() = client.NewWrite(kGroup, 0, 0, Block('3'));
  request.set_payload(Block('3'));
  CHECK(client.Send(request).results.begin()->second.status() == v1::IO_STATUS_UNKNOWN_EPOCH);
  CHECK(single.sds.server()->metrics()->map_refused->Value() == 1);
}

TEST_CASE("A chunk belongs to one placement group: another is refused") {
  Single single;
  v1::PoolLayout layout;
  layout.set_pool_id(kTestPool);
  layout.set_placement_group_count(64);
  layout.set_chunk_bytes(kTestChunkBytes);
  single.mdm.SetPools({layout});
  single.mdm.SetRole(kGroup, single.sds.device_id(), v1::REPLICA_ROLE_IN_SYNC);
  REQUIRE(single.sds.AwaitEpoch(kGroup, 2));
  single.client.epoch = 2;
  const uint64_t vtree = single.client.grant.vtree_id;
  uint64_t mine = 0;
  while (PlacementGroupIndex(vtree, mine, 64) != 0) ++mine;
  CHECK(single.client.Write(kGroup, mine, 0, Block('1')) == v1::IO_STATUS_OK);
  CHECK(single.client.Write(kGroup, mine + 1, 0, Block('1')) ==
        (PlacementGroupIndex(vtree, mine + 1, 64) == 0 ? v1::IO_STATUS_OK : v1::IO_STATUS_INVALID));
}

TEST_CASE("Out-of-sync replicas serve nobody; learners take writes and serve no reads") {
  Single single;
  single.mdm.SetRole(kGroup, single.sds.device_id(), v1::REPLICA_ROLE_OUT_OF_SYNC);
  REQUIRE(single.sds.AwaitEpoch(kGroup, 2));
  single.client.epoch = 2;
  CHECK(single.client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_NOT_MEMBER);
  CHECK(single.client.Read(kGroup, 0, 0, 4096).first == v1::IO_STATUS_NOT_MEMBER);
}

TEST_CASE(
    "A message whose payload is not that of its writes ends the stream, and nothing is written") {
  Single single;
  for (const size_t bytes : {size_t{4095}, size_t{4097}, size_t{0}}) {
    single.client.Connect();
    single.client.next[kGroup] = 0;
    v1::IoRequest request;
    *request.add_operations() = single.client.NewWrite(kGroup, 0, 0, Block('1'));
    request.set_payload(std::string(bytes, '1'));
    const TestClient::Outcome outcome = single.client.Send(request);
    CHECK(outcome.stream_ended);
    CHECK(outcome.end.error_code() == grpc::StatusCode::INVALID_ARGUMENT);
  }
  CHECK(single.sds.store()->Cursor({1, kGroup}) == chunk::Version{});
}

TEST_CASE("Grants are honoured longer while the MDM is away") {
  Single single;
  token::Grant grant = NewGrant(single.mdm, 1, 5);
  grant.grant_id += 7;
  grant.expiry_ms = single.mdm.NowMillis() - 1;
  grant.issued_ms = grant.expiry_ms - 1'000;
  TestClient client(&single.mdm, &single.sds, grant);
  const auto write_until = [&](bool refused) {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    v1::IoStatus status = v1::IO_STATUS_UNSPECIFIED;
    do {
      client.next[kGroup] = 0;
      status = client.Write(kGroup, 0, 0, Block('1'));
    } while ((status == v1::IO_STATUS_TOKEN_REFUSED) != refused &&
             std::chrono::steady_clock::now() < give_up);
    return status;
  };
  // A start that took more than some heartbeats is an outage, too, and honoured for a while.
  CHECK(write_until(true) == v1::IO_STATUS_TOKEN_REFUSED);
  single.mdm.SetReachable(false);
  CHECK(write_until(false) != v1::IO_STATUS_TOKEN_REFUSED);
  single.mdm.SetReachable(true);
  CHECK(write_until(true) == v1::IO_STATUS_TOKEN_REFUSED);
}

TEST_CASE("What was done under a grant is reported to the MDM once") {
  Single single;
  REQUIRE(single.client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  REQUIRE(single.client.Read(kGroup, 0, 0, 4096).first == v1::IO_STATUS_OK);
  single.mdm.AwaitHeartbeat(single.sds.id());
  single.mdm.AwaitHeartbeat(single.sds.id());
  uint64_t writes = 0;
  uint64_t reads = 0;
  for (const v1::TokenAck& ack : single.mdm.NodeOf(single.sds.id()).acks) {
    CHECK(ack.token_id() == single.client.grant.grant_id);
    writes += ack.writes();
    reads += ack.reads();
  }
  CHECK(writes == 1);
  CHECK(reads == 1);
}

TEST_CASE("People read and write with transaction tokens, once") {
  Single single;
  token::Grant grant = NewGrant(single.mdm, 1, 5);
  grant.access = token::AccessMode::kTransaction;
  grant.transaction_operation = token::Operation::kWrite;
  grant.transaction_offset_bytes = 0;
  grant.transaction_length_bytes = 4096;
  TestClient signer(&single.mdm, &single.sds, grant);
  v1::IoOperation operation = signer.NewWrite(kGroup, 0, 0, Block('p'));
  operation.set_unbound_data(true);
  operation.set_data_crc32c(0);
  signer.Sign(&operation);
  const auto stub = single.sds.NewChunkStub();
  const auto write = [&] {
    grpc::ClientContext call;
    PrepareCall(&call, 10'000, "");
    v1::WriteChunkResponse response;
    const auto writer = stub->WriteChunk(&call, &response);
    v1::WriteChunkRequest request;
    request.mutable_operation()->set_grant(token::EncodeGrant(grant));
    *request.mutable_operation()->mutable_operation() = operation;
    request.set_data(Block('p').substr(0, 1000));
    writer->Write(request);
    request.Clear();
    request.set_data(Block('p').substr(1000));
    writer->Write(request);
    writer->WritesDone();
    return writer->Finish();
  };
  const grpc::Status first = write();
  CHECK(first.error_message() == "");
  CHECK(first.ok());
  CHECK(write().error_code() == grpc::StatusCode::ALREADY_EXISTS);

  grant.transaction_operation = token::Operation::kRead;
  grant.grant_id += 1;
  signer.grant = grant;
  v1::ReadChunkRequest request;
  request.mutable_operation()->set_grant(token::EncodeGrant(grant));
  *request.mutable_operation()->mutable_operation() = signer.NewRead(kGroup, 0, 0, 4096);
  const auto read = [&](std::string* data) {
    grpc::ClientContext call;
    PrepareCall(&call, 10'000, "");
    const auto reader = stub->ReadChunk(&call, request);
    v1::ReadChunkResponse piece;
    while (reader->Read(&piece)) {
      CHECK(piece.data_crc32c() == Crc32c(std::as_bytes(std::span(piece.data()))));
      *data += piece.data();
    }
    return reader->Finish();
  };
  std::string data;
  CHECK(read(&data).ok());
  CHECK(data == Block('p'));
  const grpc::Status again = read(&data);
  CHECK(again.error_code() == grpc::StatusCode::ALREADY_EXISTS);
  CHECK(ReasonOf(FromGrpcStatus(again)) == "REPLAYED");
}

TEST_CASE("Deleted vtrees are gone, and stay gone") {
  Single single;
  REQUIRE(single.client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  const auto control = single.sds.NewControlStub();
  v1::DeleteVtreeRequest request;
  request.set_vtree_id(single.client.grant.vtree_id);
  request.set_volume_id(1);
  v1::DeleteVtreeResponse response;
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext call;
    PrepareCall(&call, 10'000, single.mdm.ControlBearer(1, single.sds.id()));
    REQUIRE(control->DeleteVtree(&call, request, &response).ok());
    CHECK(response.done());
  }
  CHECK(single.sds.store()->ListChunks(kGroup, std::nullopt, 10)->empty());
  const v1::IoResult late =
      single.client.SendOne(single.client.NewWrite(kGroup, 0, 0, Block('2')), Block('2'));
  CHECK(late.refusal() == v1::TOKEN_REFUSAL_WRONG_VOLUME);
}

TEST_CASE("A replica that leaves its group gives its space back") {
  Single single;
  REQUIRE(single.client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  v1::PlacementGroup group = single.mdm.Group(kGroup);
  group.mutable_replicas(0)->set_device_id(4711);
  single.mdm.Commit(group);
  REQUIRE(single.sds.AwaitEpoch(kGroup, 2));
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!single.sds.store()->ListChunks(kGroup, std::nullopt, 10)->empty() &&
         std::chrono::steady_clock::now() < give_up) {
  }
  CHECK(single.sds.store()->ListChunks(kGroup, std::nullopt, 10)->empty());
}

}  // namespace
}  // namespace tessera::sds
