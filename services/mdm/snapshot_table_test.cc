// mdm.db with snapshots: what SQL refuses, catalogs, what servers have to drop, and the migration.
#include "services/mdm/snapshot_table.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "services/common/sql.h"
#include "services/common/sqlite_db.h"
#include "services/mdm/cluster_record_table.h"
#include "services/mdm/mdm_schema.h"
#include "services/mdm/token_table.h"
#include "services/mdm/topology_table.h"

namespace tessera::mdm {
namespace {

struct TableFixture {
  TableFixture() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mdm-test-XXXXXX").string();
    folder = mkdtemp(pattern.data());
    path = folder + "/mdm.db";
  }
  ~TableFixture() { std::filesystem::remove_all(folder); }

  void Open(const std::vector<std::string>& migrations = MdmMigrations()) {
    database.reset();
    auto opened = SqliteDb::Open(path, migrations);
    INFO(opened.status());
    REQUIRE(opened.ok());
    database = *std::move(opened);
  }
  absl::Status Write(const std::function<void(SQLite::Database&)>& body) {
    return database->Transaction([&](SQLite::Database& db) {
      body(db);
      return absl::OkStatus();
    });
  }
  // A pool with two servers, and a volume.
  void Fill() {
    REQUIRE(Write([&](auto& db) {
              v1::ProtectionDomain domain;
              domain.set_name("pd");
              v1::StoragePool pool;
              pool.set_protection_domain_id(InsertProtectionDomain(db, domain));
              pool.set_name("pool");
              pool.set_replica_count(2);
              pool.set_min_replicas(1);
              pool.set_chunk_bytes(1 << 20);
              pool.set_placement_group_count(4);
              pool_id = InsertPool(db, pool);
              for (const char* name : {"a", "b"}) {
                SdsRow sds;
                sds.node_uuid = sds.name = name;
                sds.incarnation = 1;
                sds_ids.push_back(InsertSds(db, sds));
                DeviceRow device;
                device.sds_id = sds_ids.back();
                device.pool_id = pool_id;
                device.description.set_device_uuid(name);
                (void)InsertDevice(db, device);
              }
              SdcRow sdc;
              sdc.node_uuid = sdc.name = "client";
              sdc.incarnation = 1;
              sdc_id = InsertSdc(db, sdc);
              volume = InsertVolume(db, Row("v"));
            }).ok());
  }
  VolumeRow Row(const std::string& name) const {
    VolumeRow row;
    row.name = name;
    row.pool_id = pool_id;
    row.size_bytes = 1 << 20;
    return row;
  }
  VolumeRow SnapshotOf(SQLite::Database& db, const std::string& name) {
    VolumeRow row = Row(name);
    row.vtree_id = volume.vtree_id;
    row.kind = v1::VOLUME_KIND_SNAPSHOT;
    row.parent_id = volume.volume_id;
    row.snapshot_sequence = volume.snapshot_sequence++;
    row.path = SnapshotPath(volume.path, volume.snapshot_sequence);
    UpdateVolumeLayers(db, volume);
    GiveOutLayer(db, volume.vtree_id, volume.snapshot_sequence);
    return InsertVolume(db, row);
  }

