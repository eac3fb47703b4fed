#include "services/mdm/snapshot_maker.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/common/wait.h"
#include "services/mdm/request_checks.h"
#include "services/mdm/snapshot_table.h"
#include "services/mdm/token_table.h"
#include "services/mdm/topology_table.h"
#include "services/mdm/volume_service.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWaitMax{600'000};
// Kept back of the caller's time, so that it hears how it ended.
constexpr milliseconds kReserve{300};
// A client's own deadline comes first: it knows whether it still holds.
constexpr milliseconds kAnswerReserve{500};
constexpr milliseconds kReleaseTimeout{1'000};

std::string Who(const VolumeRow& volume) {
  return absl::StrCat("volume ", volume.shown_name(), " (", volume.volume_id, ")");
}

absl::Status MovedOn(const VolumeRow& volume) {
  return WithReason(
      absl::AbortedError(absl::StrCat(
          Who(volume), " was unmapped, fenced, deleted or taken over meanwhile: try again")),
      "VOLUME_MOVED_ON", {{"volume_id", absl::StrCat(volume.volume_id)}});
}

// What a client's refusal means to the caller.
absl::Status Failed(const SdcRow& sdc, const VolumeRow& volume, const absl::Status& status) {
  const std::string who =
      absl::StrCat("client ", sdc.name, " (", sdc.sdc_id, "), which writes ", Who(volume));
  const ErrorMetadata about{{"sdc_id", absl::StrCat(sdc.sdc_id)},
                            {"volume_id", absl::StrCat(volume.volume_id)}};
  const std::string why(status.message());
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return WithReason(
          absl::UnavailableError(absl::StrCat(who, ", did not hold its writes in time: ", why)),
          "CLIENT_SILENT", about);
    case absl::StatusCode::kUnimplemented:
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat(who, ", can't make snapshots: update it")),
          "CLIENT_TOO_OLD", about);
    default:
      return WithReason(
          absl::AbortedError(absl::StrCat(who, ", did not cut: ", why, ": try again")),
          "CLIENT_REFUSED", about);
  }
}

template <typename Response>
absl::Status FirstError(const std::vector<absl::StatusOr<Response>>& answers,
                        const NodeControl::SdcRequests<const VolumeRow*>& asked) {
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!answers[i].ok()) return Failed(asked[i].first, *asked[i].second, answers[i].status());
  }
  return absl::OkStatus();
}

}  // namespace

// The volumes are the caller's alone, for snapshots, until it ends.
class SnapshotMaker::Turn {
 public:
  Turn(SnapshotMaker* maker, std::vector<uint64_t> volume_ids)
      : maker_(maker), volume_ids_(std::move(volume_ids)) {}
  ~Turn() {
    if (!taken_) return;
    absl::MutexLock lock(&maker_->mutex_);
    for (const uint64_t id : volume_ids_) maker_->busy_volume_ids_.erase(id);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  [[nodiscard]] bool Await(milliseconds timeout) {
    absl::MutexLock lock(&maker_->mutex_);
    const auto free = [this] {
      maker_->mutex_.AssertReaderHeld();
      return std::none_of(volume_ids_.begin(), volume_ids_.end(), [this](uint64_t id) {
        maker_->mutex_.AssertReaderHeld();
        return maker_->busy_volume_ids_.contains(id);
      });
    };
    taken_ = AwaitWithTimeout(&maker_->mutex_, absl::Condition(&free), absl::FromChrono(timeout));
    if (taken_) maker_->busy_volume_ids_.insert(volume_ids_.begin(), volume_ids_.end());
    return taken_;
  }

 private:
  SnapshotMaker* const maker_;
  const std::vector<uint64_t> volume_ids_;
  bool taken_ = false;
};

absl::Status CheckLock(const std::string& field, uint64_t locked_until_ms, uint64_t now_ms) {
  if (locked_until_ms <= now_ms + SnapshotMaker::kLockMaxMillis) return absl::OkStatus();
  return InvalidField(
      field, absl::StrCat(locked_until_ms, " is more than ten years ahead: now is ", now_ms));
}

absl::Status CheckSnapshotCount(SQLite::Database& db, const VolumeRow& volume) {
  if (CountSnapshots(db, volume.volume_id).all < SnapshotMaker::kSnapshotsMax) {
    return absl::OkStatus();
  }
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(Who(volume), " has ", SnapshotMaker::kSnapshotsMax,
                                                 " snapshots, those in the trash included: delete "
                                                 "some first")),
      "TOO_MANY_SNAPSHOTS");
}

