#include "services/mdm/scrub_scheduler.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/mdm/node_table.h"
#include "services/mdm/repair_table.h"

namespace tessera::mdm {
namespace {

void AddFigures(const v1::ScrubStatus& status, v1::Operation* operation) {
  operation->set_bytes_done(operation->bytes_done() + status.bytes_done());
  operation->set_bytes_total(operation->bytes_total() + status.bytes_total());
  operation->set_blocks_found(operation->blocks_found() + status.blocks_found());
  operation->set_blocks_repaired(operation->blocks_repaired() + status.blocks_repaired());
  operation->set_blocks_unreadable(operation->blocks_unreadable() + status.blocks_unreadable());
  operation->set_blocks_different(operation->blocks_different() + status.blocks_different());
}

std::string EndMessage(const v1::Operation& operation) {
  return absl::StrCat("scrub ", operation.operation_id(), " of ", operation.subject(), ": ",
                      operation.bytes_done(), " bytes read, ", operation.blocks_found(),
                      " bad blocks found, ", operation.blocks_repaired(), " repaired, ",
                      operation.blocks_unreadable(), " lost, ", operation.blocks_different(),
                      " differ between replicas");
}

}  // namespace

void ScrubScheduler::Run() {
  absl::MutexLock lock(&run_mutex_);
  if (const absl::Status status = Refresh(); !status.ok()) {
    LogError("scrub can't be scheduled", {{"error", status}});
  }
}

v1::Operation ScrubScheduler::FiguresOf(SQLite::Database& db, const v1::Operation& stored,
                                        std::vector<ScrubTarget>* finished) const {
  v1::Operation operation = stored;
  operation.set_state(v1::OPERATION_STATE_RUNNING);
  for (ScrubTarget& target : ListScrubTargets(db, stored.operation_id())) {
    operation.set_devices_total(operation.devices_total() + 1);
    if (!target.done) {
      const std::optional<v1::ScrubStatus> now = board_->ScrubOf(target.device_id);
      const std::optional<DeviceRow> device = FindDevice(db, target.device_id);
      const bool gone = !device.has_value() || device->pool_id == 0;
      const bool ended = now.has_value() && now->completed_operation_id() == target.operation_id;
      const bool ours = now.has_value() && now->operation_id() == target.operation_id;
      if (ours) target.result = *now;
      if (ended || gone) {
        target.done = true;
        finished->push_back(target);
      } else if (!health_->Reachable({v1::COMPONENT_KIND_SDS, device->sds_id})) {
        operation.set_last_error(
            absl::StrCat("device ", target.device_id, " waits: its server is away"));
      } else if (ours && !now->last_error().empty()) {
        operation.set_last_error(now->last_error());
      }
    }
    if (target.done) operation.set_devices_done(operation.devices_done() + 1);
    AddFigures(target.result, &operation);
  }
  return operation;
}

absl::Status ScrubScheduler::Refresh() {
  std::map<uint64_t, std::vector<v1::ScrubOrder>> orders;
  std::map<uint64_t, v1::Operation> running;
  std::vector<ScrubTarget> finished;
  std::vector<v1::Operation> over;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    std::map<uint64_t, v1::ScrubSettings> settings;
    for (v1::ScrubSettings& one : ListScrubSettings(db)) settings[one.pool_id()] = std::move(one);
    std::map<uint64_t, ScrubTarget> wanted;  // by device: of the oldest operation
    for (const v1::Operation& stored : ListRunning(db)) {
      if (stored.kind() != v1::OPERATION_KIND_SCRUB) continue;
      const v1::Operation operation = FiguresOf(db, stored, &finished);
      if (operation.devices_done() == operation.devices_total()) over.push_back(operation);
      running[operation.operation_id()] = operation;
      for (const ScrubTarget& target : ListScrubTargets(db, stored.operation_id())) {
        const bool ended =
            std::any_of(finished.begin(), finished.end(), [&](const ScrubTarget& one) {
              return one.operation_id == target.operation_id && one.device_id == target.device_id;
            });
        if (!target.done && !ended) wanted.try_emplace(target.device_id, target);
      }
    }
    for (const DeviceRow& device : ListDeviceRows(db)) {
      const auto of_pool = settings.find(device.pool_id);
      if (device.pool_id == 0 || of_pool == settings.end()) continue;
      v1::ScrubOrder& order = orders[device.sds_id].emplace_back();
      order.set_device_id(device.device_id);
      order.set_interval_ms(of_pool->second.interval_ms());
      order.set_bytes_per_second(of_pool->second.bytes_per_second());
      const auto target = wanted.find(device.device_id);
      if (target == wanted.end()) continue;
      order.set_operation_id(target->second.operation_id);
      order.set_vtree_id(target->second.vtree_id);
      order.set_operation_bytes_per_second(target->second.bytes_per_second);
    }
    return absl::OkStatus();
  }));
  {
    absl::MutexLock lock(&mutex_);
    orders_ = std::move(orders);
    running_ = std::move(running);
  }
  if (finished.empty() && over.empty()) return absl::OkStatus();
  return Settle(finished, over);
}

absl::Status ScrubScheduler::Settle(const std::vector<ScrubTarget>& finished,
                                    const std::vector<v1::Operation>& over) {
  return store_->Write([&](WriteTransaction& transaction) {
    SQLite::Database& db = transaction.db;
    for (const ScrubTarget& target : finished) FinishScrubTarget(db, target);
    for (const v1::Operation& operation : over) {
      const auto now = FindOperation(db, operation.operation_id());
      if (!now.has_value() || now->ended_ms() != 0) continue;
      SaveScrubFigures(db, operation);
      EndOperation(db, operation.operation_id(), v1::OPERATION_STATE_SUCCEEDED, time_->NowMillis());
      const bool damaged = operation.blocks_unreadable() > 0 || operation.blocks_different() > 0;
      events_->Record(transaction, damaged ? v1::EVENT_SEVERITY_WARNING : v1::EVENT_SEVERITY_INFO,
                      "scrub_done", {v1::COMPONENT_KIND_SDS, operation.sds_id()},
                      EndMessage(operation));
    }
    return absl::OkStatus();
  });
}

std::vector<v1::ScrubOrder> ScrubScheduler::OrdersFor(uint64_t sds_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = orders_.find(sds_id);
  return found == orders_.end() ? std::vector<v1::ScrubOrder>() : found->second;
}

void ScrubScheduler::FillFigures(v1::Operation* operation) const {
  absl::MutexLock lock(&mutex_);
  const auto found = running_.find(operation->operation_id());
  if (found == running_.end()) return;
  *operation = found->second;
}

}  // namespace tessera::mdm
