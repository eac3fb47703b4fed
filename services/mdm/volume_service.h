// VolumeService: volumes and who has them mapped. Plans and records; never touches data.
//
// Threads: handlers run on the dispatcher's threads and may wait for servers and clients.
#ifndef TESSERA_SERVICES_MDM_VOLUME_SERVICE_H_
#define TESSERA_SERVICES_MDM_VOLUME_SERVICE_H_

#include <chrono>
#include <functional>

#include "services/mdm/cluster_keys.h"
#include "services/mdm/event_log.h"
#include "services/mdm/health_monitor.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/node_control.h"
#include "services/mdm/rpc_methods.h"
#include "services/mdm/volume_fence.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::mdm {

class VolumeService final : public v1::VolumeService::CallbackService {
 public:
  // An orderly detach gets this long before the volume is taken away regardless.
  static constexpr std::chrono::milliseconds kDetachTimeout{2'000};

  // `deleted` is called after each deletion: servers have something to drop.
  VolumeService(RpcDispatcher* rpc, MdmStore* store, const ClusterKeys* keys, NodeControl* control,
                VolumeFence* fence, HealthMonitor* health, const EventLog* events,
                const MdmTime* time, std::function<void()> deleted)
      : rpc_(rpc),
        store_(store),
        keys_(keys),
        control_(control),
        fence_(fence),
        health_(health),
        events_(events),
        time_(time),
        deleted_(std::move(deleted)) {}

  TESSERA_MDM_UNARY(CreateVolume);
  TESSERA_MDM_UNARY(GetVolume);
  TESSERA_MDM_UNARY(ListVolumes);
  TESSERA_MDM_UNARY(UpdateVolume);
  TESSERA_MDM_UNARY(DeleteVolume);
  TESSERA_MDM_UNARY(RestoreVolume);
  TESSERA_MDM_UNARY(MapVolume);
  TESSERA_MDM_UNARY(UnmapVolume);
  TESSERA_MDM_UNARY(ListFenceReceipts);

 private:
  [[nodiscard]] absl::Status Insert(WriteTransaction& transaction,
                                    const v1::CreateVolumeRequest& request,
                                    VolumeRow* volume) const;
  void Attach(const CallContext& call, const SdcRow& sdc, v1::VolumeMapping* mapping);
  // Deletes the row of a volume that no IO is possible on, or puts it into the trash.
  void Remove(WriteTransaction& transaction, uint64_t keep_ms, VolumeRow volume) const;
  [[nodiscard]] absl::Status CheckThickFits(SQLite::Database& db, const v1::StoragePool& pool,
                                            uint64_t more_bytes) const;

  // Clients that have the volume attached renew their grants, which say what was changed. Adds
  // those that could not be told to `later`.
  void TellClients(const CallContext& call, uint64_t volume_id, const std::vector<SdcRow>& clients,
                   google::protobuf::RepeatedField<uint64_t>* later);

  // Changing and restoring: volume_update.cc.

  [[nodiscard]] absl::Status Update(WriteTransaction& transaction,
                                    const v1::UpdateVolumeRequest& request, VolumeRow* volume,
                                    std::vector<SdcRow>* concerned) const;
  [[nodiscard]] absl::Status Resize(SQLite::Database& db, uint64_t size_bytes,
                                    VolumeRow* volume) const;

  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  const ClusterKeys* const keys_;
  NodeControl* const control_;
  VolumeFence* const fence_;
  HealthMonitor* const health_;
  const EventLog* const events_;
  const MdmTime* const time_;
  const std::function<void()> deleted_;
};

// The volume by id, or by name when the id is 0; one in the trash has no name. NOT_FOUND.
[[nodiscard]] absl::StatusOr<VolumeRow> ResolveVolume(SQLite::Database& db, uint64_t volume_id,
                                                      const std::string& name);
// FAILED_PRECONDITION for a volume in the trash.
[[nodiscard]] absl::Status CheckNotTrashed(const VolumeRow& volume);
[[nodiscard]] absl::Status CheckVolumeSize(const std::string& field, uint64_t size_bytes);
[[nodiscard]] absl::Status CheckLabels(const std::string& field, const VolumeLabels& labels);
[[nodiscard]] absl::Status NameTaken(const std::string& name);
[[nodiscard]] std::vector<SdcRow> ClientsOf(SQLite::Database& db,
                                            const std::vector<MappingRow>& mappings);
[[nodiscard]] absl::Status MappedElsewhere(SQLite::Database& db, const VolumeRow& volume,
                                           const MappingRow& other);

// Deletes the row of a volume that no IO is possible on, and has its servers drop its data.
void DropVolume(WriteTransaction& transaction, const EventLog& events, const VolumeRow& volume,
                uint64_t now_ms);

// Raises the volume's generation, ends what was given out under older ones, and writes the row.
void RaiseGeneration(WriteTransaction& transaction, VolumeRow* volume, const std::string& reason);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_VOLUME_SERVICE_H_
