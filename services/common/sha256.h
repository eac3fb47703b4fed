// SHA-256 (FIPS 180-4) of what comes in pieces, by OpenSSL.
//
// Threads: a value, for one thread at a time.
#ifndef TESSERA_SERVICES_COMMON_SHA256_H_
#define TESSERA_SERVICES_COMMON_SHA256_H_

#include <cstddef>
#include <span>
#include <string>

struct evp_md_ctx_st;

namespace tessera {

class Sha256 {
 public:
  static constexpr size_t kBytes = 32;

  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(std::span<const std::byte> bytes);
  // Of all that was added so far. More may be added afterwards.
  [[nodiscard]] std::string Digest() const;

 private:
  evp_md_ctx_st* const context_;
};

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_SHA256_H_
