// Servers over real gRPC, and volumes with snapshots and clones: what grants see and change, what
// is dropped, and bad blocks that layers share.
#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "libtoken/base_path.h"
#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/sds/replica_messages.h"
#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_sds.h"
#include "services/sds/testing/test_store.h"

namespace tessera::sds {
namespace {

constexpr uint64_t kGroup = kTestPool * 65536;
constexpr uint64_t kVtree = 11;
constexpr uint32_t kBlock = chunk::kBlockBytes;

std::string Block(char letter) { return std::string(kBlock, letter); }
chunk::ChunkKey Key(uint64_t layer, uint64_t index = 0) {
  return {.vtree_id = kVtree, .chunk_index = index, .layer = layer};
}

// The grant of a volume of the vtree, with what it sees and writes.
token::Grant LayerGrant(const FakeMdm& mdm, uint64_t volume_id, std::vector<token::PathPart> path,
                        uint64_t layer) {
  token::Grant grant = NewGrant(mdm, volume_id, 5);
  grant.vtree_id = kVtree;
  grant.path = std::move(path);
  grant.snapshot_sequence = layer;
  return grant;
}
// A snapshot's.
token::Grant ReadGrant(const FakeMdm& mdm, uint64_t volume_id, std::vector<token::PathPart> path) {
  token::Grant grant =
      LayerGrant(mdm, volume_id, path, chunk::MakeLayer(path[0].branch, path[0].ordinal_max));
  grant.access = token::AccessMode::kReadOnly;
  return grant;
}

struct Single {
  explicit Single(StoreFaults* faults = nullptr)
      : sds(&mdm, "sds-a", faults == nullptr ? nullptr : FaultyStores(faults)),
        client(&mdm, &sds, NewGrant(mdm, 1, 5)) {
    mdm.Commit(GroupOf(kGroup, {{&sds, v1::REPLICA_ROLE_IN_SYNC}}));
    REQUIRE(sds.AwaitEpoch(kGroup, 1));
  }
  // The writer goes on in this layer.
  void Cut(uint64_t layer) {
    client.grant.snapshot_sequence = layer;
    client.Show();
  }
  FakeMdm mdm;
  TestSds sds;
  TestClient client;
};

v1::VtreeCatalog Catalog(const std::vector<std::vector<token::PathPart>>& paths,
                         const std::vector<token::PathPart>& heads) {
  v1::VtreeCatalog catalog;
  catalog.set_vtree_id(kVtree);
  const auto set = [](const token::PathPart& part, v1::LayerPathPart* to) {
    to->set_branch(part.branch);
    to->set_ordinal_max(part.ordinal_max);
  };
  for (const auto& path : paths) {
    v1::LayerPath* to = catalog.add_paths();
    for (const token::PathPart& part : path) set(part, to->add_parts());
  }
  for (const token::PathPart& head : heads) set(head, catalog.add_heads());
  return catalog;
}

absl::StatusOr<v1::DropLayersResponse> Drop(const FakeMdm& mdm, const TestSds& sds, uint64_t id,
                                            const v1::VtreeCatalog& catalog) {
  const auto control = sds.NewControlStub();
  grpc::ClientContext call;
  PrepareCall(&call, 20'000, mdm.ControlBearer(1, id));
  v1::DropLayersRequest request;
  *request.mutable_catalog() = catalog;
  v1::DropLayersResponse response;
  const grpc::Status status = control->DropLayers(&call, request, &response);
  if (!status.ok()) return FromGrpcStatus(status);
  return response;
}

std::vector<uint64_t> LayersOf(TestSds* sds, uint64_t chunk = 0) {
  const auto infos = sds->store()->ListLayers(kVtree, chunk);
  REQUIRE(infos.ok());
  std::vector<uint64_t> layers;
  for (const chunk::ChunkInfo& info : *infos) layers.push_back(info.key.layer);
  return layers;
}

TEST_CASE("A volume is written in one layer after the other; snapshots and clones see theirs") {
  Single single;
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('a') + Block('b')) == v1::IO_STATUS_OK);
  REQUIRE(client.Write(kGroup, 1, 0, Block('c')) == v1::IO_STATUS_OK);
  single.Cut(1);
  REQUIRE(client.Write(kGroup, 0, kBlock, Block('B')) == v1::IO_STATUS_OK);
  single.Cut(2);
  REQUIRE(client.Write(kGroup, 0, 0, Block('A')) == v1::IO_STATUS_OK);
  CHECK(LayersOf(&single.sds) == std::vector<uint64_t>{0, 1, 2});
  CHECK(LayersOf(&single.sds, 1) == std::vector<uint64_t>{0});
  CHECK(client.Read(kGroup, 0, 0, 2 * kBlock).second == Block('A') + Block('B'));
  CHECK(client.Read(kGroup, 1, 0, kBlock).second == Block('c'));

