// ForwardService: other clients' requests for shared volumes that this client writes.
//
// A stream reads on only while its requests are within the window that it was told, so what it
// holds is bounded. gRPC's threads only hand over to the loop.
//
// Threads: Forward on gRPC's; Stop from any; the rest on the loop thread.
#ifndef TESSERA_SERVICES_SDC_FORWARD_FORWARD_SERVICE_H_
#define TESSERA_SERVICES_SDC_FORWARD_FORWARD_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/sdc/event_loop.h"
#include "services/sdc/forward/shared_volumes.h"
#include "tessera/v1/forward.grpc.pb.h"

namespace tessera::sdc {

// Who this client is, and what it knows of the MDM's time.
struct ForwardIdentity {
  uint64_t sdc_id = 0;
  std::string node_secret;
  uint64_t earliest_mdm_ms = 0;  // 0: not known
};

class ForwardService final : public v1::ForwardService::CallbackService {
 public:
  // Bytes of requests that a stream may have in flight.
  static constexpr uint64_t kWindowBytes = 16 << 20;

  // All must outlive it. `identity` is asked on the loop thread. `meant`: the MDM says that this
  // client writes the volume, and it does not.
  ForwardService(EventLoop& loop, const SharedVolumes& volumes,
                 std::function<ForwardIdentity()> identity,
                 std::function<void(uint64_t volume_id)> meant);
  ~ForwardService() override;

  grpc::ServerBidiReactor<v1::ForwardRequest, v1::ForwardResponse>* Forward(
      grpc::CallbackServerContext* context) override;
  // Ends all streams, now and from now on. Before the server that has the service is shut down,
  // when the loop does not run any more.
  void Stop();

 private:
  class Session;
  void Ended(Session* session);
  // PERMISSION_DENIED: the ticket is not the MDM's for this client.
  [[nodiscard]] absl::Status CheckHello(const v1::ForwardHello& hello) const;

  EventLoop& loop_;
  const SharedVolumes& volumes_;
  const std::function<ForwardIdentity()> identity_;
  const std::function<void(uint64_t)> meant_;
  absl::Mutex mutex_;
  std::set<Session*> sessions_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_FORWARD_FORWARD_SERVICE_H_