  std::string folder;
  std::string path;
  std::unique_ptr<SqliteDb> database;
  uint64_t pool_id = 0;
  uint64_t sdc_id = 0;
  std::vector<uint64_t> sds_ids;
  VolumeRow volume;
};

TEST_CASE_METHOD(TableFixture, "a database of before snapshots keeps all it has", "[layers]") {
  std::vector<std::string> before = MdmMigrations();
  before.pop_back();
  Open(before);
  // By SQL as it was then.
  REQUIRE(Write([](SQLite::Database& db) {
            db.exec("INSERT INTO protection_domain (name, created_ms) VALUES ('pd', 0)");
            db.exec(
                "INSERT INTO pool (protection_domain_id, name, replica_count, min_replicas,"
                " chunk_bytes, placement_group_count, created_ms)"
                " VALUES (1, 'pool', 1, 1, 1048576, 4, 0)");
            db.exec("INSERT INTO vtree (id, pool_id) VALUES (7, 1)");
            db.exec(
                "INSERT INTO volume (id, name, pool_id, vtree_id, size_bytes, provisioning,"
                " generation, fenced_generation, reconciled_generation, created_ms)"
                " VALUES (7, 'v', 1, 7, 1048576, 2, 5, 5, 5, 1)");
            db.exec(
                "INSERT INTO token (is_transaction, volume_id, sdc_id, generation, key_id,"
                " access, operation, state, issued_ms, expiry_ms, outage_expiry_ms)"
                " VALUES (0, 7, 1, 5, 1, 2, 1, 1, 1, 2, 3)");
          }).ok());
  RecordClock clock;
  std::vector<v1::ClusterRecord> records;
  REQUIRE(Write([&](auto& db) {
            clock = ReadRecordClock(db);
            Sql count(db, "SELECT count(*) FROM record");
            REQUIRE(count.Next());
            CHECK(count.Unsigned(0) == 4);
          }).ok());
  Open();
  REQUIRE(Write([&](auto& db) {
            const auto row = FindVolume(db, 7);
            REQUIRE(row.has_value());
            CHECK(row->name == "v");
            CHECK(row->kind == v1::VOLUME_KIND_VOLUME);
            CHECK(row->path.empty());
            CHECK_FALSE(row->being_made);
            CHECK(FindToken(db, 1)->layer == 0);
            CHECK(ReadRecordClock(db).revision == clock.revision);
            CHECK(ReadAllRecords(db).size() == 4);
            // Changes are recorded as before.
            VolumeRow renamed = *row;
            renamed.name = "w";
            UpdateVolumeRow(db, renamed);
            REQUIRE(ReadRecordsAfter(db, clock.revision).size() == 1);
            CHECK(ReadRecordsAfter(db, clock.revision)[0].volume().volume().name() == "w");
            // One number for volume and vtree from now on, too.
            VolumeRow next = *row;
            next.name = "next";
            next.vtree_id = 0;
            next = InsertVolume(db, next);
            CHECK(next.volume_id == 8);
            CHECK(next.vtree_id == 8);
          }).ok());
}

TEST_CASE_METHOD(TableFixture, "SQL refuses what would change a snapshot", "[layers]") {
  Open();
  Fill();
  VolumeRow snapshot;
  REQUIRE(Write([&](auto& db) { snapshot = SnapshotOf(db, "s"); }).ok());
  const auto refused = [&](const std::function<void(SQLite::Database&)>& body) {
    return absl::IsFailedPrecondition(Write(body));
  };
  CHECK(refused([&](auto& db) { InsertMapping(db, {snapshot.volume_id, sdc_id}); }));
  CHECK(Write([&](auto& db) {
          InsertMapping(db, {snapshot.volume_id, sdc_id, v1::MAPPING_MODE_READ_ONLY});
        }).ok());
  VolumeRow back = volume;
  back.snapshot_sequence = 0;
  CHECK(refused([&](auto& db) { UpdateVolumeLayers(db, back); }));
  CHECK(refused([&](auto& db) { Sql(db, "UPDATE layer_branch SET ordinal_max = 0").Run(); }));
  // A path that is none is never taken for another.
  REQUIRE(Write([&](auto& db) {
            Sql(db, "UPDATE volume SET path = '1:2,3' WHERE id = ?", snapshot.volume_id).Run();
          }).ok());
  CHECK_FALSE(Write([&](auto& db) { (void)FindVolume(db, snapshot.volume_id); }).ok());
}

TEST_CASE_METHOD(TableFixture, "the catalog: all paths, and each branch that has ever been",
                 "[layers]") {
  Open();
  Fill();
  REQUIRE(Write([&](auto& db) {
            CHECK_FALSE(ReadVtreeRecord(db, volume.vtree_id).has_value());
            v1::VtreeCatalog catalog = ReadCatalog(db, volume.vtree_id);
            REQUIRE(catalog.paths_size() == 1);
            CHECK(catalog.paths(0).parts().empty());
            REQUIRE(catalog.heads_size() == 1);
            CHECK(catalog.heads(0).branch() == 0);
            CHECK(catalog.heads(0).ordinal_max() == 0);

            const VolumeRow first = SnapshotOf(db, "s1");
            VolumeRow second = SnapshotOf(db, "s2");
            second.being_made = true;
            UpdateVolumeLayers(db, second);
            VolumeRow clone = Row("clone");
            clone.vtree_id = volume.vtree_id;
            const uint32_t branch = TakeBranch(db, volume.vtree_id);
            CHECK(branch == 1);
            clone.path = *BranchPath(branch, first.path);
            clone.snapshot_sequence = MakeLayer(branch, 0);
            clone = InsertVolume(db, clone);
            CHECK(ListVolumeRows(db, {.vtree_id = volume.vtree_id}).size() == 3);
            catalog = ReadCatalog(db, volume.vtree_id);
            CHECK(catalog.paths_size() == 4);  // also of what is being made
            REQUIRE(catalog.heads_size() == 2);
            CHECK(catalog.heads(0).ordinal_max() == 2);

            // The branch stays known when its volume is gone, and is not given out again.
            CHECK_FALSE(DeleteVolumeRow(db, clone, sds_ids, 9));
            catalog = ReadCatalog(db, volume.vtree_id);
            CHECK(catalog.paths_size() == 3);
            REQUIRE(catalog.heads_size() == 2);
            CHECK(catalog.heads(1).branch() == branch);
            CHECK(TakeBranch(db, volume.vtree_id) == branch + 1);
            const auto record = ReadVtreeRecord(db, volume.vtree_id);
            REQUIRE(record.has_value());
            CHECK(record->next_branch() == branch + 2);
            CHECK(record->heads_size() == 3);
            // A lower ordinal is not news.
            GiveOutLayer(db, volume.vtree_id, MakeLayer(0, 1));
            CHECK(ReadCatalog(db, volume.vtree_id).heads(0).ordinal_max() == 2);
          }).ok());
}

TEST_CASE_METHOD(TableFixture, "a vtree's tombstone comes with its last volume alone", "[layers]") {
  Open();
  Fill();
  REQUIRE(Write([&](auto& db) {
            const VolumeRow snapshot = SnapshotOf(db, "s");
            CHECK_FALSE(DeleteVolumeRow(db, volume, sds_ids, 5));
            CHECK(CountPendingDeletions(db) == 0);
            CHECK(CountPendingLayerDrops(db) == 2);
            CHECK(WasVolumeDeleted(db, volume.volume_id, ""));
            CHECK(WasVolumeDeleted(db, 0, "v"));
            const uint64_t revision = ReadRecordClock(db).revision;
            CHECK(DeleteVolumeRow(db, snapshot, sds_ids, 6));
            CHECK(CountPendingDeletions(db) == 2);
            CHECK(CountPendingLayerDrops(db) == 0);
            // The records of both are gone with it.
            const auto records = ReadRecordsAfter(db, revision);
            REQUIRE(records.size() == 2);
            for (const v1::ClusterRecord& record : records) {
              CHECK(record.content_case() == v1::ClusterRecord::CONTENT_NOT_SET);
            }
            ForgetDeletedVolumes(db, 6);
            CHECK_FALSE(WasVolumeDeleted(db, 0, "v"));
            CHECK(WasVolumeDeleted(db, 0, "s"));
          }).ok());
}

TEST_CASE_METHOD(TableFixture, "who was marked again has to be asked again", "[layers]") {
  Open();
  Fill();
  REQUIRE(Write([&](auto& db) {
            const uint64_t vtree_id = volume.vtree_id;
            // Nothing to drop, ever: nobody is asked.
            MarkLayerDropsOfServer(db, pool_id, sds_ids[0]);
            MarkLayerDropsAgain(db, UINT32_MAX, 1);
            CHECK(CountPendingLayerDrops(db) == 0);
            MarkLayerDrops(db, vtree_id, sds_ids, 100);
            const auto asked = ListPendingLayerDrops(db, sds_ids[0]);
            REQUIRE(asked.size() == 1);
            CHECK(asked[0].vtree_id == vtree_id);
            // It learned while it was asked.
            MarkLayerDropsOfServer(db, pool_id, sds_ids[0]);
            ConfirmLayerDrops(db, asked[0], sds_ids[0]);
            const auto again = ListPendingLayerDrops(db, sds_ids[0]);
            REQUIRE(again.size() == 1);
            CHECK(again[0].revision > asked[0].revision);
            ConfirmLayerDrops(db, again[0], sds_ids[0]);
            CHECK(ListPendingLayerDrops(db, sds_ids[0]).empty());
            CHECK(ListPendingLayerDrops(db, sds_ids[1]).size() == 1);
            ConfirmLayerDrops(db, asked[0], sds_ids[1]);
            CHECK(CountPendingLayerDrops(db) == 0);
            // From time to time.
            MarkLayerDropsAgain(db, 100, 200);
            CHECK(CountPendingLayerDrops(db) == 0);
            MarkLayerDropsAgain(db, 101, 200);
            CHECK(CountPendingLayerDrops(db) == 2);
            DeleteDeviceRow(db, 2);
            DeleteSdsRow(db, sds_ids[1]);
            CHECK(CountPendingLayerDrops(db) == 1);
          }).ok());
}

TEST_CASE_METHOD(TableFixture, "grants for writing below a cut end, others go on", "[layers]") {
  Open();
  Fill();
  REQUIRE(Write([&](auto& db) {
            TokenRow row;
            row.access = token::AccessMode::kReadWrite;
            row.record.set_volume_id(1);
            row.record.set_sdc_id(3);
            row.record.set_generation(4);
            row.record.set_expiry_ms(100);
            row.outage_expiry_ms = 100;
            row.layer = 1;
            const uint64_t below = InsertToken(db, row);
            const uint64_t ran_out = InsertToken(db, row);
            CHECK(HadWriteGrant(db, 1, 3, 3));  // of this mapping, in a later generation
            CHECK(HadWriteGrant(db, 1, 3, 4));
            CHECK_FALSE(HadWriteGrant(db, 1, 3, 5));
            CHECK_FALSE(HadWriteGrant(db, 1, 4, 4));
            CHECK_FALSE(HadWriteGrant(db, 2, 3, 4));
            CHECK(ExpireDueTokens(db, 100) == 2);
            CHECK(HadWriteGrant(db, 1, 3, 4));
            row.layer = 2;
            const uint64_t above = InsertToken(db, row);
            row.layer = 1;
            row.access = token::AccessMode::kReadOnly;
            const uint64_t reader = InsertToken(db, row);
            RevokeWritersBelow(db, 1, 2, "cut");
            CHECK(FindToken(db, below)->record.state() == v1::TOKEN_STATE_REVOKED);
            CHECK(FindToken(db, ran_out)->record.end_reason() == "cut");
            CHECK(FindToken(db, above)->record.state() == v1::TOKEN_STATE_ACTIVE);
            CHECK(FindToken(db, above)->layer == 2);
            CHECK(FindToken(db, reader)->record.state() == v1::TOKEN_STATE_ACTIVE);
            RevokeWritersBelow(db, 1, 3, "cut");
            CHECK(HadWriteGrant(db, 1, 3, 4));  // it may hold what it has answered
          }).ok());
}

}  // namespace
}  // namespace tessera::mdm
