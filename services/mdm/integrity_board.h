// What the MDM knows of bad blocks and of scrub, in memory, by its servers' heartbeats.
//
// Threads: any.
#ifndef TESSERA_SERVICES_MDM_INTEGRITY_BOARD_H_
#define TESSERA_SERVICES_MDM_INTEGRITY_BOARD_H_

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tessera/v1/health.pb.h"

namespace tessera::mdm {

class IntegrityBoard {
 public:
  // A heartbeat of a server: all its unreadable blocks and scrubs.
  void Report(uint64_t sds_id, const v1::HeartbeatRequest& request) {
    absl::MutexLock lock(&mutex_);
    unreadable_[sds_id] = {request.unreadable_blocks().begin(), request.unreadable_blocks().end()};
    for (const v1::ScrubStatus& status : request.scrubs()) scrubs_[status.device_id()] = status;
  }
  // True for a list of changes that was not seen before.
  [[nodiscard]] bool IsNews(uint64_t sds_id, const v1::HeartbeatRequest& request) const {
    if (request.corrupt_block_report() == 0) return false;
    absl::MutexLock lock(&mutex_);
    const auto last = reports_.find(sds_id);
    return last == reports_.end() || last->second < NumberOf(request);
  }
  void Seen(uint64_t sds_id, const v1::HeartbeatRequest& request) {
    absl::MutexLock lock(&mutex_);
    reports_[sds_id] = std::max(reports_[sds_id], NumberOf(request));
  }
  // Of all servers that count. A block is lost to its readers when one replica says so: it has
  // asked the others.
  [[nodiscard]] std::vector<v1::CorruptBlocks> Unreadable(
      const std::function<bool(uint64_t sds_id)>& counts) const {
    std::vector<v1::CorruptBlocks> all;
    absl::MutexLock lock(&mutex_);
    for (const auto& [sds_id, runs] : unreadable_) {
      if (counts(sds_id)) all.insert(all.end(), runs.begin(), runs.end());
    }
    return all;
  }
  // nullopt: its server has not told of it.
  [[nodiscard]] std::optional<v1::ScrubStatus> ScrubOf(uint64_t device_id) const {
    absl::MutexLock lock(&mutex_);
    const auto found = scrubs_.find(device_id);
    if (found == scrubs_.end()) return std::nullopt;
    return found->second;
  }
  [[nodiscard]] std::vector<v1::ScrubStatus> Scrubs() const {
    std::vector<v1::ScrubStatus> all;
    absl::MutexLock lock(&mutex_);
    for (const auto& [device_id, status] : scrubs_) all.push_back(status);
    return all;
  }

 private:
  // A life, and a list in it.
  static std::pair<uint64_t, uint64_t> NumberOf(const v1::HeartbeatRequest& request) {
    return {request.incarnation(), request.corrupt_block_report()};
  }
  mutable absl::Mutex mutex_;
  std::map<uint64_t, std::vector<v1::CorruptBlocks>> unreadable_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, v1::ScrubStatus> scrubs_ ABSL_GUARDED_BY(mutex_);  // by device
  std::map<uint64_t, std::pair<uint64_t, uint64_t>> reports_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_INTEGRITY_BOARD_H_