  TestClient first(&single.mdm, &single.sds, ReadGrant(single.mdm, 2, {{0, 0}}));
  TestClient second(&single.mdm, &single.sds, ReadGrant(single.mdm, 3, {{0, 1}}));
  CHECK(first.Read(kGroup, 0, 0, 2 * kBlock).second == Block('a') + Block('b'));
  CHECK(second.Read(kGroup, 0, 0, 2 * kBlock).second == Block('a') + Block('B'));
  CHECK(first.Write(kGroup, 0, 0, Block('x')) == v1::IO_STATUS_TOKEN_REFUSED);
  v1::IoOperation map = first.NewRead(kGroup, 1, 0, 4 * kBlock);
  map.set_type(v1::IO_OPERATION_TYPE_MAP);
  first.Sign(&map);
  const v1::IoResult mapped = first.SendOne(map);
  REQUIRE(mapped.extents_size() == 2);
  CHECK(mapped.extents(0).length_bytes() == kBlock);
  CHECK(mapped.extents(0).mapped());

  const uint64_t layer = chunk::MakeLayer(1, 0);
  TestClient clone(&single.mdm, &single.sds,
                   LayerGrant(single.mdm, 4, {{1, token::kPathHead}, {0, 0}}, layer));
  CHECK(clone.Read(kGroup, 0, 0, 2 * kBlock).second == Block('a') + Block('b'));
  REQUIRE(clone.Write(kGroup, 0, 0, Block('z')) == v1::IO_STATUS_OK);
  CHECK(clone.Read(kGroup, 0, 0, 2 * kBlock).second == Block('z') + Block('b'));
  CHECK(first.Read(kGroup, 0, 0, 2 * kBlock).second == Block('a') + Block('b'));
  CHECK(client.Read(kGroup, 0, 0, 2 * kBlock).second == Block('A') + Block('B'));
  CHECK((*single.sds.store()->GetChunk(Key(layer)))->base == 0);