absl::StatusOr<VolumeRow> InsertSnapshot(SQLite::Database& db, VolumeRow snapshot,
                                         VolumeRow* volume) {
  const uint64_t before = volume->snapshot_sequence;
  if (OrdinalOf(before) >= token::kPathHead - 1) {
    return absl::ResourceExhaustedError(
        absl::StrCat(Who(*volume), " has used up its layers: clone it"));
  }
  volume->snapshot_sequence = before + 1;
  snapshot.pool_id = volume->pool_id;
  snapshot.vtree_id = volume->vtree_id;
  snapshot.size_bytes = volume->size_bytes;
  snapshot.snapshot_sequence = before;
  snapshot.kind = v1::VOLUME_KIND_SNAPSHOT;
  snapshot.parent_id = volume->volume_id;
  snapshot.path = SnapshotPath(volume->path, volume->snapshot_sequence);
  UpdateVolumeLayers(db, *volume);
  GiveOutLayer(db, volume->vtree_id, volume->snapshot_sequence);
  return InsertVolume(db, std::move(snapshot));
}

void DropUnfinishedSnapshots(WriteTransaction& transaction, uint64_t now_ms) {
  for (const VolumeRow& row : ListUnfinishedSnapshots(transaction.db)) {
    RemoveVolume(transaction, row, now_ms);
  }
}

absl::Status SnapshotMaker::CheckRequest(const v1::CreateSnapshotsRequest& request) const {
  TESSERA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  if (request.sources().empty() || request.sources_size() > kSourcesMax) {
    return InvalidField("sources",
                        absl::StrCat("are ", request.sources_size(), ", not 1 to ", kSourcesMax));
  }
  std::set<std::string> names;
  for (const v1::SnapshotSource& source : request.sources()) {
    TESSERA_RETURN_IF_ERROR(CheckVolumeName("sources.snapshot_name", source.snapshot_name()));
    if (!names.insert(source.snapshot_name()).second) {
      return InvalidField("sources.snapshot_name",
                          absl::StrCat("'", source.snapshot_name(), "' is given twice"));
    }
  }
  TESSERA_RETURN_IF_ERROR(
      CheckLabels("labels", {request.labels().begin(), request.labels().end()}));
  TESSERA_RETURN_IF_ERROR(
      CheckLock("locked_until_ms", request.locked_until_ms(), time_->NowMillis()));
  if (request.deadline_ms() > kHoldMaxMillis) {
    return InvalidField("deadline_ms",
                        absl::StrCat(request.deadline_ms(), " is more than ", kHoldMaxMillis));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> SnapshotMaker::MadeBefore(SQLite::Database& db,
                                                   const v1::CreateSnapshotsRequest& request) {
  const auto operation_id = FindRequest(db, "snapshots", request.request_id());
  if (!operation_id.has_value()) return 0;
  const size_t left = ListSnapshotsOfOperation(db, *operation_id).size();
  if (left == static_cast<size_t>(request.sources_size())) return *operation_id;
  return WithReason(
      absl::NotFoundError(absl::StrCat("of the ", request.sources_size(),
                                       " snapshots that this request made, ", left, " are left")),
      "VOLUME_NOT_FOUND");
}

absl::StatusOr<uint64_t> SnapshotMaker::Make(const CallContext& call,
                                             const v1::CreateSnapshotsRequest& request) {
  TESSERA_RETURN_IF_ERROR(CheckRequest(request));
  std::vector<uint64_t> volume_ids;
  uint64_t made_before = 0;
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) -> absl::Status {
    TESSERA_ASSIGN_OR_RETURN(made_before, MadeBefore(db, request));
    if (made_before != 0) return absl::OkStatus();
    for (const v1::SnapshotSource& source : request.sources()) {
      TESSERA_ASSIGN_OR_RETURN(const VolumeRow volume,
                               ResolveVolume(db, source.volume_id(), source.volume_name()));
      if (std::count(volume_ids.begin(), volume_ids.end(), volume.volume_id) > 0) {
        return InvalidField("sources", absl::StrCat("name ", Who(volume), " twice"));
      }
      volume_ids.push_back(volume.volume_id);
    }
    return absl::OkStatus();
  }));
  if (made_before != 0) return made_before;
  Turn turn(this, volume_ids);
  if (!turn.Await(std::max(milliseconds(0), call.TimeLeft(kWaitMax) - kReserve))) {
    return WithReason(absl::AbortedError("another snapshot of one of these volumes is being made: "
                                         "try again"),
                      "SNAPSHOT_IN_PROGRESS");
  }
  Work work;
  TESSERA_RETURN_IF_ERROR(Begin(request, volume_ids, &work, &made_before));
  if (made_before != 0) return made_before;
  work.hold = milliseconds(request.deadline_ms() == 0 ? kHoldMillis : request.deadline_ms());
  absl::Status status = Carry(call, &work);
  if (status.ok()) status = Finish(call, request, work);
  if (!status.ok()) return Abandon(work, std::move(status));
  return work.operation_id;
}

