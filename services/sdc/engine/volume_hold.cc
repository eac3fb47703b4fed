// Holding the writes of a volume for a snapshot, and the cut: docs/decisions/0010-snapshots.md.
//
// Once a hold is durable, no write is on its way and none that was answered may have to be sent
// again. So the layer that writes go to can change between two numbers of each placement group's
// order, and nothing is ever written to the layer before.
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/sdc/engine/volume_engine.h"

namespace tessera::sdc {
namespace {

constexpr uint64_t kOwnHold = UINT64_MAX;  // of a cut that came without one
// Where a flush was not enough (a replica is catching up): until the next.
constexpr auto kFlushPause = std::chrono::milliseconds(5);

}  // namespace

void VolumeEngine::HoldWrites(uint64_t hold_id, std::chrono::nanoseconds longest,
                              absl::AnyInvocable<void(absl::Status)> done) {
  if (read_only()) {
    return done(
        absl::FailedPreconditionError("the volume is mapped read-only: nothing is written"));
  }
  if (detaching_) return done(absl::UnavailableError("the volume is being detached"));
  if (hold_.id != 0) {
    const bool again = hold_.id == hold_id && hold_.durable;
    return done(again ? absl::OkStatus()
                      : absl::AbortedError("its writes are held for another snapshot"));
  }
  ++holds_;
  hold_.id = hold_id;
  hold_.began_nanos = context_.NowNanos();
  hold_.held = std::move(done);
  hold_.timer_set = true;
  hold_.timer = context_.loop().After(longest, [this] {
    hold_.timer_set = false;
    const std::string why = WaitingFor();
    EndHold(absl::DeadlineExceededError(
        absl::StrCat("writes were not done in time", why.empty() ? "" : ": it waits for ", why)));
  });
  CheckHold();
}

bool VolumeEngine::HoldBack(Request* request) {
  if (hold_.id == 0) return false;
  request->phase = Request::Phase::kHeldBack;
  hold_.waiting.push_back(request);
  return true;
}

// Goes on with a hold when what came before it is answered.
void VolumeEngine::CheckHold() {
  if (hold_.id == 0 || hold_.durable || hold_.flushing || writes_taken_ > 0) return;
  // What an earlier client, or an earlier life of this one, wrote counts, too.
  if (!flushes_.clean() || !retaining_groups_.empty() || uncovered_) return FlushForHold();
  hold_.durable = true;
  std::exchange(hold_.held, nullptr)(absl::OkStatus());
}

void VolumeEngine::FlushForHold() {
  hold_.flushing = true;
  BlockRequest flush;
  flush.command = Command::kFlush;
  flush.done = [this, alive = alive_, id = hold_.id](const BlockReply& reply) {
    if (!*alive || hold_.id != id) return;
    if (reply.error != 0) {
      return EndHold(absl::AbortedError("writes that were answered may be lost"));
    }
    const bool done = flushes_.clean() && retaining_groups_.empty() && !uncovered_;
    context_.loop().After(done ? std::chrono::milliseconds(0) : kFlushPause, [this, alive, id] {
      if (!*alive || hold_.id != id) return;
      hold_.flushing = false;
      CheckHold();
    });
  };
  Request* request = NewRequest(std::move(flush));
  request->internal = true;
  // Only of a loss from now on: an earlier one is told to who flushes.
  request->told_losses = flushes_.losses();
  RequestFlush(request);
}

void VolumeEngine::EndHold(const absl::Status& why) {
  if (hold_.id == 0) return;
  WriteHold ended = std::exchange(hold_, WriteHold());
  if (ended.timer_set) context_.loop().Cancel(ended.timer);
  if (ended.held != nullptr) ended.held(why);
  for (Request* request : ended.waiting) {
    WaitEnded(request, v1::LATENCY_STAGE_SNAPSHOT_HOLD, context_.NowNanos());
    EnterGate(request);
  }
}

void VolumeEngine::ReleaseHold(uint64_t hold_id) {
  if (hold_.id == hold_id) EndHold(absl::CancelledError("the hold was released"));
}

void VolumeEngine::CutSnapshot(uint64_t hold_id, VolumeGrant grant,
                               std::chrono::nanoseconds longest,
                               absl::AnyInvocable<void(absl::StatusOr<uint64_t>)> done) {
  if (grant.fields.grant_id == grant_.fields.grant_id) return done(cut_held_micros_);
  if (grant.fields.volume_id != volume_id() ||
      grant.fields.generation != grant_.fields.generation ||
      grant.fields.snapshot_sequence <= grant_.fields.snapshot_sequence) {
    return done(absl::FailedPreconditionError(
        absl::StrCat("the grant is of generation ", grant.fields.generation, " and layer ",
                     grant.fields.snapshot_sequence, ", which does not follow generation ",
                     grant_.fields.generation, " and layer ", grant_.fields.snapshot_sequence)));
  }
  if (hold_id == 0) {
    return HoldWrites(
        kOwnHold, longest,
        [this, grant = std::move(grant), done = std::move(done)](const absl::Status& held) mutable {
          if (!held.ok()) return done(held);
          done(FinishCut(std::move(grant)));
        });
  }
  if (hold_.id != hold_id || !hold_.durable) {
    return done(absl::FailedPreconditionError("writes are not held for it any more"));
  }
  done(FinishCut(std::move(grant)));
}

// REQUIRES: the hold is durable.
uint64_t VolumeEngine::FinishCut(VolumeGrant grant) {
  // The next life must not go on in the old layer: it has the new grant before the first write to
  // the new one, or it can't go on.
  if (table_ != nullptr) {
    if (!table_->PutGrant(volume_id(), grant.fields.generation, grant.issued)) record_.AddOutside();
    record_.SetNextCounter(1);
  }
  next_counter_ = 1;
  grant_ = std::move(grant);
  grant_blocked_ = false;
  cut_held_micros_ = (context_.NowNanos() - hold_.began_nanos) / 1000;
  EndHold(absl::OkStatus());
  RetryParked();
  AdoptLimits();
  return cut_held_micros_;
}

}  // namespace tessera::sdc
