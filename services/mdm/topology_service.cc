#include "services/mdm/topology_service.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mdm/capacity_rules.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/topology_reader.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

constexpr uint32_t kChunkBytesMin = 256 << 10;
constexpr uint32_t kChunkBytesMax = 4 << 20;
constexpr uint32_t kGroupsMax = 4'096;

bool IsPowerOfTwo(uint32_t value) { return value != 0 && (value & (value - 1)) == 0; }

absl::Status NameTaken(const absl::Status& status, const std::string& what,
                       const std::string& name) {
  if (!absl::IsAlreadyExists(status)) return status;
  return WithReason(
      absl::AlreadyExistsError(absl::StrCat("there is already a ", what, " named '", name, "'")),
      "NAME_TAKEN");
}

absl::Status InUse(const std::string& what) {
  return WithReason(absl::FailedPreconditionError(what), "IN_USE");
}

// The row as it will be stored, defaults filled in.
absl::StatusOr<v1::StoragePool> CheckPool(const v1::CreateStoragePoolRequest& request) {
  TESSERA_RETURN_IF_ERROR(CheckName("name", request.name()));
  v1::StoragePool pool;
  pool.set_protection_domain_id(request.protection_domain_id());
  pool.set_name(request.name());
  pool.set_replica_count(request.replica_count() == 0 ? 2 : request.replica_count());
  pool.set_min_replicas(request.min_replicas() == 0 ? 1 : request.min_replicas());
  pool.set_chunk_bytes(request.chunk_bytes() == 0 ? 1 << 20 : request.chunk_bytes());
  pool.set_placement_group_count(
      request.placement_group_count() == 0 ? 64 : request.placement_group_count());
  if (pool.replica_count() > 3) {
    return InvalidField("replica_count", absl::StrCat(pool.replica_count(), " is not 1, 2 or 3"));
  }
  if (pool.min_replicas() > pool.replica_count()) {
    return InvalidField("min_replicas", absl::StrCat(pool.min_replicas(), " is more than the ",
                                                     pool.replica_count(), " replicas"));
  }
  if (!IsPowerOfTwo(pool.chunk_bytes()) || pool.chunk_bytes() < kChunkBytesMin ||
      pool.chunk_bytes() > kChunkBytesMax) {
    return InvalidField(
        "chunk_bytes",
        absl::StrCat(pool.chunk_bytes(), " is not a power of two from 262144 to 4194304"));
  }
  if (!IsPowerOfTwo(pool.placement_group_count()) || pool.placement_group_count() > kGroupsMax) {
    return InvalidField(
        "placement_group_count",
        absl::StrCat(pool.placement_group_count(), " is not a power of two from 1 to 4096"));
  }
  return pool;
}

}  // namespace

TopologyService::TopologyService(RpcDispatcher* rpc, MdmStore* store, DeviceAssigner* assigner,
                                 NodeDirectory* nodes, HealthMonitor* health,
                                 const EventLog* events, const MdmTime* time)
    : rpc_(rpc),
      store_(store),
      assigner_(assigner),
      nodes_(nodes),
      health_(health),
      events_(events),
      time_(time),
      watch_loop_({.name = "topology-watch",
                   .period = std::chrono::hours(1),
                   .pause = std::chrono::milliseconds(100)},
                  [this] { SendTree(); }) {}

TopologyService::~TopologyService() { Stop(); }

void TopologyService::Stop() {
  watch_loop_.Stop();
  absl::MutexLock lock(&mutex_);
  stopped_ = true;
  for (const auto& stream : watchers_) {
    stream->Close(absl::UnavailableError("the MDM is stopping"));
  }
  watchers_.clear();
}

