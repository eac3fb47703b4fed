#include "services/common/wait.h"

#include "absl/time/clock.h"

namespace tessera {

bool AwaitWithTimeout(absl::Mutex* mutex, const absl::Condition& condition,
                      absl::Duration timeout) {
  return mutex->AwaitWithTimeout(condition, timeout);
}

bool AwaitNotification(const absl::Notification& notification, absl::Duration timeout) {
  return notification.WaitForNotificationWithTimeout(timeout);
}

void Pause(absl::Duration duration) { absl::SleepFor(duration); }

}  // namespace tessera
