#include "services/sdc/control/local_state.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"

namespace tessera::sdc {
namespace {

const std::vector<std::string>& Migrations() {
  static const auto* const migrations = new std::vector<std::string>{
      R"sql(
        CREATE TABLE identity (
          only INTEGER PRIMARY KEY CHECK (only = 1),
          node_uuid TEXT NOT NULL,
          name TEXT NOT NULL,
          sdc_id INTEGER NOT NULL,
          node_secret TEXT NOT NULL,
          cluster_uuid TEXT NOT NULL,
          incarnation INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE attachments (
          volume_id INTEGER PRIMARY KEY,
          volume_name TEXT NOT NULL,
          issued_grant BLOB NOT NULL  -- tessera.v1.IssuedGrant
        ) STRICT;
      )sql",
      "ALTER TABLE attachments ADD COLUMN shared INTEGER NOT NULL DEFAULT 0"};
  return *migrations;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalState>> LocalState::Open(const std::string& folder,
                                                             const std::string& name) {
  absl::StatusOr<std::unique_ptr<SqliteDb>> db =
      SqliteDb::Open(folder + "/sdc_local.db", Migrations());
  if (!db.ok()) return db.status();
  std::unique_ptr<LocalState> state(new LocalState(*std::move(db)));
  TESSERA_RETURN_IF_ERROR(state->Load(name));
  return state;
}

absl::Status LocalState::Load(const std::string& name) {
  const std::string new_uuid = NewUuid();
  return db_->Transaction([&](SQLite::Database& database) {
    SQLite::Statement insert(database,
                             "INSERT OR IGNORE INTO identity VALUES (1, ?, ?, 0, '', '', 0)");
    insert.bind(1, new_uuid);
    insert.bind(2, name);
    insert.exec();
    database.exec("UPDATE identity SET incarnation = incarnation + 1");
    SQLite::Statement read(database,
                           "SELECT node_uuid, name, sdc_id, node_secret, cluster_uuid, incarnation "
                           "FROM identity");
    if (!read.executeStep()) return absl::DataLossError("sdc_local.db has no identity");
    if (const std::string own = read.getColumn(1).getString(); !IsNodeName(own)) {
      return absl::InvalidArgumentError(absl::StrCat("--name '", own, "' must be ", kNodeNameRule));
    }
    identity_.node_uuid = read.getColumn(0).getString();
    identity_.name = read.getColumn(1).getString();
    identity_.sdc_id = static_cast<uint64_t>(read.getColumn(2).getInt64());
    identity_.node_secret = read.getColumn(3).getString();
    identity_.cluster_uuid = read.getColumn(4).getString();
    identity_.incarnation = static_cast<uint64_t>(read.getColumn(5).getInt64());
    return absl::OkStatus();
  });
}

absl::Status LocalState::SaveRegistration(uint64_t sdc_id, const std::string& node_secret,
                                          const std::string& cluster_uuid) {
  // Later registrations carry no secret: the first one stays.
  const std::string& secret = node_secret.empty() ? identity_.node_secret : node_secret;
  const absl::Status saved = db_->Transaction([&](SQLite::Database& database) {
    SQLite::Statement update(database,
                             "UPDATE identity SET sdc_id = ?, node_secret = ?, cluster_uuid = ?");
    update.bind(1, static_cast<int64_t>(sdc_id));
    update.bind(2, secret);
    update.bind(3, cluster_uuid);
    update.exec();
    return absl::OkStatus();
  });
  if (!saved.ok()) return saved;
  identity_.sdc_id = sdc_id;
  identity_.node_secret = secret;
  identity_.cluster_uuid = cluster_uuid;
  return absl::OkStatus();
}

absl::Status LocalState::SaveAttachment(const SavedAttachment& attachment) {
  const std::string grant = attachment.grant.SerializeAsString();
  return db_->Transaction([&](SQLite::Database& database) {
    SQLite::Statement insert(database, "INSERT OR REPLACE INTO attachments VALUES (?, ?, ?, ?)");
    insert.bind(1, static_cast<int64_t>(attachment.volume_id));
    insert.bind(2, attachment.volume_name);
    insert.bind(3, grant.data(), static_cast<int>(grant.size()));
    insert.bind(4, attachment.shared ? 1 : 0);
    insert.exec();
    return absl::OkStatus();
  });
}

absl::Status LocalState::RemoveAttachment(uint64_t volume_id) {
  return db_->Transaction([&](SQLite::Database& database) {
    SQLite::Statement remove(database, "DELETE FROM attachments WHERE volume_id = ?");
    remove.bind(1, static_cast<int64_t>(volume_id));
    remove.exec();
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<SavedAttachment>> LocalState::Attachments() {
  std::vector<SavedAttachment> attachments;
  const absl::Status read = db_->Run([&](SQLite::Database& database) {
    SQLite::Statement query(
        database,
        "SELECT volume_id, volume_name, issued_grant, shared FROM attachments ORDER BY volume_id");
    while (query.executeStep()) {
      SavedAttachment attachment;
      attachment.volume_id = static_cast<uint64_t>(query.getColumn(0).getInt64());
      attachment.volume_name = query.getColumn(1).getString();
      const SQLite::Column blob = query.getColumn(2);
      if (!attachment.grant.ParseFromArray(blob.getBlob(), blob.getBytes())) {
        return absl::DataLossError("sdc_local.db: a saved grant can't be read");
      }
      attachment.shared = query.getColumn(3).getInt() != 0;
      attachments.push_back(std::move(attachment));
    }
    return absl::OkStatus();
  });
  if (!read.ok()) return read;
  return attachments;
}

}  // namespace tessera::sdc
