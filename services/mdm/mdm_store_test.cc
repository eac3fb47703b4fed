// mdm.db: what SQL refuses, what survives a crash, and what is remembered.
#include "services/mdm/mdm_store.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <map>
#include <string>

#include "services/common/placement_hash.h"
#include "services/common/sql.h"
#include "services/mdm/event_table.h"
#include "services/mdm/mdm_schema.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/token_table.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mdm-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A store with one of everything.
struct StoreFixture {
  StoreFixture() : store(*MdmStore::Open(folder.File("mdm.db"), &metrics)) {
    REQUIRE(store
                ->Write([&](WriteTransaction& transaction) {
                  SQLite::Database& db = transaction.db;
                  v1::ProtectionDomain domain;
                  domain.set_name("pd");
                  domain_id = InsertProtectionDomain(db, domain);
                  pool.set_protection_domain_id(domain_id);
                  pool.set_name("pool");
                  pool.set_replica_count(2);
                  pool.set_min_replicas(1);
                  pool.set_chunk_bytes(1 << 20);
                  pool.set_placement_group_count(4);
                  pool.set_pool_id(InsertPool(db, pool));
                  sds_ids = {InsertSds(db, Sds("sds-a")), InsertSds(db, Sds("sds-b"))};
                  for (uint64_t sds_id : sds_ids) {
                    DeviceRow device;
                    device.sds_id = sds_id;
                    device.pool_id = pool.pool_id();
                    device.description.set_device_uuid("device-of-" + std::to_string(sds_id));
                    device_ids.push_back(InsertDevice(db, device));
                  }
                  SdcRow sdc;
                  sdc.node_uuid = "sdc-uuid";
                  sdc.name = "sdc";
                  sdc.incarnation = 1;
                  sdc.nbd_uris = {"nbd://a:1", "nbd+unix:///?socket=/s"};
                  sdc_id = InsertSdc(db, sdc);
                  return absl::OkStatus();
                })
                .ok());
  }
  static SdsRow Sds(const std::string& name) {
    SdsRow row;
    row.node_uuid = name + "-uuid";
    row.name = name;
    row.incarnation = 1;
    row.endpoints.set_control("127.0.0.1:1");
    return row;
  }
  VolumeRow Volume(const std::string& name) const {
    VolumeRow row;
    row.name = name;
    row.pool_id = pool.pool_id();
    row.size_bytes = 1 << 20;
    return row;
  }
  absl::Status Write(const std::function<void(SQLite::Database&)>& body) {
    return store->Write([&](WriteTransaction& transaction) {
      body(transaction.db);
      return absl::OkStatus();
    });
  }
  v1::PlacementGroup Group(uint64_t epoch) const {
    v1::PlacementGroup group;
    group.set_placement_group_id(PlacementGroupId(pool.pool_id(), 0));
    group.set_epoch(epoch);
    for (size_t i = 0; i < device_ids.size(); ++i) {
      v1::Replica* replica = group.add_replicas();
      replica->set_device_id(device_ids[i]);
      replica->set_sds_id(sds_ids[i]);
      replica->set_role(v1::REPLICA_ROLE_IN_SYNC);
    }
    return group;
  }

  TemporaryFolder folder;
  MetricRegistry metrics{"mdm"};
  std::unique_ptr<MdmStore> store;
  uint64_t domain_id = 0;
  v1::StoragePool pool;
  std::vector<uint64_t> sds_ids;
  std::vector<uint64_t> device_ids;
  uint64_t sdc_id = 0;
};

TEST_CASE_METHOD(StoreFixture, "a name is given once") {
  CHECK(absl::IsAlreadyExists(Write([&](auto& db) { InsertSds(db, Sds("sds-a")); })));
  CHECK(absl::IsAlreadyExists(Write([&](auto& db) { InsertPool(db, pool); })));
  CHECK(Write([&](auto& db) { InsertVolume(db, Volume("v")); }).ok());
  CHECK(absl::IsAlreadyExists(Write([&](auto& db) { InsertVolume(db, Volume("v")); })));
}

