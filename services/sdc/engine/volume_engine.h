// One attached volume as a block device: splits requests, numbers and signs their pieces, sends
// them to the replicas, gathers answers, and holds the volume's share of docs/REPLICATION.md's
// writer.
//
// Life of a write: Submit; the rate limit; the range gate; pieces by chunk; a place in the order of
// the piece's placement group; one signed operation on each member's stream; answers; acknowledged
// in order; answered. A read goes to one in-sync replica and moves on to another when that one
// can't serve it. Requests wait, and don't fail, while a replica set, the MDM or a grant is out of
// reach.
//
// Errors of requests: EIO (checksums wrong on every replica; the option io_timeout; a flush whose
// earlier writes the last replica may have lost, and a write of which it may have lost a part
// before the rest was done), ENOSPC (no space; a write beyond the volume's byte budget), EPERM
// (read-only), ESHUTDOWN (detached).
//
// Threads: loop thread; stats() from any.
#ifndef TESSERA_SERVICES_SDC_ENGINE_VOLUME_ENGINE_H_
#define TESSERA_SERVICES_SDC_ENGINE_VOLUME_ENGINE_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/rate_limiter.h"
#include "services/sdc/block_device.h"
#include "services/sdc/cache/read_cache.h"
#include "services/sdc/engine/engine_context.h"
#include "services/sdc/engine/sds_stream.h"
#include "services/sdc/engine/volume_grant.h"
#include "services/sdc/engine/volume_request.h"
#include "services/sdc/resume/resume_table.h"
#include "services/sdc/rules/flush_tracker.h"
#include "services/sdc/rules/latency_ledger.h"
#include "services/sdc/rules/placement_group_writer.h"
#include "services/sdc/rules/range_gate.h"

namespace tessera::sdc {

struct VolumeStats {
  LoopCounter reads;
  LoopCounter writes;
  LoopCounter read_bytes;
  LoopCounter write_bytes;
  LoopCounter read_micros;  // that they took
  LoopCounter write_micros;
  LoopCounter errors;
  LoopCounter in_flight;
  LoopCounter limited;  // requests that had to wait for the volume's limits ..
  LoopCounter limited_wait_micros;
};

class VolumeEngine final : public BlockDevice {
 public:
  // `context` must outlive it. The grant says what the volume is.
  VolumeEngine(EngineContext& context, std::string name, VolumeGrant grant);
  // The next life of this process is to know of the volume. Once, before it is used.
  void RecordNew();
  // Whether the volume that an earlier life of this process left can be gone on with, and why not.
  [[nodiscard]] static absl::Status CheckResumed(const ResumedVolume& left,
                                                 const VolumeGrant& grant, const MapCache& map);
  // Goes on with it. REQUIRES: CheckResumed; nothing was done yet.
  void Resume(const ResumedVolume& left);
  // Reads are answered from the client's cache, if it has one. Once, before the volume is used.
  // `resumed`: it is about to be gone on with.
  void OpenCache(bool resumed);
  ~VolumeEngine() override;

  [[nodiscard]] BlockDeviceInfo info() const override;
  [[nodiscard]] std::shared_ptr<LossCursor> OpenCursor() override;
  void Submit(BlockRequest request) override;
  // For a client that had the device open before it was served by this engine.
  void AdoptCursor(const std::shared_ptr<LossCursor>& cursor);
  // Losses so far: a cursor that was told of less has not heard of all.
  [[nodiscard]] uint64_t losses() const { return flushes_.losses(); }
  // Its generation is over, and it will not be used again: the losses with all that only it could
  // have made good.
  [[nodiscard]] uint64_t GiveUpGeneration();

