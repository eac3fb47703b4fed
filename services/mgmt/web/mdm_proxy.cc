#include "services/mgmt/web/mdm_proxy.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/server_callback.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/mgmt/web/byte_buffer.h"
#include "tessera/v1/discovery.pb.h"
#include "tessera/v1/health.pb.h"
#include "tessera/v1/latency.pb.h"
#include "tessera/v1/operation.pb.h"
#include "tessera/v1/placement.pb.h"
#include "tessera/v1/repair.pb.h"
#include "tessera/v1/schedule.pb.h"
#include "tessera/v1/scrub.pb.h"
#include "tessera/v1/token.pb.h"
#include "tessera/v1/topology.pb.h"
#include "tessera/v1/usage.pb.h"
#include "tessera/v1/volume.pb.h"

namespace tessera::mgmt {
namespace {

namespace pb = google::protobuf;

// The services that are passed on, wholly or in part. Asked for by their messages, so that the
// linker keeps their descriptors.
const std::vector<const pb::ServiceDescriptor*>& Services() {
  static const auto* const kServices = [] {
    auto* services = new std::vector<const pb::ServiceDescriptor*>;
    for (const pb::Descriptor* message :
         {v1::GetTopologyRequest::descriptor(), v1::GetVolumeRequest::descriptor(),
          v1::GetOperationRequest::descriptor(), v1::GetRepairSettingsRequest::descriptor(),
          v1::StartScrubRequest::descriptor(), v1::GetUsageRequest::descriptor(),
          v1::GetSnapshotScheduleRequest::descriptor(), v1::GetClusterHealthRequest::descriptor(),
          v1::ListPlacementGroupsRequest::descriptor(), v1::ListTokensRequest::descriptor(),
          v1::GetClusterInfoRequest::descriptor(), v1::ExplainLatencyRequest::descriptor()}) {
      services->push_back(message->file()->service(0));
    }
    return services;
  }();
  return *kServices;
}

// Refuses a call before it is one.
class Refusal final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Refusal(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

bool IsForPeople(const pb::MethodDescriptor& method) {
  for (const int role : method.options().GetExtension(v1::access).roles()) {
    if (role == v1::ROLE_ANYONE || role == v1::ROLE_ADMIN || role == v1::ROLE_OPERATOR ||
        role == v1::ROLE_VIEWER) {
      return true;
    }
  }
  return false;
}

}  // namespace

bool IsPassedToMdm(const pb::MethodDescriptor& method) {
  const std::string& service = method.service()->full_name();
  const std::string& name = method.name();
  const auto& services = Services();
  const bool known =
      std::find(services.begin(), services.end(), method.service()) != services.end();
  if (!known || method.client_streaming() || !IsForPeople(method)) return false;
  if (service == "tessera.v1.DiscoveryService") return name == "GetClusterInfo";
  if (service == "tessera.v1.PlacementService" || service == "tessera.v1.TokenService") {
    return absl::StartsWith(name, "List") || absl::StartsWith(name, "Get");
  }
  return true;
}

// The MDM's side of a call: gRPC's callbacks of the outgoing one.
class MdmProxy::Upstream final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit Upstream(Call* call) : call_(call) {}

 private:
  void OnReadInitialMetadataDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  Call* const call_;
};

// One call, and the caller's side of it. Lives until gRPC is done with the incoming call, which
// ends after the outgoing one did.
class MdmProxy::Call final : public grpc::ServerGenericBidiReactor {
 public:
  Call(MdmProxy* proxy, grpc::GenericCallbackServerContext* context,
       const pb::MethodDescriptor* method)
      : proxy_(proxy),
        method_(method),
        path_(context->method()),
        admission_(proxy->rpc_->Admit(*context, method->input_type()->full_name())),
        deadline_(method->server_streaming() ? context->deadline() : admission_.deadline),
        request_(
            pb::MessageFactory::generated_factory()->GetPrototype(method->input_type())->New()),
        upstream_(this) {
    StartRead(&request_bytes_);
  }

  // For the MDM's side.
  void Opened() {
    absl::MutexLock lock(&mutex_);
    if (!std::exchange(opened_, true)) StartSendInitialMetadata();
  }
  void Answered(bool ok) {
    if (!ok) return upstream_.RemoveHold();
    absl::MutexLock lock(&mutex_);
    opened_ = true;  // the first message takes the initial metadata with it
    StartWrite(&answer_bytes_);
  }
  void Ended(const absl::Status& status) {
    // The observer may write to disk, which gRPC's threads don't wait for.
    if (!proxy_->rpc_->Post([this, status] { End(status); })) End(status);
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::InvalidArgumentError("a call has exactly one request"));
    if (!proxy_->rpc_->Post([this] { Forward(); })) End(RpcDispatcher::Overloaded());
  }
  void OnWriteDone(bool ok) override {
    if (!ok) context_.TryCancel();
    upstream_.StartRead(&answer_bytes_);
  }
  void OnCancel() override { context_.TryCancel(); }
  void OnDone() override {
    proxy_->open_calls_.fetch_sub(1);
    delete this;
  }

