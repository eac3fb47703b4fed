#include "services/common/rpc.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/descriptor.h"
#include "services/common/grpc_server.h"

namespace tessera {

struct RpcDispatcher::Method {
  std::string name;  // "tessera.v1.VolumeService/GetVolume"
  std::vector<v1::Role> roles;
  prometheus::Histogram* seconds = nullptr;
  std::vector<prometheus::Counter*> handled;  // by status code
};

namespace {

using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

std::string Value(const Metadata& metadata, const char* name) {
  const auto found = metadata.find(name);
  if (found == metadata.end()) return "";
  return std::string(found->second.data(), found->second.size());
}

// Where a browser's call came from. A call of this process without it came from no browser.
void AdmitGateway(const Metadata& metadata, RpcDispatcher::Admission* admission) {
  const std::string peer = Value(metadata, RpcDispatcher::kGatewayPeer);
  if (peer.empty()) return;
  admission->over_gateway = true;
  admission->peer = peer;
  admission->user_agent = Value(metadata, RpcDispatcher::kGatewayUserAgent).substr(0, 200);
}

}  // namespace

std::chrono::milliseconds CallContext::TimeLeft(std::chrono::milliseconds most) const {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline_ - std::chrono::system_clock::now());
  return std::clamp(left, std::chrono::milliseconds(0), most);
}

absl::StatusOr<std::unique_ptr<RpcDispatcher>> RpcDispatcher::Create(
    const RpcDispatcherOptions& options, std::shared_ptr<const Authenticator> authenticator,
    MetricRegistry* metrics) {
  std::unique_ptr<RpcDispatcher> dispatcher(
      new RpcDispatcher(options, std::move(authenticator), metrics));
  for (const std::string& service : options.services) {
    const auto* descriptor =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service);
    if (descriptor == nullptr) {
      return absl::NotFoundError(absl::StrCat("service ", service, " is not linked in"));
    }
    for (int i = 0; i < descriptor->method_count(); ++i) {
      const auto* method = descriptor->method(i);
      const v1::Access& access = method->options().GetExtension(v1::access);
      if (access.roles().empty()) {
        return absl::FailedPreconditionError(
            absl::StrCat("method ", method->full_name(), " lacks the (tessera.v1.access) option"));
      }
      auto entry = std::make_unique<Method>();
      entry->name = absl::StrCat(service, "/", method->name());
      for (int role : access.roles()) entry->roles.push_back(static_cast<v1::Role>(role));
      const std::map<std::string, std::string> labels{{"service", service},
                                                      {"method", method->name()}};
      entry->seconds =
          &metrics->Histogram("tessera_grpc_server_handling_seconds",
                              "Time from the arrival of a call to its answer.", labels);
      for (int code = 0; code <= 16; ++code) {
        std::map<std::string, std::string> with_code = labels;
        with_code["code"] = absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
        entry->handled.push_back(&metrics->Counter("tessera_grpc_server_handled_total",
                                                   "Calls answered, by status code.", with_code));
      }
      dispatcher->methods_[method->input_type()->full_name()] = std::move(entry);
    }
  }
  return dispatcher;
}

RpcDispatcher::RpcDispatcher(const RpcDispatcherOptions& options,
                             std::shared_ptr<const Authenticator> authenticator, MetricRegistry*)
    : options_(options),
      authenticator_(std::move(authenticator)),
      unary_({.name = "rpc", .threads = options.unary_threads}),
      streams_({.name = "rpc-stream", .threads = options.stream_threads}) {}

RpcDispatcher::~RpcDispatcher() { Shutdown(); }

void RpcDispatcher::Shutdown() {
  unary_.Shutdown();
  streams_.Shutdown();
}

RpcDispatcher::Admission RpcDispatcher::Admit(const grpc::ServerContextBase& context,
                                              const std::string& request_type) const {
  Admission admission;
  const auto found = methods_.find(request_type);
  admission.method = found == methods_.end() ? nullptr : found->second.get();
  const auto& metadata = context.client_metadata();
  admission.authorization = Value(metadata, "authorization");
  if (const auto security = context.auth_context();
      security != nullptr && security->IsPeerAuthenticated()) {
    for (const grpc::string_ref& name :
         security->FindPropertyValues("x509_subject_alternative_name")) {
      admission.certificate_names.emplace_back(name.data(), name.size());
    }
  }
  admission.peer = context.peer();
  if (CameOverInProcessChannel(context)) AdmitGateway(metadata, &admission);
  admission.on_behalf_of = Value(metadata, kOnBehalfOf);
  admission.started = std::chrono::steady_clock::now();
  const auto latest = std::chrono::system_clock::now() + options_.default_deadline;
  // A call without a deadline says "the end of time".
  const auto asked = context.deadline();
  admission.deadline =
      asked > std::chrono::system_clock::now() + std::chrono::hours(24 * 365) ? latest : asked;
  return admission;
}

