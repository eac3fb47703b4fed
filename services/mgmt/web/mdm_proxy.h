// The MDM's administrative services on the management service's own gRPC server, so that console,
// CLI and grpcurl have one address, one sign-in and one audit log.
//
// A call is admitted here as RpcDispatcher admits any: by the caller's credentials and the roles in
// the method's descriptor. Then it goes to the MDM in the caller's name (x-tessera-on-behalf-of,
// see services/common/auth.h), with the caller's deadline and cancellation; messages pass
// unchanged, one at a time. The observer is told of each unary call with its request, refused ones
// included.
//
// Errors of the MDM pass unchanged with their details, but for two: UNAVAILABLE (MDM_UNAVAILABLE)
// says that the MDM does not answer, and UNAVAILABLE (MDM_REFUSES_MGMT) that it does not believe
// the management service, which is not the caller's fault.
//
// Threads: any. Must outlive the gRPC server that it is registered at (GrpcServerOptions::generic).
#ifndef TESSERA_SERVICES_MGMT_WEB_MDM_PROXY_H_
#define TESSERA_SERVICES_MGMT_WEB_MDM_PROXY_H_

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "services/common/auth.h"
#include "services/common/rpc.h"

namespace google::protobuf {
class MethodDescriptor;
}

namespace tessera::mgmt {

struct MdmProxyOptions {
  std::string mdm_address;  // for messages
  size_t call_limit = 512;  // open at once
  CallObserver observer = nullptr;
};

// Whether the method is passed on: those of the services that people administer the cluster with,
// of placement and token services only what looks, of discovery only GetClusterInfo.
[[nodiscard]] bool IsPassedToMdm(const google::protobuf::MethodDescriptor& method);

class MdmProxy final : public grpc::CallbackGenericService {
 public:
  // Errors as RpcDispatcher::Create.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<MdmProxy>> Create(
      const MdmProxyOptions& options, std::shared_ptr<grpc::Channel> mdm,
      std::shared_ptr<const Authenticator> authenticator, MetricRegistry* metrics);
  ~MdmProxy() override;

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

 private:
  class Call;
  class Upstream;

  MdmProxy(const MdmProxyOptions& options, const std::shared_ptr<grpc::Channel>& mdm,
           std::unique_ptr<RpcDispatcher> rpc);
  // The MDM's answer, as the caller shall see it.
  [[nodiscard]] absl::Status Translate(absl::Status status) const;

  const MdmProxyOptions options_;
  // Keeps the channel: calls end on gRPC's threads, where the last reference must not be dropped.
  grpc::GenericStub mdm_;
  // By "/tessera.v1.VolumeService/GetVolume".
  absl::flat_hash_map<std::string, const google::protobuf::MethodDescriptor*> methods_;
  std::atomic<size_t> open_calls_{0};
  const std::unique_ptr<RpcDispatcher> rpc_;  // last: its threads end first
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_MDM_PROXY_H_
