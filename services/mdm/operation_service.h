// OperationService: long work to list, watch and cancel.
//
// Threads: handlers run on the dispatcher's threads; watchers are served by a thread of the
// service.
#ifndef TESSERA_SERVICES_MDM_OPERATION_SERVICE_H_
#define TESSERA_SERVICES_MDM_OPERATION_SERVICE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/rpc.h"
#include "services/mdm/background_loop.h"
#include "services/mdm/event_log.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/repair_scheduler.h"
#include "services/mdm/rpc_methods.h"
#include "tessera/v1/operation.grpc.pb.h"

namespace tessera::mdm {

class OperationService final : public v1::OperationService::CallbackService {
 public:
  static constexpr size_t kWatchersMax = 256;
  static constexpr std::chrono::milliseconds kKeepalive{10'000};

  // `wake` starts a round of the scheduler.
  OperationService(RpcDispatcher* rpc, MdmStore* store, const RepairScheduler* scheduler,
                   const EventLog* events, const MdmTime* time, std::function<void()> wake);
  ~OperationService() override;

  // Figures changed. From any thread; hands over.
  void Changed() { watch_loop_.Wake(); }
  // Ends all watches. Idempotent.
  void Stop();

  TESSERA_MDM_UNARY(ListOperations);
  TESSERA_MDM_UNARY(GetOperation);
  TESSERA_MDM_UNARY(CancelOperation);
  grpc::ServerWriteReactor<v1::WatchOperationsResponse>* WatchOperations(
      grpc::CallbackServerContext* context, const v1::WatchOperationsRequest* request) override;

 private:
  using Stream = PushStream<v1::WatchOperationsResponse>;
  struct Watcher {
    std::shared_ptr<Stream> stream;  // shared with gRPC, which may end it
    uint64_t operation_id = 0;       // 0: all
    std::set<int> kinds;             // empty: all
    std::map<uint64_t, v1::Operation> sent;
  };
  // With its figures while it runs.
  [[nodiscard]] std::optional<v1::Operation> Find(SQLite::Database& db,
                                                  uint64_t operation_id) const;
  [[nodiscard]] v1::Operation WithFigures(v1::Operation stored) const;
  void Send();
  // False: the watcher is done with.
  [[nodiscard]] bool SendTo(SQLite::Database& db, bool keepalive, Watcher* watcher) const;

  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  const RepairScheduler* const scheduler_;
  const EventLog* const events_;
  const MdmTime* const time_;
  const std::function<void()> wake_;
  absl::Mutex mutex_;
  std::vector<Watcher> watchers_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::chrono::steady_clock::time_point last_message_;  // of the loop's thread
  BackgroundLoop watch_loop_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_OPERATION_SERVICE_H_
