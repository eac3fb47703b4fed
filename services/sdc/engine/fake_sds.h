// A scripted storage data server for tests: keeps chunks in memory, checks tokens, epochs and
// sequences as a real one does, and can be told to be slow, wrong, restarted or gone.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDC_ENGINE_FAKE_SDS_H_
#define TESSERA_SERVICES_SDC_ENGINE_FAKE_SDS_H_

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libtoken/token.h"
#include "tessera/v1/chunk.grpc.pb.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::sdc {

class FakeSds final : public v1::ChunkService::Service {
 public:
  struct Counts {
    uint64_t writes = 0;  // applied
    uint64_t duplicates = 0;
    uint64_t reads = 0;
    uint64_t flushes = 0;
    uint64_t refused = 0;
    uint64_t messages = 0;
    uint64_t streams = 0;
  };
  // Looks at an operation before the server does; a result ends it there.
  using Script = std::function<std::optional<v1::IoResult>(const v1::IoOperation&)>;

  FakeSds(uint64_t sds_id, uint64_t device_id, const token::Key& cluster_secret,
          uint32_t chunk_bytes);
  ~FakeSds() override;

  // Listens on a port of its choice, the same one after the first time. A new life of the process.
  void Start();
  // Breaks all streams and stops listening.
  void Stop();
  // The store loses what was not flushed when it is opened anew (with `lose`), and has a new
  // incarnation.
  void ReopenStore(bool lose);

  void SetScript(Script script);
  // While held nothing is answered (or done).
  void Hold(bool held);
  // Each answer from now on says that its time went so.
  void SayTimes(const v1::StageTimes& times);
  // Tells the server a newer entry, as the MDM's push does.
  void Apply(const v1::PlacementGroup& entry);
  void RaiseGeneration(uint64_t generation);
  // Its replica of a placement group becomes equal to another server's; `chunks` are the group's.
  void CopyGroup(FakeSds& source, uint64_t placement_group_id, const std::set<uint64_t>& chunks);

  [[nodiscard]] v1::SdsAddress Address() const;
  [[nodiscard]] Counts counts() const;
  // Placement groups that took writes which no flush has covered.
  [[nodiscard]] size_t UnflushedWrites() const;
  // Chunks that were adopted, each as often as that was taken; what a loss of power leaves of them.
  [[nodiscard]] std::multiset<uint64_t> Adopted() const;
  [[nodiscard]] std::multiset<uint64_t> DurablyAdopted() const;
  // Chunk content, zero-filled where nothing was written.
  [[nodiscard]] std::string Chunk(uint64_t chunk_index) const;

  grpc::Status Io(grpc::ServerContext* context,
                  grpc::ServerReaderWriter<v1::IoResponse, v1::IoRequest>* stream) override;

 private:
  struct Cursor {
    uint64_t generation = 0;
    uint64_t sequence = 0;
  };
  struct Store {
    std::map<uint64_t, std::string> chunks;
    std::map<uint64_t, Cursor> cursors;  // by placement group
    std::multiset<uint64_t> adopted;     // chunks
  };
  struct Shown {
    token::Grant grant;
    token::GrantKey key;
  };

  v1::IoResult Do(const v1::IoOperation& operation, const std::string& data, std::string* payload)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::IoResult Write(const v1::IoOperation& operation, const std::string& data)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<v1::IoResult> Refuse(const v1::IoOperation& operation, const std::string& data)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string& ChunkBytes(uint64_t chunk_index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t sds_id_;
  const uint64_t device_id_;
  const token::Key sds_key_;
  const uint32_t chunk_bytes_;

  mutable absl::Mutex mutex_;
  std::unique_ptr<grpc::Server> server_;  // the test's thread
  int port_ = 0;
  uint64_t incarnation_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t store_incarnation_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t lowest_generation_ ABSL_GUARDED_BY(mutex_) = 0;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<v1::StageTimes> times_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Script script_ ABSL_GUARDED_BY(mutex_);
  Store store_ ABSL_GUARDED_BY(mutex_);
  Store flushed_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, v1::PlacementGroup> entries_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, Shown> grants_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<uint64_t, uint64_t>> used_counters_ ABSL_GUARDED_BY(mutex_);
  Counts counts_ ABSL_GUARDED_BY(mutex_);
  std::set<grpc::ServerContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_FAKE_SDS_H_
