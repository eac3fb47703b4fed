// All volumes of the client, their streams to servers, and the map: what runs on the event loop
// between NBD and the network. The MDM is behind ClusterLink; everything works on while it is away.
//
// Threads: made before or on the loop thread, used on it, destroyed there or after the loop has
// ended. The figures at the end of the public part from any thread.
#ifndef TESSERA_SERVICES_SDC_ENGINE_IO_ENGINE_H_
#define TESSERA_SERVICES_SDC_ENGINE_IO_ENGINE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "services/sdc/block_device.h"
#include "services/sdc/engine/engine_context.h"
#include "services/sdc/engine/volume_engine.h"
#include "services/sdc/resume/resume_table.h"

namespace tessera::sdc {

class IoEngine final : public ExportTable, private EngineContext, private SdsStream::Observer {
 public:
  // `loop` must outlive the engine. `credentials` null: plain text.
  IoEngine(EventLoop& loop, EngineOptions options,
           std::shared_ptr<grpc::ChannelCredentials> credentials);
  ~IoEngine() override;

  // Once, before anything is attached. `link` must outlive the engine's last use.
  void SetLink(ClusterLink* link) { link_ = link; }

  // What the next life of this process is to know is kept there. Before anything is attached or
  // known; `table` must outlive the engine.
  void SetResumeTable(ResumeTable* table) { table_ = table; }
  // Reads are answered from there where that is allowed. Before anything is attached; `cache` must
  // outlive the engine.
  void SetReadCache(ReadCache* cache) { cache_ = cache; }
  // Goes on with what an earlier life of the client `sdc_id` left in the table. Returns the volumes
  // that are attached now; why others are not is logged.
  struct Resumed {
    uint64_t volume_id = 0;
    std::string name;
    v1::IssuedGrant grant;
  };
  [[nodiscard]] std::vector<Resumed> Resume(const ResumedState& state, uint64_t sdc_id);
  // Volumes that are detached from now on stay in the table: the process ends in good order.
  void KeepRecords() { keep_records_ = true; }

  // Attaches a volume, or hands a better grant to one that is attached. `cached`: reads may be
  // answered from the read cache, if there is one.
  void SetGrant(const std::string& name, VolumeGrant grant, bool cached = true);
  // What AcquireGrant is told of the map, and what it answers: to be adopted before its grant.
  [[nodiscard]] std::vector<v1::KnownPool> KnownPools() const;
  void AdoptEntries(const google::protobuf::RepeatedPtrField<v1::SignedPlacementGroup>& entries);
  // `done` when the volume is gone. Nothing to do when it is not attached.
  void Detach(uint64_t volume_id, bool drop, absl::AnyInvocable<void()> done);
  [[nodiscard]] std::shared_ptr<VolumeEngine> FindVolume(uint64_t volume_id) const;
  [[nodiscard]] std::vector<std::shared_ptr<VolumeEngine>> Volumes() const;

  // For figures. Calls visit(stream) for each server that was ever spoken to.
  template <typename Visit>
  void ForEachStream(const Visit& visit) const {
    for (const auto& [sds_id, stream] : streams_) visit(static_cast<const SdsStream&>(*stream));
  }

  // ExportTable.
  [[nodiscard]] std::vector<std::string> Names() const override;
  [[nodiscard]] std::shared_ptr<BlockDevice> Find(const std::string& name) const override;

  // The MDM's news. INVALID_ARGUMENT for a message that can't be read.
  [[nodiscard]] absl::Status ApplyMap(const v1::WatchPlacementGroupsResponse& message);
  // The answer to ClusterLink::ReportReplicas: current entries in the order of the reports.
  void ReportsAnswered(const std::vector<ReplicaReport>& reports,
                       const v1::ReportReplicaFailuresResponse& response);
  void ReportsFailed(const std::vector<ReplicaReport>& reports);

  // From any thread.
  [[nodiscard]] const EngineCounters& metrics() const { return counters_; }
  [[nodiscard]] uint64_t reconnects() const { return reconnects_.Get(); }
  [[nodiscard]] uint64_t messages() const { return messages_.Get(); }
  // Null: none. Its figures from any thread.
  [[nodiscard]] const ReadCache* read_cache() const { return cache_; }
  [[nodiscard]] bool has_map() const { return map_.group_count() > 0; }

 private:
  // EngineContext.
  EventLoop& loop() override { return loop_; }
  const EngineOptions& options() const override { return options_; }
  const MapCache& map() const override { return map_; }
  ResumeTable* resume() override { return table_; }
  ReadCache* cache() override { return cache_; }
  SdsStream* StreamTo(uint64_t sds_id) override;
  void ReportReplica(ReplicaReport report) override;
  void GrantNeeded(uint64_t volume_id, GrantTrouble trouble) override;
  void SuspectServer(uint64_t sds_id) override { suspects_.insert(sds_id); }
  EngineCounters& counters() override { return counters_; }

  // SdsStream::Observer.
  void StreamOpened(SdsStream& stream) override;
  void StreamBroke(SdsStream& stream, std::vector<InFlightOperation> lost) override;
  void StreamUnreachable(SdsStream& stream, const std::string& why) override;
  void StreamAnswered(SdsStream& stream, const InFlightOperation& operation,
                      const v1::IoResult& result, PayloadCursor& payload) override;
  void StreamBatchEnded(SdsStream& stream) override;

  absl::StatusOr<Resumed> ResumeVolume(const ResumedVolume& left, uint64_t sdc_id);
  void ForgetResumed(const ResumedVolume& left);
  void RecordEntry(uint64_t placement_group_id);
  void RecordTrouble();
  void EntryChanged(uint64_t placement_group_id);
  void SendReports();
  void ArmTick();
  void Tick();
  void TakeOverdue(SdsStream& stream, uint64_t now_nanos);

  EventLoop& loop_;
  const EngineOptions options_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;  // shared with the streams
  StreamQueue queue_;
  ClusterLink* link_ = nullptr;
  ResumeTable* table_ = nullptr;
  ReadCache* cache_ = nullptr;
  bool keep_records_ = false;
  bool told_of_closed_table_ = false;
  uint64_t trimmed_nanos_ = 0;
  const EventLoop::HookId hook_;
  EngineCounters counters_;
  LoopCounter reconnects_;
  LoopCounter messages_;

  MapCache map_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<SdsStream>> streams_;  // by server
  std::map<uint64_t, std::shared_ptr<VolumeEngine>> volumes_;  // by id; shared with NBD connections

  std::vector<ReplicaReport> reports_;  // to be sent at the end of the turn
  // Reports that are not answered, by group, device and epoch. A report of a newer epoch says
  // something new, also while an older one is on its way.
  using ReportName = std::tuple<uint64_t, uint64_t, uint64_t>;
  absl::flat_hash_set<ReportName> reported_;
  absl::flat_hash_set<uint64_t> suspects_;  // servers, until the end of the tick
  bool tick_set_ = false;
  EventLoop::TimerId tick_ = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_IO_ENGINE_H_
