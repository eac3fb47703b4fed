#include "services/mgmt/web/testing/echo_service.h"

#include <grpcpp/alarm.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "services/common/auth.h"
#include "services/common/errors.h"

namespace tessera::mgmt {
namespace {

using test::v1::EchoRequest;
using test::v1::EchoResponse;
using test::v1::EchoStreamRequest;
using test::v1::EchoStreamResponse;

std::chrono::system_clock::time_point After(uint32_t ms) {
  return std::chrono::system_clock::now() + std::chrono::milliseconds(ms);
}

grpc::Status StatusOf(const test::v1::Failure& failure) {
  absl::Status status(static_cast<absl::StatusCode>(failure.code()), failure.message());
  if (!failure.reason().empty()) status = WithReason(status, failure.reason(), {{"key", "value"}});
  return ToGrpcStatus(status);
}

void Describe(const grpc::CallbackServerContext& context, EchoResponse* response) {
  for (const auto& [name, value] : context.client_metadata()) {
    const std::string key(name.data(), name.size());
    const std::string bytes(value.data(), value.size());
    response->add_metadata(
        absl::StrCat(key, ": ", absl::EndsWith(key, "-bin") ? ToHex(bytes) : bytes));
  }
  const auto left = context.deadline() - std::chrono::system_clock::now();
  if (left < std::chrono::hours(24 * 365)) {
    response->set_time_left_ms(
        static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::milliseconds>(left).count()));
  }
}

// An alarm that a cancelled call need not wait for.
class Pause {
 public:
  // Calls `then` after the time, or at once when Cut was called before or meanwhile.
  void Wait(uint32_t ms, const std::function<void()>& then) {
    absl::MutexLock lock(&mutex_);
    alarm_.Set(After(cut_ ? 0 : ms), [then](bool) { then(); });
    set_ = true;
  }
  void Cut() {
    absl::MutexLock lock(&mutex_);
    cut_ = true;
    if (set_) alarm_.Cancel();
  }

 private:
  absl::Mutex mutex_;
  grpc::Alarm alarm_ ABSL_GUARDED_BY(mutex_);
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
  bool cut_ ABSL_GUARDED_BY(mutex_) = false;
};

class EchoReactor final : public grpc::ServerUnaryReactor {
 public:
  EchoReactor(grpc::CallbackServerContext* context, const EchoRequest* request,
              EchoResponse* response, EchoService::Counts* counts)
      : failure_(StatusOf(request->failure())), counts_(counts) {
    counts_->started.fetch_add(1);
    response->set_text(request->text());
    response->set_padding(std::string(request->padding_bytes(), 'p'));
    Describe(*context, response);
    if (request->has_set_session()) {
      context->AddInitialMetadata("x-gw-set-session", request->set_session());
    }
    context->AddInitialMetadata("tessera-initial", "first");
    context->AddInitialMetadata("tessera-initial-bin", std::string("\0\r\n\xff", 4));
    context->AddTrailingMetadata("tessera-trailing", "last");
    // What no browser may see.
    context->AddInitialMetadata("set-cookie", "planted=1");
    context->AddInitialMetadata("access-control-allow-origin", "*");
    context->AddInitialMetadata("x-gw-inner", "1");
    context->AddTrailingMetadata("x-gw-inner", "1");
    if (request->delay_ms() == 0) {
      Finish(failure_);
    } else {
      pause_.Wait(request->delay_ms(), [this] { Finish(failure_); });
    }
  }

 private:
  void OnCancel() override {
    counts_->cancelled.fetch_add(1);
    pause_.Cut();
  }
  void OnDone() override { delete this; }

  const grpc::Status failure_;
  EchoService::Counts* const counts_;
  Pause pause_;
};

class StreamReactor final : public grpc::ServerWriteReactor<EchoStreamResponse> {
 public:
  StreamReactor(const EchoStreamRequest& request, EchoService::Counts* counts)
      : request_(request), counts_(counts) {
    counts_->started.fetch_add(1);
    counts_->open_streams.fetch_add(1);
    message_.set_text(request_.text());
    message_.set_padding(std::string(request_.padding_bytes(), 'p'));
    StartSendInitialMetadata();
    Next();
  }

 private:
  void Next() {
    if (request_.count() != 0 && number_ == request_.count()) {
      return Finish(StatusOf(request_.failure()));
    }
    if (number_ == 0 || request_.interval_ms() == 0) return Write();
    pause_.Wait(request_.interval_ms(), [this] { Write(); });
  }
  void Write() {
    message_.set_number(number_++);
    StartWrite(&message_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    counts_->written.fetch_add(1);
    Next();
  }
  void OnCancel() override {
    counts_->cancelled.fetch_add(1);
    pause_.Cut();
  }
  void OnDone() override {
    counts_->open_streams.fetch_sub(1);
    delete this;
  }

  const EchoStreamRequest request_;
  EchoService::Counts* const counts_;
  EchoStreamResponse message_;
  uint32_t number_ = 0;
  Pause pause_;
};

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  statm >> size >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

grpc::ServerUnaryReactor* EchoService::Echo(grpc::CallbackServerContext* context,
                                            const EchoRequest* request, EchoResponse* response) {
  return new EchoReactor(context, request, response, &counts_);
}

grpc::ServerWriteReactor<EchoStreamResponse>* EchoService::EchoStream(
    grpc::CallbackServerContext*, const EchoStreamRequest* request) {
  return new StreamReactor(*request, &counts_);
}

grpc::ServerUnaryReactor* EchoService::GetCounts(grpc::CallbackServerContext* context,
                                                 const test::v1::GetCountsRequest*,
                                                 test::v1::GetCountsResponse* response) {
  response->set_started(counts_.started);
  response->set_cancelled(counts_.cancelled);
  response->set_open_streams(counts_.open_streams);
  response->set_written(counts_.written);
  response->set_resident_bytes(ResidentBytes());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace tessera::mgmt
