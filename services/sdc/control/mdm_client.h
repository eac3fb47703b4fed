// Calls to the MDM from the event loop: each is answered on the loop, within its deadline. And the
// watch of the map, which starts over whenever it ends or falls silent.
//
// Threads: used on the loop thread; destroyed there or after the loop has ended. gRPC's callbacks
// only post. Destruction cancels what is under way and waits for it.
#ifndef TESSERA_SERVICES_SDC_CONTROL_MDM_CLIENT_H_
#define TESSERA_SERVICES_SDC_CONTROL_MDM_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/sdc/event_loop.h"
#include "tessera/v1/discovery.grpc.pb.h"
#include "tessera/v1/health.grpc.pb.h"
#include "tessera/v1/placement.grpc.pb.h"
#include "tessera/v1/token.grpc.pb.h"
#include "tessera/v1/volume.grpc.pb.h"

namespace tessera::sdc {

class MdmClient {
 public:
  using MapHandler = std::function<void(const v1::WatchPlacementGroupsResponse&)>;

  // `loop` must outlive the client.
  MdmClient(EventLoop& loop, const std::string& address,
            const std::shared_ptr<grpc::ChannelCredentials>& credentials);
  ~MdmClient();

  // Metadata of all later calls.
  void SetBearer(std::string bearer) { bearer_ = std::move(bearer); }

  template <typename Response>
  using Answer = absl::AnyInvocable<void(absl::StatusOr<Response>)>;

  void Register(const v1::RegisterSdcRequest& request, Answer<v1::RegisterSdcResponse> answer) {
    Call(discovery_.get(), &v1::DiscoveryService::Stub::async_interface::RegisterSdc, request,
         kShortTimeout, std::move(answer));
  }
  void Heartbeat(const v1::HeartbeatRequest& request, Answer<v1::HeartbeatResponse> answer) {
    Call(health_.get(), &v1::HealthService::Stub::async_interface::Heartbeat, request,
         kShortTimeout, std::move(answer));
  }
  void GetVolume(const v1::GetVolumeRequest& request, Answer<v1::GetVolumeResponse> answer) {
    Call(volume_.get(), &v1::VolumeService::Stub::async_interface::GetVolume, request,
         kShortTimeout, std::move(answer));
  }
  // The MDM may have to wait for old grants to run out.
  void AcquireGrant(const v1::AcquireGrantRequest& request,
                    Answer<v1::AcquireGrantResponse> answer) {
    Call(token_.get(), &v1::TokenService::Stub::async_interface::AcquireGrant, request,
         kLongTimeout, std::move(answer));
  }
  void RenewGrant(const v1::RenewGrantRequest& request, Answer<v1::RenewGrantResponse> answer) {
    Call(token_.get(), &v1::TokenService::Stub::async_interface::RenewGrant, request, kShortTimeout,
         std::move(answer));
  }
  void ReportReplicaFailures(const v1::ReportReplicaFailuresRequest& request,
                             Answer<v1::ReportReplicaFailuresResponse> answer) {
    Call(placement_.get(), &v1::PlacementService::Stub::async_interface::ReportReplicaFailures,
         request, kShortTimeout, std::move(answer));
  }

  // Watches all placement groups from now on; `handler` gets each message.
  void WatchMap(MapHandler handler);

 private:
  class Watch;
  static constexpr int kShortTimeout = 5'000;
  static constexpr int kLongTimeout = 90'000;

  template <typename Stub, typename Interface, typename Request, typename Response>
  void Call(Stub* stub,
            void (Interface::*method)(grpc::ClientContext*, const Request*, Response*,
                                      std::function<void(grpc::Status)>),
            const Request& request, int timeout_ms, Answer<Response> answer);
  void StartWatch();
  void WatchEnded(Watch* watch, const grpc::Status& status);
  void ArmSilenceTimer();
  [[nodiscard]] bool Enter(grpc::ClientContext* context);
  void Leave(const grpc::ClientContext* context, std::shared_ptr<void> state);

  EventLoop& loop_;
  const std::shared_ptr<grpc::Channel> channel_;  // gRPC keeps references of its own
  const std::unique_ptr<v1::DiscoveryService::Stub> discovery_;
  const std::unique_ptr<v1::HealthService::Stub> health_;
  const std::unique_ptr<v1::PlacementService::Stub> placement_;
  const std::unique_ptr<v1::TokenService::Stub> token_;
  const std::unique_ptr<v1::VolumeService::Stub> volume_;
  std::string bearer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // shared with answers under way

  MapHandler map_handler_;
  std::shared_ptr<Watch> watch_;        // shared with gRPC until the call is over
  EventLoop::TimerId watch_timer_ = 0;  // for silence, or until the next attempt
  bool watch_timer_set_ = false;

  absl::Mutex mutex_;
  absl::flat_hash_map<const grpc::ClientContext*, grpc::ClientContext*> under_way_
      ABSL_GUARDED_BY(mutex_);
  // States whose calls ended after closing: a channel must not lose its last reference in a
  // callback.
  std::vector<std::shared_ptr<void>> ended_ ABSL_GUARDED_BY(mutex_);
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
};

template <typename Stub, typename Interface, typename Request, typename Response>
void MdmClient::Call(Stub* stub,
                     void (Interface::*method)(grpc::ClientContext*, const Request*, Response*,
                                               std::function<void(grpc::Status)>),
                     const Request& request, int timeout_ms, Answer<Response> answer) {
  struct State {
    grpc::ClientContext context;
    Request request;
    Response response;
    Answer<Response> answer;
  };
  auto state = std::make_shared<State>();
  state->request = request;
  state->answer = std::move(answer);
  PrepareCall(&state->context, timeout_ms, bearer_);
  if (!Enter(&state->context)) return;
  (stub->async()->*method)(&state->context, &state->request, &state->response,
                           [this, state, alive = alive_](const grpc::Status& status) mutable {
                             const grpc::ClientContext* context = &state->context;
                             loop_.Post([state, status, alive] {
                               if (!*alive) return;
                               if (status.ok()) {
                                 state->answer(std::move(state->response));
                               } else {
                                 state->answer(FromGrpcStatus(status));
                               }
                             });
                             Leave(context, std::move(state));
                           });
}

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_MDM_CLIENT_H_