TEST_CASE_METHOD(StoreFixture, "SQL refuses what makes no sense") {
  const auto refused = [&](const std::function<void(SQLite::Database&)>& body) {
    return absl::IsFailedPrecondition(Write(body));
  };
  VolumeRow odd = Volume("odd");
  odd.size_bytes = 4'097;
  CHECK(refused([&](auto& db) { InsertVolume(db, odd); }));
  VolumeRow orphan = Volume("orphan");
  orphan.pool_id = 99;
  CHECK(refused([&](auto& db) { InsertVolume(db, orphan); }));
  v1::StoragePool four = pool;
  four.set_name("four");
  four.set_replica_count(4);
  CHECK(refused([&](auto& db) { InsertPool(db, four); }));
  CHECK(refused([&](auto& db) { DeleteProtectionDomainRow(db, domain_id); }));
  CHECK(refused([&](auto& db) { DeletePoolRow(db, pool.pool_id()); }));
  CHECK(refused([&](auto& db) {
    MappingRow mapping{1, sdc_id};
    InsertMapping(db, mapping);
  }));
}

TEST_CASE_METHOD(StoreFixture, "ids are never given again") {
  uint64_t first_volume = 0;
  uint64_t first_vtree = 0;
  REQUIRE(Write([&](auto& db) {
            const VolumeRow row = InsertVolume(db, Volume("v"));
            first_volume = row.volume_id;
            first_vtree = row.vtree_id;
            DeleteVolumeRow(db, row, sds_ids, 1);
          }).ok());
  REQUIRE(Write([&](auto& db) {
            const VolumeRow row = InsertVolume(db, Volume("v"));
            CHECK(row.volume_id > first_volume);
            CHECK(row.vtree_id > first_vtree);
          }).ok());
}

TEST_CASE_METHOD(StoreFixture, "one writer, and no reader beside it") {
  uint64_t other_sdc = 0;
  VolumeRow volume;
  REQUIRE(Write([&](auto& db) {
            SdcRow sdc;
            sdc.node_uuid = "other";
            sdc.name = "other";
            sdc.incarnation = 1;
            other_sdc = InsertSdc(db, sdc);
            volume = InsertVolume(db, Volume("v"));
            InsertMapping(db, {volume.volume_id, sdc_id, v1::MAPPING_MODE_READ_WRITE});
          }).ok());
  for (auto mode : {v1::MAPPING_MODE_READ_WRITE, v1::MAPPING_MODE_READ_ONLY}) {
    CHECK_FALSE(Write([&](auto& db) {
                  InsertMapping(db, {volume.volume_id, other_sdc, mode});
                }).ok());
  }
  REQUIRE(Write([&](auto& db) {
            DeleteMapping(db, volume.volume_id, sdc_id);
            InsertMapping(db, {volume.volume_id, sdc_id, v1::MAPPING_MODE_READ_ONLY});
            InsertMapping(db, {volume.volume_id, other_sdc, v1::MAPPING_MODE_READ_ONLY});
            CHECK(ListMappings(db, volume.volume_id).size() == 2);
          }).ok());
}

TEST_CASE_METHOD(StoreFixture, "generations and epochs only grow") {
  VolumeRow volume;
  REQUIRE(Write([&](auto& db) {
            volume = Volume("v");
            volume.generation = volume.fenced_generation = 7;
            volume = InsertVolume(db, volume);
            PutPlacementGroup(db, Group(3));
          }).ok());
  volume.generation = 6;
  volume.fenced_generation = 6;
  CHECK_FALSE(Write([&](auto& db) { UpdateVolumeGenerations(db, volume); }).ok());
  CHECK_FALSE(Write([&](auto& db) { PutPlacementGroup(db, Group(3)); }).ok());
  CHECK(Write([&](auto& db) { PutPlacementGroup(db, Group(4)); }).ok());
  volume.generation = 8;
  volume.fenced_generation = 9;
  CHECK_FALSE(Write([&](auto& db) { UpdateVolumeGenerations(db, volume); }).ok());
}

