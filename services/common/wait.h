// The waits of threads for something that another one does, bounded in time, at one place: the
// simulator links its own, in which waiting lets the simulated world go on (integration/sim).
//
// Threads: any that may block.
#ifndef TESSERA_SERVICES_COMMON_WAIT_H_
#define TESSERA_SERVICES_COMMON_WAIT_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace tessera {

// Waits, with `mutex` released meanwhile, until the condition holds. False after `timeout`.
bool AwaitWithTimeout(absl::Mutex* mutex, const absl::Condition& condition, absl::Duration timeout)
    ABSL_SHARED_LOCKS_REQUIRED(mutex);
// Waits until it was notified. False after `timeout`.
bool AwaitNotification(const absl::Notification& notification, absl::Duration timeout);
// Before something is tried again.
void Pause(absl::Duration duration);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_WAIT_H_