  // On a thread of ours.
  void Forward() {
    const bool parsed = request_->ParseFromString(ToBytes(request_bytes_));
    caller_ = proxy_->rpc_->Authorize(admission_);
    if (!caller_.ok()) return End(caller_.status());
    if (!parsed) {
      return End(absl::InvalidArgumentError(
          absl::StrCat("the request is no ", method_->input_type()->full_name())));
    }
    const std::string person = FormatOnBehalfOf(*caller_);
    if (!person.empty()) context_.AddMetadata(kOnBehalfOf, person);
    context_.set_deadline(deadline_);
    proxy_->mdm_.PrepareBidiStreamingCall(&context_, path_, {}, &upstream_);
    // Reads pause while the caller is slow: without the hold the call could end meanwhile.
    upstream_.AddHold();
    upstream_.StartWriteLast(&request_bytes_, grpc::WriteOptions());
    upstream_.StartRead(&answer_bytes_);
    upstream_.StartCall();
  }

  void End(const absl::Status& status) {
    proxy_->rpc_->Count(admission_, status);
    if (!method_->server_streaming()) {
      proxy_->rpc_->Tell(admission_, caller_, *request_, status);
    }
    {
      absl::MutexLock lock(&mutex_);
      opened_ = true;
    }
    Finish(ToGrpcStatus(status));
  }

  friend class Upstream;
  MdmProxy* const proxy_;
  const pb::MethodDescriptor* const method_;
  const std::string path_;
  const RpcDispatcher::Admission admission_;
  const std::chrono::system_clock::time_point deadline_;
  const std::unique_ptr<pb::Message> request_;
  absl::StatusOr<Caller> caller_ = absl::UnauthenticatedError("not looked at");
  grpc::ByteBuffer request_bytes_;
  grpc::ByteBuffer answer_bytes_;
  grpc::ClientContext context_;
  Upstream upstream_;
  absl::Mutex mutex_;
  bool opened_ ABSL_GUARDED_BY(mutex_) = false;
};

void MdmProxy::Upstream::OnReadInitialMetadataDone(bool ok) {
  if (ok) call_->Opened();
}
void MdmProxy::Upstream::OnReadDone(bool ok) { call_->Answered(ok); }
void MdmProxy::Upstream::OnDone(const grpc::Status& status) {
  call_->Ended(call_->proxy_->Translate(FromGrpcStatus(status)));
}

absl::StatusOr<std::unique_ptr<MdmProxy>> MdmProxy::Create(
    const MdmProxyOptions& options, std::shared_ptr<grpc::Channel> mdm,
    std::shared_ptr<const Authenticator> authenticator, MetricRegistry* metrics) {
  RpcDispatcherOptions rpc_options;
  rpc_options.observer = options.observer;
  for (const auto* service : Services()) rpc_options.services.push_back(service->full_name());
  absl::StatusOr<std::unique_ptr<RpcDispatcher>> rpc =
      RpcDispatcher::Create(rpc_options, std::move(authenticator), metrics);
  if (!rpc.ok()) return rpc.status();
  return std::unique_ptr<MdmProxy>(new MdmProxy(options, mdm, *std::move(rpc)));
}

MdmProxy::MdmProxy(const MdmProxyOptions& options, const std::shared_ptr<grpc::Channel>& mdm,
                   std::unique_ptr<RpcDispatcher> rpc)
    : options_(options), mdm_(mdm), rpc_(std::move(rpc)) {
  for (const pb::ServiceDescriptor* service : Services()) {
    for (int i = 0; i < service->method_count(); ++i) {
      const pb::MethodDescriptor* method = service->method(i);
      if (IsPassedToMdm(*method))
        methods_[absl::StrCat("/", service->full_name(), "/", method->name())] = method;
    }
  }
}

MdmProxy::~MdmProxy() = default;

grpc::ServerGenericBidiReactor* MdmProxy::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  const auto method = methods_.find(context->method());
  if (method == methods_.end()) {
    return new Refusal(absl::UnimplementedError(absl::StrCat(
        context->method(), " is not served by the management service: ask the part itself")));
  }
  if (open_calls_.fetch_add(1) >= options_.call_limit) {
    open_calls_.fetch_sub(1);
    return new Refusal(RpcDispatcher::Overloaded());
  }
  return new Call(this, context, method->second);
}

absl::Status MdmProxy::Translate(absl::Status status) const {
  const std::string mdm = absl::StrCat("the MDM at ", options_.mdm_address);
  if (status.code() == absl::StatusCode::kUnavailable && ReasonOf(status).empty()) {
    return WithReason(
        absl::UnavailableError(absl::StrCat(mdm, " does not answer: ", status.message())),
        "MDM_UNAVAILABLE");
  }
  if (status.code() == absl::StatusCode::kUnauthenticated ||
      ReasonOf(status) == "ON_BEHALF_OF_REFUSED") {
    return WithReason(
        absl::UnavailableError(absl::StrCat(
            mdm,
            " does not believe the management service: its certificate must have the URI "
            "spiffe://<cluster>/mgmt/<id> (",
            status.message(), ")")),
        "MDM_REFUSES_MGMT");
  }
  return status;
}

}  // namespace tessera::mgmt