  // One request at a time, under the same grants.
  const auto stub = single.sds.NewChunkStub();
  grpc::ClientContext call;
  v1::ReadChunkRequest request;
  request.mutable_operation()->set_grant(token::EncodeGrant(first.grant));
  *request.mutable_operation()->mutable_operation() = first.NewRead(kGroup, 0, kBlock, kBlock);
  const auto reader = stub->ReadChunk(&call, request);
  v1::ReadChunkResponse piece;
  std::string data;
  while (reader->Read(&piece)) data += piece.data();
  CHECK(reader->Finish().ok());
  CHECK(data == Block('b'));
}

TEST_CASE("What a clone sees is adopted in the order of its writes, and by its writer alone") {
  Single single;
  REQUIRE(single.client.Write(kGroup, 0, 0, Block('a') + Block('b')) == v1::IO_STATUS_OK);
  single.Cut(1);
  const uint64_t layer = chunk::MakeLayer(1, 0);
  TestClient clone(&single.mdm, &single.sds,
                   LayerGrant(single.mdm, 4, {{1, token::kPathHead}, {0, 0}}, layer));
  const auto adopt = [](TestClient* client, uint64_t chunk) {
    v1::IoOperation operation = client->NewWrite(kGroup, chunk, 0, "");
    operation.set_type(v1::IO_OPERATION_TYPE_ADOPT);
    operation.set_length_bytes(kTestChunkBytes);
    operation.set_data_crc32c(0);
    client->Sign(&operation);
    return operation;
  };
  const v1::IoOperation first = adopt(&clone, 0);
  REQUIRE(clone.SendOne(first).status() == v1::IO_STATUS_OK);
  REQUIRE(clone.SendOne(adopt(&clone, 1)).status() == v1::IO_STATUS_OK);
  CHECK(clone.SendOne(first).status() == v1::IO_STATUS_DUPLICATE);
  CHECK(LayersOf(&single.sds) == std::vector<uint64_t>{0, layer});
  CHECK(LayersOf(&single.sds, 1).empty());
  CHECK((*single.sds.store()->GetChunk(Key(layer)))->own_bytes == 0);
  // By its own branch alone it sees the same, and goes on in the same order.
  TestClient flat(&single.mdm, &single.sds,
                  LayerGrant(single.mdm, 4, {{1, token::kPathHead}}, layer));
  flat.next = clone.next;
  CHECK(flat.Read(kGroup, 0, 0, 2 * kBlock).second == Block('a') + Block('b'));
  REQUIRE(flat.Write(kGroup, 0, 0, Block('z')) == v1::IO_STATUS_OK);
  clone.next_counter = flat.next_counter;  // one grant
  CHECK(clone.Read(kGroup, 0, 0, 2 * kBlock).second == Block('z') + Block('b'));
  // Its signature is for this alone, a reader has no right to it, and it has its place in the
  // order.
  v1::IoOperation other = adopt(&clone, 0);
  other.set_type(v1::IO_OPERATION_TYPE_TRIM);
  CHECK(clone.SendOne(other).refusal() == v1::TOKEN_REFUSAL_BAD_SIGNATURE);
  TestClient reader(&single.mdm, &single.sds, ReadGrant(single.mdm, 5, {{1, 0}, {0, 0}}));
  CHECK(reader.SendOne(adopt(&reader, 0)).refusal() == v1::TOKEN_REFUSAL_WRONG_OPERATION);
  v1::IoOperation later = adopt(&flat, 0);
  later.set_counter(later.counter() + 1);
  flat.Sign(&later);
  CHECK(flat.SendOne(later).status() == v1::IO_STATUS_SEQUENCE_GAP);
}

// "=1 +2 -1": blocks of a client's view that are equal to what the base sees, that differ, and that
// differ and take no space; or how it ended.
std::string Compare(TestClient* client, uint64_t chunk, const std::vector<token::PathPart>& base,
                    const std::function<void(v1::IoOperation*)>& alter = nullptr,
                    const std::function<void(v1::IoOperation*)>& alter_signed = nullptr) {
  v1::IoOperation operation = client->NewRead(kGroup, chunk, 0, 4 * kBlock);
  operation.set_type(v1::IO_OPERATION_TYPE_CHANGES);
  for (const token::PathPart& part : base) {
    v1::LayerPathPart* to = operation.add_base_path();
    to->set_branch(part.branch);
    to->set_ordinal_max(part.ordinal_max);
  }
  operation.set_data_crc32c(token::BasePathChecksum(base));
  if (alter != nullptr) alter(&operation);
  client->Sign(&operation);
  if (alter_signed != nullptr) alter_signed(&operation);
  const v1::IoResult result = client->SendOne(operation);
  if (result.status() != v1::IO_STATUS_OK) {
    return result.refusal() != v1::TOKEN_REFUSAL_UNSPECIFIED
               ? v1::TokenRefusal_Name(result.refusal())
               : v1::IoStatus_Name(result.status());
  }
  std::string text;
  for (const v1::ChunkExtent& extent : result.extents()) {
    text += std::string(text.empty() ? "" : " ") +
            (!extent.changed() ? "="
             : extent.mapped() ? "+"
                               : "-") +
            std::to_string(extent.length_bytes() / kBlock);
  }
  return text;
}

TEST_CASE("What a client sees is compared with another path of the vtree") {
  Single single;
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('a') + Block('b') + Block('c')) == v1::IO_STATUS_OK);
  single.Cut(1);
  REQUIRE(client.Write(kGroup, 0, kBlock, Block('B')) == v1::IO_STATUS_OK);
  REQUIRE(client.Write(kGroup, 1, 0, Block('d')) == v1::IO_STATUS_OK);
  const std::vector<token::PathPart> first = {{0, 0}};
  CHECK(Compare(&client, 0, first) == "=1 +1 =1 =1");
  CHECK(Compare(&client, 1, first) == "+1 =3");
  CHECK(Compare(&client, 2, first) == "=4");
  CHECK(Compare(&client, 0, {}) == "+3 =1");
  CHECK(Compare(&client, 0, {{0, token::kPathHead}}) == "=3 =1");
  // A clone that trimmed something, with its origin; readers ask, too.
  const uint64_t layer = chunk::MakeLayer(1, 0);
  TestClient clone(&single.mdm, &single.sds,
                   LayerGrant(single.mdm, 4, {{1, token::kPathHead}, {0, 0}}, layer));
  v1::IoOperation trim = clone.NewWrite(kGroup, 0, 2 * kBlock, Block('x'));
  trim.set_type(v1::IO_OPERATION_TYPE_TRIM);
  trim.set_data_crc32c(0);
  clone.Sign(&trim);
  REQUIRE(clone.SendOne(trim).status() == v1::IO_STATUS_OK);
  CHECK(Compare(&clone, 0, first) == "=2 -1 =1");
  TestClient reader(&single.mdm, &single.sds, ReadGrant(single.mdm, 2, first));
  CHECK(Compare(&reader, 0, {{1, token::kPathHead}, {0, 0}}) == "=2 +1 =1");
  CHECK(Compare(&reader, 1, {{0, token::kPathHead}}) == "-1 =3");

  // It is a read with a token of its own: bound to the base, used once.
  CHECK(Compare(&client, 0, first, [](auto* o) { o->set_data_crc32c(0); }) ==
        "TOKEN_REFUSAL_DATA_MISMATCH");
  CHECK(Compare(&client, 0, first, [](auto* o) { o->set_unbound_data(true); }) ==
        "TOKEN_REFUSAL_DATA_MISMATCH");
  CHECK(Compare(&client, 0, first, nullptr, [](auto* o) { o->clear_base_path(); }) ==
        "TOKEN_REFUSAL_DATA_MISMATCH");
  CHECK(Compare(&client, 0, first, nullptr, [](auto* o) {
          o->mutable_base_path(0)->set_ordinal_max(1);
        }) == "TOKEN_REFUSAL_DATA_MISMATCH");
  CHECK(Compare(&client, 0, first, nullptr, [](auto* o) { o->set_data_crc32c(1); }) ==
        "TOKEN_REFUSAL_BAD_SIGNATURE");
  CHECK(Compare(&client, 0, {{0, 4}, {1, 3}}) == "IO_STATUS_INVALID");
  CHECK(Compare(&client, 0, std::vector<token::PathPart>(17)) == "IO_STATUS_INVALID");
  CHECK(Compare(&client, 0, first) == "=1 +1 =1 =1");
  CHECK(Compare(&client, 0, first, [](auto* o) { o->set_counter(o->counter() - 1); }) ==
        "TOKEN_REFUSAL_REPLAYED");
}