grpc::ServerWriteReactor<v1::WatchTopologyResponse>* TopologyService::WatchTopology(
    grpc::CallbackServerContext* context, const v1::WatchTopologyRequest* request) {
  return rpc_->Push<v1::WatchTopologyRequest, v1::WatchTopologyResponse>(
      context, request,
      [this](const CallContext&, const auto&, std::shared_ptr<Stream> stream) -> absl::Status {
        v1::WatchTopologyResponse first;
        TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
          *first.mutable_topology() = TopologyReader(db, *health_).Whole();
          return absl::OkStatus();
        }));
        absl::MutexLock lock(&mutex_);
        std::erase_if(watchers_, [](const auto& watcher) { return watcher->closed(); });
        if (stopped_) return absl::UnavailableError("the MDM is stopping");
        if (watchers_.size() >= kWatchersMax) {
          return absl::ResourceExhaustedError("too many watches of the topology are open");
        }
        if (!stream->Send(std::move(first))) return absl::OkStatus();
        watchers_.push_back(std::move(stream));
        // What was committed between reading and here comes with the next tree.
        watch_loop_.Wake();
        return absl::OkStatus();
      });
}

void TopologyService::SendTree() {
  std::vector<std::shared_ptr<Stream>> watchers;
  {
    absl::MutexLock lock(&mutex_);
    std::erase_if(watchers_, [](const auto& watcher) { return watcher->closed(); });
    watchers = watchers_;
  }
  if (watchers.empty()) return;
  v1::WatchTopologyResponse message;
  const absl::Status status = store_->Read([&](SQLite::Database& db) {
    *message.mutable_topology() = TopologyReader(db, *health_).Whole();
    return absl::OkStatus();
  });
  for (const auto& watcher : watchers) {
    if (!status.ok()) {
      watcher->Close(status);
    } else {
      (void)watcher->Send(message);  // a watcher that is gone is dropped next time
    }
  }
}

absl::Status TopologyService::Do(const v1::GetTopologyRequest&, v1::GetTopologyResponse* response) {
  return store_->Read([&](SQLite::Database& db) {
    *response->mutable_topology() = TopologyReader(db, *health_).Whole();
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::CreateProtectionDomainRequest& request,
                                 v1::CreateProtectionDomainResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckName("name", request.name()));
  TESSERA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    v1::ProtectionDomain* domain = response->mutable_protection_domain();
    if (const auto earlier = FindRequest(db, "protection_domain", request.request_id())) {
      const auto found = FindProtectionDomain(db, *earlier);
      if (!found.has_value()) return NoSuch("protection domain", *earlier);
      *domain = *found;
      return absl::OkStatus();
    }
    domain->set_name(request.name());
    domain->set_created_ms(time_->NowMillis());
    domain->set_protection_domain_id(InsertProtectionDomain(db, *domain));
    RememberRequest(db, "protection_domain", request.request_id(), domain->protection_domain_id(),
                    domain->created_ms());
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "protection_domain_created", {},
                    absl::StrCat("protection domain ", domain->name()));
    return absl::OkStatus();
  });
  if (status.ok()) assigner_->Run();
  return NameTaken(status, "protection domain", request.name());
}

