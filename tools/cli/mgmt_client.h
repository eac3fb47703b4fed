// Calls to the management service, in the name of whoever signed in.
//
// The credential is --token (TESSERA_TOKEN) where it is given, else what `tessera login` remembered
// for the address.
//
// Threads: one.
#ifndef TESSERA_TOOLS_CLI_MGMT_CLIENT_H_
#define TESSERA_TOOLS_CLI_MGMT_CLIENT_H_

#include <cstdint>
#include <string>

#include "tools/cli/client.h"
#include "tools/cli/credential_file.h"

namespace tessera::cli {

class MgmtClient {
 public:
  explicit MgmtClient(Client* client) : client_(client) {}

  [[nodiscard]] const std::string& address() const { return client_->globals().mgmt; }
  [[nodiscard]] bool json() const { return client_->globals().output == Output::kJson; }

  // One unary call; throws CommandError.
  template <typename Service, typename Request, typename Response>
  Response Call(grpc::Status (Service::Stub::*method)(grpc::ClientContext*, const Request&,
                                                      Response*),
                const Request& request) {
    auto stub = Service::NewStub(client_->Channel(address()));
    grpc::ClientContext context;
    Prepare(&context);
    Response response;
    Client::Check(((*stub).*method)(&context, request, &response), address());
    return response;
  }

  // Remembers it from now on; empty: forgets. Throws CommandError.
  void Remember(const std::string& credential);

 private:
  void Prepare(grpc::ClientContext* context);
  [[nodiscard]] static CredentialFile File();

  Client* const client_;
};

// Reads a secret: without echo from the terminal after the prompt, else a line of standard input.
// Throws CommandError at the end of the input.
[[nodiscard]] std::string ReadSecret(const std::string& prompt);

// "90s", "12h", "30d", "2w" in seconds; throws CommandError naming the option.
[[nodiscard]] uint64_t ParseSeconds(const std::string& option, const std::string& text);

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_MGMT_CLIENT_H_
