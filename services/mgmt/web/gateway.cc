#include "services/mgmt/web/gateway.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/logging.h"
#include "services/common/metrics.h"
#include "services/mgmt/web/byte_buffer.h"
#include "services/mgmt/web/gateway_rules.h"

namespace tessera::mgmt {
namespace {

using GrpcMetadata = std::multimap<grpc::string_ref, grpc::string_ref>;

MetadataList ForBrowser(const GrpcMetadata& metadata) {
  MetadataList list;
  for (const auto& [name, value] : metadata) {
    const std::string key(name.data(), name.size());
    if (MayGoToBrowser(key)) list.emplace_back(key, std::string(value.data(), value.size()));
  }
  return list;
}

}  // namespace

struct Gateway::Line {
  explicit Line(std::shared_ptr<grpc::Channel> the_channel)
      : channel(std::move(the_channel)), stub(channel) {}
  const std::shared_ptr<grpc::Channel> channel;  // shared with the stub and calls
  grpc::GenericStub stub;
};

// gRPC's side of a call: its callbacks go on to the frontend's thread.
class Gateway::Reactor final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit Reactor(Call* call) : call_(call) {}

 private:
  void OnReadInitialMetadataDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  Call* const call_;
};

// One call. It owns itself from Start to Finished, which is run on the frontend's thread after
// gRPC's last callback: so the channel's last reference is never dropped in a callback, where gRPC
// would wait for itself.
class Gateway::Call {
 public:
  Call(Gateway* gateway, std::shared_ptr<HttpExchange> exchange, GrpcWebForm form,
       std::shared_ptr<Line> line, std::string holder)
      : gateway_(gateway),
        exchange_(std::move(exchange)),
        form_(form),
        line_(std::move(line)),
        holder_(std::move(holder)),
        reactor_(this) {}

  void Start(const MetadataList& metadata, std::optional<std::chrono::nanoseconds> timeout,
             const std::string& message) {
    for (const auto& [name, value] : metadata) context_.AddMetadata(name, value);
    if (timeout.has_value()) {
      context_.set_deadline(std::chrono::system_clock::now() + *timeout);
    }
    request_ = ToByteBuffer(message);
    exchange_->OnAbort([this] { Cancel(); });
    line_->stub.PrepareBidiStreamingCall(&context_, exchange_->request().path, {}, &reactor_);
    // Reads pause while the browser is slow; meanwhile the call may end, and a read started after
    // OnDone would use what is gone. The hold keeps OnDone back until the last read.
    reactor_.AddHold();
    reactor_.StartWriteLast(&request_, grpc::WriteOptions());
    StartRead();
    reactor_.StartCall();
  }

  // gRPC's threads.
  void Post(void (Call::*step)(bool), bool ok) {
    exchange_->Post([this, step, ok] { (this->*step)(ok); });
  }
  void PostFinished(const grpc::Status& status) {
    exchange_->Post([this, status] { Finished(status); });
  }

  // The frontend's thread, from here on.
  void OnInitialMetadata(bool ok) {
    BeginAnswer(ok ? context_.GetServerInitialMetadata() : GrpcMetadata());
    if (std::exchange(early_, false) && !cancelled_) Deliver();
  }
  void OnRead(bool ok) {
    reading_ = false;
    if (!ok) {
      reactor_.RemoveHold();
      return;
    }
    if (cancelled_) return StartRead();  // which fails soon
    // gRPC's threads may bring the first message before the metadata that came before it.
    early_ = !begun_;
    if (!early_) Deliver();
  }

 private:
  void Deliver() {
    exchange_->Write(EncodeMessage(form_, ToBytes(response_)), [this] { StartRead(); });
  }

  void StartRead() {
    if (reading_) return;
    reading_ = true;
    exchange_->ArmTimer(gateway_->options_.silence_limit, [this] {
      // A browser that is slow is the frontend's matter.
      if (!reading_) return;
      silent_ = true;
      Cancel();
    });
    reactor_.StartRead(&response_);
  }

  // The browser is gone, or the server is silent.
  void Cancel() {
    if (std::exchange(cancelled_, true)) return;
    context_.TryCancel();
    // A paused call reads on to its end.
    StartRead();
  }

  void BeginAnswer(const GrpcMetadata& initial) {
    if (std::exchange(begun_, true)) return;
    HttpHeaders headers = {{"Content-Type", std::string(ContentTypeOf(form_))},
                           {"Cache-Control", "no-store"},
                           {"X-Content-Type-Options", "nosniff"},
                           {"Cross-Origin-Resource-Policy", "same-origin"}};
    for (const auto& [name, value] : initial) {
      if (name != "x-gw-set-session") continue;
      auto cookie = SetCookie({value.data(), value.size()}, exchange_->request().tls);
      if (cookie.has_value()) {
        headers.emplace_back("Set-Cookie", *std::move(cookie));
      } else {
        LogError("a session's credential has no proper form: the cookie was not set");
      }
    }
    for (const auto& [name, value] : ForBrowser(initial)) {
      headers.emplace_back(name, EncodeMetadataValue(name, value));
    }
    exchange_->Begin(200, headers);
  }