TEST_CASE("A write changes its grant's layer, and never a later one") {
  Single single;
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('a')) == v1::IO_STATUS_OK);
  single.Cut(2);
  REQUIRE(client.Write(kGroup, 0, 0, Block('A')) == v1::IO_STATUS_OK);
  // A client that means ill goes on under the grant for layer 1: of its own snapshot it changes
  // what it has not written since, and nothing of what it writes now.
  single.Cut(1);
  REQUIRE(client.Write(kGroup, 0, 0, Block('x')) == v1::IO_STATUS_OK);
  CHECK(LayersOf(&single.sds) == std::vector<uint64_t>{0, 1, 2});
  CHECK(client.Read(kGroup, 0, 0, kBlock).second == Block('A'));
  TestClient snapshot(&single.mdm, &single.sds, ReadGrant(single.mdm, 2, {{0, 0}}));
  CHECK(snapshot.Read(kGroup, 0, 0, kBlock).second == Block('a'));
  single.Cut(0);
  CHECK(client.Write(kGroup, 0, 0, Block('y')) == v1::IO_STATUS_TOKEN_REFUSED);
  CHECK(snapshot.Read(kGroup, 0, 0, kBlock).second == Block('a'));
}

TEST_CASE("A write to a layer that may not change is not taken, nor is what its grant sends then") {
  StoreFaults faults;
  Single single(&faults);
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('1')) == v1::IO_STATUS_OK);
  single.Cut(1);
  REQUIRE(client.Write(kGroup, 0, 0, Block('2')) == v1::IO_STATUS_OK);
  single.Cut(0);
  SECTION("at once") {
    v1::IoRequest request;
    const v1::IoOperation refused = client.NewWrite(kGroup, 0, 0, Block('3'));
    const v1::IoOperation next = client.NewWrite(kGroup, 1, 0, Block('4'));
    *request.add_operations() = refused;
    *request.add_operations() = next;
    request.set_payload(Block('3') + Block('4'));
    TestClient::Outcome outcome = client.Send(request);
    for (const v1::IoOperation& operation : {refused, next}) {
      CHECK(outcome.results[operation.tag()].status() == v1::IO_STATUS_TOKEN_REFUSED);
      CHECK(outcome.results[operation.tag()].refusal() == v1::TOKEN_REFUSAL_WRONG_GENERATION);
    }
  }
  SECTION("one after the other") {
    CHECK(client.Write(kGroup, 0, 0, Block('3')) == v1::IO_STATUS_TOKEN_REFUSED);
    CHECK(client.Write(kGroup, 1, 0, Block('4')) == v1::IO_STATUS_TOKEN_REFUSED);
  }
  SECTION("nor is it missed") {
    faults.merge_corrupt = true;  // what a cut block holds is lost
    CHECK(client.Write(kGroup, 0, 0, Block('5')) == v1::IO_STATUS_TOKEN_REFUSED);
    faults.merge_corrupt = false;
  }
  CHECK(single.sds.store()->Cursor({1, kGroup}) == chunk::Version{5, 2});
  CHECK(single.sds.store()->failed().ok());
  const auto layers = single.sds.store()->ListLayers(kVtree, 0);
  REQUIRE(layers.ok());
  for (const chunk::ChunkInfo& info : *layers) CHECK_FALSE(info.incomplete);
  // A grant for the next layer goes on where the order stands.
  client.next[kGroup] = 2;
  single.Cut(1);
  CHECK(client.Write(kGroup, 1, kBlock, Block('6')) == v1::IO_STATUS_OK);
  CHECK(client.Read(kGroup, 0, 0, kBlock).second == Block('2'));
  CHECK(client.Read(kGroup, 1, 0, 2 * kBlock).second == Block(0) + Block('6'));
  TestClient snapshot(&single.mdm, &single.sds, ReadGrant(single.mdm, 2, {{0, 0}}));
  CHECK(snapshot.Read(kGroup, 0, 0, kBlock).second == Block('1'));
}

