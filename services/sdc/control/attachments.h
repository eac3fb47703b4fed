// Which volumes this client has, and their grants: acquires when a volume is attached, renews at
// half life, acquires anew when the generation moved on, detaches what is not mapped any more.
//
// While the MDM is away everything stays as it is: renewals are tried again until one succeeds, and
// servers honour the grant meanwhile (outage expiry).
//
// Threads: loop thread.
#ifndef TESSERA_SERVICES_SDC_CONTROL_ATTACHMENTS_H_
#define TESSERA_SERVICES_SDC_CONTROL_ATTACHMENTS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/sdc/control/health_log.h"
#include "services/sdc/control/local_state.h"
#include "services/sdc/control/mdm_client.h"
#include "services/sdc/engine/io_engine.h"
#include "services/sdc/forward/shared_volumes.h"

namespace tessera::sdc {

// When to renew a grant, from the moment it came: at half its life, at least a second from now.
[[nodiscard]] EventLoop::Duration RenewalDelay(uint64_t mdm_time_ms, uint64_t expiry_ms);
// How long to wait before try number `failures` + 1 of something the MDM did not do: 200 ms to 5 s.
[[nodiscard]] EventLoop::Duration RetryDelay(uint32_t failures);

class Attachments final : private SharedVolume::Host {
 public:
  using Done = absl::AnyInvocable<void(absl::Status)>;
  struct Counters {
    LoopCounter renewals;
    LoopCounter acquisitions;
    LoopCounter failures;
  };

  // All must outlive it. `close_export` closes the NBD connections of a device that is going.
  Attachments(EventLoop& loop, IoEngine& engine, SharedVolumes& shared, ForwardStreams& streams,
              MdmClient& mdm, LocalState& state, HealthLog& health_log,
              std::function<void(const BlockDevice&)> close_export);
  ~Attachments() override;

  // Volumes that the engine has gone on with after a restart: their grants are renewed as soon as
  // the MDM answers. Once, first.
  void Resume(const std::vector<IoEngine::Resumed>& volumes);
  // Brings the attached volumes in line with the MDM's list. An attachment that was asked for after
  // `asked_nanos` (boot time), when the MDM was asked, is not judged by it.
  void SetMapped(const std::vector<uint64_t>& mapped_volume_ids, uint64_t asked_nanos);
  // `done` when it is offered, or why not; PERMISSION_DENIED ends the attempt, other errors are
  // tried again while the volume is mapped.
  void Attach(uint64_t volume_id, Done done);
  void Detach(uint64_t volume_id, bool drop, Done done);
  // See VolumeEngine::CutSnapshot: `issued` is the volume's grant from then on. NOT_FOUND: not
  // attached; INVALID_ARGUMENT: it is no grant; FAILED_PRECONDITION also: it is of another mapping.
  void CutSnapshot(uint64_t volume_id, uint64_t hold_id, const v1::IssuedGrant& issued,
                   EventLoop::Duration longest,
                   absl::AnyInvocable<void(absl::StatusOr<uint64_t>)> done);
  // See SharedVolume::Yield. NOT_FOUND: not attached.
  void YieldWriter(uint64_t volume_id, uint64_t generation, EventLoop::Duration longest, Done done);
  // The MDM means this client to write a shared volume: another client says so.
  void MeantToWrite(uint64_t volume_id) { TargetNeeded(volume_id, 0); }
  // The engine can't go on with a grant.
  void GrantNeeded(uint64_t volume_id, GrantTrouble trouble);
  // Takes no new requests anywhere and finishes what there is; for an orderly stop.
  void DetachAll(bool drop, Done done);

  // Lets go of all volumes, when the loop does not run any more.
  void Forget();

  [[nodiscard]] std::vector<uint64_t> AttachedIds() const;
  // Which life of the client this is. From any thread.
  [[nodiscard]] uint64_t incarnation() const { return state_.identity().incarnation; }
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  struct Volume {
    std::string name;
    uint64_t grant_id = 0;        // 0: none yet
    uint64_t mapping_id = 0;      // of the grant
    uint64_t acquired_nanos = 0;  // when the last generation came
    uint64_t since_nanos = 0;     // of the attachment
    bool attached = false;
    bool detaching = false;
    bool dropping = false;      // without an end of what is under way
    bool calling = false;       // a call about its grant is under way
    bool acquire_next = false;  // what is needed then is a new generation
    bool renew_next = false;    // what is known then may be older than what was asked for
    bool timer_set = false;
    uint32_t failures = 0;
    EventLoop::TimerId timer = 0;
    std::vector<Done> waiting;             // for the attachment, or for its end
    std::shared_ptr<SharedVolume> shared;  // null: not mapped shared
    uint64_t unreachable_generation = 0;   // whose writer does not answer; 0: none

    // No grant is of use any more. An orderly end still needs some: what it has to write and to
    // flush waits when the generation moves on, or the grant runs out.
    [[nodiscard]] bool ending() const { return dropping || (detaching && !attached); }
  };

  void FetchName(uint64_t volume_id);
  void Acquire(uint64_t volume_id);
  void Renew(uint64_t volume_id);
  void Granted(uint64_t volume_id, const v1::IssuedGrant& issued);
  void Remapped(uint64_t volume_id);
  // False: what was known of the mapping is over, and that is under way.
  [[nodiscard]] bool SameMapping(uint64_t volume_id, uint64_t mapping_id);
  void Offered(uint64_t volume_id);

  // Mapped shared: shared_attachments.cc.
  void MakeShared(uint64_t volume_id, const v1::Volume& volume);
  void AdoptShared(uint64_t volume_id);
  void Forwarded(uint64_t volume_id, const v1::AcquireGrantResponse& response);
  void TargetNeeded(uint64_t volume_id, uint64_t unreachable_generation) override;
  void GrantDoubted(uint64_t volume_id) override;
  void Failed(uint64_t volume_id, const absl::Status& status);
  void After(Volume& volume, uint64_t volume_id, EventLoop::Duration delay, bool acquire);
  void Detached(uint64_t volume_id);
  static void AnswerAll(std::vector<Done> waiting, const absl::Status& status);

  EventLoop& loop_;
  IoEngine& engine_;
  SharedVolumes& shared_;
  ForwardStreams& streams_;
  MdmClient& mdm_;
  LocalState& state_;
  HealthLog& health_log_;
  const std::function<void(const BlockDevice&)> close_export_;
  std::map<uint64_t, Volume> volumes_;
  uint64_t revision_ = 0;
  bool stopping_ = false;  // the process: the next life is to know what was attached
  Counters counters_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_ATTACHMENTS_H_
