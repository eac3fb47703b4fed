// Template bodies of rpc.h. Include that instead.
#ifndef TESSERA_SERVICES_COMMON_RPC_INTERNAL_H_
#define TESSERA_SERVICES_COMMON_RPC_INTERNAL_H_

namespace tessera {

namespace rpc_internal {

// A unary call: lives until gRPC is done with it.
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);

 private:
  void OnCancel() override { cancelled->store(true, std::memory_order_relaxed); }
  void OnDone() override { delete this; }
};

}  // namespace rpc_internal

template <typename Response>
class RpcDispatcher::WriteReactor final : public grpc::ServerWriteReactor<Response>,
                                          public StreamWriter<Response> {
 public:
  bool Write(const Response& response) override {
    if (cancelled->load()) return false;
    {
      absl::MutexLock lock(&mutex_);
      writing_ = true;
    }
    this->StartWrite(&response);
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](bool* writing) { return !*writing; }, &writing_));
    return ok_;
  }
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);

 private:
  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    ok_ = ok;
  }
  void OnCancel() override { cancelled->store(true); }
  void OnDone() override { delete this; }

  absl::Mutex mutex_;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ok_ ABSL_GUARDED_BY(mutex_) = true;
};

template <typename Request>
class RpcDispatcher::ReadReactor final : public grpc::ServerReadReactor<Request>,
                                         public StreamReader<Request> {
 public:
  bool Read(Request* request) override {
    {
      absl::MutexLock lock(&mutex_);
      reading_ = true;
    }
    this->StartRead(request);
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](bool* reading) { return !*reading; }, &reading_));
    return ok_;
  }
  std::shared_ptr<std::atomic<bool>> cancelled = std::make_shared<std::atomic<bool>>(false);

 private:
  void OnReadDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    ok_ = ok;
  }
  void OnCancel() override { cancelled->store(true); }
  void OnDone() override { delete this; }

  absl::Mutex mutex_;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool ok_ ABSL_GUARDED_BY(mutex_) = true;
};

template <typename Request, typename Response, typename Handler>
grpc::ServerUnaryReactor* RpcDispatcher::Unary(grpc::CallbackServerContext* context,
                                               const Request* request, Response* response,
                                               Handler handler) {
  auto* reactor = new rpc_internal::UnaryReactor;
  Admission admission = Admit(*context, Request::descriptor()->full_name());
  auto work = [this, reactor, admission, request, response,
               handler = std::move(handler)]() mutable {
    absl::Status status;
    absl::StatusOr<Caller> caller = Authorize(admission);
    if (caller.ok()) {
      // A copy: Tell needs the caller afterwards.
      const CallContext call(*caller, admission.deadline, reactor->cancelled);
      status = handler(call, *request, response);
    } else {
      status = caller.status();
    }
    Count(admission, status);
    Tell(admission, caller, *request, status);
    reactor->Finish(ToGrpcStatus(status));
  };
  if (!unary_.Post(std::move(work))) reactor->Finish(ToGrpcStatus(Overloaded()));
  return reactor;
}

template <typename Request, typename Response, typename Handler>
grpc::ServerWriteReactor<Response>* RpcDispatcher::ServerStream(
    grpc::CallbackServerContext* context, const Request* request, Handler handler) {
  auto* reactor = new WriteReactor<Response>;
  Admission admission = Admit(*context, Request::descriptor()->full_name());
  auto work = [this, reactor, admission, request, handler = std::move(handler)]() mutable {
    absl::Status status;
    absl::StatusOr<Caller> caller = Authorize(admission);
    if (caller.ok()) {
      const CallContext call(*std::move(caller), admission.deadline, reactor->cancelled);
      status = handler(call, *request, static_cast<StreamWriter<Response>&>(*reactor));
    } else {
      status = caller.status();
    }
    Count(admission, status);
    reactor->Finish(ToGrpcStatus(status));
  };
  if (!streams_.Post(std::move(work))) reactor->Finish(ToGrpcStatus(Overloaded()));
  return reactor;
}

