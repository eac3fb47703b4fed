// What every command of `tessera` shares: global options, channels, calling, exit codes.
//
// Threads: one.
#ifndef TESSERA_TOOLS_CLI_CLIENT_H_
#define TESSERA_TOOLS_CLI_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "services/common/errors.h"
#include "services/common/grpc_server.h"

namespace tessera::cli {

// Exit codes, stable for scripts.
enum ExitCode : int {
  kDone = 0,
  kFailed = 1,
  kUsage = 2,
  kNotFound = 3,
  kRefused = 4,
  kDenied = 5,
  kUnavailable = 6,
  kTimedOut = 7,
  kDegraded = 8,
};
[[nodiscard]] ExitCode ExitCodeFor(const absl::Status& status);

enum class Output { kTable, kJson };

struct Globals {
  std::string endpoint = "127.0.0.1:8001";
  std::string mgmt = "127.0.0.1:5001";
  std::string token;
  Output output = Output::kTable;
  int timeout_seconds = 60;
  SecurityOptions security{.insecure = true};
};

// Ends the command with a message on standard error and the status's exit code.
class CommandError : public std::exception {
 public:
  explicit CommandError(absl::Status status) : status_(std::move(status)) {}
  [[nodiscard]] const absl::Status& status() const { return status_; }

 private:
  const absl::Status status_;
};

class Client {
 public:
  explicit Client(const Globals* globals) : globals_(globals) {}

  [[nodiscard]] const Globals& globals() const { return *globals_; }
  // Kept for the life of the client.
  [[nodiscard]] std::shared_ptr<grpc::Channel> Channel(const std::string& target);

  // One unary call to the MDM; throws CommandError.
  template <typename Service, typename Request, typename Response>
  Response Call(grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&,
                                                      Response*),
                const Request& request) {
    return CallAt<Service>(globals_->endpoint, method, request);
  }
  // The same to another part.
  template <typename Service, typename Request, typename Response>
  Response CallAt(const std::string& target,
                  grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&,
                                                        Response*),
                  const Request& request) {
    auto stub = Service::NewStub(Channel(target));
    grpc::ClientContext context;
    Prepare(&context);
    Response response;
    Check(((*stub).*method)(&context, request, &response), target);
    return response;
  }
  void Prepare(grpc::ClientContext* context) const;
  // Throws CommandError unless OK.
  static void Check(const grpc::Status& status, const std::string& target);

 private:
  const Globals* const globals_;
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels_;
};

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_CLIENT_H_
