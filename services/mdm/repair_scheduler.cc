#include "services/mdm/repair_scheduler.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/message_differencer.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/mdm/placement_table.h"
#include "services/mdm/rebalance_planner.h"
#include "services/mdm/repair_planner.h"

namespace tessera::mdm {
namespace {

std::string DeviceName(const RepairSnapshot& snapshot, uint64_t device_id) {
  const auto device = snapshot.devices.find(device_id);
  if (device == snapshot.devices.end()) return absl::StrCat("device ", device_id);
  const auto sds = snapshot.servers.find(device->second.sds_id);
  return absl::StrCat("device ", device_id,
                      sds == snapshot.servers.end() ? "" : " of " + sds->second.name);
}

const char* KindName(v1::OperationKind kind) {
  switch (kind) {
    case v1::OPERATION_KIND_REBUILD:
      return "rebuild";
    case v1::OPERATION_KIND_RESYNC:
      return "resync";
    case v1::OPERATION_KIND_REBALANCE:
      return "rebalance";
    case v1::OPERATION_KIND_DRAIN:
      return "drain";
    default:
      return "scrub";
  }
}

bool IsPaused(const v1::Operation& operation, const v1::RepairSettings& settings) {
  return (operation.kind() == v1::OPERATION_KIND_REBUILD && settings.rebuild_paused()) ||
         (operation.kind() == v1::OPERATION_KIND_REBALANCE && settings.rebalance_paused());
}

}  // namespace

RepairScheduler::RepairScheduler(MdmStore* store, const HealthMonitor* health, LearnerBoard* board,
                                 const EventLog* events, const MdmTime* time,
                                 MetricRegistry* metrics)
    : store_(store),
      health_(health),
      board_(board),
      events_(events),
      time_(time),
      metrics_(metrics) {}

std::vector<v1::Operation> RepairScheduler::Running() const {
  absl::MutexLock lock(&mutex_);
  return running_;
}

void RepairScheduler::Run() {
  Round round;
  if (absl::Status status = Read(&round); !status.ok()) {
    LogError("reading the map for repair failed", {{"error", status}});
    return;
  }
  if (absl::Status status = Carry(round); !status.ok()) {
    LogError("committing repair failed", {{"error", status}});
  }
  // As it is now: what was just begun counts.
  if (absl::Status status = Read(&round); status.ok()) status = Account(round);
}

absl::Status RepairScheduler::Read(Round* round) {
  const uint64_t now_ms = time_->NowMillis();
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    round->snapshot = ReadRepairSnapshot(db, *health_, *board_, now_ms);
    return absl::OkStatus();
  }));
  learner_bytes_per_second_ = round->snapshot.settings.bytes_per_second_per_server();
  round->plans.clear();
  for (const RepairPoolView& view : round->snapshot.pools) {
    round->plans.push_back(PlanRepair(round->snapshot.rules, view.pool, now_ms));
  }
  return absl::OkStatus();
}

absl::Status RepairScheduler::Carry(const Round& round) {
  const RepairSnapshot& snapshot = round.snapshot;
  const uint64_t now_ms = time_->NowMillis();
  bool any = snapshot.unavailable != snapshot.stored_unavailable;
  for (const RepairPlan& plan : round.plans) any |= !plan.decisions.empty();
  for (const auto& [id, sds] : snapshot.servers) {
    any |= sds.maintenance_until_ms != 0 && sds.maintenance_until_ms <= now_ms;
  }
  if (!any) return absl::OkStatus();
  return store_->Write([&](WriteTransaction& transaction) {
    ReplaceUnavailable(transaction.db, snapshot.stored_unavailable, snapshot.unavailable);
    for (size_t i = 0; i < round.plans.size(); ++i) {
      for (const RepairDecision& decision : round.plans[i].decisions) {
        CarryOne(transaction, round, snapshot.pools[i], decision);
      }
    }
    EndMaintenance(transaction, round);
    return absl::OkStatus();
  });
}