absl::Status SnapshotMaker::Begin(const v1::CreateSnapshotsRequest& request,
                                  const std::vector<uint64_t>& volume_ids, Work* work,
                                  uint64_t* made_before) {
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    // By a call that was before this one in the turn.
    TESSERA_ASSIGN_OR_RETURN(*made_before, MadeBefore(db, request));
    if (*made_before != 0) return absl::OkStatus();
    const uint64_t now = time_->NowMillis();
    (void)ExpireDueTokens(db, now);
    work->operation_id = InsertSnapshotOperation(db, now);
    for (int i = 0; i < request.sources_size(); ++i) {
      TESSERA_RETURN_IF_ERROR(
          BeginPart(transaction, request, i, volume_ids[static_cast<size_t>(i)], work));
    }
    transaction.changes.topology = true;
    return absl::OkStatus();
  });
}

absl::Status SnapshotMaker::BeginPart(WriteTransaction& transaction,
                                      const v1::CreateSnapshotsRequest& request, int source,
                                      uint64_t volume_id, Work* work) const {
  SQLite::Database& db = transaction.db;
  Part& part = work->parts.emplace_back();
  TESSERA_ASSIGN_OR_RETURN(part.volume, ResolveVolume(db, volume_id, ""));
  TESSERA_RETURN_IF_ERROR(CheckNotSnapshot(part.volume));
  TESSERA_RETURN_IF_ERROR(CheckNotTrashed(part.volume));
  TESSERA_RETURN_IF_ERROR(CheckSnapshotCount(db, part.volume));
  const std::string& name = request.sources(source).snapshot_name();
  if (FindVolumeByName(db, name).has_value()) return NameTaken(name);
  if (const auto token = FindActiveWriteTransaction(db, volume_id)) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat("write token ", *token, " for ",
                                                                 Who(part.volume), " is out")),
                      "WRITE_TOKEN_OUT", {{"token_id", absl::StrCat(*token)}});
  }
  VolumeRow snapshot;
  snapshot.name = name;
  snapshot.created_ms = time_->NowMillis();
  snapshot.locked_until_ms = request.locked_until_ms();
  snapshot.operation_id = work->operation_id;
  snapshot.being_made = true;
  TESSERA_ASSIGN_OR_RETURN(part.snapshot, InsertSnapshot(db, std::move(snapshot), &part.volume));
  WriteLabels(db, part.snapshot.volume_id, {request.labels().begin(), request.labels().end()});
  for (const MappingRow& mapping : ListMappings(db, volume_id)) {
    if (!IsWriter(part.volume, mapping)) continue;
    // Of this mapping, not only of this generation: a client between two grants has answered writes
    // that servers which lost power may lack, and gives these again under the next. It can't cut
    // now, and without it the snapshot would lack them.
    if (!HadWriteGrant(db, volume_id, mapping.sdc_id, mapping.since_generation)) continue;
    if (auto sdc = FindSdc(db, mapping.sdc_id)) part.writer = *std::move(sdc);
    part.has_writer = true;
  }
  // Nobody has what it takes to write in a new generation, until one that is newer still.
  if (!part.has_writer) RaiseGeneration(transaction, &part.volume, "a snapshot is made of it");
  return absl::OkStatus();
}

