// What the kernel's scheduler is told about a thread: whether somebody waits for it.
//
// Copying chunks takes milliseconds of processor time in one piece. A thread that answers clients
// and is woken meanwhile waits until the other's slice is over (2.8 ms by default), unless the two
// are told apart.
//
// Hints: what the kernel does not know or allow is left as it is. Linux 6.12 and later have slices
// of their own per thread; sched_setattr(2), setpriority(2).
//
// Threads: each function is about its caller.
#ifndef TESSERA_SERVICES_COMMON_THREAD_PRIORITY_H_
#define TESSERA_SERVICES_COMMON_THREAD_PRIORITY_H_

#include <functional>

namespace tessera {

// Little to do each time, and somebody waits for it: clients' IO.
void PreferShortSlices();
// Much to do, and nobody waits for this piece of it: a fraction of the processor time of others
// while these want it, but never nothing. For the rest of the thread's life.
void WorkInBackground();

// Runs `work` in a thread of its own that works in the background, and waits for it: for threads
// that have other duties afterwards, and might not be allowed to become what they were.
void RunInBackground(const std::function<void()>& work);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_THREAD_PRIORITY_H_