TEST_CASE("A grant whose path does not see the layer that it writes writes nothing") {
  Single single;
  const uint64_t layer = GENERATE(uint64_t{0}, chunk::MakeLayer(1, 8), chunk::MakeLayer(2, 0));
  TestClient client(&single.mdm, &single.sds, LayerGrant(single.mdm, 1, {{1, 7}, {0, 0}}, layer));
  const v1::IoResult result = client.SendOne(client.NewWrite(kGroup, 0, 0, Block('a')), Block('a'));
  CHECK(result.status() == v1::IO_STATUS_TOKEN_REFUSED);
  CHECK(result.refusal() == v1::TOKEN_REFUSAL_WRONG_VOLUME);
  CHECK_FALSE(result.message().empty());
  CHECK(client.Read(kGroup, 0, 0, kBlock).first == v1::IO_STATUS_OK);
  // Nor does a token for another layer than the grant's.
  client.grant.snapshot_sequence = chunk::MakeLayer(1, 7);
  client.Show();
  v1::IoOperation other = client.NewWrite(kGroup, 0, 0, Block('a'));
  other.set_snapshot_sequence(chunk::MakeLayer(1, 6));
  client.Sign(&other);
  CHECK(client.SendOne(other, Block('a')).status() == v1::IO_STATUS_TOKEN_REFUSED);
  client.next[kGroup] = 0;
  CHECK(client.Write(kGroup, 0, 0, Block('a')) == v1::IO_STATUS_OK);
}

TEST_CASE("A write that finds no room for its layer loses nothing of what is below") {
  StoreFaults faults;
  Single single(&faults);
  TestClient& client = single.client;
  REQUIRE(client.Write(kGroup, 0, 0, Block('a')) == v1::IO_STATUS_OK);
  single.Cut(1);
  faults.full = true;
  CHECK(client.Write(kGroup, 0, kBlock, Block('b')) == v1::IO_STATUS_NO_SPACE);
  faults.full = false;
  CHECK(client.Read(kGroup, 0, 0, 2 * kBlock).second == Block('a') + Block(0));
  const auto made = single.sds.store()->GetChunk(Key(1));
  REQUIRE(made->has_value());
  CHECK((*made)->incomplete);
}