// First the volumes without a writer: what they contain stands from then on, whenever the others
// are cut, so that nobody is held while servers are waited for. All that was answered to anybody
// before a write of one of the others is in them.
absl::Status SnapshotMaker::Carry(const CallContext& call, Work* work) {
  std::vector<const Part*> writers;
  for (const Part& part : work->parts) {
    if (part.has_writer) {
      writers.push_back(&part);
      continue;
    }
    const milliseconds left = std::max(milliseconds(1), call.TimeLeft(kWaitMax) - kReserve);
    TESSERA_RETURN_IF_ERROR(fence_->Run(part.volume, FencePurpose::kReconcile, left).status());
  }
  if (writers.empty()) return absl::OkStatus();
  TESSERA_RETURN_IF_ERROR(IssueGrants(work));
  work->hold = std::min(work->hold, call.TimeLeft(kWaitMax) - kReserve);
  if (work->hold <= milliseconds(0)) {
    return absl::DeadlineExceededError("no time is left to hold writes");
  }
  if (writers.size() == 1) return Cut(writers, /*hold_id=*/0, work);
  absl::Status status = Hold(*work, writers);
  if (status.ok()) status = Cut(writers, work->operation_id, work);
  if (!status.ok()) Release(writers, work->operation_id);
  return status;
}

// They are in the table before they are given out, like any: a fence waits for the latest.
absl::Status SnapshotMaker::IssueGrants(Work* work) {
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    for (Part& part : work->parts) {
      if (!part.has_writer) continue;
      const auto volume = FindVolume(transaction.db, part.volume.volume_id);
      const auto mapping = FindMapping(transaction.db, part.volume.volume_id, part.writer.sdc_id);
      if (!volume.has_value() || !mapping.has_value() ||
          volume->generation != part.volume.generation) {
        return MovedOn(part.volume);
      }
      TESSERA_RETURN_IF_ERROR(issuer_.Give(transaction.db, *volume, *mapping, &part.grant));
    }
    return absl::OkStatus();
  });
}

absl::Status SnapshotMaker::Hold(const Work& work, const std::vector<const Part*>& writers) {
  NodeControl::SdcRequests<v1::HoldWritesRequest> requests;
  NodeControl::SdcRequests<const VolumeRow*> asked;
  for (const Part* part : writers) {
    asked.emplace_back(part->writer, &part->volume);
    v1::HoldWritesRequest& request =
        requests.emplace_back(part->writer, v1::HoldWritesRequest()).second;
    request.set_volume_id(part->volume.volume_id);
    request.set_hold_id(work.operation_id);
    request.set_deadline_ms(static_cast<uint32_t>(work.hold.count()));
  }
  const auto answers = control_->HoldWrites(requests, work.hold + kAnswerReserve);
  TESSERA_RETURN_IF_ERROR(FirstError(answers, asked));
  for (size_t i = 0; i < answers.size(); ++i) {
    if (answers[i]->generation() != writers[i]->volume.generation) {
      return MovedOn(writers[i]->volume);
    }
  }
  return absl::OkStatus();
}

absl::Status SnapshotMaker::Cut(const std::vector<const Part*>& writers, uint64_t hold_id,
                                Work* work) {
  NodeControl::SdcRequests<v1::CutSnapshotRequest> requests;
  NodeControl::SdcRequests<const VolumeRow*> asked;
  for (const Part* part : writers) {
    asked.emplace_back(part->writer, &part->volume);
    v1::CutSnapshotRequest& request =
        requests.emplace_back(part->writer, v1::CutSnapshotRequest()).second;
    request.set_volume_id(part->volume.volume_id);
    request.set_hold_id(hold_id);
    *request.mutable_grant() = part->grant;
    if (hold_id == 0) request.set_deadline_ms(static_cast<uint32_t>(work->hold.count()));
  }
  const auto answers = control_->CutSnapshot(requests, work->hold + kAnswerReserve);
  TESSERA_RETURN_IF_ERROR(FirstError(answers, asked));
  for (const auto& answer : answers) {
    work->held_micros = std::max(work->held_micros, answer->held_micros());
  }
  return absl::OkStatus();
}

