// Attachments of volumes that are mapped shared: docs/decisions/0012-shared-volumes.md.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/sdc/control/attachments.h"

namespace tessera::sdc {
namespace {

// How old a ticket, and what is known of the volume's size, may be.
constexpr uint64_t kTicketLifeMillis = 60'000;
constexpr EventLoop::Duration kRetry = std::chrono::milliseconds(100);

}  // namespace

void Attachments::MakeShared(uint64_t volume_id, const v1::Volume& volume) {
  const uint64_t own = state_.identity().sdc_id;
  const bool shared =
      std::any_of(volume.mappings().begin(), volume.mappings().end(), [&](const auto& mapping) {
        return mapping.sdc_id() == own && mapping.mode() == v1::MAPPING_MODE_SHARED;
      });
  volumes_[volume_id].shared =
      shared ? std::make_shared<SharedVolume>(loop_, engine_, streams_,
                                              static_cast<SharedVolume::Host&>(*this), volume_id,
                                              volume.name())
             : nullptr;
}

// Of a volume that a restart has gone on with.
void Attachments::AdoptShared(uint64_t volume_id) {
  const absl::StatusOr<std::vector<SavedAttachment>> saved = state_.Attachments();
  if (!saved.ok()) {
    LogError("cannot read what was attached", {{"why", saved.status()}});
    return;
  }
  const auto found = std::find_if(saved->begin(), saved->end(), [&](const SavedAttachment& entry) {
    return entry.volume_id == volume_id && entry.shared;
  });
  std::shared_ptr<VolumeEngine> engine = engine_.FindVolume(volume_id);
  if (found == saved->end() || engine == nullptr) return;
  Volume& volume = volumes_[volume_id];
  volume.shared = std::make_shared<SharedVolume>(
      loop_, engine_, streams_, static_cast<SharedVolume::Host&>(*this), volume_id, volume.name);
  volume.shared->Adopt(std::move(engine));
  shared_.Add(volume.shared);
}

void Attachments::Forwarded(uint64_t volume_id, const v1::AcquireGrantResponse& response) {
  Volume& volume = volumes_[volume_id];
  if (volume.ending()) return;
  volume.failures = 0;
  if (volume.shared == nullptr) {
    // It was mapped in another way when it was looked at.
    if (volume.attached) return Remapped(volume_id);
    volume.name.clear();
    return After(volume, volume_id, kRetry, true);
  }
  if (!SameMapping(volume_id, response.grant().mapping_id())) return;
  if (std::exchange(volume.grant_id, 0) != 0) {
    // The next life acquires.
    const absl::Status removed = state_.RemoveAttachment(volume_id);
    if (!removed.ok()) LogError("cannot forget a grant", {{"volume", volume_id}, {"why", removed}});
  }
  const v1::ForwardTarget& target = response.forward_to();
  volume.shared->SetTarget(target, state_.identity().sdc_id);
  Offered(volume_id);
  const uint64_t now_ms = response.grant().mdm_time_ms();
  // What is asked for since may have another answer.
  if (std::exchange(volume.renew_next, false) | std::exchange(volume.acquire_next, false)) {
    return Acquire(volume_id);
  }
  After(volume, volume_id,
        RenewalDelay(now_ms, std::min(target.expiry_ms(), now_ms + kTicketLifeMillis)), true);
  if (!volume.detaching) AnswerAll(std::exchange(volume.waiting, {}), absl::OkStatus());
}

// Asked again and again while it is needed, so one that comes while a call is under way, or the
// volume's end, need not be remembered.
void Attachments::TargetNeeded(uint64_t volume_id, uint64_t unreachable_generation) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end() || found->second.ending() || found->second.calling) return;
  Volume& volume = found->second;
  if (volume.shared == nullptr) return;
  volume.unreachable_generation = unreachable_generation;
  if (volume.timer_set) loop_.Cancel(volume.timer);
  volume.timer_set = false;
  Acquire(volume_id);
}

void Attachments::GrantDoubted(uint64_t volume_id) { GrantNeeded(volume_id, GrantTrouble::kRenew); }

void Attachments::YieldWriter(uint64_t volume_id, uint64_t generation, EventLoop::Duration longest,
                              Done done) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end() || !found->second.attached) {
    return done(absl::NotFoundError(absl::StrCat("volume ", volume_id, " is not attached here")));
  }
  if (found->second.shared == nullptr) {
    return done(
        absl::FailedPreconditionError(absl::StrCat("volume ", volume_id, " is not mapped shared")));
  }
  found->second.shared->Yield(generation, longest, std::move(done));
}

}  // namespace tessera::sdc
