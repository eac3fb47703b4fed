#include "services/mdm/operation_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/message_differencer.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/mdm/node_table.h"
#include "services/mdm/repair_table.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/scrub_table.h"

namespace tessera::mdm {

OperationService::OperationService(RpcDispatcher* rpc, MdmStore* store,
                                   const RepairScheduler* scheduler, const EventLog* events,
                                   const MdmTime* time, std::function<void()> wake)
    : rpc_(rpc),
      store_(store),
      scheduler_(scheduler),
      events_(events),
      time_(time),
      wake_(std::move(wake)),
      watch_loop_({.name = "operation-watch",
                   .period = kKeepalive,
                   .pause = std::chrono::milliseconds(RepairScheduler::kFiguresMillis)},
                  [this] { Send(); }) {}

OperationService::~OperationService() { Stop(); }

void OperationService::Stop() {
  watch_loop_.Stop();
  absl::MutexLock lock(&mutex_);
  stopped_ = true;
  for (const Watcher& watcher : watchers_) {
    watcher.stream->Close(absl::UnavailableError("the MDM is stopping"));
  }
  watchers_.clear();
}

v1::Operation OperationService::WithFigures(v1::Operation stored) const {
  if (stored.ended_ms() != 0) return stored;
  for (v1::Operation& running : scheduler_->Running()) {
    if (running.operation_id() == stored.operation_id()) return std::move(running);
  }
  return stored;
}

std::optional<v1::Operation> OperationService::Find(SQLite::Database& db,
                                                    uint64_t operation_id) const {
  std::optional<v1::Operation> stored = FindOperation(db, operation_id);
  if (!stored.has_value()) return std::nullopt;
  return WithFigures(*std::move(stored));
}

absl::Status OperationService::Do(const CallContext&, const v1::ListOperationsRequest& request,
                                  v1::ListOperationsResponse* response) {
  TESSERA_ASSIGN_OR_RETURN(Page page, ParsePage(request.page_size(), request.page_token()));
  const uint32_t limit = page.limit;
  const std::set<int> kinds(request.kinds().begin(), request.kinds().end());
  return store_->Read([&](SQLite::Database& db) {
    // The filter leaves rows out: read on until the page is full.
    while (true) {
      const std::vector<v1::Operation> rows = ListOperationRows(db, page);
      for (const v1::Operation& row : rows) {
        page.after_id = row.operation_id();
        if (!kinds.empty() && !kinds.contains(row.kind())) continue;
        if (request.running_only() && row.ended_ms() != 0) continue;
        *response->add_operations() = WithFigures(row);
        if (response->operations_size() == static_cast<int>(limit)) {
          response->set_next_page_token(absl::StrCat(page.after_id));
          return absl::OkStatus();
        }
      }
      if (rows.size() < page.limit) return absl::OkStatus();
    }
  });
}

absl::Status OperationService::Do(const CallContext&, const v1::GetOperationRequest& request,
                                  v1::GetOperationResponse* response) {
  return store_->Read([&](SQLite::Database& db) -> absl::Status {
    std::optional<v1::Operation> found = Find(db, request.operation_id());
    if (!found.has_value()) return NoSuch("operation", request.operation_id());
    *response->mutable_operation() = *std::move(found);
    return absl::OkStatus();
  });
}

absl::Status OperationService::Do(const CallContext& call,
                                  const v1::CancelOperationRequest& request,
                                  v1::CancelOperationResponse* response) {
  TESSERA_RETURN_IF_ERROR(store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    const std::optional<v1::Operation> found = FindOperation(db, request.operation_id());
    if (!found.has_value()) return NoSuch("operation", request.operation_id());
    *response->mutable_operation() = *found;
    if (found->state() == v1::OPERATION_STATE_CANCELLED) return absl::OkStatus();
    if (found->ended_ms() != 0) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "operation ", found->operation_id(), " has ended already")),
                        "OPERATION_ENDED");
    }
    if (found->kind() == v1::OPERATION_KIND_SCRUB) {
      const v1::Operation last = WithFigures(*found);
      SaveScrubFigures(db, last);
      EndOperation(db, found->operation_id(), v1::OPERATION_STATE_CANCELLED, time_->NowMillis());
      *response->mutable_operation() = *FindOperation(db, found->operation_id());
      events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "scrub_cancelled",
                      {v1::COMPONENT_KIND_SDS, found->sds_id()},
                      absl::StrCat("scrub ", found->operation_id(), " of ", found->subject(),
                                   " was cancelled by ", call.caller().name));
      return absl::OkStatus();
    }
    if (found->kind() != v1::OPERATION_KIND_DRAIN) {
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat(
              "operation ", found->operation_id(),
              " was not asked for and can't be cancelled: pause it instead (tessera rebuild pause,"
              " tessera rebalance pause)")),
          "NOT_CANCELLABLE");
    }
    for (DeviceRow& device : ListDeviceRowsOfSds(db, found->sds_id())) {
      if (found->device_id() != 0 && found->device_id() != device.device_id) continue;
      if (device.use != v1::DEVICE_USE_DRAINING) continue;
      device.use = v1::DEVICE_USE_NORMAL;
      device.successor_device_id = 0;
      UpdateDevice(db, device);
    }
    EndOperation(db, found->operation_id(), v1::OPERATION_STATE_CANCELLED, time_->NowMillis());
    *response->mutable_operation() = *FindOperation(db, found->operation_id());
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO, "drain_cancelled",
                    {v1::COMPONENT_KIND_SDS, found->sds_id()},
                    absl::StrCat("drain ", found->operation_id(), " of ", found->subject(),
                                 " was cancelled by ", call.caller().name));
    return absl::OkStatus();
  }));
  wake_();
  return absl::OkStatus();
}

