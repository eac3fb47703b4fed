// A volume that is mapped shared, as a block device: docs/decisions/0012-shared-volumes.md.
//
// One of the volume's clients writes it, and has an engine for it; the others send all requests to
// that one. Which of them this client is changes while NBD connections stay open: a request belongs
// to the volume until it is answered, and is given to whoever serves it now. What an earlier one
// had and did not answer is given again, in the old order and before anything newer.
//
// An engine lives for one generation. What another client sent under an older one dies with it:
// the servers refuse it, and nobody here sends it again.
//
// Threads: loop thread; stats() from any.
#ifndef TESSERA_SERVICES_SDC_FORWARD_SHARED_VOLUME_H_
#define TESSERA_SERVICES_SDC_FORWARD_SHARED_VOLUME_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "services/sdc/block_device.h"
#include "services/sdc/engine/io_engine.h"
#include "services/sdc/forward/forward_peer.h"
#include "services/sdc/forward/forward_stream.h"
#include "tessera/v1/token.pb.h"

namespace tessera::sdc {

// What a request counts for in a stream's window, beside its data.
inline constexpr uint64_t kForwardRequestBytes = 512;

class SharedVolume final : public BlockDevice, private ForwardStream::Listener {
 public:
  // A writer that says nothing for this long is gone, for this client.
  static constexpr EventLoop::Duration kSilence = std::chrono::seconds(2);
  static constexpr EventLoop::Duration kTick = std::chrono::milliseconds(250);

  // Who asks the MDM. All calls come from the loop, never from inside SetGrant or SetTarget.
  class Host {
   public:
    virtual ~Host() = default;
    // Who writes the volume now? `unreachable_generation`: the writer of that one does not answer;
    // 0: it does, or has only just stopped to.
    virtual void TargetNeeded(uint64_t volume_id, uint64_t unreachable_generation) = 0;
    // Whether the grant is still good.
    virtual void GrantDoubted(uint64_t volume_id) = 0;
  };

  // All must outlive it.
  SharedVolume(EventLoop& loop, IoEngine& engine, ForwardStreams& streams, Host& host,
               uint64_t volume_id, std::string name);
  ~SharedVolume() override;

  [[nodiscard]] BlockDeviceInfo info() const override;
  [[nodiscard]] std::shared_ptr<LossCursor> OpenCursor() override;
  void Submit(BlockRequest request) override;

  // What the MDM says: this client writes, under that grant; or another does, who is sent the
  // requests of this one, `own_sdc_id`.
  void SetGrant(VolumeGrant grant);
  void SetTarget(const v1::ForwardTarget& target, uint64_t own_sdc_id);
  // Goes on with the engine that a restart has gone on with.
  void Adopt(std::shared_ptr<VolumeEngine> engine);
  // Takes no new requests (they wait), finishes those it has, flushes; `done` then. It goes on with
  // the next SetGrant or SetTarget, and by itself after `longest`. OK when it is not the writer.
  // Errors: FAILED_PRECONDITION (of another generation), ABORTED (under way already, or writes are
  // held or lost), DEADLINE_EXCEEDED (not done in half the time: it goes on).
  void Yield(uint64_t generation, EventLoop::Duration longest,
             absl::AnyInvocable<void(absl::Status)> done);
  // No new requests. `done` when those in flight are answered and flushed, or dropped.
  void Detach(bool drop, absl::AnyInvocable<void()> done);

  // For other clients' requests. Whether this client writes in that generation, and takes more.
  [[nodiscard]] bool Serves(uint64_t generation) const;
  void AddPeer(std::shared_ptr<ForwardPeer> peer);
  // Its requests go on, and are answered to nobody.
  void RemovePeer(const ForwardPeer* peer);
  // Of a peer that was added and not removed.
  void SubmitFor(const ForwardPeer* peer, uint64_t tag, BlockRequest request);
  void AdoptCursor(const std::shared_ptr<LossCursor>& cursor);

