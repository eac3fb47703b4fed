// ScrubService: passes that are asked for, schedules, and what the devices say.
//
// Threads: handlers run on the dispatcher's threads.
#ifndef TESSERA_SERVICES_MDM_SCRUB_SERVICE_H_
#define TESSERA_SERVICES_MDM_SCRUB_SERVICE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "services/mdm/event_log.h"
#include "services/mdm/integrity_board.h"
#include "services/mdm/mdm_store.h"
#include "services/mdm/rpc_methods.h"
#include "services/mdm/scrub_scheduler.h"
#include "tessera/v1/scrub.grpc.pb.h"

namespace tessera::mdm {

class ScrubService final : public v1::ScrubService::CallbackService {
 public:
  // `wake` starts a round of the maintenance loop.
  ScrubService(RpcDispatcher* rpc, MdmStore* store, ScrubScheduler* scheduler,
               const IntegrityBoard* board, const EventLog* events, const MdmTime* time,
               std::function<void()> wake)
      : rpc_(rpc),
        store_(store),
        scheduler_(scheduler),
        board_(board),
        events_(events),
        time_(time),
        wake_(std::move(wake)) {}

  TESSERA_MDM_UNARY(StartScrub);
  TESSERA_MDM_UNARY(ListScrubSettings);
  TESSERA_MDM_UNARY(UpdateScrubSettings);
  TESSERA_MDM_UNARY(ListScrubStatus);

 private:
  struct Subject {
    uint64_t pool_id = 0;
    uint64_t sds_id = 0;
    uint64_t device_id = 0;
    uint64_t vtree_id = 0;
    std::string name;
    std::vector<uint64_t> device_ids;  // in a pool
  };
  [[nodiscard]] absl::StatusOr<Subject> SubjectOf(SQLite::Database& db,
                                                  const v1::StartScrubRequest& request) const;

  RpcDispatcher* const rpc_;
  MdmStore* const store_;
  ScrubScheduler* const scheduler_;
  const IntegrityBoard* const board_;
  const EventLog* const events_;
  const MdmTime* const time_;
  const std::function<void()> wake_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SCRUB_SERVICE_H_
