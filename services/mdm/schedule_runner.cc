#include "services/mdm/schedule_runner.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/common/wait.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/schedule_rules.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWaitMax{600'000};
static_assert(kConsistentVolumesMax == SnapshotMaker::kSourcesMax);
// By hand twice within one second: the second gets the next one's name.
constexpr int kNameTries = 60;
constexpr uint64_t kNameStepMillis = 1'000;
constexpr size_t kErrorBytesMax = 1'000;

std::string Who(const v1::SnapshotSchedule& settings, uint64_t schedule_id) {
  return absl::StrCat("schedule ", settings.name(), " (", schedule_id, ")");
}

// A label as ListVolumes takes it.
VolumeFilter FilterOf(const std::string& label) {
  VolumeFilter filter{.trashed = false, .kind = v1::VOLUME_KIND_VOLUME};
  const size_t equals = label.find('=');
  filter.label_key = label.substr(0, equals);
  if (equals != std::string::npos) filter.label_value = label.substr(equals + 1);
  return filter;
}

// It went while the run was under way: passed over, like those that were gone before.
bool IsGone(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  return reason == "VOLUME_NOT_FOUND" || reason == "VOLUME_TRASHED";
}

}  // namespace

// A volume, and its snapshot of this run.
struct ScheduleRunner::Source {
  VolumeRow volume;
  std::string snapshot_name;
  bool made = false;  // by the same run, before the MDM was started again
};

struct ScheduleRunner::Plan {
  uint64_t schedule_id = 0;
  v1::SnapshotSchedule settings;
  uint64_t named_ms = 0;
  std::vector<Source> sources;
  bool taken = false;  // one of the names is somebody else's
  // What went wrong: for people, and what it is by.
  std::vector<std::pair<std::string, std::string>> failures;

  void Fail(const std::string& what, const absl::Status& status) {
    const std::string reason = ReasonOf(status);
    failures.emplace_back(
        absl::StrCat(what, ": ", std::string(status.message())),
        absl::StrCat(what, " ", reason.empty() ? absl::StatusCodeToString(status.code()) : reason));
  }
};

class ScheduleRunner::Turn {
 public:
  Turn(ScheduleRunner* runner, uint64_t schedule_id, milliseconds timeout)
      : runner_(runner), schedule_id_(schedule_id) {
    absl::MutexLock lock(&runner_->mutex_);
    const auto free = [this] {
      runner_->mutex_.AssertReaderHeld();
      return !runner_->busy_schedule_ids_.contains(schedule_id_);
    };
    taken_ = free() ||
             AwaitWithTimeout(&runner_->mutex_, absl::Condition(&free), absl::FromChrono(timeout));
    if (taken_) runner_->busy_schedule_ids_.insert(schedule_id_);
  }
  ~Turn() {
    if (!taken_) return;
    absl::MutexLock lock(&runner_->mutex_);
    runner_->busy_schedule_ids_.erase(schedule_id_);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  [[nodiscard]] bool taken() const { return taken_; }

 private:
  ScheduleRunner* const runner_;
  const uint64_t schedule_id_;
  bool taken_ = false;
};

CallContext ScheduleRunner::OwnCall(const v1::SnapshotSchedule& settings) const {
  Caller caller;
  caller.roles = {v1::ROLE_MDM};
  caller.name = "schedule " + settings.name();
  const milliseconds hold(settings.deadline_ms() == 0 ? SnapshotMaker::kHoldMillis
                                                      : settings.deadline_ms());
  return CallContext(std::move(caller), std::chrono::system_clock::now() + hold + kCallReserve,
                     stopped_);
}

void ScheduleRunner::Run() {
  std::vector<uint64_t> due;
  const uint64_t now = time_->NowMillis();
  const absl::Status read = store_->Read([&](SQLite::Database& db) {
    for (const ScheduleRow& row : ListScheduleRows(db)) {
      if (row.settings.paused()) continue;
      if (!row.run_ended || LastRunTime(row.settings, now) > row.run_time_ms) {
        due.push_back(row.schedule_id);
      }
    }
    return absl::OkStatus();
  });
  if (!read.ok()) LogError("reading snapshot schedules failed", {{"error", read}});
  for (const uint64_t schedule_id : due) {
    if (stopped_->load()) return;
    RunDue(schedule_id);
  }
}

void ScheduleRunner::RunDue(uint64_t schedule_id) {
  Turn turn(this, schedule_id, milliseconds(0));
  if (!turn.taken()) return;  // by hand: looked at again at once
  ScheduleRow row;
  bool due = false;
  const absl::Status begun = store_->Write([&](WriteTransaction& transaction) {
    due = false;
    const auto found = FindSchedule(transaction.db, schedule_id);
    if (!found.has_value() || found->settings.paused()) return absl::OkStatus();
    row = *found;
    const uint64_t now = time_->NowMillis();
    const uint64_t last = LastRunTime(row.settings, now);
    if (last > row.run_time_ms) {
      row.run_time_ms = last;
      row.named_ms = NamedTime(last, now);
      row.run_ended = false;
      UpdateScheduleRuns(transaction.db, row);
    }
    due = !row.run_ended;
    return absl::OkStatus();
  });
  if (!begun.ok()) LogError("beginning a snapshot schedule's run failed", {{"error", begun}});
  if (!begun.ok() || !due) return;
  absl::StatusOr<Plan> plan = MakePlan(schedule_id, row.named_ms);
  if (!plan.ok()) {
    LogError("reading a snapshot schedule failed",
             {{"schedule", schedule_id}, {"error", plan.status()}});
    return;
  }
  // What went wrong is in the plan.
  (void)Carry(OwnCall(plan->settings), &*plan, row.run_time_ms);
}

absl::StatusOr<ScheduleRun> ScheduleRunner::RunNow(const CallContext& call, uint64_t schedule_id) {
  Turn turn(this, schedule_id, call.TimeLeft(kWaitMax));
  if (!turn.taken()) {
    return WithReason(absl::AbortedError("a run of this schedule is under way: try again"),
                      "SCHEDULE_RUNS");
  }
  Plan plan;
  uint64_t named_ms = time_->NowMillis();
  for (int i = 0; i < kNameTries; ++i, named_ms += kNameStepMillis) {
    TESSERA_ASSIGN_OR_RETURN(plan, MakePlan(schedule_id, named_ms));
    const bool made = std::any_of(plan.sources.begin(), plan.sources.end(),
                                  [](const Source& source) { return source.made; });
    if (!plan.taken && !made) break;
  }
  if (plan.sources.empty()) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat(Who(plan.settings, schedule_id),
                                       " has no volumes: none of those it names is there, and "
                                       "none has its label")),
                      "NO_VOLUMES");
  }
  return Carry(call, &plan, /*run_time_ms=*/0);
}