TEST_CASE("Layers that nobody sees are dropped, and who sees what is left sees the same") {
  Single single;
  TestClient& client = single.client;
  for (uint32_t layer = 0; layer < 6; ++layer) {
    single.Cut(layer);
    REQUIRE(client.Write(kGroup, 0, layer * kBlock, Block(static_cast<char>('a' + layer))) ==
            v1::IO_STATUS_OK);
  }
  TestClient snapshot(&single.mdm, &single.sds, ReadGrant(single.mdm, 2, {{0, 2}}));
  const auto before = snapshot.Read(kGroup, 0, 0, 6 * kBlock);
  // A catalog of a time when the head was at layer 3.
  auto dropped = Drop(single.mdm, single.sds, single.sds.id(), Catalog({{}, {{0, 2}}}, {{0, 3}}));
  REQUIRE(dropped.ok());
  CHECK(dropped->done());
  CHECK(dropped->layers() == 2);
  CHECK(LayersOf(&single.sds) == std::vector<uint64_t>{2, 3, 4, 5});
  dropped = Drop(single.mdm, single.sds, single.sds.id(), Catalog({{}, {{0, 2}}}, {{0, 5}}));
  REQUIRE(dropped.ok());
  CHECK(dropped->done());
  CHECK(LayersOf(&single.sds) == std::vector<uint64_t>{2, 5});
  CHECK(snapshot.Read(kGroup, 0, 0, 6 * kBlock) == before);
  std::string all;
  for (char letter = 'a'; letter <= 'f'; ++letter) all += Block(letter);
  CHECK(client.Read(kGroup, 0, 0, 6 * kBlock).second == all);
  dropped = Drop(single.mdm, single.sds, single.sds.id(), Catalog({{}}, {{0, 5}}));
  REQUIRE(dropped.ok());
  CHECK(dropped->layers() == 1);
  CHECK(client.Read(kGroup, 0, 0, 6 * kBlock).second == all);
  CHECK(absl::IsInvalidArgument(
      Drop(single.mdm, single.sds, single.sds.id(), Catalog({}, {{0, 5}})).status()));
}

TEST_CASE("More than one call can do is dropped by several") {
  Single single;
  TestClient& client = single.client;
  constexpr uint64_t kChunks = 1'500;
  for (uint32_t layer = 0; layer < 5; ++layer) {
    single.Cut(layer);
    v1::IoRequest request;
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      v1::IoOperation trim = client.NewWrite(kGroup, chunk, 0, Block('a'));
      trim.set_type(v1::IO_OPERATION_TYPE_TRIM);
      trim.set_data_crc32c(0);
      client.Sign(&trim);
      *request.add_operations() = trim;
    }
    const TestClient::Outcome outcome = client.Send(request);
    REQUIRE(outcome.results.size() == kChunks);
    for (const auto& [tag, result] : outcome.results) REQUIRE(result.status() == v1::IO_STATUS_OK);
  }
  uint64_t layers = 0;
  int calls = 0;
  while (true) {
    ++calls;
    REQUIRE(calls < 100);
    const auto dropped = Drop(single.mdm, single.sds, single.sds.id(), Catalog({{}}, {{0, 4}}));
    REQUIRE(dropped.ok());
    layers += dropped->layers();
    if (dropped->done()) break;
  }
  CHECK(calls > 1);
  CHECK(layers == 4 * kChunks);
  CHECK(single.sds.store()->stats().chunks == kChunks);
}