void SnapshotMaker::Release(const std::vector<const Part*>& writers, uint64_t hold_id) {
  NodeControl::SdcRequests<v1::ReleaseHoldRequest> requests;
  for (const Part* part : writers) {
    v1::ReleaseHoldRequest& request =
        requests.emplace_back(part->writer, v1::ReleaseHoldRequest()).second;
    request.set_volume_id(part->volume.volume_id);
    request.set_hold_id(hold_id);
  }
  for (const auto& answer : control_->ReleaseHold(requests, kReleaseTimeout)) {
    // It ends by itself.
    if (!answer.ok()) LogWarning("a client was not told to go on", {{"error", answer.status()}});
  }
}

// The snapshots become ready only if each volume still is in the generation that the first
// transaction left it in. That is enough:
//
// - A volume with a writer: the one client that has it mapped for writing, by grants of this
//   generation. It has cut: it writes to the new layer alone, and what it wrote below is on all
//   replicas in sync. Nobody else became a writer, because that raises the generation
//   (AcquireGrant, RequestToken), and so does taking it away from this one.
// - A volume without one: the first transaction raised the generation, so no grant of it was out
//   then, also none that AcquireGrant was about to give for the one before: its last transaction
//   finds another generation and gives none. The fence ended all older ones and made the replicas
//   in sync equal. A writer that came since, also one after the fence, raised the generation. So
//   nobody has written in this generation at all, and what is below the new layer is what the
//   fence found.
// - Grants that are given from the first transaction on have the new layer, whatever becomes of
//   this. Those of before that could still be renewed end here: a client that has cut has no use
//   for them, and a write under them would change the snapshot.
absl::Status SnapshotMaker::Finish(const CallContext& call,
                                   const v1::CreateSnapshotsRequest& request, const Work& work) {
  return store_->Write([&](WriteTransaction& transaction) -> absl::Status {
    SQLite::Database& db = transaction.db;
    if (call.cancelled()) return absl::CancelledError("nobody waits for these snapshots any more");
    for (const Part& part : work.parts) {
      const auto volume = FindVolume(db, part.volume.volume_id);
      if (!volume.has_value() || volume->generation != part.volume.generation) {
        return MovedOn(part.volume);
      }
      RevokeWritersBelow(db, volume->volume_id, part.volume.snapshot_sequence,
                         absl::StrCat("snapshot ", part.snapshot.name, " was cut"));
      VolumeRow ready = part.snapshot;
      ready.being_made = false;
      UpdateVolumeLayers(db, ready);
      events_->Record(
          transaction, v1::EVENT_SEVERITY_INFO, "snapshot_created", {},
          absl::StrCat("snapshot ", ready.name, " (", ready.volume_id, ") of ", Who(*volume)));
    }
    SetHeldMicros(db, work.operation_id, work.held_micros);
    RememberRequest(db, "snapshots", request.request_id(), work.operation_id, time_->NowMillis());
    transaction.changes.topology = true;
    return absl::OkStatus();
  });
}

absl::Status SnapshotMaker::Abandon(const Work& work, absl::Status cause) {
  std::optional<absl::Status> moved;
  const absl::Status deleted = store_->Write([&](WriteTransaction& transaction) {
    moved.reset();
    for (const Part& part : work.parts) {
      const auto volume = FindVolume(transaction.db, part.volume.volume_id);
      if (!volume.has_value() || volume->generation != part.volume.generation) {
        moved = MovedOn(part.volume);
      }
      if (const auto row = FindVolume(transaction.db, part.snapshot.volume_id)) {
        RemoveVolume(transaction, *row, time_->NowMillis());
      }
    }
    return absl::OkStatus();
  });
  if (!deleted.ok()) {
    LogError("snapshots that were not made stay until the next start",
             {{"operation", work.operation_id}, {"error", deleted}});
  }
  LogWarning("snapshots were not made", {{"operation", work.operation_id}, {"error", cause}});
  dropped_();
  return moved.value_or(std::move(cause));
}

}  // namespace tessera::mdm