template <typename Request, typename Response, typename Handler>
grpc::ServerReadReactor<Request>* RpcDispatcher::ClientStream(grpc::CallbackServerContext* context,
                                                              Response* response, Handler handler) {
  auto* reactor = new ReadReactor<Request>;
  Admission admission = Admit(*context, Request::descriptor()->full_name());
  auto work = [this, reactor, admission, response, handler = std::move(handler)]() mutable {
    absl::Status status;
    absl::StatusOr<Caller> caller = Authorize(admission);
    if (caller.ok()) {
      const CallContext call(*std::move(caller), admission.deadline, reactor->cancelled);
      status = handler(call, static_cast<StreamReader<Request>&>(*reactor), response);
    } else {
      status = caller.status();
    }
    Count(admission, status);
    reactor->Finish(ToGrpcStatus(status));
  };
  if (!streams_.Post(std::move(work))) reactor->Finish(ToGrpcStatus(Overloaded()));
  return reactor;
}

template <typename Request, typename Response, typename Handler>
grpc::ServerWriteReactor<Response>* RpcDispatcher::Push(grpc::CallbackServerContext* context,
                                                        const Request* request, Handler handler) {
  auto stream = std::make_shared<PushStream<Response>>();
  stream->HoldSelf();
  stream->StartSendInitialMetadata();
  Admission admission = Admit(*context, Request::descriptor()->full_name());
  // The request's memory goes with the call, which may be cancelled before the handler runs.
  auto work = [this, stream, admission, copy = *request, handler = std::move(handler)]() mutable {
    absl::Status status;
    absl::StatusOr<Caller> caller = Authorize(admission);
    if (caller.ok()) {
      const CallContext call(*std::move(caller), admission.deadline,
                             std::make_shared<std::atomic<bool>>(false));
      status = handler(call, copy, stream);
    } else {
      status = caller.status();
    }
    Count(admission, status);
    if (!status.ok()) stream->Close(status);
  };
  if (!unary_.Post(std::move(work))) stream->Close(Overloaded());
  return stream.get();
}

template <typename Handle>
grpc::Status RpcDispatcher::Run(grpc::ServerContext* context, const std::string& request_type,
                                Handle handle) {
  const Admission admission = Admit(*context, request_type);
  absl::StatusOr<Caller> caller = Authorize(admission);
  absl::Status status = caller.status();
  if (caller.ok()) status = handle(CallContext(*std::move(caller), admission.deadline, context));
  Count(admission, status);
  return ToGrpcStatus(status);
}

template <typename Request, typename Response, typename Handler>
grpc::Status RpcDispatcher::RunUnary(grpc::ServerContext* context, const Request& request,
                                     Response* response, Handler handler) {
  return Run(context, Request::descriptor()->full_name(),
             [&](const CallContext& call) { return handler(call, request, response); });
}

namespace rpc_internal {

template <typename Response>
class BlockingWriter final : public StreamWriter<Response> {
 public:
  explicit BlockingWriter(grpc::ServerWriter<Response>* writer) : writer_(writer) {}
  bool Write(const Response& response) override { return writer_->Write(response); }

 private:
  grpc::ServerWriter<Response>* const writer_;
};

template <typename Request>
class BlockingReader final : public StreamReader<Request> {
 public:
  explicit BlockingReader(grpc::ServerReader<Request>* reader) : reader_(reader) {}
  bool Read(Request* request) override { return reader_->Read(request); }

 private:
  grpc::ServerReader<Request>* const reader_;
};

}  // namespace rpc_internal

template <typename Request, typename Response, typename Handler>
grpc::Status RpcDispatcher::RunServerStream(grpc::ServerContext* context, const Request& request,
                                            grpc::ServerWriter<Response>* writer, Handler handler) {
  rpc_internal::BlockingWriter<Response> out(writer);
  return Run(context, Request::descriptor()->full_name(), [&](const CallContext& call) {
    return handler(call, request, static_cast<StreamWriter<Response>&>(out));
  });
}

template <typename Request, typename Response, typename Handler>
grpc::Status RpcDispatcher::RunClientStream(grpc::ServerContext* context,
                                            grpc::ServerReader<Request>* reader, Response* response,
                                            Handler handler) {
  rpc_internal::BlockingReader<Request> in(reader);
  return Run(context, Request::descriptor()->full_name(), [&](const CallContext& call) {
    return handler(call, static_cast<StreamReader<Request>&>(in), response);
  });
}

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_RPC_INTERNAL_H_