// Two replicas, and a writer to both.
struct Pair {
  Pair()
      : a(&mdm, "sds-a"),
        b(&mdm, "sds-b"),
        to_a(&mdm, &a, NewGrant(mdm, 1, 5)),
        to_b(&mdm, &b, NewGrant(mdm, 1, 5)) {
    mdm.Commit(GroupOf(kGroup, {{&a, v1::REPLICA_ROLE_IN_SYNC}, {&b, v1::REPLICA_ROLE_IN_SYNC}}));
    Await();
  }
  void Await() {
    const uint64_t epoch = mdm.Group(kGroup).epoch();
    REQUIRE(a.AwaitEpoch(kGroup, epoch));
    REQUIRE(b.AwaitEpoch(kGroup, epoch));
    to_a.epoch = to_b.epoch = epoch;
  }
  void SetRoleOfB(v1::ReplicaRole role) {
    mdm.SetRole(kGroup, b.device_id(), role);
    Await();
  }
  void Cut(uint64_t layer) {
    for (TestClient* client : {&to_a, &to_b}) {
      client->grant.snapshot_sequence = layer;
      client->Show();
    }
  }
  void Write(uint64_t chunk, uint32_t offset, const std::string& data) {
    REQUIRE(to_a.Write(kGroup, chunk, offset, data) == v1::IO_STATUS_OK);
    to_b.next[kGroup] = to_a.next[kGroup] - 1;
    REQUIRE(to_b.Write(kGroup, chunk, offset, data) == v1::IO_STATUS_OK);
  }
  FakeMdm mdm;
  TestSds a;
  TestSds b;
  TestClient to_a;
  TestClient to_b;
};

TEST_CASE("A replica that is anew gets layers with what they share, and those that were pruned") {
  Pair pair;
  pair.Write(0, 0, Block('a') + Block('b') + Block('c') + Block('d'));
  pair.SetRoleOfB(v1::REPLICA_ROLE_OUT_OF_SYNC);
  // Three that share with layer 0, each another part, and two snapshots of theirs.
  pair.Cut(1);
  REQUIRE(pair.to_a.Write(kGroup, 0, 0, Block('A')) == v1::IO_STATUS_OK);
  std::vector<std::vector<token::PathPart>> paths{{}};
  for (uint32_t branch = 1; branch <= 2; ++branch) {
    paths.push_back({{branch, token::kPathHead}, {0, 0}});
    TestClient clone(&pair.mdm, &pair.a,
                     LayerGrant(pair.mdm, 1 + branch, paths.back(), chunk::MakeLayer(branch, 0)));
    clone.epoch = pair.to_a.epoch;
    REQUIRE(clone.Write(kGroup, 0, branch * kBlock, Block('z')) == v1::IO_STATUS_OK);
  }
  const auto dropped =
      Drop(pair.mdm, pair.a, pair.a.id(), Catalog(paths, {{0, 1}, {1, 0}, {2, 0}}));
  REQUIRE(dropped.ok());
  CHECK(dropped->done());
  REQUIRE((*pair.a.store()->GetChunk(Key(0)))->pruned);
  // The replica has nothing.
  REQUIRE(pair.b.store()->DeleteVtree(kVtree, 0).ok());
  pair.SetRoleOfB(v1::REPLICA_ROLE_LEARNER);
  REQUIRE(pair.mdm.AwaitRole(kGroup, pair.b.device_id(), v1::REPLICA_ROLE_IN_SYNC));
  pair.Await();
  CHECK(LayersOf(&pair.b) == LayersOf(&pair.a));
  CHECK((*pair.b.store()->GetChunk(Key(0)))->pruned);
  CHECK(pair.b.store()->stats().data_bytes == pair.a.store()->stats().data_bytes);
  CHECK(pair.to_b.Read(kGroup, 0, 0, 4 * kBlock).second ==
        Block('A') + Block('b') + Block('c') + Block('d'));
  for (uint32_t branch = 1; branch <= 2; ++branch) {
    TestClient clone(&pair.mdm, &pair.b,
                     LayerGrant(pair.mdm, 1 + branch, paths[branch], chunk::MakeLayer(branch, 0)));
    clone.epoch = pair.to_b.epoch;
    std::string expected = Block('a') + Block('b') + Block('c') + Block('d');
    expected.replace(branch * kBlock, kBlock, Block('z'));
    CHECK(clone.Read(kGroup, 0, 0, 4 * kBlock).second == expected);
  }
  // A learner drops nothing, and is asked again.
  pair.SetRoleOfB(v1::REPLICA_ROLE_OUT_OF_SYNC);
  const auto refused = Drop(pair.mdm, pair.b, pair.b.id(), Catalog({{}}, {{0, 1}, {1, 0}, {2, 0}}));
  REQUIRE(refused.ok());
  CHECK_FALSE(refused->done());
  CHECK(refused->layers() == 0);
}

