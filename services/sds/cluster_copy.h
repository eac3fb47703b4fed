// Everything that this server keeps of the cluster, told to an MDM that has lost its database
// (docs/REPLICATION.md, "Losing the MDM's database"). Reads only.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_CLUSTER_COPY_H_
#define TESSERA_SERVICES_SDS_CLUSTER_COPY_H_

#include <functional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "services/sds/engine_context.h"
#include "services/sds/io_engine.h"
#include "services/sds/local_state.h"
#include "tessera/v1/sds_control.pb.h"

namespace tessera::sds {

class ClusterCopy {
 public:
  // All must outlive the copy.
  ClusterCopy(std::string name, LocalState* state, const EngineContext* context,
              const IoEngine* engine)
      : name_(std::move(name)), state_(state), context_(context), engine_(engine) {}

  void SetEndpoints(const v1::Endpoints& endpoints) {
    absl::MutexLock lock(&mutex_);
    endpoints_ = endpoints;
  }
  [[nodiscard]] v1::ServerIdentity Identity() const;

  // Gives the copy to `write`, piece by piece, until that returns false (CANCELLED).
  // FAILED_PRECONDITION: this server has never been registered, so it knows nothing.
  using Write = std::function<bool(const v1::ReadClusterCopyResponse&)>;
  [[nodiscard]] absl::Status Read(const Write& write) const;

 private:
  [[nodiscard]] absl::Status WriteFacts(const Write& write) const;
  [[nodiscard]] absl::Status WriteGroups(const Write& write) const;
  [[nodiscard]] absl::Status WriteVolumes(const Write& write) const;
  [[nodiscard]] absl::Status WriteRecords(const Write& write) const;
  [[nodiscard]] absl::Status WriteExtents(const Write& write) const;

  const std::string name_;
  LocalState* const state_;
  const EngineContext* const context_;
  const IoEngine* const engine_;
  mutable absl::Mutex mutex_;
  v1::Endpoints endpoints_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_CLUSTER_COPY_H_
