// A whole server in the test's process, and a client that signs: real gRPC on free ports, real
// keys, and the real store on a temporary folder, or any store that the test gives.
//
// Threads: one test thread.
#ifndef TESSERA_SERVICES_SDS_TESTING_TEST_SDS_H_
#define TESSERA_SERVICES_SDS_TESTING_TEST_SDS_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "libtoken/token.h"
#include "services/common/clock.h"
#include "services/sds/sds_server.h"
#include "services/sds/testing/fake_mdm.h"
#include "services/sds/testing/test_basics.h"
#include "tessera/v1/chunk.grpc.pb.h"
#include "tessera/v1/sds_control.grpc.pb.h"

namespace tessera::sds {

// Goes with the real time, and further when it is told to.
class SteppedClock final : public Clock {
 public:
  [[nodiscard]] uint64_t WallMillis() const override { return clock_.WallMillis() + steps_ms_; }
  [[nodiscard]] uint64_t BootNanos() const override {
    return clock_.BootNanos() + steps_ms_ * 1'000'000;
  }
  void AdvanceMillis(uint64_t ms) { steps_ms_ += ms; }

 private:
  SystemClock clock_;
  std::atomic<uint64_t> steps_ms_{0};
};

class TestSds {
 public:
  // Starts the server, waits for its registration, and configures its device for the test pool.
  // `opener` empty: the real store.
  TestSds(FakeMdm* mdm, const std::string& name, StoreOpener opener = nullptr,
          uint64_t capacity_bytes = 256u << 20);
  // Ends and begins the process, as far as it can see.
  void Restart();
  // The same while the MDM is away: nothing is waited for.
  void RestartAlone();
  void Stop() { server_->Stop(); }

  [[nodiscard]] SdsServer* server() { return server_.get(); }
  [[nodiscard]] SteppedClock* clock() { return &clock_; }
  [[nodiscard]] uint64_t id() const { return server_->sds_id(); }
  [[nodiscard]] uint64_t device_id() const { return 100 * id(); }
  [[nodiscard]] chunk::Store* store() { return server_->engine()->workers()[0]->device()->store(); }
  [[nodiscard]] std::unique_ptr<v1::ChunkService::Stub> NewChunkStub() const;
  [[nodiscard]] std::unique_ptr<v1::SdsControlService::Stub> NewControlStub() const;
  [[nodiscard]] absl::StatusOr<v1::RaiseGenerationResponse> RaiseGeneration(uint64_t volume_id,
                                                                            uint64_t generation);
  // Waits until the server knows the epoch; false after 10 s.
  [[nodiscard]] bool AwaitEpoch(uint64_t placement_group_id, uint64_t epoch);
  [[nodiscard]] double Refusals(token::Refusal refusal);

 private:
  void Start();

  FakeMdm* const mdm_;
  const std::string name_;
  const StoreOpener opener_;
  const uint64_t capacity_bytes_;
  SteppedClock clock_;
  TestFolder state_;
  TestFolder device_;
  std::unique_ptr<SdsServer> server_;
  uint64_t starts_ = 0;
};

// A group with these servers' first devices, the first of them in the given roles.
[[nodiscard]] v1::PlacementGroup GroupOf(
    uint64_t placement_group_id,
    const std::vector<std::pair<const TestSds*, v1::ReplicaRole>>& members);

// A writer: has a grant, signs operations for one server, and speaks on one stream.
class TestClient {
 public:
  TestClient(FakeMdm* mdm, TestSds* sds, const token::Grant& grant);
  ~TestClient();

  token::Grant grant;                 // change it, then Show
  std::map<uint64_t, uint64_t> next;  // next sequence of each placement group
  uint64_t next_counter = 1;          // of reads and flushes
  uint64_t epoch = 1;

  // Opens the stream anew and shows the grant.
  void Connect();
  // Shows the grant with the next message.
  void Show() { grant_to_show_ = true; }
  [[nodiscard]] const v1::SdsHello& hello() const { return hello_; }

  // An operation with all fields set and signed. For a write `data` is the payload.
  [[nodiscard]] v1::IoOperation NewWrite(uint64_t group, uint64_t chunk, uint32_t offset,
                                         const std::string& data);
  [[nodiscard]] v1::IoOperation NewRead(uint64_t group, uint64_t chunk, uint32_t offset,
                                        uint32_t length);
  [[nodiscard]] v1::IoOperation NewFlush(uint64_t group);
  // Signs with the grant's key for this server.
  void Sign(v1::IoOperation* operation) const;
  void SignWith(const token::Key& sds_key, v1::IoOperation* operation) const;

  // Sends one message and collects one result for each operation, by tag. `payload`: of reads, by
  // tag.
  struct Outcome {
    std::map<uint64_t, v1::IoResult> results;
    std::map<uint64_t, std::string> payload;
    std::map<uint64_t, v1::StageTimes> times;
    size_t runs = 0;  // of equal times
    bool stream_ended = false;
    grpc::Status end;
  };
  [[nodiscard]] Outcome Send(const v1::IoRequest& request);
  [[nodiscard]] v1::IoResult SendOne(const v1::IoOperation& operation, const std::string& data = "",
                                     std::string* read = nullptr);

  // Simple forms; the status of the one result.
  [[nodiscard]] v1::IoStatus Write(uint64_t group, uint64_t chunk, uint32_t offset,
                                   const std::string& data);
  [[nodiscard]] std::pair<v1::IoStatus, std::string> Read(uint64_t group, uint64_t chunk,
                                                          uint32_t offset, uint32_t length);

 private:
  FakeMdm* const mdm_;
  TestSds* const sds_;
  std::unique_ptr<v1::ChunkService::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::IoRequest, v1::IoResponse>> stream_;
  v1::SdsHello hello_;
  bool grant_to_show_ = true;
  uint64_t next_tag_ = 1;
};

// A read-write grant that is good for an hour.
[[nodiscard]] token::Grant NewGrant(const FakeMdm& mdm, uint64_t volume_id, uint64_t generation);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_TESTING_TEST_SDS_H_