TEST_CASE("A replica with layers that leaves its group gives its space back") {
  Pair pair;
  // More layers than go in one step.
  for (uint32_t layer = 0; layer < 100; ++layer) {
    pair.Cut(layer);
    pair.Write(0, layer % 8 * kBlock, Block('a'));
  }
  v1::PlacementGroup group = pair.mdm.Group(kGroup);
  group.mutable_replicas(1)->set_device_id(4711);
  pair.mdm.Commit(group);
  REQUIRE(pair.b.AwaitEpoch(kGroup, pair.mdm.Group(kGroup).epoch()));
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!pair.b.store()->ListChunks(kGroup, std::nullopt, 1)->empty() &&
         std::chrono::steady_clock::now() < give_up) {
  }
  CHECK(pair.b.store()->ListChunks(kGroup, std::nullopt, 1)->empty());
  CHECK(LayersOf(&pair.a).size() == 100);
}

int FlipOn(TestSds* sds, const std::string& text) {
  int count = 0;
  const std::string folder = sds->server()->engine()->workers()[0]->device()->path();
  for (const char* name : {"/journal", "/data"}) {
    std::fstream file(folder + name, std::ios::in | std::ios::out | std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    file.clear();
    for (size_t at = bytes.find(text); at != std::string::npos; at = bytes.find(text, at + 1)) {
      const size_t place = at + 1'000;
      file.seekp(static_cast<std::streamoff>(place));
      file.put(static_cast<char>(bytes[place] ^ 0x10));
      ++count;
    }
  }
  return count;
}

std::string Marked(const std::string& text) {
  std::string content = text;
  content.resize(kBlock, 'x');
  return content;
}

TEST_CASE("A bad block that layers share is repaired for all, whichever of them is read") {
  Pair pair;
  const std::string content = Marked("the block that is shared|");
  pair.Write(0, 0, content);
  pair.Cut(1);
  pair.Write(0, kBlock, Block('b'));
  // The grant's layer is not the chunk's newest.
  pair.Cut(2);
  REQUIRE(FlipOn(&pair.a, "the block that is shared|") > 0);
  TestClient snapshot(&pair.mdm, &pair.a, ReadGrant(pair.mdm, 2, {{0, 0}}));
  const bool by_head = GENERATE(true, false);
  TestClient& reader = by_head ? pair.to_a : snapshot;
  CHECK(reader.Read(kGroup, 0, 0, kBlock).first == v1::IO_STATUS_CHECKSUM_ERROR);
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_REPAIRED, 1));
  CHECK(pair.to_a.Read(kGroup, 0, 0, kBlock).second == content);
  CHECK(snapshot.Read(kGroup, 0, 0, kBlock).second == content);
  CHECK(pair.mdm.CorruptChanges()[0].key().snapshot_sequence() == (by_head ? 1 : 0));
}

TEST_CASE("Scrub finds a block in the layer that owns it, and repairs it from one that shares it") {
  Pair pair;
  const std::string content = Marked("what scrub has to find|");
  pair.Write(0, 0, content);
  pair.Cut(1);
  pair.Write(0, kBlock, Block('b'));
  // The other replica has dropped the snapshot already.
  const auto dropped = Drop(pair.mdm, pair.b, pair.b.id(), Catalog({{}}, {{0, 1}}));
  REQUIRE(dropped.ok());
  REQUIRE(LayersOf(&pair.b) == std::vector<uint64_t>{1});
  REQUIRE(FlipOn(&pair.a, "what scrub has to find|") > 0);
  v1::ScrubOrder order;
  order.set_device_id(pair.a.device_id());
  order.set_bytes_per_second(1 << 30);
  order.set_operation_id(7);
  pair.mdm.SetScrubOrders({order});
  REQUIRE(pair.mdm.AwaitChange(v1::CORRUPT_BLOCK_CHANGE_REPAIRED, 1));
  CHECK(pair.to_a.Read(kGroup, 0, 0, kBlock).second == content);
  REQUIRE(pair.mdm.AwaitScrub(pair.a.device_id(), [](const v1::ScrubStatus& status) {
    return status.completed_operation_id() == 7;
  }));
  // A layer that one of two has is no difference, and a shared block is read once.
  const v1::ScrubStatus status = pair.mdm.ScrubOf(pair.a.device_id());
  CHECK(status.blocks_different() == 0);
  CHECK(status.bytes_done() == 2 * kBlock);
  CHECK(status.chunks_compared() == 1);
}

}  // namespace
}  // namespace tessera::sds