absl::StatusOr<ScheduleRunner::Plan> ScheduleRunner::MakePlan(uint64_t schedule_id,
                                                              uint64_t named_ms) {
  Plan plan;
  plan.schedule_id = schedule_id;
  plan.named_ms = named_ms;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    const auto schedule = FindSchedule(db, schedule_id);
    if (!schedule.has_value()) return NoSuch("schedule", schedule_id);
    plan.settings = schedule->settings;
    std::map<uint64_t, VolumeRow> volumes;
    for (const uint64_t id : plan.settings.volume_ids()) {
      if (auto volume = FindVolume(db, id)) volumes[id] = *std::move(volume);
    }
    if (!plan.settings.volume_label().empty()) {
      for (VolumeRow& row : ListVolumeRows(db, FilterOf(plan.settings.volume_label()))) {
        volumes[row.volume_id] = std::move(row);
      }
    }
    const uint64_t now = time_->NowMillis();
    for (auto& [id, volume] : volumes) {
      if (volume.is_snapshot() || volume.trashed() || volume.Expired(now)) continue;
      Source& source = plan.sources.emplace_back();
      source.snapshot_name = SnapshotName(volume.name, id, plan.settings.name(), named_ms);
      if (const auto other = FindVolumeByName(db, source.snapshot_name)) {
        const VolumeLabels labels = ReadLabels(db, other->volume_id);
        const auto label = labels.find(kScheduleLabel);
        source.made = other->is_snapshot() && other->parent_id == id && label != labels.end() &&
                      label->second == absl::StrCat(schedule_id);
        plan.taken |= !source.made;
      }
      source.volume = std::move(volume);
    }
    return absl::OkStatus();
  }));
  return plan;
}

absl::StatusOr<ScheduleRun> ScheduleRunner::Carry(const CallContext& call, Plan* plan,
                                                  uint64_t run_time_ms) {
  ScheduleRun run;
  absl::Status first;
  std::vector<const Source*> wanted;
  for (const Source& source : plan->sources) {
    if (!source.made) wanted.push_back(&source);
  }
  if (plan->settings.consistent() && !wanted.empty()) {
    absl::Status snapped = Snap(call, *plan, wanted, run_time_ms, &run);
    if (!snapped.ok()) plan->Fail(absl::StrCat("its ", wanted.size(), " volumes"), snapped);
    first.Update(snapped);
  } else {
    for (const Source* source : wanted) {
      if (stopped_->load()) break;
      absl::Status snapped = Snap(run_time_ms == 0 ? call : OwnCall(plan->settings), *plan,
                                  {source}, run_time_ms, &run);
      if (snapped.ok() || IsGone(snapped)) continue;
      plan->Fail(absl::StrCat("volume ", source->volume.name, " (", source->volume.volume_id, ")"),
                 snapped);
      first.Update(snapped);
    }
  }
  Retain(call, plan, &run);
  if (stopped_->load()) return absl::UnavailableError("the MDM is stopping");
  End(*plan, run_time_ms);
  if (!first.ok()) return first;
  return run;
}

