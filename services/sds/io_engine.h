// The data path of a server: messages in, results out, and the map and generations that it obeys.
//
// A session's messages are parsed and verified on its home worker, in order; each operation goes to
// the worker of the device that holds its placement group. With one device that is the same thread.
//
// Threads: any, unless a method says otherwise. Start before and Stop after all use.
#ifndef TESSERA_SERVICES_SDS_IO_ENGINE_H_
#define TESSERA_SERVICES_SDS_IO_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <grpcpp/support/byte_buffer.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libchunk/store.h"
#include "services/common/executor.h"
#include "services/common/io_codec.h"
#include "services/sds/admission.h"
#include "services/sds/device.h"
#include "services/sds/device_worker.h"
#include "services/sds/engine_context.h"
#include "services/sds/held_operations.h"
#include "services/sds/io_operation.h"

namespace tessera::sds {

class IoEngine {
 public:
  // At least one device. `context` and devices must outlive the engine.
  IoEngine(const EngineContext* context, const std::vector<Device*>& devices,
           size_t reader_threads);
  ~IoEngine() { Stop(); }

  void Start();
  // Nothing waits for its client's limits any more: before streams are closed. Not on a worker.
  void EndHolding();
  // Finishes what is queued. Streams must be closed before.
  void Stop();

  // `home`: the index of the worker that parses and verifies what the client sends.
  [[nodiscard]] std::shared_ptr<ClientSession> NewSession(std::shared_ptr<IoClient> client,
                                                          size_t home);
  // For a client of one request: homes go round.
  [[nodiscard]] std::shared_ptr<ClientSession> NewSession(std::shared_ptr<IoClient> client);
  // Takes one message, on the session's home worker; `window_bytes` are released to the client when
  // it is done with.
  void Submit(const std::shared_ptr<ClientSession>& session, const grpc::ByteBuffer& message,
              size_t window_bytes);
  // Takes one request, from any thread.
  void SubmitFrame(std::shared_ptr<ClientSession> session, IoRequestFrame frame);

  // Takes the newer ones of the entries: checked, persisted, then in force on every worker when
  // this returns. Entries with wrong signatures are left out and counted. Not on a worker.
  [[nodiscard]] absl::Status AcceptEntries(std::span<const v1::SignedPlacementGroup> entries);
  // The entries are the whole map, read after the MDM had taken this life's registration, and were
  // accepted: devices that lost what was not flushed serve from now on as what the map calls them.
  // Not while one of the entries is not in force here. Not on a worker.
  void AcknowledgeLosses(std::span<const v1::SignedPlacementGroup> whole_map);
  // Entries of an earlier life.
  void RestoreEntries(std::span<const PlacementRecord> records);
  // Waits until an entry of at least this epoch was accepted; false after `timeout`.
  [[nodiscard]] bool AwaitEpoch(uint64_t placement_group_id, uint64_t epoch,
                                absl::Duration timeout) const {
    return context_->placements->WaitForEpoch(placement_group_id, epoch, timeout)
               .membership.epoch >= epoch;
  }
  // The placement group is gone from the cluster. Not on a worker.
  void ForgetPlacementGroup(uint64_t placement_group_id);

  // Durable, and in force on every worker, when it returns: no operation of an older generation is
  // applied afterwards. Fills `cursors` (may be null) with the volume's. Not on a worker.
  [[nodiscard]] absl::StatusOr<uint64_t> RaiseGeneration(uint64_t volume_id, uint64_t generation,
                                                         std::vector<chunk::StreamCursor>* cursors);
  // The same for several, of which some may be as high already.
  [[nodiscard]] absl::Status RaiseGenerations(std::span<const VolumeGeneration> generations);

  // A store can fail where no operation of a worker meets it: at a checkpoint, a copy for a
  // learner, a scrub. Devices whose store has failed count as failed from now on; before each
  // heartbeat.
  void NoticeFailedDevices();

  // Reads that wait for a thread that may wait for a disk.
  [[nodiscard]] size_t disk_reads_queued() const { return readers_.queued(); }
  [[nodiscard]] const std::vector<std::unique_ptr<DeviceWorker>>& workers() const {
    return workers_;
  }
  // The worker that has the group's replica, or would have it; never null.
  [[nodiscard]] DeviceWorker* WorkerOf(uint64_t placement_group_id) const;

 private:
  void Process(const std::shared_ptr<RequestBatch>& batch, DeviceWorker* home);
  // False: it was refused, or is held until its client's limits let it begin.
  [[nodiscard]] bool MayBegin(IoOperationRef* operation, DeviceWorker* home);
  // The time of a held operation has come.
  void BeginHeld(IoOperationRef operation, DeviceWorker* home);
  [[nodiscard]] size_t TargetOf(const IoOperationRef& operation) const;
  void TakeShownEntries(const v1::IoRequest& request, DeviceWorker* home);
  // Installs on all workers: on `current` (may be null) at once, on the others in their queues.
  void InstallEverywhere(const std::vector<LocalMembership>& entries, DeviceWorker* current,
                         bool restored);
  void ReportRefusal(const IoOperationRef& operation, const AdmissionVerdict& verdict,
                     DeviceWorker* home) const;
  void OnGenerationProven(uint64_t volume_id, uint64_t generation);
  [[nodiscard]] size_t WorkerIndex(uint64_t device_id) const;

  const EngineContext* const context_;
  const Admission admission_;
  Executor readers_;
  std::vector<std::unique_ptr<DeviceWorker>> workers_;
  std::vector<std::unique_ptr<HeldOperations>> held_;  // by home worker; that worker's
  std::atomic<size_t> next_home_{0};
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_IO_ENGINE_H_