  // A renewed grant, or one of a newer generation, under which unacknowledged writes are sent anew.
  void SetGrant(VolumeGrant grant);
  // For snapshots (docs/decisions/0010-snapshots.md): volume_hold.cc. Writes that come from now on
  // wait, at most for `longest`; `done` when all that came before are answered and durable. Errors:
  // FAILED_PRECONDITION (read only), ABORTED (held already; the generation moved on; writes were
  // lost), DEADLINE_EXCEEDED, UNAVAILABLE (being detached). None of them holds any longer.
  void HoldWrites(uint64_t hold_id, std::chrono::nanoseconds longest,
                  absl::AnyInvocable<void(absl::Status)> done);
  // From now on writes go to the later layer of `grant`, which is of the same generation; `done`
  // gets for how many microseconds they were held. Under a hold, which it ends, at once; with 0 it
  // makes one of its own. Errors as above; FAILED_PRECONDITION: there is no such hold any more, or
  // the grant does not follow the present one. Again with the present grant: OK.
  void CutSnapshot(uint64_t hold_id, VolumeGrant grant, std::chrono::nanoseconds longest,
                   absl::AnyInvocable<void(absl::StatusOr<uint64_t>)> done);
  // Nothing to do when it is over.
  void ReleaseHold(uint64_t hold_id);
  // Writes that come now wait for a snapshot; and how often that was begun.
  [[nodiscard]] bool holding() const { return hold_.id != 0; }
  [[nodiscard]] uint64_t holds() const { return holds_; }

  // Takes nothing beyond `size_bytes`, a new, smaller end, any more, finishes what it has, discards
  // what lies there and flushes. The end stays until a grant of another size or generation comes;
  // when it fails it is as before. Errors: FAILED_PRECONDITION (read only), INVALID_ARGUMENT (not
  // smaller, or not whole blocks), ABORTED (being shrunk; a discard failed), UNAVAILABLE (being
  // detached).
  void Shrink(uint64_t size_bytes, absl::AnyInvocable<void(absl::Status)> done);

  // Gives the volume's own branch a layer of every chunk that it sees only by inheritance
  // (docs/decisions/0010-snapshots.md, "Flattening"); `done` when these are durable, and so is all
  // that came before them. Reads and writes go on; at the end writes wait as for a snapshot. A
  // second call while one is under way ends with it. Errors: FAILED_PRECONDITION (read only),
  // ABORTED (another generation came; a part may be lost), RESOURCE_EXHAUSTED (no space),
  // DEADLINE_EXCEEDED (writes were not done in time), UNAVAILABLE (being detached).
  void AdoptLayers(absl::AnyInvocable<void(absl::Status)> done);

  // No new requests. `done` when those in flight are answered and flushed, or dropped (`drop`: they
  // get ESHUTDOWN at once). The engine may be destroyed then.
  void Detach(bool drop, absl::AnyInvocable<void()> done);
  // Nothing knows it any more but its clients, which may hold it longer: from now on it sends
  // nothing by itself. The next life of the process is to know nothing of it, if `forget`.
  void Retire(bool forget);

  // Events of the engine around it.
  void StreamOpened(SdsStream& stream);
  void StreamUnreachable(uint64_t sds_id, const std::string& why);
  void Answered(SdsStream& stream, const InFlightOperation& operation, const v1::IoResult& result,
                PayloadCursor& payload);
  // The stream ended before the operation was answered, or the answer is too late to wait for.
  void Unanswered(const InFlightOperation& operation);
  void RoomInWindow();
  void EntryChanged(uint64_t placement_group_id);
  // The MDM keeps the replica although it was reported.
  void ReportRejected(const ReplicaName& replica);
  // The MDM could not be asked: report again if it is still so.
  void ReportUnanswered(const ReplicaName& replica);
  // Every 100 ms while there is something in flight.
  void Tick(uint64_t now_nanos);
  // A replica did not answer something in time.
  void ReplicaOverdue(const ReplicaName& replica, const char* what);