TEST_CASE_METHOD(StoreFixture, "groups that are placed again go on above their old epochs") {
  REQUIRE(Write([&](auto& db) {
            CHECK(FirstEpoch(db, pool.pool_id()) == 1);
            PutPlacementGroup(db, Group(41));
            DeletePlacementGroups(db, pool.pool_id());
            CHECK(FirstEpoch(db, pool.pool_id()) == 42);
            DeletePlacementGroups(db, pool.pool_id());
            CHECK(FirstEpoch(db, pool.pool_id()) == 42);
          }).ok());
}

TEST_CASE_METHOD(StoreFixture, "a group has at most one replica on a server") {
  v1::PlacementGroup group = Group(1);
  group.mutable_replicas(1)->set_sds_id(sds_ids[0]);
  CHECK_FALSE(Write([&](auto& db) { PutPlacementGroup(db, group); }).ok());
  CHECK(Write([&](auto& db) {
          PutPlacementGroup(db, Group(1));
          const auto read = FindPlacementGroup(db, Group(1).placement_group_id());
          REQUIRE(read.has_value());
          CHECK(read->SerializeAsString() == Group(1).SerializeAsString());
        }).ok());
}

TEST_CASE_METHOD(StoreFixture, "an error inside a transaction leaves nothing behind") {
  const absl::Status status = store->Write([&](WriteTransaction& transaction) -> absl::Status {
    InsertVolume(transaction.db, Volume("half"));
    return absl::AbortedError("changed my mind");
  });
  CHECK(absl::IsAborted(status));
  CHECK(store
            ->Read([](SQLite::Database& db) {
              CHECK_FALSE(FindVolumeByName(db, "half").has_value());
              return absl::OkStatus();
            })
            .ok());
}

// Method: the files as they are on disk in the middle of a transaction are what a killed process
// leaves.
TEST_CASE_METHOD(StoreFixture, "an event counts when it is committed, by its severity") {
  const auto record = [this](v1::EventSeverity severity, const absl::Status& result) {
    return store->Write([&](WriteTransaction& transaction) {
      v1::Event event;
      event.set_severity(severity);
      AddEvent(transaction, event);
      return result;
    });
  };
  CHECK(record(v1::EVENT_SEVERITY_WARNING, absl::OkStatus()).ok());
  CHECK(record(v1::EVENT_SEVERITY_WARNING, absl::OkStatus()).ok());
  CHECK_FALSE(record(v1::EVENT_SEVERITY_ERROR, absl::AbortedError("no")).ok());
  std::map<std::string, double> figures;
  for (const auto& [name, value] : metrics.Figures()) figures[name] = value;
  CHECK(figures["tessera_mdm_events_total{severity=\"warning\"}"] == 2);
  CHECK(figures["tessera_mdm_events_total{severity=\"error\"}"] == 0);
  CHECK(store->FileBytes() > 0);
}

TEST_CASE_METHOD(StoreFixture, "a crash inside a transaction leaves the state before it") {
  REQUIRE(Write([&](auto& db) { InsertVolume(db, Volume("before")); }).ok());
  const std::string copy = folder.File("copy.db");
  REQUIRE(Write([&](auto& db) {
            InsertVolume(db, Volume("during"));
            for (const char* suffix : {"", "-wal"}) {
              std::filesystem::copy_file(folder.File("mdm.db") + suffix, copy + suffix);
            }
          }).ok());
  MetricRegistry other_metrics("mdm");
  const auto reopened = MdmStore::Open(copy, &other_metrics);
  REQUIRE(reopened.ok());
  CHECK((*reopened)
            ->Read([](SQLite::Database& db) {
              CHECK(FindVolumeByName(db, "before").has_value());
              CHECK_FALSE(FindVolumeByName(db, "during").has_value());
              return absl::OkStatus();
            })
            .ok());
}