absl::Status ScheduleRunner::Snap(const CallContext& call, const Plan& plan,
                                  const std::vector<const Source*>& sources, uint64_t run_time_ms,
                                  ScheduleRun* run) {
  if (sources.size() > SnapshotMaker::kSourcesMax) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat(sources.size(), " volumes can't have one moment: at most ",
                                       SnapshotMaker::kSourcesMax, " can")),
                      "TOO_MANY_VOLUMES");
  }
  v1::CreateSnapshotsRequest request;
  if (run_time_ms != 0) {
    request.set_request_id(absl::StrCat("schedule/", plan.schedule_id, "/", run_time_ms, "/",
                                        sources.front()->volume.volume_id, "+", sources.size()));
  }
  for (const Source* source : sources) {
    v1::SnapshotSource* wanted = request.add_sources();
    wanted->set_volume_id(source->volume.volume_id);
    wanted->set_snapshot_name(source->snapshot_name);
  }
  (*request.mutable_labels())[kScheduleLabel] = absl::StrCat(plan.schedule_id);
  if (plan.settings.lock_seconds() > 0) {
    request.set_locked_until_ms(time_->NowMillis() + plan.settings.lock_seconds() * 1'000);
  }
  request.set_deadline_ms(plan.settings.deadline_ms());
  v1::CreateSnapshotsResponse response;
  TESSERA_RETURN_IF_ERROR(volumes_->MakeSnapshots(call, request, &response));
  run->snapshots.insert(run->snapshots.end(), response.snapshots().begin(),
                        response.snapshots().end());
  return absl::OkStatus();
}

void ScheduleRunner::Retain(const CallContext& call, Plan* plan, ScheduleRun* run) {
  std::map<uint64_t, std::vector<ScheduledSnapshot>> snapshots;  // by volume
  std::map<uint64_t, std::string> names;
  const absl::Status read = store_->Read([&](SQLite::Database& db) {
    const uint64_t now = time_->NowMillis();
    for (const VolumeRow& row : ListVolumeRows(db, {.label_key = kScheduleLabel,
                                                   .label_value = absl::StrCat(plan->schedule_id),
                                                   .trashed = false,
                                                   .kind = v1::VOLUME_KIND_SNAPSHOT})) {
      names[row.volume_id] = row.name;
      snapshots[row.parent_id].push_back(
          {row.volume_id, row.created_ms,
           row.locked_until_ms > now || !ListMappings(db, row.volume_id).empty()});
    }
    return absl::OkStatus();
  });
  if (!read.ok()) return plan->Fail("its snapshots", read);
  for (auto& [volume_id, of_volume] : snapshots) {
    for (const uint64_t id : PastRetention(plan->settings.retention(), std::move(of_volume))) {
      if (stopped_->load() || call.cancelled()) return;
      v1::DeleteVolumeRequest request;
      request.set_volume_id(id);
      v1::DeleteVolumeResponse response;
      const absl::Status deleted = volumes_->Do(OwnCall(plan->settings), request, &response);
      const std::string reason = ReasonOf(deleted);
      // By somebody, just now: kept until the next run.
      if (reason == "VOLUME_MAPPED" || reason == "SNAPSHOT_LOCKED" || IsGone(deleted)) continue;
      if (deleted.ok()) {
        run->deleted_snapshot_ids.push_back(id);
      } else {
        plan->Fail(absl::StrCat("deleting snapshot ", names[id], " of volume (", volume_id, ")"),
                   deleted);
      }
    }
  }
}

void ScheduleRunner::End(const Plan& plan, uint64_t run_time_ms) {
  const bool failed = !plan.failures.empty();
  std::vector<std::string> words;
  std::vector<std::string> causes;
  for (const auto& [text, cause] : plan.failures) {
    words.push_back(text);
    causes.push_back(cause);
  }
  const absl::Status written = store_->Write([&](WriteTransaction& transaction) {
    auto row = FindSchedule(transaction.db, plan.schedule_id);
    if (!row.has_value()) return absl::OkStatus();
    if (run_time_ms != 0 && row->run_time_ms == run_time_ms) row->run_ended = true;
    const std::string before = row->failure;
    row->last_run_ms = plan.named_ms;
    row->last_error = absl::StrJoin(words, "; ").substr(0, kErrorBytesMax);
    row->failure = absl::StrJoin(causes, "; ").substr(0, kErrorBytesMax);
    UpdateScheduleRuns(transaction.db, *row);
    if (row->failure == before) return absl::OkStatus();
    const std::string who = Who(row->settings, plan.schedule_id);
    events_->Record(transaction, failed ? v1::EVENT_SEVERITY_WARNING : v1::EVENT_SEVERITY_INFO,
                    failed ? "snapshot_schedule_failed" : "snapshot_schedule_works", {},
                    failed ? absl::StrCat(who, ": ", row->last_error) : who);
    return absl::OkStatus();
  });
  if (!written.ok()) LogError("writing a schedule's run down failed", {{"error", written}});
  (failed ? runs_failed_ : runs_done_).Increment();
}

prometheus::Counter& ScheduleRunner::RunsCounter(MetricRegistry* metrics, const char* result) {
  return metrics->Counter("tessera_mdm_snapshot_schedule_runs_total", "Runs of snapshot schedules.",
                          {{"result", result}});
}

}  // namespace tessera::mdm