void RepairScheduler::CarryOne(WriteTransaction& transaction, const Round& round,
                               const RepairPoolView& view, const RepairDecision& decision) {
  SQLite::Database& db = transaction.db;
  const uint64_t id = decision.placement_group_id;
  std::optional<v1::PlacementGroup> entry = FindPlacementGroup(db, id);
  if (!entry.has_value()) return;
  std::optional<RepairMove> move = FindMove(db, id);
  const auto device = round.snapshot.devices.find(decision.device_id);
  const uint64_t sds_id = device == round.snapshot.devices.end() ? 0 : device->second.sds_id;
  const uint64_t epoch = entry->epoch();
  const v1::PlacementGroup before = *entry;
  if (ApplyDecision(decision, sds_id, view.pool.replica_count, &*entry, &move) !=
      MembershipOutcome::kChanged) {
    return;  // it moved on since it was looked at: the next round sees it
  }
  if (move.has_value()) {
    if (move->operation_id == 0) {
      move->operation_id = OperationFor(transaction, round, view, decision);
    }
    PutMove(db, id, *move);
  } else {
    DeleteMove(db, id);
  }
  if (decision.action == RepairAction::kMakeLearner && !move.has_value()) {
    (void)OperationFor(transaction, round, view, decision);
  }
  if (decision.source_device_id != 0) {
    board_->SetSource(id, decision.device_id, decision.source_device_id);
  }
  if (entry->epoch() == epoch) return;
  PutPlacementGroup(db, *entry);
  for (const v1::Replica& replica : before.replicas()) {
    if (FindReplica(*entry, replica.device_id()) != nullptr) continue;
    transaction.changes.former_sds_ids[id].insert(replica.sds_id());
  }
  transaction.changes.placement_group_ids.insert(id);
  transaction.changes.topology = true;
  if (decision.action == RepairAction::kAbandonMove) {
    events_->Record(
        transaction, v1::EVENT_SEVERITY_INFO, "move_abandoned",
        {v1::COMPONENT_KIND_DEVICE, decision.device_id},
        absl::StrCat("placement group ", id, " is not moved to ",
                     DeviceName(round.snapshot, decision.device_id), ": ", decision.reason));
  }
}

uint64_t RepairScheduler::OperationFor(WriteTransaction& transaction, const Round& round,
                                       const RepairPoolView& view, const RepairDecision& decision) {
  SQLite::Database& db = transaction.db;
  v1::Operation operation;
  operation.set_pool_id(view.pool.pool_id);
  uint64_t device_id = decision.move.from_device_id;
  if (decision.action == RepairAction::kMakeLearner) {
    operation.set_kind(v1::OPERATION_KIND_RESYNC);
    device_id = decision.device_id;
  } else if (decision.move.kind == MoveKind::kRebalance) {
    operation.set_kind(v1::OPERATION_KIND_REBALANCE);
    device_id = 0;
  } else if (decision.move.kind == MoveKind::kRebuild) {
    operation.set_kind(v1::OPERATION_KIND_REBUILD);
  } else {
    operation.set_kind(v1::OPERATION_KIND_DRAIN);
  }
  operation.set_device_id(device_id);
  const auto device = round.snapshot.devices.find(device_id);
  if (device != round.snapshot.devices.end()) operation.set_sds_id(device->second.sds_id);
  if (operation.kind() == v1::OPERATION_KIND_DRAIN) {
    // Of the device, or of its whole server; these span pools.
    for (const uint64_t of_device : {device_id, uint64_t{0}}) {
      const auto found = FindRunning(db, {operation.kind(), 0, operation.sds_id(), of_device});
      if (found.has_value()) return found->operation_id();
    }
    operation.set_pool_id(0);
  }
  const OperationKey key{operation.kind(), operation.pool_id(), operation.sds_id(), device_id};
  if (const auto found = FindRunning(db, key)) return found->operation_id();
  operation.set_state(v1::OPERATION_STATE_RUNNING);
  operation.set_subject(device_id == 0 ? absl::StrCat("pool ", view.name)
                                       : DeviceName(round.snapshot, device_id));
  operation.set_started_ms(time_->NowMillis());
  const uint64_t id = InsertOperation(db, operation);
  events_->Record(
      transaction, v1::EVENT_SEVERITY_INFO, absl::StrCat(KindName(operation.kind()), "_started"),
      {device_id == 0 ? v1::COMPONENT_KIND_UNSPECIFIED : v1::COMPONENT_KIND_DEVICE, device_id},
      absl::StrCat(KindName(operation.kind()), " ", id, " of ", operation.subject()));
  return id;
}

