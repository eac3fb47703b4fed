// The bytes of the cache: a file that does its work off the loop, or what tests put in its place.
//
// Threads: calls and `done` on the loop thread.
#ifndef TESSERA_SERVICES_SDC_CACHE_CACHE_STORE_H_
#define TESSERA_SERVICES_SDC_CACHE_CACHE_STORE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/any_invocable.h"

namespace tessera::sdc {

// Memory that is filled before it is looked at.
struct CacheBytes {
  std::shared_ptr<std::byte[]> memory;  // shared by those who send from it
  size_t size = 0;

  [[nodiscard]] static CacheBytes Allocate(size_t size) {
    return {std::shared_ptr<std::byte[]>(new std::byte[size]), size};
  }
  [[nodiscard]] std::span<std::byte> bytes() const { return {memory.get(), size}; }
};

class CacheStore {
 public:
  // Called once, later, never from inside the call that it was given to. False: an error.
  using Done = absl::AnyInvocable<void(bool)>;

  virtual ~CacheStore() = default;
  // What is read is what the writes before have left. False: too much is waiting, and `done` is not
  // called.
  [[nodiscard]] virtual bool Read(uint64_t offset, CacheBytes into, Done done) = 0;
  [[nodiscard]] virtual bool Write(uint64_t offset, CacheBytes bytes, Done done) = 0;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CACHE_CACHE_STORE_H_