absl::Status TopologyService::Do(const v1::ListProtectionDomainsRequest& request,
                                 v1::ListProtectionDomainsResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token()));
  return store_->Read([&](SQLite::Database& db) {
    for (v1::ProtectionDomain& domain : ListProtectionDomainRows(db, page)) {
      *response->add_protection_domains() = std::move(domain);
    }
    const int rows = response->protection_domains_size();
    if (rows > 0) {
      response->set_next_page_token(
          NextPageToken(page, static_cast<size_t>(rows),
                        response->protection_domains(rows - 1).protection_domain_id()));
    }
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::DeleteProtectionDomainRequest& request,
                                 v1::DeleteProtectionDomainResponse*) {
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const uint64_t id = request.protection_domain_id();
    if (!FindProtectionDomain(db, id).has_value()) return NoSuch("protection domain", id);
    for (const v1::StoragePool& pool : ListPoolRows(db)) {
      if (pool.protection_domain_id() == id)
        return InUse(absl::StrCat("pool ", pool.name(), " is in it"));
    }
    for (const v1::FaultSet& fault_set : ListFaultSetRows(db)) {
      if (fault_set.protection_domain_id() == id) {
        return InUse(absl::StrCat("fault set ", fault_set.name(), " is in it"));
      }
    }
    for (const SdsRow& sds : ListSdsRows(db)) {
      if (sds.protection_domain_id == id)
        return InUse(absl::StrCat("server ", sds.name, " is in it"));
    }
    DeleteProtectionDomainRow(db, id);
    transaction.changes.topology = true;
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::CreateFaultSetRequest& request,
                                 v1::CreateFaultSetResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckName("name", request.name()));
  TESSERA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    v1::FaultSet* fault_set = response->mutable_fault_set();
    if (const auto earlier = FindRequest(db, "fault_set", request.request_id())) {
      const auto found = FindFaultSet(db, *earlier);
      if (!found.has_value()) return NoSuch("fault set", *earlier);
      *fault_set = *found;
      return absl::OkStatus();
    }
    if (!FindProtectionDomain(db, request.protection_domain_id()).has_value()) {
      return NoSuch("protection domain", request.protection_domain_id());
    }
    fault_set->set_protection_domain_id(request.protection_domain_id());
    fault_set->set_name(request.name());
    fault_set->set_fault_set_id(InsertFaultSet(db, *fault_set));
    RememberRequest(db, "fault_set", request.request_id(), fault_set->fault_set_id(),
                    time_->NowMillis());
    transaction.changes.topology = true;
    return absl::OkStatus();
  });
  if (status.ok()) assigner_->Run();
  return NameTaken(status, "fault set", request.name());
}

