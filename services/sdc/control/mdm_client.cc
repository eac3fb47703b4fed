#include "services/sdc/control/mdm_client.h"

#include <grpcpp/support/client_callback.h>

#include "absl/synchronization/notification.h"
#include "services/common/logging.h"

namespace tessera::sdc {
namespace {

// The MDM sends an empty message every 10 s.
constexpr auto kSilence = std::chrono::seconds(25);
constexpr auto kWatchRetry = std::chrono::milliseconds(250);

}  // namespace

// One call of the watch. The next message is read only when the loop has taken the one before.
class MdmClient::Watch final : public grpc::ClientReadReactor<v1::WatchPlacementGroupsResponse> {
 public:
  Watch(EventLoop& loop, MdmClient* client) : loop_(loop), client_(client) {}

  void Start(v1::PlacementService::Stub& stub, const std::string& bearer,
             std::shared_ptr<Watch> self) {
    self_ = std::move(self);
    if (!bearer.empty()) context_.AddMetadata("authorization", bearer);
    stub.async()->WatchPlacementGroups(&context_, &request_, this);
    AddHold();
    StartRead(&message_);
    StartCall();
  }
  // The loop starts nothing more on it. Once.
  void Release() {
    if (std::exchange(released_, true)) return;
    context_.TryCancel();
    RemoveHold();
  }
  void Detach() { client_ = nullptr; }
  void WaitUntilOver() { over_->WaitForNotification(); }

  void OnReadDone(bool ok) override {
    loop_.Post([self = self_, ok] { self->ReadOnLoop(ok); });
  }
  void OnDone(const grpc::Status& status) override {
    // The last reference must not go here (destroying a channel in a callback can deadlock): it
    // goes on the loop, or with the owner, who waits for `over`. So nothing of this is touched
    // after the Post.
    const std::shared_ptr<absl::Notification> over = over_;
    EventLoop& loop = loop_;
    loop.Post([self = std::move(self_), status] {
      if (self->client_ != nullptr) self->client_->WatchEnded(self.get(), status);
    });
    over->Notify();
  }

 private:
  void ReadOnLoop(bool ok) {
    if (client_ == nullptr || released_) return;
    if (!ok) {
      Release();
      return;
    }
    client_->ArmSilenceTimer();
    client_->map_handler_(message_);
    message_.Clear();
    if (client_ != nullptr && !released_) StartRead(&message_);
  }

  EventLoop& loop_;
  MdmClient* client_;  // loop thread; null: detached
  grpc::ClientContext context_;
  const v1::WatchPlacementGroupsRequest request_;
  v1::WatchPlacementGroupsResponse message_;  // gRPC's during a read, else the loop's
  bool released_ = false;                     // loop thread
  std::shared_ptr<Watch> self_;               // until OnDone
  const std::shared_ptr<absl::Notification> over_ =
      std::make_shared<absl::Notification>();  // shared with OnDone
};

MdmClient::MdmClient(EventLoop& loop, const std::string& address,
                     const std::shared_ptr<grpc::ChannelCredentials>& credentials)
    : loop_(loop),
      channel_(NewChannel(address, credentials)),
      discovery_(v1::DiscoveryService::NewStub(channel_)),
      health_(v1::HealthService::NewStub(channel_)),
      placement_(v1::PlacementService::NewStub(channel_)),
      token_(v1::TokenService::NewStub(channel_)),
      volume_(v1::VolumeService::NewStub(channel_)) {}

MdmClient::~MdmClient() {
  *alive_ = false;
  if (watch_timer_set_) loop_.Cancel(watch_timer_);
  if (watch_ != nullptr) {
    watch_->Detach();
    watch_->Release();
    watch_->WaitUntilOver();
  }
  absl::MutexLock lock(&mutex_);
  closing_ = true;
  for (const auto& [key, context] : under_way_) context->TryCancel();
  mutex_.Await(absl::Condition(
      +[](decltype(under_way_)* calls) { return calls->empty(); }, &under_way_));
}

bool MdmClient::Enter(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  if (closing_) return false;
  under_way_.emplace(context, context);
  return true;
}

void MdmClient::Leave(const grpc::ClientContext* context, std::shared_ptr<void> state) {
  {
    absl::MutexLock lock(&mutex_);
    if (closing_) ended_.push_back(std::move(state));
  }
  state.reset();
  absl::MutexLock lock(&mutex_);
  under_way_.erase(context);
}

void MdmClient::WatchMap(MapHandler handler) {
  map_handler_ = std::move(handler);
  if (watch_ == nullptr && !watch_timer_set_) StartWatch();
}

void MdmClient::StartWatch() {
  watch_ = std::make_shared<Watch>(loop_, this);
  watch_->Start(*placement_, bearer_, watch_);
  ArmSilenceTimer();
}

void MdmClient::ArmSilenceTimer() {
  if (watch_timer_set_) loop_.Cancel(watch_timer_);
  watch_timer_set_ = true;
  watch_timer_ = loop_.After(kSilence, [this] {
    watch_timer_set_ = false;
    LogWarning("the MDM's watch has fallen silent");
    if (watch_ != nullptr) watch_->Release();
  });
}

void MdmClient::WatchEnded(Watch* watch, const grpc::Status& status) {
  if (watch_.get() != watch) return;
  watch->Release();
  LogDebug("the MDM's watch ended", {{"why", status.error_message()}});
  watch_.reset();
  if (watch_timer_set_) loop_.Cancel(watch_timer_);
  watch_timer_set_ = true;
  watch_timer_ = loop_.After(kWatchRetry, [this] {
    watch_timer_set_ = false;
    StartWatch();
  });
}

}  // namespace tessera::sdc