void RepairScheduler::EndMaintenance(WriteTransaction& transaction, const Round& round) const {
  const uint64_t now_ms = time_->NowMillis();
  for (const auto& [id, sds] : round.snapshot.servers) {
    if (sds.maintenance_until_ms == 0 || sds.maintenance_until_ms > now_ms) continue;
    std::optional<SdsRow> row = FindSds(transaction.db, id);
    if (!row.has_value() || row->maintenance_until_ms != sds.maintenance_until_ms) continue;
    row->maintenance_until_ms = 0;
    row->maintenance_reason.clear();
    UpdateSds(transaction.db, *row);
    transaction.changes.topology = true;
    events_->Record(transaction, v1::EVENT_SEVERITY_WARNING, "maintenance_over",
                    {v1::COMPONENT_KIND_SDS, id},
                    absl::StrCat("the maintenance of server ", row->name,
                                 " has reached its end: while it is away its data is made anew"));
  }
}

uint32_t RepairScheduler::MovesNeeded(const RepairSnapshot& snapshot, const RepairPoolView& view) {
  auto& [counted_ms, count] = moves_needed_[view.pool.pool_id];
  const uint64_t now = time_->clock().BootMillis();
  const bool moving =
      std::any_of(view.pool.groups.begin(), view.pool.groups.end(), [](const RepairGroup& group) {
        return group.move && group.move->kind == MoveKind::kRebalance;
      });
  if (!moving || counted_ms == 0 || now - counted_ms >= kCountMillis) {
    count = CountMovesNeeded(snapshot.rules, view.pool);
    counted_ms = now;
  }
  return count;
}

