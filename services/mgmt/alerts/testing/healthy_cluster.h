// A small cluster in which all is well, for tests of rules: three servers with one device each, one
// pool of two copies, one client with one volume, a schedule and a certificate. And the file
// system's part of a test: a folder with a mgmt.db.
//
// Threads: one.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_TESTING_HEALTHY_CLUSTER_H_
#define TESSERA_SERVICES_MGMT_ALERTS_TESTING_HEALTHY_CLUSTER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "services/mgmt/alerts/subject.h"
#include "services/mgmt/mgmt_db.h"
#include "services/mgmt/monitor/cluster_snapshot.h"

namespace tessera::mgmt {

inline constexpr uint64_t kGiB = uint64_t{1} << 30;

// Its certificate ends 400 days after `start_ms`.
[[nodiscard]] ClusterSnapshot HealthyCluster(uint64_t start_ms, uint64_t now_ms);
[[nodiscard]] PolledPart& PartOf(ClusterSnapshot& snapshot, v1::ComponentKind kind, uint64_t id);
[[nodiscard]] v1::Sds& ServerOf(ClusterSnapshot& snapshot, int index);
[[nodiscard]] v1::StoragePoolNode& PoolOf(ClusterSnapshot& snapshot);
// No answer from the MDM in this round.
void SilenceMdm(ClusterSnapshot& snapshot);
// The pool is so full; its devices, too.
void Fill(ClusterSnapshot& snapshot, double percent);

class TestDatabase {
 public:
  TestDatabase();
  ~TestDatabase();
  TestDatabase(const TestDatabase&) = delete;
  TestDatabase& operator=(const TestDatabase&) = delete;
  [[nodiscard]] MgmtDb* db() { return db_.get(); }
  // Closes and opens it, as a restart does.
  void Reopen();
  // A file in its folder with this text, readable by its owner alone.
  [[nodiscard]] std::string WriteFile(const std::string& name, const std::string& text) const;

 private:
  std::string folder_;
  std::unique_ptr<MgmtDb> db_;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_TESTING_HEALTHY_CLUSTER_H_