TEST_CASE_METHOD(StoreFixture, "what was committed is there after a crash, without a clean stop") {
  REQUIRE(Write([&](auto& db) { InsertVolume(db, Volume("v")); }).ok());
  const std::string copy = folder.File("copy.db");
  for (const char* suffix : {"", "-wal"}) {
    std::filesystem::copy_file(folder.File("mdm.db") + suffix, copy + suffix);
  }
  MetricRegistry other_metrics("mdm");
  const auto reopened = MdmStore::Open(copy, &other_metrics);
  REQUIRE(reopened.ok());
  CHECK((*reopened)
            ->Read([](SQLite::Database& db) {
              CHECK(FindVolumeByName(db, "v").has_value());
              return absl::OkStatus();
            })
            .ok());
}

TEST_CASE("every schema version that ever was is migrated to the newest") {
  for (size_t version = 0; version <= MdmMigrations().size(); ++version) {
    TemporaryFolder folder;
    const std::string path = folder.File("mdm.db");
    const std::vector<std::string> first(MdmMigrations().begin(),
                                         MdmMigrations().begin() + static_cast<long>(version));
    REQUIRE(SqliteDb::Open(path, first).ok());
    MetricRegistry metrics("mdm");
    const auto store = MdmStore::Open(path, &metrics);
    REQUIRE(store.ok());
    CHECK((*store)->schema_version() == static_cast<int>(MdmMigrations().size()));
  }
}