  void Finished(const grpc::Status& status) {
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) gateway_->Suspect(line_);
    grpc::Status final = status;
    if (silent_) {
      final =
          grpc::Status(grpc::StatusCode::UNAVAILABLE,
                       absl::StrCat("the server said nothing for ",
                                    gateway_->options_.silence_limit.count(), " ms: call again"));
    }
    BeginAnswer({});
    MetadataList trailing = ForBrowser(context_.GetServerTrailingMetadata());
    exchange_->Write(EncodeTrailers(form_, final.error_code(), final.error_message(), trailing),
                     nullptr);
    exchange_->End();
    gateway_->Leave(holder_);
    delete this;
  }

  Gateway* const gateway_;
  const std::shared_ptr<HttpExchange> exchange_;  // shared with the frontend
  const GrpcWebForm form_;
  const std::shared_ptr<Line> line_;  // shared with the gateway and other calls
  const std::string holder_;
  grpc::ClientContext context_;
  Reactor reactor_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  bool reading_ = false;
  bool begun_ = false;
  bool early_ = false;  // a message waits for the answer's head
  bool cancelled_ = false;
  bool silent_ = false;
};

void Gateway::Reactor::OnReadInitialMetadataDone(bool ok) {
  call_->Post(&Call::OnInitialMetadata, ok);
}
void Gateway::Reactor::OnReadDone(bool ok) { call_->Post(&Call::OnRead, ok); }
void Gateway::Reactor::OnDone(const grpc::Status& status) { call_->PostFinished(status); }

Gateway::Gateway(const GatewayOptions& options, ChannelSource channels, MetricRegistry* metrics)
    : options_(options),
      channels_(std::move(channels)),
      streams_open_(&metrics->Gauge("tessera_mgmt_http_streams_open",
                                    "Calls of browsers that are open, streams among them.")) {}

Gateway::~Gateway() = default;

void Gateway::Handle(std::shared_ptr<HttpExchange> exchange) {
  const WebRequest& request = exchange->request();
  if (request.method != "POST") {
    WebResponse refusal = TextResponse(405, "gRPC-Web calls are made by POST");
    refusal.headers.emplace_back("Allow", "POST");
    return exchange->Answer(std::move(refusal));
  }
  if (auto refusal = RefuseForeign(request)) return exchange->Answer(*std::move(refusal));
  const absl::StatusOr<GrpcWebForm> form =
      FormOfContentType(request.Header("content-type").value_or(""));
  if (!form.ok()) {
    WebResponse refusal = TextResponse(415, std::string(form.status().message()));
    refusal.headers.emplace_back("Accept-Post",
                                 "application/grpc-web+proto, application/grpc-web-text+proto");
    return exchange->Answer(std::move(refusal));
  }
  // From here on the caller speaks gRPC-Web and is answered so.
  const auto refuse = [&](const absl::Status& status) {
    exchange->Begin(200, {{"Content-Type", std::string(ContentTypeOf(*form))},
                          {"Cache-Control", "no-store"},
                          {"X-Content-Type-Options", "nosniff"}});
    const grpc::Status wire = ToGrpcStatus(status);
    MetadataList details;
    if (!wire.error_details().empty()) {
      details.emplace_back("grpc-status-details-bin", wire.error_details());
    }
    exchange->Write(EncodeTrailers(*form, wire.error_code(), wire.error_message(), details),
                    nullptr);
    exchange->End();
  };
  if (!IsMethodPath(request.path)) {
    return refuse(absl::UnimplementedError("the path must be /<package>.<Service>/<Method>"));
  }
  absl::StatusOr<std::string> message =
      DecodeRequestBody(*form, request.body, options_.message_limit);
  if (!message.ok()) return refuse(message.status());
  const absl::StatusOr<MetadataList> metadata = MetadataOfRequest(request);
  if (!metadata.ok()) return refuse(metadata.status());
  std::optional<std::chrono::nanoseconds> timeout;
  if (const auto header = request.Header("grpc-timeout")) {
    const absl::StatusOr<std::chrono::nanoseconds> parsed = ParseTimeout(*header);
    if (!parsed.ok()) return refuse(parsed.status());
    timeout = *parsed;
  }
  const absl::StatusOr<std::shared_ptr<Line>> line = OpenLine();
  if (!line.ok()) return refuse(line.status());
  std::string holder = HolderOfCall(request, *metadata);
  if (absl::Status status = Enter(holder); !status.ok()) return refuse(status);
  auto* call = new Call(this, std::move(exchange), *form, *line, std::move(holder));
  call->Start(*metadata, timeout, *message);
}

absl::StatusOr<std::shared_ptr<Gateway::Line>> Gateway::OpenLine() {
  if (line_ == nullptr) {
    absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = channels_();
    if (!channel.ok()) return channel.status();
    line_ = std::make_shared<Line>(*std::move(channel));
  }
  return line_;
}

void Gateway::Suspect(const std::shared_ptr<Line>& line) {
  // A channel over a socket pair does not come back by itself. Handlers may say UNAVAILABLE too:
  // then a good channel is given up, which costs little.
  if (line_ == line) line_.reset();
}

absl::Status Gateway::Enter(const std::string& holder) {
  if (open_in_all_ >= options_.call_limit) {
    return WithReason(absl::ResourceExhaustedError(absl::StrCat(
                          options_.call_limit, " calls are open in all, more are not served")),
                      "TOO_MANY_CALLS");
  }
  size_t& open = open_calls_[holder];
  if (open >= options_.calls_per_session_limit) {
    return WithReason(absl::ResourceExhaustedError(
                          absl::StrCat(options_.calls_per_session_limit,
                                       " calls of this session are open, more are not served")),
                      "TOO_MANY_CALLS");
  }
  ++open;
  ++open_in_all_;
  streams_open_->Increment();
  return absl::OkStatus();
}

void Gateway::Leave(const std::string& holder) {
  const auto found = open_calls_.find(holder);
  if (--found->second == 0) open_calls_.erase(found);
  --open_in_all_;
  streams_open_->Decrement();
}

}  // namespace tessera::mgmt
