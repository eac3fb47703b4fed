// Argon2id of passwords, by libsodium, with a bound on the memory that all of it takes.
//
// Memory: 32 MiB a hash, three passes, two hashes at once, so at most 64 MiB, and only while
// somebody signs in (libsodium maps and unmaps it). That is more work for an attacker than OWASP's
// minimum for argon2id (19 MiB, two passes), some 100 ms a try, and lets the service stay under its
// 100 MiB: libsodium's "interactive" 64 MiB would need 128 MiB for two at once.
//
// Threads: any. Calls beyond `at_once` wait; beyond `waiting_limit`, or for longer than `wait`,
// they get RESOURCE_EXHAUSTED (SIGN_IN_BUSY).
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_PASSWORD_HASHER_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_PASSWORD_HASHER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tessera::mgmt {

inline constexpr size_t kPasswordBytesMin = 10;
inline constexpr size_t kPasswordBytesMax = 128;

struct PasswordHasherOptions {
  size_t memory_bytes = 32 << 20;
  uint64_t passes = 3;
  int at_once = 2;
  int waiting_limit = 3;
  absl::Duration wait = absl::Seconds(5);
};

class PasswordHasher {
 public:
  // INTERNAL when the memory for one hash can't be had.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<PasswordHasher>> Create(
      const PasswordHasherOptions& options);

  // "$argon2id$…", with its own salt and parameters.
  [[nodiscard]] absl::StatusOr<std::string> Hash(const std::string& password);
  // Whether the password is the one of `hash`. An empty hash stands for a user that there is not:
  // takes as long as any, and answers false.
  [[nodiscard]] absl::StatusOr<bool> Verify(const std::string& password, const std::string& hash);

  // Hashes that were computed since the beginning.
  [[nodiscard]] uint64_t computed() const;

 private:
  explicit PasswordHasher(const PasswordHasherOptions& options) : options_(options) {}
  [[nodiscard]] absl::Status AwaitTurn();
  void EndTurn();

  const PasswordHasherOptions options_;
  std::string nobody_;  // the hash of a password that nobody knows; set by Create
  mutable absl::Mutex mutex_;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t computed_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_PASSWORD_HASHER_H_
