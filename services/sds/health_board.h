// This server's own view of its health: problems that last, and the log of their coming and going.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_HEALTH_BOARD_H_
#define TESSERA_SERVICES_SDS_HEALTH_BOARD_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/common/clock.h"
#include "services/sds/local_state.h"
#include "tessera/v1/health.pb.h"

namespace tessera::sds {

class HealthBoard {
 public:
  // Both must outlive the board.
  HealthBoard(LocalState* state, const Clock* clock) : state_(state), clock_(clock) {}

  // The problem (code and subject, such as "device_failed" and a path) exists from now on. Logged
  // when new.
  void Raise(const std::string& code, const std::string& subject, v1::EventSeverity severity,
             const std::string& message);
  // It is over. Logged when it was there.
  void Resolve(const std::string& code, const std::string& subject);
  // Something that happened and is no lasting problem.
  void Note(v1::EventSeverity severity, const std::string& code, const std::string& message);

  [[nodiscard]] std::vector<v1::HealthProblem> Problems() const;
  [[nodiscard]] v1::ComponentState state() const;

 private:
  LocalState* const state_;
  const Clock* const clock_;
  mutable absl::Mutex mutex_;
  std::map<std::pair<std::string, std::string>, std::string> problems_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_HEALTH_BOARD_H_
