// VolumeService: volumes and who has them mapped. Plans and records; never touches data.
//
// Threads: handlers run on the dispatcher's threads and may wait for servers and clients.
#ifndef TESSERA_SERVICES_MDM_VOLUME_SERVICE_H_
#define TESSERA_SERVICES_MDM_VOLUME_SERVICE_H_

#include <chrono>
#include <functional>

#include "services/mdm/cluster_keys.h"
#include "services/mdm/event_log.h"
#include "services/mdm/grant_issuer.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_control.h"
#include "services/mdm/rpc_methods.h"
#include "services/mdm/shared_writers.h"
#include "services/mdm/snapshot_maker.h"
#include "services/mdm/volume_fence.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::mdm {

class VolumeService final : public v1::VolumeService::CallbackService {
 public:
  // An orderly detach gets this long before the volume is taken away regardless.
  static constexpr std::chrono::milliseconds kDetachTimeout{2'000};

  // `deleted` is called after each deletion: servers have something to drop. `budget_set` after a
  // volume got another budget: it is to be measured.
  VolumeService(RpcDispatcher* rpc, const GrantRules& grant_rules, MdmStore* store,
                const ClusterKeys* keys, NodeControl* control, VolumeFence* fence,
                HealthMonitor* health, const EventLog* events, const MdmTime* time,
                std::function<void()> deleted, std::function<void()> budget_set)
      : rpc_(rpc),
        store_(store),
        keys_(keys),
        control_(control),
        fence_(fence),
        health_(health),
        events_(events),
        time_(time),
        deleted_(std::move(deleted)),
        budget_set_(std::move(budget_set)),
        maker_(GrantIssuer(grant_rules, keys, time), store, control, fence, events, time, deleted_),
        shared_(grant_rules, store, control, keys, events, time) {}

  TESSERA_MDM_UNARY(CreateVolume);
  TESSERA_MDM_UNARY(GetVolume);
  TESSERA_MDM_UNARY(ListVolumes);
  TESSERA_MDM_UNARY(UpdateVolume);
  TESSERA_MDM_UNARY(DeleteVolume);
  TESSERA_MDM_UNARY(RestoreVolume);
  TESSERA_MDM_UNARY(MapVolume);
  TESSERA_MDM_UNARY(UnmapVolume);
  TESSERA_MDM_UNARY(CreateSnapshots);
  TESSERA_MDM_UNARY(CloneVolume);
  TESSERA_MDM_UNARY(RollbackVolume);
  TESSERA_MDM_UNARY(PassWriter);
  TESSERA_MDM_UNARY(FlattenVolume);
  TESSERA_MDM_UNARY(ListFenceReceipts);

  // As CreateSnapshots, also with the labels that are the MDM's own.
  [[nodiscard]] absl::Status MakeSnapshots(const CallContext& call,
                                           const v1::CreateSnapshotsRequest& request,
                                           v1::CreateSnapshotsResponse* response);

 private:
  [[nodiscard]] absl::Status Insert(WriteTransaction& transaction,
                                    const v1::CreateVolumeRequest& request,
                                    VolumeRow* volume) const;
  void Attach(const CallContext& call, const SdcRow& sdc, v1::VolumeMapping* mapping);
  // Deletes the row of a volume that no IO is possible on, or puts it into the trash.
  void Remove(WriteTransaction& transaction, uint64_t keep_ms, VolumeRow volume) const;
  [[nodiscard]] absl::Status CheckThickFits(SQLite::Database& db, const v1::StoragePool& pool,
                                            uint64_t more_bytes) const;

  // RESOURCE_EXHAUSTED when the pool may not promise so much more.
  [[nodiscard]] absl::Status CheckOvercommit(SQLite::Database& db, uint64_t pool_id,
                                             uint64_t more_bytes) const;

  // Clients that have the volume attached renew their grants, which say what was changed. Adds
  // those that could not be told to `later`.
  void TellClients(const CallContext& call, uint64_t volume_id, const std::vector<SdcRow>& clients,
                   google::protobuf::RepeatedField<uint64_t>* later);

  // Shared mappings: volume_sharing.cc.

  struct Passing;
  [[nodiscard]] absl::Status PreparePassing(const v1::PassWriterRequest& request,
                                            Passing* passing) const;
  // The present writer holds its requests from here on, or is gone.
  [[nodiscard]] absl::Status Yield(const CallContext& call, Passing* passing);
  [[nodiscard]] absl::Status HandOver(const CallContext& call, const Passing& passing);
  // The writer, if it is another client, finishes and flushes before the volume is unmapped from
  // this one. Where it can't, its requests are begun anew under the next generation.
  void YieldForUnmap(const CallContext& call, uint64_t volume_id, uint64_t sdc_id);
  // A fence that others may overtake: a shared volume's writer acquires anew as soon as it can.
  [[nodiscard]] absl::StatusOr<FenceReceipt> FenceShared(const CallContext& call, VolumeRow volume);

  // Changing and restoring: volume_update.cc.

  [[nodiscard]] absl::Status Update(WriteTransaction& transaction,
                                    const v1::UpdateVolumeRequest& request, VolumeRow* volume,
                                    std::vector<SdcRow>* concerned) const;
  [[nodiscard]] absl::Status Resize(SQLite::Database& db, uint64_t size_bytes,
                                    VolumeRow* volume) const;

  // A path of one part: volume_flatten.cc.

  [[nodiscard]] absl::Status Flatten(const CallContext& call,
                                     const v1::FlattenVolumeRequest& request,
                                     v1::FlattenVolumeResponse* response);

  // A smaller size: volume_shrink.cc.

  // Whether the request asks for one, and may.
  [[nodiscard]] absl::StatusOr<bool> WantsShrink(const v1::UpdateVolumeRequest& request) const;
  [[nodiscard]] absl::Status Shrink(const CallContext& call, const v1::UpdateVolumeRequest& request,
                                    v1::UpdateVolumeResponse* response);

  // Clones and rollback: volume_snapshots.cc.

  [[nodiscard]] absl::Status Clone(WriteTransaction& transaction,
                                   const v1::CloneVolumeRequest& request, VolumeRow* volume) const;
  // What a rollback is about.
  struct Rollback {
    VolumeRow volume;
    VolumeRow snapshot;
    std::string safety_name;  // empty: none is made
  };
  // Finds all of it, and whether it may be.
  [[nodiscard]] absl::Status PrepareRollback(SQLite::Database& db,
                                             const v1::RollbackVolumeRequest& request,
                                             Rollback* rollback) const;
  [[nodiscard]] absl::Status CarryRollback(WriteTransaction& transaction, Rollback* rollback,
                                           v1::RollbackVolumeResponse* response) const;

  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  const ClusterKeys* const keys_;
  NodeControl* const control_;
  VolumeFence* const fence_;
  HealthMonitor* const health_;
  const EventLog* const events_;
  const MdmTime* const time_;
  const std::function<void()> deleted_;
  const std::function<void()> budget_set_;
  SnapshotMaker maker_;
  SharedWriters shared_;
};

// The volume by id, or by name when the id is 0; one in the trash has no name, and a snapshot that
// is being made is not there yet. NOT_FOUND.
[[nodiscard]] absl::StatusOr<VolumeRow> ResolveVolume(SQLite::Database& db, uint64_t volume_id,
                                                      const std::string& name);
// FAILED_PRECONDITION for a volume in the trash.
[[nodiscard]] absl::Status CheckNotTrashed(const VolumeRow& volume);
// FAILED_PRECONDITION for a snapshot: nobody writes it.
[[nodiscard]] absl::Status CheckNotSnapshot(const VolumeRow& volume);
// FAILED_PRECONDITION for what has snapshots, is locked, or is mapped.
[[nodiscard]] absl::Status CheckDeletable(SQLite::Database& db, const VolumeRow& volume,
                                          uint64_t now_ms);
[[nodiscard]] absl::Status CheckVolumeSize(const std::string& field, uint64_t size_bytes);
[[nodiscard]] absl::Status CheckLabels(const std::string& field, const VolumeLabels& labels);
// The same of what a caller gives to what has the labels `before`: none of the MDM's own is new.
[[nodiscard]] absl::Status CheckCallersLabels(const std::string& field, const VolumeLabels& labels,
                                              const VolumeLabels& before = {});
// INVALID_ARGUMENT unless it is 0, or a time from now on that is not too far away.
[[nodiscard]] absl::Status CheckExpiry(const std::string& field, uint64_t expires_ms,
                                       uint64_t now_ms);
[[nodiscard]] absl::Status CheckBudget(const std::string& field, uint64_t byte_budget);
[[nodiscard]] absl::Status NameTaken(const std::string& name);
// The client by id, or by name when the id is 0; neither: the only one there is. NOT_FOUND.
[[nodiscard]] absl::StatusOr<SdcRow> ResolveSdc(SQLite::Database& db, uint64_t sdc_id,
                                                const std::string& name);
[[nodiscard]] std::vector<SdcRow> ClientsOf(SQLite::Database& db,
                                            const std::vector<MappingRow>& mappings);
[[nodiscard]] absl::Status MappedElsewhere(SQLite::Database& db, const VolumeRow& volume,
                                           const MappingRow& other);

// Deletes the row of a volume that no IO is possible on, and has its servers drop what nobody sees
// any more.
void RemoveVolume(WriteTransaction& transaction, const VolumeRow& volume, uint64_t now_ms);
// The same, with an event.
void DropVolume(WriteTransaction& transaction, const EventLog& events, const VolumeRow& volume,
                uint64_t now_ms);

// Raises the volume's generation, ends what was given out under older ones, and writes the row.
void RaiseGeneration(WriteTransaction& transaction, VolumeRow* volume, const std::string& reason);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_VOLUME_SERVICE_H_