absl::StatusOr<Caller> RpcDispatcher::Identify(const Admission& admission) const {
  absl::StatusOr<Caller> caller = authenticator_->Authenticate(admission.authorization);
  std::optional<Caller> holder = CallerOfCertificate(admission.certificate_names);
  const bool is_mgmt = holder.has_value() && holder->Has(v1::ROLE_MGMT);
  // Nothing was asked for and yet it is somebody: --insecure, where everybody is administrator.
  const bool proved_nothing = admission.authorization.empty() && !holder.has_value();
  if (!caller.ok() && holder.has_value()) caller = *std::move(holder);
  if (admission.on_behalf_of.empty() || !caller.ok()) return caller;
  if (!is_mgmt && !proved_nothing) {
    return WithReason(absl::PermissionDeniedError(absl::StrCat(
                          kOnBehalfOf,
                          " is accepted from the management service's certificate alone "
                          "(spiffe://<cluster>/mgmt/<id>)")),
                      "ON_BEHALF_OF_REFUSED");
  }
  caller = ParseOnBehalfOf(admission.on_behalf_of);
  if (!caller.ok()) return WithReason(caller.status(), "ON_BEHALF_OF_MALFORMED");
  return caller;
}

absl::StatusOr<Caller> RpcDispatcher::Authorize(const Admission& admission) const {
  if (admission.method == nullptr) {
    return absl::UnimplementedError("this method is not served here");
  }
  const auto& roles = admission.method->roles;
  const bool anyone = std::find(roles.begin(), roles.end(), v1::ROLE_ANYONE) != roles.end();
  absl::StatusOr<Caller> caller = Identify(admission);
  if (!caller.ok()) {
    // The authenticator's own reason, such as SESSION_EXPIRED, says more.
    if (!anyone && !ReasonOf(caller.status()).empty()) return caller.status();
    if (!anyone) return WithReason(caller.status(), "UNAUTHENTICATED");
    caller = Caller{};
  }
  caller->peer = admission.peer;
  caller->over_gateway = admission.over_gateway;
  caller->user_agent = admission.user_agent;
  if (anyone) return caller;
  for (const v1::Role role : roles) {
    if (caller->Has(role)) return caller;
  }
  std::vector<std::string> wanted;
  for (const v1::Role role : roles) wanted.push_back(v1::Role_Name(role));
  return WithReason(
      absl::PermissionDeniedError(absl::StrCat(admission.method->name, " needs one of the roles ",
                                               absl::StrJoin(wanted, ", "))),
      "ROLE_MISSING");
}

void RpcDispatcher::Count(const Admission& admission, const absl::Status& status) const {
  if (admission.method == nullptr) return;
  const auto elapsed = std::chrono::steady_clock::now() - admission.started;
  admission.method->seconds->Observe(std::chrono::duration<double>(elapsed).count());
  const auto code = static_cast<size_t>(status.code());
  if (code < admission.method->handled.size()) admission.method->handled[code]->Increment();
}

void RpcDispatcher::Tell(const Admission& admission, const absl::StatusOr<Caller>& caller,
                         const google::protobuf::Message& request,
                         const absl::Status& status) const {
  if (options_.observer == nullptr || admission.method == nullptr) return;
  // Of a caller who may not do this it is told who he is, as far as he proved it.
  Caller known = caller.ok() ? *caller : Identify(admission).value_or(Caller{});
  known.peer = admission.peer;
  known.over_gateway = admission.over_gateway;
  known.user_agent = admission.user_agent;
  options_.observer(known, admission.method->name, request, status);
}

absl::Status RpcDispatcher::Overloaded() {
  return WithReason(absl::ResourceExhaustedError("too many calls at once: try again"),
                    "OVERLOADED");
}

}  // namespace tessera
