// CHUNK_CHECK: an invariant of the store's own code, checked in every build. A broken one means
// that going on could damage data, so the process ends with the place and the text. Outside events
// (devices, callers) are absl::Status, never this.
#ifndef TESSERA_LIBCHUNK_CHECK_H_
#define TESSERA_LIBCHUNK_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace tessera::chunk {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, condition);
  std::abort();
}

}  // namespace tessera::chunk

#define CHUNK_CHECK(condition)                                       \
  do {                                                               \
    if (!(condition)) [[unlikely]]                                   \
      ::tessera::chunk::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

#endif  // TESSERA_LIBCHUNK_CHECK_H_
