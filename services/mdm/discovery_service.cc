#include "services/mdm/discovery_service.h"

#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/common/version.h"
#include "services/mdm/membership_rules.h"
#include "services/mdm/node_table.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

constexpr int kDevicesMax = 1'024;

absl::Status CheckIdentity(const v1::NodeIdentity& identity) {
  if (identity.node_uuid().size() != 36) {
    return InvalidField("identity.node_uuid",
                        absl::StrCat("'", identity.node_uuid(), "' is not an RFC 4122 UUID"));
  }
  TESSERA_RETURN_IF_ERROR(CheckNodeName("identity.name", identity.name()));
  if (identity.incarnation() == 0 || identity.incarnation() > INT64_MAX) {
    return InvalidField("identity.incarnation", "must be 1 or more, growing with each start");
  }
  return absl::OkStatus();
}

absl::Status CheckDevices(const v1::RegisterSdsRequest& request) {
  if (request.devices_size() > kDevicesMax) {
    return InvalidField("devices", absl::StrCat("names more than ", kDevicesMax));
  }
  std::set<std::string> uuids;
  for (const v1::DeviceDescription& device : request.devices()) {
    if (device.device_uuid().empty() || !uuids.insert(device.device_uuid()).second) {
      return InvalidField("devices.device_uuid",
                          absl::StrCat("'", device.device_uuid(), "' is empty or comes twice"));
    }
    if (device.capacity_bytes() > (1ull << 60)) {
      return InvalidField("devices.capacity_bytes", "is more than 1 EiB");
    }
  }
  return absl::OkStatus();
}

absl::Status NameTaken(const absl::Status& status, const std::string& name) {
  if (!absl::IsAlreadyExists(status) || !ReasonOf(status).empty()) return status;
  return WithReason(
      absl::AlreadyExistsError(absl::StrCat("another node has the name '", name, "'")),
      "NAME_TAKEN");
}

}  // namespace

absl::Status DiscoveryService::CheckFirstContact(const v1::NodeIdentity& identity) const {
  if (!identity.join_token().empty() && SameSecret(identity.join_token(), cluster_.join_token)) {
    return absl::OkStatus();
  }
  return WithReason(
      absl::UnauthenticatedError(
          identity.join_token().empty()
              ? absl::StrCat("node ", identity.node_uuid(),
                             " is not registered: its first contact needs the join token")
              : std::string("the join token is wrong")),
      "JOIN_TOKEN_WRONG");
}

absl::Status DiscoveryService::CheckReturn(const std::string& kind, uint64_t id,
                                           uint64_t incarnation,
                                           const v1::NodeIdentity& identity) const {
  // A node that never got the first answer asks again with the join token.
  if (identity.node_secret().empty()) {
    TESSERA_RETURN_IF_ERROR(CheckFirstContact(identity));
  } else if (!nodes_->SecretMatches(kind, id, identity.node_uuid(), identity.node_secret())) {
    return WithReason(
        absl::UnauthenticatedError(absl::StrCat("the secret is not that of ", kind, " ", id)),
        "NODE_SECRET_WRONG");
  }
  if (identity.incarnation() < incarnation) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "incarnation ", identity.incarnation(), " of ", kind, " ", id, " is before ",
            incarnation, ", which has registered: an old copy of the node's state was restored")),
        "INCARNATION_WENT_BACK");
  }
  return absl::OkStatus();
}

void DiscoveryService::RemoveStaleReplicas(WriteTransaction& transaction, uint64_t sds_id,
                                           const v1::RegisterSdsRequest& request) const {
  DeviceSet lost;
  DeviceSet without_tail;  // of these, the ones that serve, but without what was not flushed
  DeviceSet all;
  for (const v1::DeviceDescription& description : request.devices()) {
    const auto device = FindDeviceByUuid(transaction.db, description.device_uuid());
    if (!device.has_value()) continue;
    all.insert(device->device_id);
    if (description.volatile_state_lost()) without_tail.insert(device->device_id);
    if (description.volatile_state_lost() || !description.failure().empty()) {
      lost.insert(device->device_id);
    }
  }
  // A device that the server names no more is gone, whatever was on it.
  for (const DeviceRow& device : ListDeviceRowsOfSds(transaction.db, sds_id)) {
    if (all.insert(device.device_id).second) lost.insert(device.device_id);
  }
  uint32_t removed = 0;
  uint32_t losses = 0;
  for (v1::PlacementGroup& group : ListPlacementGroupsOfSds(transaction.db, sds_id)) {
    const uint64_t epoch = group.epoch();
    const bool by_loss = RemoveDevices(&group, lost);
    const bool by_restart = RestartLearners(&group, all);
    // Nobody else has what the last one lost: its clients are told by the entry, whoever learns
    // from it before they look.
    const bool last = HasInSyncOn(group, without_tail);
    if (!by_loss && !by_restart && !last) continue;
    group.set_epoch(epoch + 1);
    if (last) group.set_loss_epoch(group.epoch());
    PutPlacementGroup(transaction.db, group);
    transaction.changes.placement_group_ids.insert(group.placement_group_id());
    transaction.changes.topology = true;
    if (by_loss || by_restart) ++removed;
    if (last) ++losses;
  }
  const std::string& name = request.identity().name();
  if (removed > 0) {
    events_->Record(
        transaction, v1::EVENT_SEVERITY_WARNING, "replicas_removed",
        {v1::COMPONENT_KIND_SDS, sds_id},
        absl::StrCat(removed, " replicas of server ", name, " have to catch up after its restart"));
  }
  if (losses > 0) {
    events_->Record(transaction, v1::EVENT_SEVERITY_ERROR, "unflushed_writes_lost",
                    {v1::COMPONENT_KIND_SDS, sds_id},
                    absl::StrCat("server ", name, " has the last replica in sync of ", losses,
                                 " placement groups and came back without what was not flushed;"
                                 " clients give it what they have kept, or get EIO from their next"
                                 " flush"));
  }
}

