#include "services/mgmt/monitor/mdm_reader.h"

#include <utility>

namespace tessera::mgmt {
namespace {

template <typename From, typename To>
void MoveAll(From* from, To* to) {
  for (auto& item : *from) to->push_back(std::move(item));
}

}  // namespace

void DropVolumes(v1::Topology* topology) {
  for (v1::ProtectionDomainNode& domain : *topology->mutable_protection_domains()) {
    for (v1::StoragePoolNode& pool : *domain.mutable_pools()) pool.clear_volumes();
  }
}

MdmReader::MdmReader(CallQueue* calls, const std::shared_ptr<grpc::Channel>& channel,
                     std::chrono::milliseconds timeout)
    : calls_(calls),
      timeout_(timeout),
      topology_(v1::TopologyService::NewStub(channel)),
      health_(v1::HealthService::NewStub(channel)),
      volumes_(v1::VolumeService::NewStub(channel)),
      operations_(v1::OperationService::NewStub(channel)),
      schedules_(v1::SnapshotScheduleService::NewStub(channel)) {}

void MdmReader::Answered(const ReadingPointer& reading, const absl::Status& status) {
  if (!status.ok() && !absl::IsUnimplemented(status) && reading->status.ok()) {
    reading->status = status;
  }
  if (--reading->unanswered == 0) reading->done(reading->status, &reading->view);
}

template <typename Request, typename Response, typename Begin, typename Take>
void MdmReader::ReadPages(const ReadingPointer& reading, Request request, Begin begin, Take take,
                          int pages) {
  ++reading->unanswered;
  calls_->Call<Response>(
      timeout_,
      [&](grpc::ClientContext* context, grpc::CompletionQueue* queue) {
        return begin(context, request, queue);
      },
      [this, reading, request, begin, take, pages](const absl::Status& status, Response& response) {
        if (status.ok()) {
          take(&reading->view, &response);
          if (!response.next_page_token().empty() && pages > 1) {
            Request next = request;
            next.set_page_token(response.next_page_token());
            ReadPages<Request, Response>(reading, std::move(next), begin, take, pages - 1);
          }
        }
        Answered(reading, status);
      });
}

void MdmReader::Read(std::function<void(const absl::Status&, MdmView*)> done) {
  const auto reading = std::make_shared<Reading>();
  reading->done = std::move(done);
  ReadTree(reading);
  ReadVolumes(reading);
  ReadWork(reading);
}

void MdmReader::ReadTree(const ReadingPointer& reading) {
  reading->unanswered += 2;
  calls_->Call<v1::GetTopologyResponse>(
      timeout_,
      [this](auto* context, auto* queue) {
        return topology_->PrepareAsyncGetTopology(context, {}, queue);
      },
      [reading](const absl::Status& status, v1::GetTopologyResponse& response) {
        DropVolumes(response.mutable_topology());
        reading->view.topology = std::move(response);
        Answered(reading, status);
      });
  calls_->Call<v1::GetClusterHealthResponse>(
      timeout_,
      [this](auto* context, auto* queue) {
        return health_->PrepareAsyncGetClusterHealth(context, {}, queue);
      },
      [reading](const absl::Status& status, v1::GetClusterHealthResponse& response) {
        reading->view.health = std::move(response);
        Answered(reading, status);
      });
}

void MdmReader::ReadVolumes(const ReadingPointer& reading) {
  v1::ListVolumeHealthRequest health;
  health.set_page_size(kPageSize);
  ReadPages<v1::ListVolumeHealthRequest, v1::ListVolumeHealthResponse>(
      reading, health,
      [this](auto* context, const auto& request, auto* queue) {
        return health_->PrepareAsyncListVolumeHealth(context, request, queue);
      },
      [](MdmView* view, v1::ListVolumeHealthResponse* page) {
        for (v1::VolumeHealth& volume : *page->mutable_volumes()) {
          if (volume.verdict() == v1::VOLUME_VERDICT_HEALTHY) continue;
          view->volume_health.push_back(std::move(volume));
        }
      },
      kPagesMax);
  v1::ListVolumesRequest volumes;
  volumes.set_page_size(kPageSize);
  volumes.set_kind(v1::VOLUME_KIND_VOLUME);
  ReadPages<v1::ListVolumesRequest, v1::ListVolumesResponse>(
      reading, volumes,
      [this](auto* context, const auto& request, auto* queue) {
        return volumes_->PrepareAsyncListVolumes(context, request, queue);
      },
      [](MdmView* view, v1::ListVolumesResponse* page) {
        MoveAll(page->mutable_volumes(), &view->volumes);
      },
      kPagesMax);
}

void MdmReader::ReadWork(const ReadingPointer& reading) {
  v1::ListOperationsRequest operations;
  operations.set_page_size(kPageSize);
  operations.set_running_only(true);
  ReadPages<v1::ListOperationsRequest, v1::ListOperationsResponse>(
      reading, operations,
      [this](auto* context, const auto& request, auto* queue) {
        return operations_->PrepareAsyncListOperations(context, request, queue);
      },
      [](MdmView* view, v1::ListOperationsResponse* page) {
        MoveAll(page->mutable_operations(), &view->operations);
      },
      kPagesMax);
  v1::ListSnapshotSchedulesRequest schedules;
  schedules.set_page_size(kPageSize);
  ReadPages<v1::ListSnapshotSchedulesRequest, v1::ListSnapshotSchedulesResponse>(
      reading, schedules,
      [this](auto* context, const auto& request, auto* queue) {
        return schedules_->PrepareAsyncListSnapshotSchedules(context, request, queue);
      },
      [](MdmView* view, v1::ListSnapshotSchedulesResponse* page) {
        MoveAll(page->mutable_schedules(), &view->schedules);
      },
      kPagesMax);
}

}  // namespace tessera::mgmt