grpc::ServerWriteReactor<v1::WatchOperationsResponse>* OperationService::WatchOperations(
    grpc::CallbackServerContext* context, const v1::WatchOperationsRequest* request) {
  return rpc_->Push<v1::WatchOperationsRequest, v1::WatchOperationsResponse>(
      context, request,
      [this](const CallContext&, const auto& message,
             std::shared_ptr<Stream> stream) -> absl::Status {
        Watcher watcher;
        watcher.stream = std::move(stream);
        watcher.operation_id = message.operation_id();
        watcher.kinds.insert(message.kinds().begin(), message.kinds().end());
        bool goes_on = true;
        TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
          if (watcher.operation_id != 0 && !Find(db, watcher.operation_id).has_value()) {
            return NoSuch("operation", watcher.operation_id);
          }
          goes_on = SendTo(db, true, &watcher);
          return absl::OkStatus();
        }));
        if (!goes_on) return absl::OkStatus();
        absl::MutexLock lock(&mutex_);
        std::erase_if(watchers_, [](const Watcher& other) { return other.stream->closed(); });
        if (stopped_) return absl::UnavailableError("the MDM is stopping");
        if (watchers_.size() >= kWatchersMax) {
          return absl::ResourceExhaustedError("too many watches of operations are open");
        }
        watchers_.push_back(std::move(watcher));
        watch_loop_.Wake();
        return absl::OkStatus();
      });
}

bool OperationService::SendTo(SQLite::Database& db, bool keepalive, Watcher* watcher) const {
  v1::WatchOperationsResponse message;
  std::map<uint64_t, v1::Operation> now;
  for (v1::Operation& operation : scheduler_->Running()) {
    now[operation.operation_id()] = std::move(operation);
  }
  // What ran when it was last looked at, and runs no more, is told once more.
  for (const auto& [id, operation] : watcher->sent) {
    if (now.contains(id) || operation.ended_ms() != 0) continue;
    if (auto ended = Find(db, id)) now[id] = *std::move(ended);
  }
  if (watcher->operation_id != 0 && !now.contains(watcher->operation_id)) {
    if (auto found = Find(db, watcher->operation_id))
      now[watcher->operation_id] = *std::move(found);
  }
  for (const auto& [id, operation] : now) {
    if (watcher->operation_id != 0 && watcher->operation_id != id) continue;
    if (!watcher->kinds.empty() && !watcher->kinds.contains(operation.kind())) continue;
    const auto sent = watcher->sent.find(id);
    if (sent != watcher->sent.end() &&
        google::protobuf::util::MessageDifferencer::Equals(sent->second, operation)) {
      continue;
    }
    watcher->sent[id] = operation;
    *message.add_operations() = operation;
  }
  if (message.operations_size() == 0 && !keepalive) return true;
  const auto followed = watcher->sent.find(watcher->operation_id);
  const bool over = followed != watcher->sent.end() && followed->second.ended_ms() != 0;
  if (!watcher->stream->Send(std::move(message))) return false;
  if (over) watcher->stream->Close(absl::OkStatus());
  std::erase_if(watcher->sent, [&](const auto& one) {
    return one.second.ended_ms() != 0 && one.first != watcher->operation_id;
  });
  return !over;
}

void OperationService::Send() {
  std::vector<Watcher> watchers;
  {
    absl::MutexLock lock(&mutex_);
    std::erase_if(watchers_, [](const Watcher& watcher) { return watcher.stream->closed(); });
    watchers.swap(watchers_);
  }
  if (watchers.empty()) return;
  const auto now = std::chrono::steady_clock::now();
  const bool keepalive = now - last_message_ >= kKeepalive;
  if (keepalive) last_message_ = now;
  const absl::Status status = store_->Read([&](SQLite::Database& db) {
    std::erase_if(watchers, [&](Watcher& watcher) { return !SendTo(db, keepalive, &watcher); });
    return absl::OkStatus();
  });
  if (!status.ok()) LogError("reading operations for watchers failed", {{"error", status}});
  absl::MutexLock lock(&mutex_);
  for (Watcher& watcher : watchers) {
    if (stopped_) {
      watcher.stream->Close(absl::UnavailableError("the MDM is stopping"));
    } else {
      watchers_.push_back(std::move(watcher));
    }
  }
}

}  // namespace tessera::mdm