absl::Status DiscoveryService::StoreDevices(WriteTransaction& transaction, uint64_t sds_id,
                                            const v1::RegisterSdsRequest& request, bool new_life,
                                            v1::RegisterSdsResponse* response) const {
  SQLite::Database& db = transaction.db;
  std::set<uint64_t> named;
  for (const v1::DeviceDescription& description : request.devices()) {
    std::optional<DeviceRow> row = FindDeviceByUuid(db, description.device_uuid());
    if (row.has_value() && row->sds_id != sds_id) {
      return WithReason(absl::AlreadyExistsError(absl::StrCat("device ", description.device_uuid(),
                                                              " belongs to server ", row->sds_id)),
                        "DEVICE_TAKEN");
    }
    if (!row.has_value()) {
      row.emplace();
      row->sds_id = sds_id;
      row->description = description;
      row->wanted_pool = description.pool_name();
      row->device_id = InsertDevice(db, *row);
    } else {
      row->description = description;
      if (!description.pool_name().empty()) row->wanted_pool = description.pool_name();
      UpdateDevice(db, *row);
    }
    named.insert(row->device_id);
    response->add_device_ids(row->device_id);
  }
  if (new_life) RemoveStaleReplicas(transaction, sds_id, request);
  for (DeviceRow& device : ListDeviceRowsOfSds(db, sds_id)) {
    if (named.contains(device.device_id)) continue;
    if (device.pool_id == 0) {
      DeleteDeviceRow(db, device.device_id);
    } else {
      device.description.set_failure("its server does not have it any more");
      UpdateDevice(db, device);
    }
  }
  return absl::OkStatus();
}

absl::Status DiscoveryService::Register(const v1::RegisterSdsRequest& request,
                                        v1::RegisterSdsResponse* response) {
  const v1::NodeIdentity& identity = request.identity();
  TESSERA_RETURN_IF_ERROR(CheckIdentity(identity));
  TESSERA_RETURN_IF_ERROR(CheckDevices(request));
  if (!request.fault_set_name().empty()) {
    TESSERA_RETURN_IF_ERROR(CheckName("fault_set_name", request.fault_set_name()));
  }
  if (request.endpoints().control().empty()) {
    return InvalidField("endpoints.control", "is empty: the MDM could not reach the server");
  }
  SdsRow row;
  const absl::Status stored = store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const std::optional<SdsRow> known = FindSdsByUuid(db, identity.node_uuid());
    if (known.has_value()) {
      TESSERA_RETURN_IF_ERROR(CheckReturn("sds", known->sds_id, known->incarnation, identity));
      row = *known;
    } else {
      TESSERA_RETURN_IF_ERROR(CheckFirstContact(identity));
    }
    const bool new_life = !known.has_value() || identity.incarnation() > known->incarnation;
    row.node_uuid = identity.node_uuid();
    row.name = identity.name();
    row.wanted_protection_domain = request.protection_domain_name();
    row.wanted_fault_set = request.fault_set_name();
    row.endpoints = request.endpoints();
    row.incarnation = identity.incarnation();
    row.software_version = identity.software_version();
    if (known.has_value()) {
      UpdateSds(db, row);
    } else {
      row.sds_id = InsertSds(db, row);
    }
    transaction.changes.topology = transaction.changes.sds_addresses = true;
    response->clear_device_ids();
    TESSERA_RETURN_IF_ERROR(StoreDevices(transaction, row.sds_id, request, new_life, response));
    for (const DeletedVtree& deleted : ListPendingDeletions(db, row.sds_id)) {
      response->add_deleted_vtree_ids(deleted.vtree_id);
    }
    if (new_life) {
      events_->Record(transaction, v1::EVENT_SEVERITY_INFO,
                      known.has_value() ? "sds_returned" : "sds_joined",
                      {v1::COMPONENT_KIND_SDS, row.sds_id},
                      absl::StrCat("server ", row.name, " with ", request.devices_size(),
                                   " devices, incarnation ", row.incarnation));
    }
    return absl::OkStatus();
  });
  TESSERA_RETURN_IF_ERROR(NameTaken(stored, identity.name()));
  nodes_->Put("sds", row.sds_id, {row.node_uuid, row.name});
  health_->Registered({v1::COMPONENT_KIND_SDS, row.sds_id}, row.name, row.incarnation);
  response->set_sds_id(row.sds_id);
  if (identity.node_secret().empty()) {
    response->set_node_secret(keys_->NodeSecret("sds", row.sds_id, row.node_uuid));
  }
  response->set_cluster_uuid(cluster_.cluster_uuid);
  for (v1::SdsKey& key : keys_->KeysToDeliver(row.sds_id)) *response->add_keys() = std::move(key);
  response->set_mdm_time_ms(time_->NowMillis());
  response->set_heartbeat_interval_ms(cluster_.heartbeat_interval_ms);
  registered_();
  return absl::OkStatus();
}