  [[nodiscard]] uint64_t volume_id() const { return grant_.fields.volume_id; }
  [[nodiscard]] uint64_t pool_id() const { return grant_.fields.pool_id; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const VolumeGrant& grant() const { return grant_; }
  [[nodiscard]] bool read_only() const {
    return grant_.fields.access != token::AccessMode::kReadWrite;
  }
  // Where it ends now.
  [[nodiscard]] uint64_t size_bytes() const {
    return std::min(shrunk_to_, grant_.fields.volume_size_bytes);
  }
  [[nodiscard]] bool idle() const { return live_.empty(); }
  // Null: none, or the volume has gone.
  [[nodiscard]] CachedVolume* cache() const { return cache_.get(); }
  [[nodiscard]] const VolumeStats& stats() const { return stats_; }
  // Where the time of its requests went in the last seconds.
  [[nodiscard]] v1::LatencyFigures Latency(uint32_t window_s, v1::LatencyOperation operation);
  // Why IO waits; empty: it does not.
  [[nodiscard]] std::string WaitingFor() const;

 private:
  // A placement group that the volume has touched.
  struct Group {
    explicit Group(PlacementGroupWriter w) : writer(std::move(w)) {}
    PlacementGroupWriter writer;
    const MapCache::Group* map = nullptr;
    uint64_t probe_chunk = 0;        // one of its chunks
    bool blocked = false;            // in blocked_groups_
    bool held = false;               // in held_groups_
    uint64_t lacking_device_id = 0;  // reported because it lacks acknowledged writes; 0: none
    uint64_t kept_device_id = 0;     // the MDM kept it just now although it was reported
    uint64_t kept_until_nanos = 0;   // not reported again before, for what can wait
    uint64_t lost_device_id = 0;     // proved to lack acknowledged writes that nobody has kept
    uint64_t flush_mark = 0;         // acknowledged before the running flush round: below this
    bool retaining = false;          // in retaining_groups_
    // Some of what was acknowledged below this is neither kept nor known to be durable; 0: nothing.
    uint64_t unkept_below = 0;
    // The map has told of a loss, and only what is kept here makes it none, ..
    bool loss_kept = false;
    bool loss_covering = false;  // .. which the running flush round makes durable again
    ResumeGroup record;
  };

  // Intake and completion: volume_engine.cc.
  Request* NewRequest(BlockRequest block);
  void FreeRequest(Request* request);
  void EnterGate(Request* request);
  void Begin(Request* request);
  void BeginWrite(Request* request);
  void BeginZeroing(Request* request);
  void ReadEdges(Request* request);
  void EdgesRead(Request* request);
  void StartSegments(Request* request);
  void Advance(Request* request);
  void PieceDone(Piece* piece, int error, std::string message);
  void SegmentsDone(Request* request);
  void Finish(Request* request);
  void Answer(Request* request);
  BlockReply MakeReply(Request* request);
  std::vector<StatusExtent> MakeExtents(Request* request);
  void RunReady(std::vector<void*>& ready);
  void FailLater(BlockRequest request, int error, std::string message);
  void TimeOutRequests(uint64_t now_nanos);
  void CheckDetached();
  Piece* NewPiece();
  void FreePiece(Piece* piece);

  // The volume's limits: volume_throttle.cc.
  void Throttle(Request* request);
  void AdmitThrottled();
  // Limits are those of the grant from now on.
  void AdoptLimits();

  // Writes that wait for a snapshot: volume_hold.cc.
  bool HoldBack(Request* request);
  void CheckHold();
  void FlushForHold();
  void EndHold(const absl::Status& why);
  uint64_t FinishCut(VolumeGrant grant);

  // Where time goes: volume_latency.cc.
  void WaitEnded(Request* request, v1::LatencyStage stage, uint64_t now_nanos);
  void NoteAnswer(SdsStream& stream, const InFlightOperation& operation, Piece* piece);
  void NoteCacheRead(const Piece& piece);
  void NoteFlushAnswer(SdsStream& stream, const InFlightOperation& operation);
  void NoteFlushed(Request* request) const;
  // The piece was the last that the request waited for.
  void NoteLegEnd(Request* request, const Piece& piece) const;
  void NoteLatency(const Request& request, uint64_t now_nanos);

  // Layers of the volume's own branch: volume_adopt.cc.
  void AdoptNext();
  void HoldForAdoption(int attempts_left);
  void EndAdoption(absl::Status status);

  // Pieces on their way: volume_pieces.cc.
  Group* GroupFor(uint64_t chunk_index);
  Group* FindGroup(uint64_t placement_group_id);
  void SendPiece(Piece* piece);
  void AppendWrite(Group& group, Piece* piece);
  void Pump(Group& group);
  bool PumpMember(Group& group, WriterMember& member);
  void SendWrite(Group& group, WriterMember& member, SdsStream& stream, const token::GrantKey& key);
  void SendRead(Piece* piece);
  size_t ChooseMember(Group& group, const Piece& piece);
  void FillOperation(v1::IoOperation* operation, const Group& group, const Piece& piece,
                     uint64_t counter, const token::GrantKey& key);
  void WriteAnswered(SdsStream& stream, const InFlightOperation& operation,
                     const v1::IoResult& result);
  [[nodiscard]] static Piece* PieceOf(Group& group, const SendStamp& stamp);
  bool ReadOneBlockOnly(Piece* piece);
  void WriteTaken(Group& group, SdsStream& stream, const InFlightOperation& operation,
                  const v1::IoResult& result);
  void React(Group& group, SdsStream& stream, uint64_t device_id, WriterReaction reaction,
             const v1::IoResult& result);
  void CompleteWrites(Group& group);
  void ReadAnswered(SdsStream& stream, const InFlightOperation& operation,
                    const v1::IoResult& result, PayloadCursor& payload);
  void ReadServed(Piece* piece, const v1::IoResult& result, PayloadCursor& payload);
  void Park(Piece* piece);
  void RetryParked();
  void Hold(Group& group);
  void ArmRetry();
  void Report(Group& group, uint64_t device_id, std::string reason);
  void HeedRefusal(SdsStream& stream, const InFlightOperation& operation,
                   const v1::IoResult& result);
  void HeedEpoch(SdsStream& stream, const InFlightOperation& operation, const v1::IoResult& result);
  void NeedGrant(GrantTrouble trouble);
  void AdoptEntry(Group& group);

  // Acknowledged writes until they are durable: volume_retention.cc.
  void KeepUntilDurable(Group& group, Piece* piece);
  void KeepNothing(Group& group, Piece* piece);
  void AccountRetained(Group& group);
  void ArmKeepTimer();
  void FlushKept();
  // The pool is full: true when the write waits for space.
  bool WaitForSpace(Piece* piece);
  void ReleaseWrites(Group& group, uint64_t below_sequence);
  void ReleaseAllWrites();
  void StayWithinLimit(Group& group);
  void MarkFlushRound();
  void FlushRoundCovered();
  void DoubtReplicas(SdsStream& stream);
  void AskReplica(Group& group, uint64_t device_id);
  void UnflushedLost(Group& group);
  void GiveUpUnflushed(Group& group);
  void CatchingUp(Group& group, uint64_t device_id, uint64_t from_sequence);
  void ReportLearnersInDoubt(Group& group);
  [[nodiscard]] bool LearnersInDoubt() const;

  // For the next life of the process, before what depends on it: volume_resume.cc.
  void RecordNewOrder();
  [[nodiscard]] uint64_t TakeCounter();
  void RecordGroup(Group& group);
  void RecordWrite(Group& group, Piece* piece);
  void RecordFront(Group& group);
  static void RecordUnkept(Group& group);
  static void RecordDoubt(Group& group);
  static void RecordEpoch(Group& group);
  void RecordLosses();
  void RecordHeard();
  void ForgetWrite(Piece* piece);
  Piece* RestorePiece(const ResumedWrite& left);
  void ResumeGroupWrites(Group& group, const ResumedGroup& left);

  // Reads from the client's cache: volume_cache.cc.
  [[nodiscard]] CacheIdentity IdentityInCache() const;
  [[nodiscard]] ByteRange RangeInVolume(const Piece& piece) const;
  bool ReadFromCache(Piece* piece);
  void WantForCache(Piece* piece);
  void FillCache(Piece* piece, const std::vector<grpc::Slice>& slices);
  void DropCache();
  void EndCache(bool keep);

  // Flushes: volume_flush.cc.
  void RequestFlush(Request* request);
  bool InheritUnflushed();
  void BeginFlushRound();
  void SendFlush(uint64_t device_id);
  void FlushAnswered(SdsStream& stream, const InFlightOperation& operation,
                     const v1::IoResult& result);
  void CheckFlushRound();
  void NoteTold(const Request& request, uint64_t losses);
  void ReportLost();
  void ReportLostAgain(uint64_t now_nanos);
  [[nodiscard]] bool CanBeProved(const Group& group, const ReplicaName& replica) const;
  void SendProbe(const ReplicaName& replica);
  void ProbeAnswered(SdsStream& stream, const InFlightOperation& operation,
                     const v1::IoResult& result);
  void ProbeLater(const ReplicaName& replica);

  EngineContext& context_;
  const std::string name_;
  VolumeGrant grant_;
  uint64_t next_counter_ = 1;   // of reads and flushes under this grant
  bool grant_blocked_ = false;  // nothing is sent until there is a better grant
  uint64_t grant_blocked_nanos_ = 0;
  uint32_t grant_refusals_ = 0;  // in a row

  RangeGate gate_;
  std::unique_ptr<CachedVolume> cache_;
  RateLimiter limiter_;
  std::deque<Request*> throttled_;
  bool throttle_timer_set_ = false;
  EventLoop::TimerId throttle_timer_ = 0;

  struct WriteHold {
    uint64_t id = 0;  // 0: there is none
    bool flushing = false;
    bool durable = false;  // what came before it is answered and durable
    uint64_t began_nanos = 0;
    EventLoop::TimerId timer = 0;  // ends it
    bool timer_set = false;
    std::vector<Request*> waiting;                // writes that have come since
    absl::AnyInvocable<void(absl::Status)> held;  // null: it was told
  };
  WriteHold hold_;
  uint64_t shrunk_to_ = UINT64_MAX;  // a grant with this size is still to come
  bool shrinking_ = false;
  struct Adoption {
    uint64_t position = 0;  // up to where pieces were sent
    uint64_t generation = 0;
    uint64_t losses = 0;                                          // there were when it began
    std::vector<absl::AnyInvocable<void(absl::Status)>> waiting;  // empty: none is under way
  };
  Adoption adoption_;
  uint64_t holds_ = 0;
  uint64_t writes_taken_ = 0;     // in live_, and not held back or waiting for limits
  uint64_t cut_held_micros_ = 0;  // of the present grant's cut

  std::vector<Request*> live_;
  std::vector<std::unique_ptr<Request>> requests_;  // all of them
  std::vector<Request*> free_requests_;
  std::vector<std::unique_ptr<Piece>> pieces_;
  std::vector<Piece*> free_pieces_;

  std::vector<std::unique_ptr<Group>> groups_;  // by index in the pool; null: not touched yet
  size_t group_count_ = 0;                      // of those that are not null
  std::vector<Group*> blocked_groups_;          // wait for room in a stream's window
  std::vector<Group*> held_groups_;             // wait for a member's hold to end
  std::vector<Piece*> parked_;                  // pieces that can't be sent now
  bool retry_timer_set_ = false;
  EventLoop::TimerId retry_timer_ = 0;

  FlushTracker flushes_;
  std::vector<Request*> flush_waiting_;  // for the next round
  std::vector<Request*> flush_round_;    // in this one
  std::vector<uint64_t> flush_unsent_;   // devices that could not be asked yet
  std::vector<ReplicaName> probes_unsent_;
  uint64_t flush_began_nanos_ = 0;        // the round
  bool flush_retried_ = false;            // in this round
  std::optional<AnswerPath> flush_path_;  // of the round's last answer
  bool internal_flush_ = false;           // the flush of a detach
  bool inherited_ = false;                // all groups that the volume has are in groups_
  bool flush_wants_map_ = false;
  uint64_t told_losses_ = 0;  // that some client has heard of

  std::vector<Piece*> full_waiting_;  // writes that found no space
  bool full_timer_set_ = false;
  EventLoop::TimerId full_timer_ = 0;

  std::vector<Group*> retaining_groups_;  // that keep acknowledged writes
  bool flushing_kept_ = false;            // a flush that nobody asked for is on its way
  bool keep_timer_set_ = false;
  EventLoop::TimerId keep_timer_ = 0;
  // By server: the life that was spoken to last.
  absl::flat_hash_map<uint64_t, uint64_t> server_lives_;

  ResumeTable* table_ = nullptr;  // null: the next life is to know nothing of this volume
  ResumeVolume record_;
  bool uncovered_ = true;          // what was answered before this generation may not be durable
  bool covering_earlier_ = false;  // the running flush round covers that
  std::vector<std::weak_ptr<LossCursor>> cursors_;  // of open clients; theirs

  bool detaching_ = false;
  absl::AnyInvocable<void()> detached_;
  VolumeStats stats_;
  LatencyLedger ledger_;
  uint64_t answer_nanos_ = 0;    // when the message came that is being worked on
  std::shared_ptr<bool> alive_;  // shared with tasks that were posted
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_VOLUME_ENGINE_H_
