// One watch of the map: the MDM's PushStream on one side, a server or client on the other. The
// stream's reactor is bound to a writer of ours instead of gRPC's.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_MAP_WATCH_H_
#define TESSERA_INTEGRATION_SIM_MAP_WATCH_H_

#include <memory>

#include "integration/sim/cluster.h"
#include "services/mdm/map_publisher.h"

namespace tessera::sim {

class MapWatch final : public grpc::ServerCallbackWriter<v1::WatchPlacementGroupsResponse> {
 public:
  // From the current life, the MDM's, to what runs on the machine. Ends when either does, and when
  // nothing comes through.
  static std::shared_ptr<mdm::MapStream> Open(Cluster* cluster, NodeId watcher);

  void Finish(grpc::Status) override { End(); }
  void SendInitialMetadata() override {}
  void Write(const v1::WatchPlacementGroupsResponse* message, grpc::WriteOptions) override;
  void WriteAndFinish(const v1::WatchPlacementGroupsResponse*, grpc::WriteOptions,
                      grpc::Status) override {
    End();
  }

 private:
  MapWatch(Cluster* cluster, NodeId watcher);
  grpc::internal::ServerReactor* reactor() override { return stream_.get(); }
  void CallOnDone() override {}
  void Deliver(const v1::WatchPlacementGroupsResponse& message);
  // Tells the watcher, when it can be told.
  void End();

  Cluster* const cluster_;
  const NodeId watcher_;
  Life* const mdm_life_;
  Life* const watcher_life_;
  std::shared_ptr<mdm::MapStream> stream_;  // shared with the publisher
  std::shared_ptr<Pipe> pipe_;
  bool over_ = false;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_MAP_WATCH_H_
