// sds_local.db: what this server must not forget. FORMAT: the migrations in local_state.cc.
//
// Every setter is durable when it returns OK (synchronous=FULL). Nothing here is on the path of an
// IO, except when an IO brings a newer map entry or generation.
//
// Threads: any; one lock, held during the write.
#ifndef TESSERA_SERVICES_SDS_LOCAL_STATE_H_
#define TESSERA_SERVICES_SDS_LOCAL_STATE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/common/sqlite_db.h"
#include "services/sds/corrupt_block_book.h"
#include "services/sds/placement_table.h"
#include "services/sds/volume_table.h"
#include "tessera/v1/cluster_record.pb.h"
#include "tessera/v1/discovery.pb.h"
#include "tessera/v1/health.pb.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::sds {

struct NodeState {
  std::string node_uuid;
  uint64_t sds_id = 0;      // 0: not registered yet
  std::string node_secret;  // empty: not registered yet
  std::string cluster_uuid;
  uint64_t incarnation = 0;  // of this life, already durable
};

struct DeviceRecord {
  std::string device_uuid;
  std::string path;
  uint64_t device_id = 0;
  uint64_t pool_id = 0;      // 0: in no pool
  uint32_t chunk_bytes = 0;  // 0: its store was never made
};

// The last answer of the MDM, as far as a restart can use it.
struct MdmContact {
  std::vector<v1::SdsKey> keys;
  std::string boot_id;  // of the host, when the sample was taken; empty: there was none
  MdmTimeSample sample;
  uint64_t heartbeat_interval_ms = 0;
};

// Writes of a stream that were taken without their data (unserved_writes.h).
struct UnservedRange {
  uint64_t volume_id = 0;
  uint64_t placement_group_id = 0;
  uint64_t generation = 0;
  uint64_t first_sequence = 0;
  uint64_t last_sequence = 0;
};

// How far a device's scrub is.
struct ScrubRecord {
  std::string device_uuid;
  // Of the pass that runs, or {0}: none does. `operation_id` 0: by schedule.
  uint64_t started_ms = 0;
  uint64_t operation_id = 0;
  uint64_t vtree_id = 0;
  uint64_t placement_group_id = 0;  // gone through: everything before this, and of this
  chunk::ChunkKey key;              // everything up to this
  uint64_t bytes_done = 0;
  uint64_t completed_ms = 0;            // of the last scheduled pass
  uint64_t completed_operation_id = 0;  // that ended last
};

class LocalState {
 public:
  static constexpr int kHealthLogLimit = 10'000;

  // Opens or makes the database, and begins a new life: incarnation + 1. Errors as SqliteDb::Open.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<LocalState>> Open(const std::string& path);

  [[nodiscard]] NodeState node() const;
  [[nodiscard]] absl::Status SaveRegistration(uint64_t sds_id, const std::string& node_secret,
                                              const std::string& cluster_uuid);

  // All entries in one transaction. An entry never goes back to a lower epoch.
  [[nodiscard]] absl::Status SavePlacementGroups(std::span<const PlacementRecord> records);
  [[nodiscard]] absl::Status ForgetPlacementGroup(uint64_t placement_group_id);
  [[nodiscard]] absl::StatusOr<std::vector<PlacementRecord>> PlacementGroups();

  // All in one transaction. None ever falls.
  [[nodiscard]] absl::Status SaveGenerations(std::span<const VolumeGeneration> generations);
  [[nodiscard]] absl::StatusOr<std::vector<VolumeGeneration>> Generations();

  [[nodiscard]] absl::Status SaveDeletedVtrees(std::span<const uint64_t> vtree_ids);
  [[nodiscard]] absl::StatusOr<std::vector<uint64_t>> DeletedVtrees();

  [[nodiscard]] absl::Status SaveDevice(const DeviceRecord& device);
  [[nodiscard]] absl::StatusOr<std::vector<DeviceRecord>> Devices();

  // The keys as a whole.
  [[nodiscard]] absl::Status SaveMdmContact(const MdmContact& contact);
  [[nodiscard]] absl::StatusOr<MdmContact> LastMdmContact();

  [[nodiscard]] absl::Status SaveUnserved(const UnservedRange& range);
  [[nodiscard]] absl::StatusOr<std::vector<UnservedRange>> Unserved();

  [[nodiscard]] absl::Status SavePools(std::span<const v1::PoolLayout> pools);
  [[nodiscard]] absl::StatusOr<std::vector<v1::PoolLayout>> Pools();

  // Records of the cluster that are kept for the MDM: the set as a whole, in one transaction. The
  // revision never goes back.
  [[nodiscard]] absl::Status SaveRecords(const v1::ClusterRecords& records);
  [[nodiscard]] absl::StatusOr<uint64_t> RecordsRevision();  // 0: none yet
  [[nodiscard]] absl::StatusOr<std::vector<v1::SealedRecord>> Records();
  // Bad blocks of which no good copy was found.
  [[nodiscard]] absl::Status SaveUnreadableBlock(const CorruptBlock& block);
  [[nodiscard]] absl::Status ForgetUnreadableBlock(const BlockId& id);
  [[nodiscard]] absl::StatusOr<std::vector<CorruptBlock>> UnreadableBlocks();

  [[nodiscard]] absl::Status SaveScrub(const ScrubRecord& record);
  // One that was never saved: empty but for its device.
  [[nodiscard]] absl::StatusOr<ScrubRecord> Scrub(const std::string& device_uuid);

  // The newest kHealthLogLimit entries are kept.
  [[nodiscard]] absl::Status AppendHealthEvent(const v1::Event& event);
  // Events after `after_event_id`, oldest first, at most `limit`.
  [[nodiscard]] absl::StatusOr<std::vector<v1::Event>> HealthEvents(uint64_t after_event_id,
                                                                    uint32_t limit);

 private:
  explicit LocalState(std::unique_ptr<SqliteDb> database) : database_(std::move(database)) {}
  [[nodiscard]] absl::Status BeginLife();
  [[nodiscard]] absl::Status Write(const std::function<absl::Status(SQLite::Database&)>& body);
  [[nodiscard]] absl::Status Read(const std::function<absl::Status(SQLite::Database&)>& body);

  mutable absl::Mutex mutex_;
  const std::unique_ptr<SqliteDb> database_ ABSL_PT_GUARDED_BY(mutex_);
  NodeState node_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_LOCAL_STATE_H_