absl::Status DiscoveryService::Register(const v1::RegisterSdcRequest& request,
                                        v1::RegisterSdcResponse* response) {
  const v1::NodeIdentity& identity = request.identity();
  TESSERA_RETURN_IF_ERROR(CheckIdentity(identity));
  if (request.endpoints().control().empty()) {
    return InvalidField("endpoints.control", "is empty: the MDM could not reach the client");
  }
  SdcRow row;
  const absl::Status stored = store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const std::optional<SdcRow> known = FindSdcByUuid(db, identity.node_uuid());
    if (known.has_value()) {
      TESSERA_RETURN_IF_ERROR(CheckReturn("sdc", known->sdc_id, known->incarnation, identity));
      row = *known;
    } else {
      TESSERA_RETURN_IF_ERROR(CheckFirstContact(identity));
    }
    row.node_uuid = identity.node_uuid();
    row.name = identity.name();
    row.endpoints = request.endpoints();
    row.nbd_uris.assign(request.nbd_uris().begin(), request.nbd_uris().end());
    const bool new_life = !known.has_value() || identity.incarnation() > row.incarnation;
    row.incarnation = identity.incarnation();
    row.software_version = identity.software_version();
    if (known.has_value()) {
      UpdateSdc(db, row);
    } else {
      row.sdc_id = InsertSdc(db, row);
    }
    transaction.changes.topology = true;
    response->clear_mapped_volume_ids();
    for (const MappingRow& mapping : ListMappingsOfSdc(db, row.sdc_id)) {
      response->add_mapped_volume_ids(mapping.volume_id);
    }
    if (new_life) {
      events_->Record(transaction, v1::EVENT_SEVERITY_INFO,
                      known.has_value() ? "sdc_returned" : "sdc_joined",
                      {v1::COMPONENT_KIND_SDC, row.sdc_id},
                      absl::StrCat("client ", row.name, ", incarnation ", row.incarnation));
    }
    return absl::OkStatus();
  });
  TESSERA_RETURN_IF_ERROR(NameTaken(stored, identity.name()));
  nodes_->Put("sdc", row.sdc_id, {row.node_uuid, row.name});
  health_->Registered({v1::COMPONENT_KIND_SDC, row.sdc_id}, row.name, row.incarnation);
  response->set_sdc_id(row.sdc_id);
  if (identity.node_secret().empty()) {
    response->set_node_secret(keys_->NodeSecret("sdc", row.sdc_id, row.node_uuid));
  }
  response->set_cluster_uuid(cluster_.cluster_uuid);
  response->set_mdm_time_ms(time_->NowMillis());
  response->set_heartbeat_interval_ms(cluster_.heartbeat_interval_ms);
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* DiscoveryService::RegisterSds(grpc::CallbackServerContext* context,
                                                        const v1::RegisterSdsRequest* request,
                                                        v1::RegisterSdsResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const auto& message, auto* answer) {
                       return Register(message, answer);
                     });
}

grpc::ServerUnaryReactor* DiscoveryService::RegisterSdc(grpc::CallbackServerContext* context,
                                                        const v1::RegisterSdcRequest* request,
                                                        v1::RegisterSdcResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const auto& message, auto* answer) {
                       return Register(message, answer);
                     });
}

grpc::ServerUnaryReactor* DiscoveryService::GetClusterInfo(grpc::CallbackServerContext* context,
                                                           const v1::GetClusterInfoRequest* request,
                                                           v1::GetClusterInfoResponse* response) {
  return rpc_->Unary(context, request, response,
                     [this](const CallContext&, const auto&, auto* answer) {
                       answer->set_cluster_uuid(cluster_.cluster_uuid);
                       answer->set_software_version(kVersion);
                       answer->set_schema_version(static_cast<uint32_t>(store_->schema_version()));
                       answer->set_mdm_time_ms(time_->NowMillis());
                       answer->set_leader(true);
                       return absl::OkStatus();
                     });
}

}  // namespace tessera::mdm
