// One reading of everything that the MDM knows and MGMT wants: in parallel, page by page.
//
// Threads: that of the CallQueue.
#ifndef TESSERA_SERVICES_MGMT_MONITOR_MDM_READER_H_
#define TESSERA_SERVICES_MGMT_MONITOR_MDM_READER_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "services/mgmt/monitor/call_queue.h"
#include "tessera/v1/health.grpc.pb.h"
#include "tessera/v1/operation.grpc.pb.h"
#include "tessera/v1/schedule.grpc.pb.h"
#include "tessera/v1/topology.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::mgmt {

// What the MDM said.
struct MdmView {
  v1::GetTopologyResponse topology;  // without the pools' volumes
  v1::GetClusterHealthResponse health;
  std::vector<v1::VolumeHealth> volume_health;  // those that are not healthy
  std::vector<v1::Volume> volumes;
  std::vector<v1::Operation> operations;
  std::vector<v1::SnapshotSchedule> schedules;
};

// The tree without its volumes, which ListVolumes gives: two copies of each would be kept.
void DropVolumes(v1::Topology* topology);

class MdmReader {
 public:
  // Volumes beyond this many are not read.
  static constexpr int kPagesMax = 20;
  static constexpr uint32_t kPageSize = 1'000;

  // `calls` must outlive it.
  MdmReader(CallQueue* calls, const std::shared_ptr<grpc::Channel>& channel,
            std::chrono::milliseconds timeout);

  // `done` runs once, with everything or with the first error. What this MDM does not have yet
  // (UNIMPLEMENTED) is left empty.
  void Read(std::function<void(const absl::Status&, MdmView*)> done);

 private:
  struct Reading {
    MdmView view;
    absl::Status status;
    int unanswered = 0;
    std::function<void(const absl::Status&, MdmView*)> done;
  };
  using ReadingPointer = std::shared_ptr<Reading>;  // shared by the calls of one reading

  static void Answered(const ReadingPointer& reading, const absl::Status& status);
  void ReadTree(const ReadingPointer& reading);
  void ReadVolumes(const ReadingPointer& reading);
  void ReadWork(const ReadingPointer& reading);
  template <typename Request, typename Response, typename Begin, typename Take>
  void ReadPages(const ReadingPointer& reading, Request request, Begin begin, Take take, int pages);

  CallQueue* const calls_;
  const std::chrono::milliseconds timeout_;
  const std::unique_ptr<v1::TopologyService::Stub> topology_;
  const std::unique_ptr<v1::HealthService::Stub> health_;
  const std::unique_ptr<v1::VolumeService::Stub> volumes_;
  const std::unique_ptr<v1::OperationService::Stub> operations_;
  const std::unique_ptr<v1::SnapshotScheduleService::Stub> schedules_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_MONITOR_MDM_READER_H_
