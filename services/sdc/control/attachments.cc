#include "services/sdc/control/attachments.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"

namespace tessera::sdc {
namespace {
constexpr EventLoop::Duration kAcquisitionPause = std::chrono::milliseconds(500);
}  // namespace

EventLoop::Duration RenewalDelay(uint64_t mdm_time_ms, uint64_t expiry_ms) {
  const uint64_t life_ms = expiry_ms > mdm_time_ms ? expiry_ms - mdm_time_ms : 0;
  return std::chrono::milliseconds(std::max<uint64_t>(1000, life_ms / 2));
}

EventLoop::Duration RetryDelay(uint32_t failures) {
  const auto delay = std::chrono::milliseconds(200) * (1u << std::min<uint32_t>(failures, 5));
  return std::min<EventLoop::Duration>(delay, std::chrono::seconds(5));
}

Attachments::Attachments(EventLoop& loop, IoEngine& engine, SharedVolumes& shared,
                         ForwardStreams& streams, MdmClient& mdm, LocalState& state,
                         HealthLog& health_log,
                         std::function<void(const BlockDevice&)> close_export)
    : loop_(loop),
      engine_(engine),
      shared_(shared),
      streams_(streams),
      mdm_(mdm),
      state_(state),
      health_log_(health_log),
      close_export_(std::move(close_export)) {}

Attachments::~Attachments() { Forget(); }

void Attachments::Forget() {
  for (auto& [id, volume] : std::exchange(volumes_, {})) {
    if (volume.timer_set) loop_.Cancel(volume.timer);
  }
}

void Attachments::AnswerAll(std::vector<Done> waiting, const absl::Status& status) {
  for (Done& done : waiting) done(status);
}

void Attachments::Resume(const std::vector<IoEngine::Resumed>& volumes) {
  for (const IoEngine::Resumed& resumed : volumes) {
    Volume& volume = volumes_[resumed.volume_id];
    volume.name = resumed.name;
    volume.mapping_id = resumed.grant.mapping_id();
    if (const auto device = engine_.FindVolume(resumed.volume_id); device != nullptr) {
      volume.grant_id = device->grant().fields.grant_id;
    }
    volume.since_nanos = static_cast<uint64_t>(loop_.Now().count());
    volume.attached = true;
    AdoptShared(resumed.volume_id);
    health_log_.Add(v1::EVENT_SEVERITY_INFO, "volume_resumed",
                    absl::StrCat("volume ", volume.name, " is offered again, as before"));
    // What happened to the mapping meanwhile, the answer says.
    After(volume, resumed.volume_id, EventLoop::Duration::zero(), false);
  }
}

void Attachments::SetMapped(const std::vector<uint64_t>& mapped_volume_ids, uint64_t asked_nanos) {
  for (const uint64_t volume_id : mapped_volume_ids) {
    if (!volumes_.contains(volume_id)) Attach(volume_id, [](const absl::Status&) {});
  }
  std::vector<uint64_t> gone;
  for (const auto& [id, volume] : volumes_) {
    const bool mapped = std::find(mapped_volume_ids.begin(), mapped_volume_ids.end(), id) !=
                        mapped_volume_ids.end();
    if (!mapped && !volume.dropping && volume.since_nanos < asked_nanos) gone.push_back(id);
  }
  // The mapping is gone: servers take nothing under its grant any more, so there is nothing to
  // finish. An orderly end that has begun could wait for ever for a grant that nobody gives any
  // more.
  for (const uint64_t volume_id : gone) Detach(volume_id, true, [](const absl::Status&) {});
}

void Attachments::Attach(uint64_t volume_id, Done done) {
  const auto [place, made] = volumes_.try_emplace(volume_id);
  Volume& volume = place->second;
  if (made) volume.since_nanos = static_cast<uint64_t>(loop_.Now().count());
  if (volume.detaching) {
    done(absl::UnavailableError(
        absl::StrCat("volume ", volume_id, " is being detached: try again")));
    return;
  }
  volume.waiting.push_back(std::move(done));
  // What the MDM wants attached may be another mapping than the one known here, or have another
  // size or other limits: a renewal tells, when it begins after this.
  if (volume.calling) {
    volume.renew_next = true;
    return;
  }
  if (volume.attached) {
    if (volume.timer_set) loop_.Cancel(volume.timer);
    volume.timer_set = false;
    // Its right to write was to be passed on: who has it now the MDM says.
    if (volume.shared != nullptr && volume.shared->yielded()) return Acquire(volume_id);
    Renew(volume_id);
    return;
  }
  if (!volume.timer_set) FetchName(volume_id);
}

void Attachments::FetchName(uint64_t volume_id) {
  volumes_[volume_id].calling = true;
  v1::GetVolumeRequest request;
  request.set_volume_id(volume_id);
  mdm_.GetVolume(request, [this, volume_id](absl::StatusOr<v1::GetVolumeResponse> response) {
    const auto found = volumes_.find(volume_id);
    if (found == volumes_.end()) return;
    found->second.calling = false;
    if (!response.ok()) return Failed(volume_id, response.status());
    found->second.name = response->volume().name();
    MakeShared(volume_id, response->volume());
    Acquire(volume_id);
  });
}

void Attachments::Acquire(uint64_t volume_id) {
  Volume& volume = volumes_[volume_id];
  volume.calling = true;
  volume.acquire_next = volume.renew_next = false;
  counters_.acquisitions.Add();
  v1::AcquireGrantRequest request;
  request.set_volume_id(volume_id);
  for (const v1::KnownPool& pool : engine_.KnownPools()) *request.add_known_pools() = pool;
  request.set_incarnation(incarnation());
  const std::shared_ptr<VolumeEngine> device = engine_.FindVolume(volume_id);
  if (device != nullptr && device->cache() != nullptr && !device->read_only()) {
    request.set_given_up_generation(device->cache()->GiveUpLease());
  }
  request.set_unreachable_generation(std::exchange(volume.unreachable_generation, 0));
  mdm_.AcquireGrant(request, [this, volume_id](absl::StatusOr<v1::AcquireGrantResponse> response) {
    const auto found = volumes_.find(volume_id);
    if (found == volumes_.end()) return;
    found->second.calling = false;
    if (!response.ok()) return Failed(volume_id, response.status());
    if (response->has_forward_to()) return Forwarded(volume_id, *response);
    engine_.AdoptEntries(response->placement_groups());
    found->second.acquired_nanos = static_cast<uint64_t>(loop_.Now().count());
    Granted(volume_id, response->grant());
  });
}

void Attachments::Renew(uint64_t volume_id) {
  Volume& volume = volumes_[volume_id];
  if (volume.grant_id == 0) return Acquire(volume_id);
  volume.calling = true;
  volume.renew_next = false;
  counters_.renewals.Add();
  v1::RenewGrantRequest request;
  request.set_token_id(volume.grant_id);
  const uint64_t grant_id = volume.grant_id;
  mdm_.RenewGrant(request,
                  [this, volume_id, grant_id](absl::StatusOr<v1::RenewGrantResponse> response) {
                    const auto found = volumes_.find(volume_id);
                    if (found == volumes_.end()) return;
                    found->second.calling = false;
                    // A snapshot was cut meanwhile: what the MDM says of the grant before is of no
                    // interest.
                    if (found->second.grant_id != grant_id && !found->second.ending())
                      return Renew(volume_id);
                    // The generation moved on: only a new grant helps, and whoever waits need not
                    // hear of it.
                    if (absl::IsFailedPrecondition(response.status()) && !found->second.ending()) {
                      return Acquire(volume_id);
                    }
                    if (!response.ok()) return Failed(volume_id, response.status());
                    Granted(volume_id, response->grant());
                  });
}

void Attachments::Granted(uint64_t volume_id, const v1::IssuedGrant& issued) {
  Volume& volume = volumes_[volume_id];
  if (volume.ending()) return;
  absl::StatusOr<VolumeGrant> grant = VolumeGrant::FromIssued(issued, ++revision_);
  if (!grant.ok()) return Failed(volume_id, grant.status());
  volume.failures = 0;
  if (!SameMapping(volume_id, issued.mapping_id())) return;
  volume.grant_id = grant->fields.grant_id;
  const EventLoop::Duration renewal = RenewalDelay(issued.mdm_time_ms(), grant->fields.expiry_ms);
  // That it is shared the next life has to know before it goes on with it.
  const bool shared = volume.shared != nullptr;
  const absl::Status saved = state_.SaveAttachment({volume_id, volume.name, issued, shared});
  if (!saved.ok()) LogError("cannot save a grant", {{"volume", volume_id}, {"why", saved}});
  if (shared) {
    volume.shared->SetGrant(*std::move(grant));
  } else {
    engine_.SetGrant(volume.name, *std::move(grant));
  }
  Offered(volume_id);
  if (volume.renew_next && !volume.acquire_next && !volume.detaching) return Renew(volume_id);
  After(volume, volume_id, renewal, volume.acquire_next);
  if (!volume.detaching) AnswerAll(std::exchange(volume.waiting, {}), absl::OkStatus());
}

bool Attachments::SameMapping(uint64_t volume_id, uint64_t mapping_id) {
  Volume& volume = volumes_[volume_id];
  const uint64_t before = std::exchange(volume.mapping_id, mapping_id);
  if (!volume.attached || before == mapping_id) return true;
  volume.mapping_id = before;
  // An orderly end is over when its mapping is: what it still had to write can't be written.
  if (volume.detaching) {
    Detach(volume_id, true, [](const absl::Status&) {});
  } else {
    Remapped(volume_id);
  }
  return false;
}

void Attachments::Offered(uint64_t volume_id) {
  Volume& volume = volumes_[volume_id];
  if (volume.shared != nullptr && shared_.FindShared(volume_id) == nullptr) {
    shared_.Add(volume.shared);
  }
  if (std::exchange(volume.attached, true)) return;
  health_log_.Add(v1::EVENT_SEVERITY_INFO, "volume_attached",
                  absl::StrCat("volume ", volume.name, " is offered"));
}

void Attachments::CutSnapshot(uint64_t volume_id, uint64_t hold_id, const v1::IssuedGrant& issued,
                              EventLoop::Duration longest,
                              absl::AnyInvocable<void(absl::StatusOr<uint64_t>)> done) {
  const auto found = volumes_.find(volume_id);
  const std::shared_ptr<VolumeEngine> device = engine_.FindVolume(volume_id);
  if (found == volumes_.end() || !found->second.attached || device == nullptr) {
    return done(absl::NotFoundError(absl::StrCat("volume ", volume_id, " is not attached here")));
  }
  if (found->second.mapping_id != issued.mapping_id()) {
    return done(
        absl::FailedPreconditionError(absl::StrCat("the grant is of mapping ", issued.mapping_id(),
                                                   ", attached is ", found->second.mapping_id)));
  }
  absl::StatusOr<VolumeGrant> grant = VolumeGrant::FromIssued(issued, ++revision_);
  if (!grant.ok()) return done(grant.status());
  const uint64_t grant_id = grant->fields.grant_id;
  const EventLoop::Duration renewal = RenewalDelay(issued.mdm_time_ms(), grant->fields.expiry_ms);
  device->CutSnapshot(
      hold_id, *std::move(grant), longest,
      [this, volume_id, issued, grant_id, renewal,
       done = std::move(done)](absl::StatusOr<uint64_t> held_micros) mutable {
        const auto cut = volumes_.find(volume_id);
        if (held_micros.ok() && cut != volumes_.end()) {
          Volume& volume = cut->second;
          volume.grant_id = grant_id;
          const absl::Status saved =
              state_.SaveAttachment({volume_id, volume.name, issued, volume.shared != nullptr});
          if (!saved.ok()) LogError("cannot save a grant", {{"volume", volume_id}, {"why", saved}});
          // A call that is under way goes on to the next renewal itself.
          if (!volume.calling) After(volume, volume_id, renewal, volume.acquire_next);
        }
        done(std::move(held_micros));
      });
}

// The volume was unmapped and mapped again behind our back. What has not been acknowledged is of
// the old mapping, which has ended for everybody else: it is dropped, and its connections are
// closed.
void Attachments::Remapped(uint64_t volume_id) {
  health_log_.Add(v1::EVENT_SEVERITY_WARNING, "mapping_replaced",
                  absl::StrCat("volume ", volume_id,
                               " was unmapped and mapped again while this client did not answer: "
                               "requests of the old mapping are dropped"));
  std::vector<Done> waiting = std::exchange(volumes_[volume_id].waiting, {});
  Detach(volume_id, true,
         [this, volume_id, waiting = std::move(waiting)](const absl::Status&) mutable {
           Attach(volume_id, [](const absl::Status&) {});
           for (Done& done : waiting) Attach(volume_id, std::move(done));
         });
}

void Attachments::Failed(uint64_t volume_id, const absl::Status& status) {
  Volume& volume = volumes_[volume_id];
  if (volume.ending()) return;
  counters_.failures.Add();
  LogWarning("no grant for a volume", {{"volume", volume_id}, {"why", status}});
  if (volume.failures == 0) {
    health_log_.Add(v1::EVENT_SEVERITY_WARNING, "grant_missing",
                    absl::StrCat("volume ", volume_id, ": ", std::string(status.message())));
  }
  const bool not_mapped = absl::IsPermissionDenied(status) || absl::IsNotFound(status);
  if (not_mapped) {
    if (!volume.detaching) AnswerAll(std::exchange(volume.waiting, {}), status);
    Detach(volume_id, true, [](const absl::Status&) {});
    return;
  }
  const bool acquire =
      volume.acquire_next || absl::IsFailedPrecondition(status) || volume.grant_id == 0;
  After(volume, volume_id, RetryDelay(volume.failures++), acquire);
  if (!volume.detaching) AnswerAll(std::exchange(volume.waiting, {}), status);
}

void Attachments::After(Volume& volume, uint64_t volume_id, EventLoop::Duration delay,
                        bool acquire) {
  if (volume.timer_set) loop_.Cancel(volume.timer);
  volume.timer_set = true;
  volume.timer = loop_.After(delay, [this, volume_id, acquire] {
    Volume& due = volumes_[volume_id];
    due.timer_set = false;
    if (due.name.empty()) return FetchName(volume_id);
    if (acquire) return Acquire(volume_id);
    Renew(volume_id);
  });
}

void Attachments::GrantNeeded(uint64_t volume_id, GrantTrouble trouble) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end() || found->second.ending()) return;
  Volume& volume = found->second;
  const bool acquire = trouble == GrantTrouble::kAcquire;
  if (volume.calling) {
    volume.acquire_next |= acquire;
    return;
  }
  // A failed try is under way again at its own pace.
  if (volume.timer_set && volume.failures > 0) {
    volume.acquire_next |= acquire;
    return;
  }
  if (volume.timer_set) loop_.Cancel(volume.timer);
  volume.timer_set = false;
  if (acquire) {
    // A generation costs every server a commit. One that did not help is not followed by the next
    // at once, or a client whose replicas are in trouble would acquire hundreds a second.
    const EventLoop::Duration since =
        loop_.Now() - EventLoop::Duration(static_cast<int64_t>(volume.acquired_nanos));
    if (volume.acquired_nanos != 0 && since < kAcquisitionPause) {
      return After(volume, volume_id, kAcquisitionPause - since, true);
    }
    Acquire(volume_id);
  } else {
    Renew(volume_id);
  }
}