  [[nodiscard]] uint64_t volume_id() const { return volume_id_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  // Null: another client writes, or nobody yet.
  [[nodiscard]] const VolumeEngine* engine() const { return engine_.get(); }
  [[nodiscard]] bool yielded() const { return yield_.has_value() && yield_->done == nullptr; }
  // Who that is; 0: it is not known, or this client.
  [[nodiscard]] uint64_t forwarded_to() const;
  [[nodiscard]] uint64_t generation() const;
  // Why requests wait; empty: they don't.
  [[nodiscard]] std::string WaitingFor() const;
  // Of this client's own requests.
  [[nodiscard]] const VolumeStats& stats() const { return stats_; }

 private:
  // A request of this client, until it is answered.
  struct Entry {
    BlockRequest block;
    bool internal = false;
  };
  // An NBD connection, or who else has a cursor.
  struct Client {
    uint64_t id = 0;
    std::weak_ptr<LossCursor> cursor;  // theirs
    bool owed = false;                 // a loss that no engine of now knows of
  };
  struct Peer {
    std::shared_ptr<ForwardPeer> peer;  // shared with its stream
    uint64_t sdc_id = 0;
    uint32_t in_engine = 0;
    bool ended = false;
    std::deque<std::pair<uint64_t, BlockRequest>> waiting;
  };
  struct Yielding {
    absl::AnyInvocable<void(absl::Status)> done;  // null: it was answered
    bool holding = false;
    EventLoop::TimerId give_up = 0;
    EventLoop::TimerId end = 0;
  };
  struct Target {
    v1::ForwardTarget to;
    uint64_t own_sdc_id = 0;
  };

  // ForwardStream::Listener.
  void StreamReceived(v1::ForwardResponse response) override;
  void StreamEnded(const std::string& why) override;

  // Changing sides: shared_volume.cc.
  void Switch();
  void Leave();
  void Install();
  void EndPeers(uint64_t losses);
  void Pump();
  void SubmitToEngine(uint64_t tag, const Entry& entry);
  void Answer(uint64_t tag, BlockReply reply);
  void FailLater(BlockRequest request, int error, std::string message);
  void Count(const BlockRequest& request, const BlockReply& reply);
  void CheckDetached();
  void PumpPeers();
  [[nodiscard]] bool MayBegin(const Peer& peer) const;
  void BeginForPeer(const std::shared_ptr<Peer>& peer, uint64_t tag, BlockRequest request);
  void CheckYield();
  void EndYield(const absl::Status& why);
  [[nodiscard]] Client* FindClient(const LossCursor* cursor);

  // As one that forwards: shared_forward.cc.
  void Connect();
  void ConnectSoon();
  void DropStream();
  void SendHello();
  // False: the window is full.
  [[nodiscard]] bool SendRequest(uint64_t tag, const Entry& entry);
  void SendPlain(uint64_t connection_id, bool closed);
  void ForgetClosedClients();
  void ArmTick();
  void Tick();

  EventLoop& loop_;
  IoEngine& io_;
  ForwardStreams& streams_;
  Host& host_;
  const uint64_t volume_id_;
  const std::string name_;
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // shared with callbacks

  std::map<uint64_t, Entry> entries_;  // by tag, in the order of Submit
  uint64_t last_tag_ = 0;
  uint64_t next_unsent_ = 1;  // the first tag that whoever serves now has not got
  std::vector<Client> clients_;
  uint64_t last_client_id_ = 0;
  VolumeStats stats_;

  // What the MDM said last, and is not done yet, because the engine of before is on its way out.
  uint64_t size_bytes_ = 0;  // as of the last grant or target
  std::optional<VolumeGrant> next_grant_;
  std::optional<Target> next_target_;
  bool dropping_engine_ = false;
  uint64_t era_ = 0;  // grows with each change of sides

  // This client writes.
  std::shared_ptr<VolumeEngine> engine_;  // shared with IoEngine
  uint64_t in_engine_ = 0;                // requests of everybody
  std::vector<std::shared_ptr<Peer>> peers_;
  std::optional<Yielding> yield_;

  // Another one does.
  std::optional<Target> target_;
  std::shared_ptr<ForwardStream> stream_;  // shared with gRPC
  bool open_ = false;                      // the hello was answered
  bool broke_ = false;                     // since it was open last
  uint64_t window_bytes_ = 0;
  uint64_t window_used_ = 0;
  EventLoop::Duration heard_{};      // of the writer of this generation
  EventLoop::Duration said_{};       // to it
  EventLoop::Duration connected_{};  // the last attempt
  std::optional<EventLoop::TimerId> connect_timer_;
  std::optional<EventLoop::TimerId> tick_;

  bool detaching_ = false;
  bool engine_leaving_ = false;  // in good order
  absl::AnyInvocable<void()> detached_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_FORWARD_SHARED_VOLUME_H_
