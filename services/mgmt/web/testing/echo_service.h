// The echo service of the tests: answers what it is asked to, and counts what its callers do.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MGMT_WEB_TESTING_ECHO_SERVICE_H_
#define TESSERA_SERVICES_MGMT_WEB_TESTING_ECHO_SERVICE_H_

#include <atomic>
#include <cstdint>

#include "services/mgmt/web/testing/echo.grpc.pb.h"

namespace tessera::mgmt {

class EchoService final : public test::v1::EchoService::CallbackService {
 public:
  struct Counts {
    std::atomic<uint64_t> started{0};
    std::atomic<uint64_t> cancelled{0};
    std::atomic<uint64_t> open_streams{0};
    std::atomic<uint64_t> written{0};
  };

  grpc::ServerUnaryReactor* Echo(grpc::CallbackServerContext* context,
                                 const test::v1::EchoRequest* request,
                                 test::v1::EchoResponse* response) override;
  grpc::ServerWriteReactor<test::v1::EchoStreamResponse>* EchoStream(
      grpc::CallbackServerContext* context, const test::v1::EchoStreamRequest* request) override;
  grpc::ServerUnaryReactor* GetCounts(grpc::CallbackServerContext* context,
                                      const test::v1::GetCountsRequest* request,
                                      test::v1::GetCountsResponse* response) override;

  [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
  Counts counts_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_WEB_TESTING_ECHO_SERVICE_H_