void Attachments::Detach(uint64_t volume_id, bool drop, Done done) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) {
    done(absl::OkStatus());
    return;
  }
  Volume& volume = found->second;
  if (!volume.attached)
    AnswerAll(std::exchange(volume.waiting, {}),
              absl::CancelledError("the volume was detached meanwhile"));
  volume.waiting.push_back(std::move(done));
  // A second call may turn an orderly end into a quick one.
  if (volume.detaching && !drop) return;
  volume.detaching = true;
  volume.dropping |= drop;
  if (volume.timer_set) loop_.Cancel(volume.timer);
  volume.timer_set = false;
  if (const std::shared_ptr<SharedVolume> shared = volume.shared) {
    return shared->Detach(drop || !volume.attached, [this, volume_id, shared] {
      close_export_(*shared);
      Detached(volume_id);
    });
  }
  const std::shared_ptr<VolumeEngine> device = engine_.FindVolume(volume_id);
  engine_.Detach(volume_id, drop, [this, volume_id, device] {
    if (device != nullptr) close_export_(*device);
    Detached(volume_id);
  });
}

void Attachments::Detached(uint64_t volume_id) {
  const auto found = volumes_.find(volume_id);
  if (found == volumes_.end()) return;
  health_log_.Add(v1::EVENT_SEVERITY_INFO, "volume_detached",
                  absl::StrCat("volume ", volume_id, " is not offered any more"));
  std::vector<Done> waiting = std::move(found->second.waiting);
  if (found->second.timer_set) loop_.Cancel(found->second.timer);
  shared_.Remove(volume_id);
  volumes_.erase(found);
  const absl::Status removed = stopping_ ? absl::OkStatus() : state_.RemoveAttachment(volume_id);
  if (!removed.ok()) LogError("cannot forget a grant", {{"volume", volume_id}, {"why", removed}});
  AnswerAll(std::move(waiting), absl::OkStatus());
}

void Attachments::DetachAll(bool drop, Done done) {
  stopping_ = true;
  auto left = std::make_shared<size_t>(volumes_.size());  // shared by the ends that are waited for
  auto last = std::make_shared<Done>(std::move(done));
  if (*left == 0) {
    (*last)(absl::OkStatus());
    return;
  }
  std::vector<uint64_t> ids;
  for (const auto& [id, volume] : volumes_) ids.push_back(id);
  for (const uint64_t volume_id : ids) {
    Detach(volume_id, drop, [left, last](const absl::Status&) {
      if (--*left == 0) (*last)(absl::OkStatus());
    });
  }
}

std::vector<uint64_t> Attachments::AttachedIds() const {
  std::vector<uint64_t> ids;
  for (const auto& [id, volume] : volumes_) {
    if (volume.attached && !volume.detaching) ids.push_back(id);
  }
  return ids;
}

}  // namespace tessera::sdc
