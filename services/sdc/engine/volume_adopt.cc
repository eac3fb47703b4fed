// Flattening, the writer's part (docs/decisions/0010-snapshots.md): for each chunk one operation in
// the order of writes, then a moment at which all of it is durable.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/sdc/engine/volume_engine.h"

namespace tessera::sdc {
namespace {

// At once: a snapshot that comes meanwhile waits for these at most.
constexpr uint64_t kChunksAtOnce = 64;
// As for a snapshot.
constexpr auto kHoldMax = std::chrono::milliseconds(2'000);
constexpr uint64_t kAdoptionHold = UINT64_MAX - 1;
// A snapshot that is being made has the hold: until it is tried again, and how often.
constexpr auto kHoldPause = std::chrono::milliseconds(50);
constexpr int kHoldAttempts = 200;

}  // namespace

void VolumeEngine::AdoptLayers(absl::AnyInvocable<void(absl::Status)> done) {
  if (read_only()) return done(absl::FailedPreconditionError("the volume is mapped read-only"));
  if (detaching_) return done(absl::UnavailableError("the volume is being detached"));
  adoption_.waiting.push_back(std::move(done));
  if (adoption_.waiting.size() > 1) return;
  adoption_.position = 0;
  adoption_.generation = grant_.fields.generation;
  adoption_.losses = flushes_.losses();
  AdoptNext();
}

void VolumeEngine::AdoptNext() {
  if (detaching_) return EndAdoption(absl::UnavailableError("the volume is being detached"));
  if (grant_.fields.generation != adoption_.generation) {
    return EndAdoption(absl::AbortedError("the volume got a new generation meanwhile"));
  }
  const uint64_t end = size_bytes();
  if (adoption_.position >= end) return HoldForAdoption(kHoldAttempts);
  BlockRequest chunks;
  chunks.command = Command::kTrim;
  chunks.offset_bytes = adoption_.position;
  chunks.length_bytes =
      std::min(kChunksAtOnce * grant_.fields.chunk_bytes, end - adoption_.position);
  adoption_.position += chunks.length_bytes;
  chunks.done = [this, alive = alive_](const BlockReply& reply) {
    if (!*alive) return;
    if (reply.error == 0) return AdoptNext();
    const std::string why = absl::StrCat("layers were not made: ", reply.message);
    EndAdoption(reply.error == ENOSPC      ? absl::ResourceExhaustedError(why)
                : reply.error == ESHUTDOWN ? absl::UnavailableError(why)
                                           : absl::AbortedError(why));
  };
  Request* request = NewRequest(std::move(chunks));
  request->internal = true;
  request->adopts = true;
  // Servers count it, so it waits for the volume's limits like what the application does.
  if (!limiter_.unlimited() || !throttled_.empty()) return Throttle(request);
  EnterGate(request);
}

// A flush would not do: what a replica that catches up is still to be given again must not be given
// under another path.
void VolumeEngine::HoldForAdoption(int attempts_left) {
  HoldWrites(kAdoptionHold, kHoldMax, [this, alive = alive_, attempts_left](absl::Status held) {
    if (!*alive) return;
    const bool busy = absl::IsAborted(held) && hold_.id != 0 && hold_.id != kAdoptionHold;
    if (busy && attempts_left > 0) {
      context_.loop().After(kHoldPause, [this, alive, attempts_left] {
        if (*alive) HoldForAdoption(attempts_left - 1);
      });
      return;
    }
    if (held.ok() && grant_.fields.generation != adoption_.generation) {
      held = absl::AbortedError("the volume got a new generation meanwhile");
    }
    if (held.ok() && flushes_.losses() != adoption_.losses) {
      held = absl::AbortedError("a part of it may be lost: servers have lost what was not durable");
    }
    ReleaseHold(kAdoptionHold);
    EndAdoption(std::move(held));
  });
}

void VolumeEngine::EndAdoption(absl::Status status) {
  for (auto& done : std::exchange(adoption_.waiting, {})) done(status);
}

}  // namespace tessera::sdc