absl::Status TopologyService::Do(const v1::DeleteFaultSetRequest& request,
                                 v1::DeleteFaultSetResponse*) {
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    if (!FindFaultSet(db, request.fault_set_id()).has_value()) {
      return NoSuch("fault set", request.fault_set_id());
    }
    for (const SdsRow& sds : ListSdsRows(db)) {
      if (sds.fault_set_id == request.fault_set_id()) {
        return InUse(absl::StrCat("server ", sds.name, " is in it"));
      }
    }
    DeleteFaultSetRow(db, request.fault_set_id());
    transaction.changes.topology = true;
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::CreateStoragePoolRequest& request,
                                 v1::CreateStoragePoolResponse* response) {
  TESSERA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  TESSERA_ASSIGN_OR_RETURN(v1::StoragePool pool, CheckPool(request));
  const absl::Status status = store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    if (const auto earlier = FindRequest(db, "pool", request.request_id())) {
      const auto found = FindPool(db, *earlier);
      if (!found.has_value()) return NoSuch("pool", *earlier);
      pool = *found;
      return absl::OkStatus();
    }
    if (!FindProtectionDomain(db, pool.protection_domain_id()).has_value()) {
      return NoSuch("protection domain", pool.protection_domain_id());
    }
    pool.set_created_ms(time_->NowMillis());
    *pool.mutable_capacity_policy() = WithDefaults({});
    pool.set_pool_id(InsertPool(db, pool));
    RememberRequest(db, "pool", request.request_id(), pool.pool_id(), pool.created_ms());
    transaction.changes.topology = transaction.changes.pools = true;
    events_->Record(
        transaction, v1::EVENT_SEVERITY_INFO, "pool_created", {},
        absl::StrCat("pool ", pool.name(), " with ", pool.replica_count(), " replicas"));
    return absl::OkStatus();
  });
  TESSERA_RETURN_IF_ERROR(NameTaken(status, "pool", request.name()));
  // Servers that wait for this pool join at once, so that it can be used when we answer.
  assigner_->Run();
  return store_->Read([&](SQLite::Database& db) {
    *response->mutable_pool() = TopologyReader(db, *health_).Pool(pool);
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::GetStoragePoolRequest& request,
                                 v1::GetStoragePoolResponse* response) {
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    const auto pool = request.pool_id() != 0 ? FindPool(db, request.pool_id())
                                             : FindPoolByName(db, request.name());
    if (!pool.has_value()) return NoSuch("pool", request.pool_id(), request.name());
    *response->mutable_pool() = TopologyReader(db, *health_).Pool(*pool);
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::ListStoragePoolsRequest& request,
                                 v1::ListStoragePoolsResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token()));
  return store_->Read([&](SQLite::Database& db) {
    TopologyReader reader(db, *health_);
    uint64_t last = 0;
    for (v1::StoragePool& pool : ListPoolRows(db, page)) {
      last = pool.pool_id();
      *response->add_pools() = reader.Pool(std::move(pool));
    }
    response->set_next_page_token(
        NextPageToken(page, static_cast<size_t>(response->pools_size()), last));
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::DeleteStoragePoolRequest& request,
                                 v1::DeleteStoragePoolResponse*) {
  std::vector<uint64_t> devices;
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const auto pool = FindPool(db, request.pool_id());
    if (!pool.has_value()) return NoSuch("pool", request.pool_id());
    if (const uint64_t volumes = CountVolumes(db, request.pool_id()); volumes > 0) {
      return InUse(absl::StrCat("pool ", pool->name(), " has ", volumes, " volumes"));
    }
    DeletePlacementGroups(db, request.pool_id());
    for (DeviceRow& device : ListDeviceRowsOfPool(db, request.pool_id())) {
      devices.push_back(device.device_id);
      device.pool_id = 0;
      device.wanted_pool.clear();
      device.configured_incarnation = 0;
      UpdateDevice(db, device);
    }
    DeletePoolRow(db, request.pool_id());
    transaction.changes.topology = transaction.changes.pools = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "pool_deleted", {},
                    absl::StrCat("pool ", pool->name()));
    return absl::OkStatus();
  }));
  for (uint64_t device_id : devices) TESSERA_RETURN_IF_ERROR(assigner_->Unassign(device_id));
  return absl::OkStatus();
}

absl::Status TopologyService::Do(const v1::ListSdssRequest& request,
                                 v1::ListSdssResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token()));
  return store_->Read([&](SQLite::Database& db) {
    TopologyReader reader(db, *health_);
    uint64_t last = 0;
    for (const SdsRow& row : ListSdsRows(db, page)) {
      last = row.sds_id;
      *response->add_sdss() = reader.Sds(row);
    }
    response->set_next_page_token(
        NextPageToken(page, static_cast<size_t>(response->sdss_size()), last));
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::AssignSdsRequest& request,
                                 v1::AssignSdsResponse* response) {
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    std::optional<SdsRow> sds = FindSds(db, request.sds_id());
    if (!sds.has_value()) return NoSuch("server", request.sds_id());
    if (!FindProtectionDomain(db, request.protection_domain_id()).has_value()) {
      return NoSuch("protection domain", request.protection_domain_id());
    }
    if (request.fault_set_id() != 0) {
      const auto fault_set = FindFaultSet(db, request.fault_set_id());
      if (!fault_set.has_value() ||
          fault_set->protection_domain_id() != request.protection_domain_id()) {
        return NoSuch("fault set", request.fault_set_id());
      }
    }
    for (const DeviceRow& device : ListDeviceRowsOfSds(db, sds->sds_id)) {
      if (device.pool_id != 0) {
        return InUse(absl::StrCat("device ", device.device_id, " is in pool ", device.pool_id));
      }
    }
    sds->protection_domain_id = request.protection_domain_id();
    sds->fault_set_id = request.fault_set_id();
    UpdateSds(db, *sds);
    transaction.changes.topology = true;
    return absl::OkStatus();
  }));
  assigner_->Run();
  return store_->Read([&](SQLite::Database& db) {
    *response->mutable_sds() = TopologyReader(db, *health_).Sds(*FindSds(db, request.sds_id()));
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::DeleteSdsRequest& request, v1::DeleteSdsResponse*) {
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const std::optional<SdsRow> sds = FindSds(db, request.sds_id());
    if (!sds.has_value()) return NoSuch("server", request.sds_id());
    for (const DeviceRow& device : ListDeviceRowsOfSds(db, sds->sds_id)) {
      if (device.pool_id != 0) {
        return InUse(absl::StrCat("device ", device.device_id, " is in pool ", device.pool_id));
      }
    }
    DeleteSdsRow(db, sds->sds_id);
    transaction.changes.topology = transaction.changes.sds_addresses = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "sds_deleted",
                    {v1::COMPONENT_KIND_SDS, sds->sds_id}, absl::StrCat("server ", sds->name));
    return absl::OkStatus();
  }));
  nodes_->Remove("sds", request.sds_id());
  health_->Forget({v1::COMPONENT_KIND_SDS, request.sds_id()});
  return absl::OkStatus();
}