absl::Status RepairScheduler::Account(const Round& round) {
  const RepairSnapshot& snapshot = round.snapshot;
  std::vector<v1::Operation> running;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    running = ListRunning(db);
    return absl::OkStatus();
  }));
  const StatusOfLearner status = [this](uint64_t group, uint64_t device, uint64_t epoch) {
    return board_->StatusOf(group, device, epoch);
  };
  const SourceOfLearner source = [this](uint64_t group, uint64_t device) {
    return board_->SourceOf(group, device);
  };
  const uint64_t now = time_->clock().BootMillis();
  std::vector<v1::Operation> kept;
  std::map<std::string, double> left_by_kind{
      {"rebuild", 0}, {"resync", 0}, {"rebalance", 0}, {"drain", 0}};
  for (v1::Operation& operation : running) {
    if (operation.kind() == v1::OPERATION_KIND_SCRUB) {
      if (scrub_figures_) scrub_figures_(&operation);
      Measure(now, snapshot, {}, &operation);
      kept.push_back(std::move(operation));
      continue;
    }
    const bool paused = IsPaused(operation, snapshot.settings);
    OperationRest rest;
    for (size_t i = 0; i < snapshot.pools.size(); ++i) {
      const RepairPoolView& view = snapshot.pools[i];
      if (operation.pool_id() != 0 && operation.pool_id() != view.pool.pool_id) continue;
      const bool counts = operation.kind() == v1::OPERATION_KIND_REBALANCE;
      rest.Add(RestOfOperation(operation, snapshot.rules, view.pool, round.plans[i],
                               counts ? MovesNeeded(snapshot, view) : 0, status, source));
    }
    if (rest.over()) {
      bool cancelled = false;
      if (operation.kind() == v1::OPERATION_KIND_DRAIN) {
        // Its devices are not marked any more: somebody wants them.
        for (const auto& [id, device] : snapshot.devices) {
          const bool ours = operation.device_id() != 0 ? id == operation.device_id()
                                                       : device.sds_id == operation.sds_id();
          cancelled |= ours && device.use == v1::DEVICE_USE_NORMAL && device.pool_id != 0;
        }
      }
      End(operation, cancelled ? v1::OPERATION_STATE_CANCELLED : v1::OPERATION_STATE_SUCCEEDED);
      continue;
    }
    FillProgress(rest, paused, &operation);
    const uint64_t left = Measure(now, snapshot, rest, &operation);
    left_by_kind[KindName(operation.kind())] += static_cast<double>(left);
    kept.push_back(std::move(operation));
  }
  for (const auto& [kind, left] : left_by_kind) {
    metrics_
        ->Gauge("tessera_rebuild_bytes_remaining", "Bytes left to copy, by kind of operation.",
                {{"kind", kind}})
        .Set(left);
  }
  std::map<std::string, double> running_by_kind{
      {"rebuild", 0}, {"resync", 0}, {"rebalance", 0}, {"drain", 0}, {"scrub", 0}};
  for (const v1::Operation& operation : kept) ++running_by_kind[KindName(operation.kind())];
  for (const auto& [kind, count] : running_by_kind) {
    metrics_
        ->Gauge("tessera_mdm_operations_running", "Operations that run, by kind.", {{"kind", kind}})
        .Set(count);
  }
  std::set<uint64_t> ids;
  for (const v1::Operation& operation : kept) ids.insert(operation.operation_id());
  std::erase_if(meters_, [&](const auto& meter) { return !ids.contains(meter.first); });
  bool changed = false;
  {
    absl::MutexLock lock(&mutex_);
    changed =
        running_.size() != kept.size() ||
        !std::equal(kept.begin(), kept.end(), running_.begin(), [](const auto& a, const auto& b) {
          return google::protobuf::util::MessageDifferencer::Equals(a, b);
        });
    running_ = std::move(kept);
  }
  if (changed && listener_) listener_();
  return absl::OkStatus();
}

uint64_t RepairScheduler::Measure(uint64_t now_boot_ms, const RepairSnapshot& snapshot,
                                  const OperationRest& rest, v1::Operation* operation) {
  const auto learned = [&snapshot](uint64_t group_id, uint64_t device_id) {
    for (const RepairPoolView& view : snapshot.pools) {
      for (const RepairGroup& group : view.pool.groups) {
        if (group.entry.placement_group_id() != group_id) continue;
        const v1::Replica* replica = FindReplica(group.entry, device_id);
        return replica != nullptr && replica->role() == v1::REPLICA_ROLE_IN_SYNC;
      }
    }
    return false;
  };
  OperationMeter& meter = meters_[operation->operation_id()];
  meter.Add(now_boot_ms, operation->bytes_done(), rest, learned);
  const uint64_t left =
      operation->bytes_total() - std::min(operation->bytes_total(), operation->bytes_done());
  operation->set_bytes_per_second(meter.BytesPerSecond());
  operation->set_eta_ms(meter.EtaMillis(left));
  return left;
}

void RepairScheduler::End(const v1::Operation& operation, v1::OperationState state) {
  const absl::Status written = store_->Write([&](WriteTransaction& transaction) {
    EndOperation(transaction.db, operation.operation_id(), state, time_->NowMillis());
    events_->Record(transaction, v1::EVENT_SEVERITY_INFO,
                    absl::StrCat(KindName(operation.kind()),
                                 state == v1::OPERATION_STATE_SUCCEEDED ? "_done" : "_cancelled"),
                    {v1::COMPONENT_KIND_DEVICE, operation.device_id()},
                    absl::StrCat(KindName(operation.kind()), " ", operation.operation_id(), " of ",
                                 operation.subject(), ": ", operation.placement_groups_done(),
                                 " placement groups, ", operation.bytes_done(), " bytes"));
    return absl::OkStatus();
  });
  if (!written.ok()) LogError("ending an operation failed", {{"error", written}});
}

}  // namespace tessera::mdm
