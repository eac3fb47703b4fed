// A smaller volume: what lies beyond its new end is discarded by the one that writes it, in the
// order of its writes, so that every replica does the same and a volume that grows again is empty
// there.
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/sdc/engine/volume_engine.h"

namespace tessera::sdc {
namespace {

constexpr uint64_t kBlockBytes = 4096;

}  // namespace

void VolumeEngine::Shrink(uint64_t size_bytes, absl::AnyInvocable<void(absl::Status)> done) {
  if (read_only()) return done(absl::FailedPreconditionError("the volume is mapped read-only"));
  if (detaching_) return done(absl::UnavailableError("the volume is being detached"));
  if (shrinking_) return done(absl::AbortedError("the volume is being shrunk already"));
  const uint64_t present = grant_.fields.volume_size_bytes;
  if (size_bytes >= present || size_bytes == 0 || size_bytes % kBlockBytes != 0) {
    return done(absl::InvalidArgumentError(absl::StrCat(
        size_bytes, " bytes are not less than ", present, " and a multiple of ", kBlockBytes)));
  }
  const uint64_t before = std::exchange(shrunk_to_, size_bytes);
  shrinking_ = true;
  BlockRequest discard;
  discard.command = Command::kTrim;
  discard.offset_bytes = size_bytes;
  discard.length_bytes = present - size_bytes;
  discard.done = [this, alive = alive_, before,
                  done = std::move(done)](const BlockReply& reply) mutable {
    if (!*alive) return;
    shrinking_ = false;
    if (reply.error == 0) return done(absl::OkStatus());
    shrunk_to_ = before;
    done(absl::AbortedError(absl::StrCat("what lies beyond was not discarded: ", reply.message)));
  };
  Request* request = NewRequest(std::move(discard));
  request->internal = true;
  request->flush_after = true;
  // Of a loss from now on: an earlier one is told to who flushes.
  request->told_losses = flushes_.losses();
  EnterGate(request);
}

}  // namespace tessera::sdc
