// One line for each unary method of a service: hands the call to the dispatcher, which runs
// `absl::Status Do(const CallContext&, const Request&, Response*)` of the class on its own threads.
#ifndef TESSERA_SERVICES_MDM_RPC_METHODS_H_
#define TESSERA_SERVICES_MDM_RPC_METHODS_H_

#include "services/common/rpc.h"

#define TESSERA_MDM_UNARY(Method)                                                           \
  grpc::ServerUnaryReactor* Method(grpc::CallbackServerContext* context,                    \
                                   const v1::Method##Request* request,                      \
                                   v1::Method##Response* response) override {               \
    return rpc_->Unary(context, request, response,                                          \
                       [this](const CallContext& call, const auto& message, auto* answer) { \
                         return Do(call, message, answer);                                  \
                       });                                                                  \
  }                                                                                         \
  absl::Status Do(const CallContext& call, const v1::Method##Request& request,              \
                  v1::Method##Response* response)

#endif  // TESSERA_SERVICES_MDM_RPC_METHODS_H_
