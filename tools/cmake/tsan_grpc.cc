// Tells ThreadSanitizer what gRPC orders.
//
// Debian's gRPC is not instrumented. It promises that all that a thread did before it started an
// operation (a read, a write, the end of a call) happens before the reaction to that operation, but
// makes this order with lock-free queues in which ThreadSanitizer sees nothing: every message that
// one of our threads wrote and gRPC's thread frees would be a race. Each operation is known by a
// tag on its way in (grpc_call_start_batch) and out (a completion queue, or a callback's functor).
// So the functions of that border are replaced here by ones that announce release and acquire of
// the tag and call the library's. Only those two threads are ordered, by nothing but the operation
// that ties them: two of our threads that touch the same memory still have to order it themselves.
//
// Linked into every program of a thread-sanitizer build that uses gRPC.
#include <dlfcn.h>
#include <grpc/grpc.h>
#include <grpcpp/support/callback_common.h>
#include <sanitizer/tsan_interface.h>

#include <cstdlib>

namespace {

using grpc::internal::CallbackWithStatusTag;
using grpc::internal::CallbackWithSuccessTag;

template <typename Function>
Function Real(const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) abort();
  return reinterpret_cast<Function>(found);
}

// The tags' Run is private; an explicit instantiation may name it.
void RunTag(CallbackWithSuccessTag* tag, bool ok);
void RunTag(CallbackWithStatusTag* tag, bool ok);
template <typename Tag, void (Tag::*run)(bool)>
struct Runner {
  friend void RunTag(Tag* tag, bool ok) { (tag->*run)(ok); }
};
template struct Runner<CallbackWithSuccessTag, &CallbackWithSuccessTag::Run>;
template struct Runner<CallbackWithStatusTag, &CallbackWithStatusTag::Run>;

}  // namespace

// The linker takes this object out of its archive because this name is asked for.
extern "C" const char tessera_tsan_grpc = 1;

extern "C" grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* operations,
                                                 size_t count, void* tag, void* reserved) {
  static const auto real = Real<decltype(&grpc_call_start_batch)>("grpc_call_start_batch");
  __tsan_release(tag);
  return real(call, operations, count, tag, reserved);
}

extern "C" grpc_event grpc_completion_queue_next(grpc_completion_queue* queue,
                                                 gpr_timespec deadline, void* reserved) {
  static const auto real =
      Real<decltype(&grpc_completion_queue_next)>("grpc_completion_queue_next");
  const grpc_event event = real(queue, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

extern "C" grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag,
                                                  gpr_timespec deadline, void* reserved) {
  static const auto real =
      Real<decltype(&grpc_completion_queue_pluck)>("grpc_completion_queue_pluck");
  const grpc_event event = real(queue, tag, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

// The functors of callbacks: inline functions of gRPC's headers, before which these stand.
#define TESSERA_RUN(function, tag_type, symbol)                              \
  extern "C" __attribute__((visibility("default"))) void function(           \
      grpc_completion_queue_functor* functor, int ok) asm(symbol);           \
  extern "C" void function(grpc_completion_queue_functor* functor, int ok) { \
    __tsan_acquire(functor);                                                 \
    RunTag(static_cast<tag_type*>(functor), ok != 0);                        \
  }
TESSERA_RUN(RunSuccess, CallbackWithSuccessTag,
            "_ZN4grpc8internal22CallbackWithSuccessTag9StaticRunEP29grpc_completion_queue_functori")
TESSERA_RUN(RunStatus, CallbackWithStatusTag,
            "_ZN4grpc8internal21CallbackWithStatusTag9StaticRunEP29grpc_completion_queue_functori")
