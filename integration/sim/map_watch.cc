#include "integration/sim/map_watch.h"

#include "integration/sim/sdc_node.h"
#include "integration/sim/sds_node.h"

namespace tessera::sim {

MapWatch::MapWatch(Cluster* cluster, NodeId watcher)
    : cluster_(cluster),
      watcher_(watcher),
      mdm_life_(World::Get().current()),
      watcher_life_(cluster->network().machine(watcher).life),
      stream_(std::make_shared<mdm::MapStream>()) {}

std::shared_ptr<mdm::MapStream> MapWatch::Open(Cluster* cluster, NodeId watcher) {
  // Lives as long as its life's memory: gRPC's would wait for OnDone, which nobody sends here.
  auto* watch = new MapWatch(cluster, watcher);
  watch->pipe_ = std::make_shared<Pipe>(&cluster->network(), kMdm, watcher, [watch] {
    watch->End();
    World::Get().After(0, watch->mdm_life_, [watch] { watch->stream_->OnCancel(); });
  });
  watch->BindReactor(watch->stream_.get());
  watch->mdm_life_->IfKilled(std::make_shared<bool>(false), [watch] { watch->End(); });
  return watch->stream_;
}

void MapWatch::Write(const v1::WatchPlacementGroupsResponse* message, grpc::WriteOptions) {
  const Nanos late_until = cluster_->network().machine(watcher_).map_late_until;
  if (late_until <= World::Get().now()) return Deliver(*message);
  World::Get().At(late_until, mdm_life_, [this, copy = *message] { Deliver(copy); });
}

void MapWatch::Deliver(const v1::WatchPlacementGroupsResponse& message) {
  pipe_->Send([this, copy = message] {
    if (over_) return;
    if (watcher_life_ == nullptr || !watcher_life_->running) {
      over_ = true;
      World::Get().After(0, mdm_life_, [this] { stream_->OnCancel(); });
      return;
    }
    World::Get().RunAs(watcher_life_, [&] {
      if (SdsNode* sds = cluster_->sds(watcher_); sds != nullptr) sds->MapArrived(copy);
      if (SdcNode* sdc = cluster_->sdc(watcher_); sdc != nullptr) sdc->MapArrived(copy);
    });
    World::Get().After(cluster_->network().Latency(watcher_, kMdm), mdm_life_, [this] {
      if (!over_) stream_->OnWriteDone(true);
    });
  });
}

void MapWatch::End() {
  if (std::exchange(over_, true)) return;
  if (watcher_life_ == nullptr || !watcher_life_->running) return;
  World::Get().After(cluster_->network().Latency(kMdm, watcher_), watcher_life_, [this] {
    if (SdsNode* sds = cluster_->sds(watcher_); sds != nullptr) sds->WatchEnded();
    if (SdcNode* sdc = cluster_->sdc(watcher_); sdc != nullptr) sdc->WatchEnded();
  });
}

}  // namespace tessera::sim