TEST_CASE("a database of a newer version, or a damaged one, is refused") {
  TemporaryFolder folder;
  const std::string path = folder.File("mdm.db");
  MetricRegistry metrics("mdm");
  std::vector<std::string> future = MdmMigrations();
  future.push_back("CREATE TABLE later (x)");
  REQUIRE(SqliteDb::Open(path, future).ok());
  CHECK(absl::IsFailedPrecondition(MdmStore::Open(path, &metrics).status()));
  std::filesystem::resize_file(path, 5'000);
  MetricRegistry other("mdm");
  CHECK_FALSE(MdmStore::Open(path, &other).ok());
}

TEST_CASE_METHOD(StoreFixture, "a request id is remembered for its kind, until it is old") {
  REQUIRE(Write([&](auto& db) {
            RememberRequest(db, "volume", "r1", 42, 1'000);
            RememberRequest(db, "volume", "", 43, 1'000);
            CHECK(FindRequest(db, "volume", "r1") == 42);
            CHECK_FALSE(FindRequest(db, "pool", "r1").has_value());
            CHECK_FALSE(FindRequest(db, "volume", "").has_value());
            ForgetRequests(db, 1'001);
            CHECK_FALSE(FindRequest(db, "volume", "r1").has_value());
          }).ok());
}

TEST_CASE_METHOD(StoreFixture, "a tombstone waits for each server, and goes with a forgotten one") {
  REQUIRE(Write([&](auto& db) {
            const VolumeRow row = InsertVolume(db, Volume("v"));
            DeleteVolumeRow(db, row, sds_ids, 5);
            CHECK(WasVolumeDeleted(db, row.volume_id, ""));
            CHECK(WasVolumeDeleted(db, 0, "v"));
            CHECK_FALSE(WasVolumeDeleted(db, 0, "w"));
            CHECK(CountPendingDeletions(db) == 2);
            ConfirmDeletion(db, row.vtree_id, sds_ids[0]);
            CHECK(ListPendingDeletions(db, sds_ids[0]).empty());
            REQUIRE(ListPendingDeletions(db, sds_ids[1]).size() == 1);
            CHECK(ListPendingDeletions(db, sds_ids[1])[0].vtree_id == row.vtree_id);
            DeleteSdsRow(db, sds_ids[1]);
            CHECK(CountPendingDeletions(db) == 0);
          }).ok());
}

TEST_CASE_METHOD(StoreFixture, "only the newest events are kept") {
  REQUIRE(store
              ->Write([&](WriteTransaction& transaction) {
                for (int i = 0; i < 25; ++i) {
                  v1::Event event;
                  event.set_code("c" + std::to_string(i));
                  AddEvent(transaction, event, 10);
                }
                const auto events = ListEventRows(transaction.db, {});
                REQUIRE(events.size() == 10);
                CHECK(events.front().code() == "c15");
                CHECK(events.back().code() == "c24");
                CHECK(ListEventRows(transaction.db, {events.back().event_id(), 5}).empty());
                return absl::OkStatus();
              })
              .ok());
}

TEST_CASE_METHOD(StoreFixture, "a report of acknowledgements counts once") {
  REQUIRE(Write([&](auto& db) {
            CHECK(TakeAckReport(db, sds_ids[0], 3, 1));
            CHECK_FALSE(TakeAckReport(db, sds_ids[0], 3, 1));
            CHECK(TakeAckReport(db, sds_ids[0], 3, 2));
            CHECK_FALSE(TakeAckReport(db, sds_ids[0], 2, 9));
            CHECK(TakeAckReport(db, sds_ids[0], 4, 1));
            CHECK(TakeAckReport(db, sds_ids[1], 1, 1));
          }).ok());
}

TEST_CASE_METHOD(StoreFixture,
                 "tokens: acknowledged, revoked, run out, cleaned up only when harmless") {
  REQUIRE(Write([&](auto& db) {
            TokenRow row;
            row.record.set_transaction(true);
            row.record.set_volume_id(1);
            row.record.set_generation(4);
            row.record.set_expiry_ms(100);
            row.record.set_unacknowledged(2);
            row.operation = token::Operation::kWrite;
            row.outage_expiry_ms = 1'000;
            const uint64_t id = InsertToken(db, row);
            CHECK(FindActiveWriteTransaction(db, 1) == id);
            v1::TokenAck ack;
            ack.set_token_id(id);
            ack.set_writes(1);
            ack.set_write_bytes(512);
            AddAck(db, ack);
            CHECK(FindToken(db, id)->record.state() == v1::TOKEN_STATE_ACTIVE);
            AddAck(db, ack);
            CHECK(FindToken(db, id)->record.state() == v1::TOKEN_STATE_ACKNOWLEDGED);
            CHECK(FindToken(db, id)->record.write_bytes() == 1'024);
            CHECK_FALSE(FindActiveWriteTransaction(db, 1).has_value());
            const uint64_t second = InsertToken(db, row);
            CHECK(RevokeTokens(db, 1, 4, "x") == 0);
            CHECK(RevokeTokens(db, 1, 5, "x") == 1);
            CHECK(FindToken(db, second)->record.end_reason() == "x");
            CHECK(LatestOutageExpiry(db, 1, 4) == 0);
            CHECK(LatestOutageExpiry(db, 1, 5) == 1'000);
            const uint64_t third = InsertToken(db, row);
            CHECK(ExpireDueTokens(db, 99) == 0);
            CHECK(ExpireDueTokens(db, 100) == 1);
            CHECK(FindToken(db, third)->record.state() == v1::TOKEN_STATE_EXPIRED);
            // A server that hears nothing would still take it.
            CHECK(CleanupTokenRows(db, 500, 999) == 0);
            CHECK(CleanupTokenRows(db, 500, 1'001) == 3);
          }).ok());
}

TEST_CASE_METHOD(StoreFixture, "the listener hears of commits in order, and never of what failed") {
  std::vector<uint64_t> heard;
  store->SetCommitListener([&](const ChangeSet& changes) {
    heard.insert(heard.end(), changes.placement_group_ids.begin(),
                 changes.placement_group_ids.end());
  });
  for (uint64_t id : {3, 1, 2}) {
    (void)store->Write([&](WriteTransaction& transaction) -> absl::Status {
      transaction.changes.placement_group_ids.insert(id);
      return id == 1 ? absl::AbortedError("no") : absl::OkStatus();
    });
  }
  CHECK(heard == std::vector<uint64_t>{3, 2});
}

TEST_CASE_METHOD(StoreFixture, "a change of the tree raises its version") {
  const auto version = [&] {
    uint64_t value = 0;
    (void)store->Read([&](SQLite::Database& db) {
      value = GetNumber(db, "topology_version");
      return absl::OkStatus();
    });
    return value;
  };
  const uint64_t before = version();
  REQUIRE(store
              ->Write([](WriteTransaction& transaction) {
                transaction.changes.topology = true;
                return absl::OkStatus();
              })
              .ok());
  CHECK(version() == before + 1);
}

}  // namespace
}  // namespace tessera::mdm