absl::StatusOr<v1::Device> TopologyService::ReadDevice(uint64_t device_id) const {
  v1::Device device;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    const auto row = FindDevice(db, device_id);
    if (!row.has_value()) return NoSuch("device", device_id);
    device = TopologyReader(db, *health_).Device(*row);
    return absl::OkStatus();
  }));
  return device;
}

absl::Status TopologyService::Do(const v1::AssignDeviceRequest& request,
                                 v1::AssignDeviceResponse* response) {
  TESSERA_RETURN_IF_ERROR(assigner_->Assign(request.device_id(), request.pool_id()));
  TESSERA_ASSIGN_OR_RETURN(*response->mutable_device(), ReadDevice(request.device_id()));
  return absl::OkStatus();
}

absl::Status TopologyService::Do(const v1::UnassignDeviceRequest& request,
                                 v1::UnassignDeviceResponse* response) {
  TESSERA_RETURN_IF_ERROR(assigner_->Unassign(request.device_id()));
  TESSERA_ASSIGN_OR_RETURN(*response->mutable_device(), ReadDevice(request.device_id()));
  return absl::OkStatus();
}

absl::Status TopologyService::Do(const v1::ListSdcsRequest& request,
                                 v1::ListSdcsResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(const Page page, ParsePage(request.page_size(), request.page_token()));
  return store_->Read([&](SQLite::Database& db) {
    TopologyReader reader(db, *health_);
    uint64_t last = 0;
    for (const SdcRow& row : ListSdcRows(db, page)) {
      last = row.sdc_id;
      *response->add_sdcs() = reader.Sdc(row);
    }
    response->set_next_page_token(
        NextPageToken(page, static_cast<size_t>(response->sdcs_size()), last));
    return absl::OkStatus();
  });
}

absl::Status TopologyService::Do(const v1::DeleteSdcRequest& request, v1::DeleteSdcResponse*) {
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const std::optional<SdcRow> sdc = FindSdc(db, request.sdc_id());
    if (!sdc.has_value()) return NoSuch("client", request.sdc_id());
    const auto mappings = ListMappingsOfSdc(db, request.sdc_id());
    if (!mappings.empty()) {
      return InUse(
          absl::StrCat("volume ", mappings.front().volume_id, " is mapped to client ", sdc->name));
    }
    DeleteSdcRow(db, request.sdc_id());
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "sdc_deleted",
                    {v1::COMPONENT_KIND_SDC, sdc->sdc_id}, absl::StrCat("client ", sdc->name));
    return absl::OkStatus();
  }));
  nodes_->Remove("sdc", request.sdc_id());
  health_->Forget({v1::COMPONENT_KIND_SDC, request.sdc_id()});
  return absl::OkStatus();
}

}  // namespace tessera::mdm
