#include "services/mgmt/people/password_hasher.h"

#include <sodium.h>

#include <algorithm>

#include "services/common/errors.h"
#include "services/common/status_macros.h"
#include "services/mgmt/people/secrets.h"

namespace tessera::mgmt {

absl::StatusOr<std::unique_ptr<PasswordHasher>> PasswordHasher::Create(
    const PasswordHasherOptions& options) {
  if (sodium_init() < 0) return absl::InternalError("libsodium can't be initialised");
  std::unique_ptr<PasswordHasher> hasher(new PasswordHasher(options));
  TESSERA_ASSIGN_OR_RETURN(hasher->nobody_, hasher->Hash(NewSecret()));
  return hasher;
}

absl::Status PasswordHasher::AwaitTurn() {
  absl::MutexLock lock(&mutex_);
  const auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return running_ < options_.at_once;
  };
  if (!free()) {
    bool turn = false;
    if (waiting_ < options_.waiting_limit) {
      ++waiting_;
      turn = mutex_.AwaitWithTimeout(absl::Condition(&free), options_.wait);
      --waiting_;
    }
    if (!turn) {
      return WithReason(absl::ResourceExhaustedError("too many people sign in at once: try again"),
                        "SIGN_IN_BUSY");
    }
  }
  ++running_;
  ++computed_;
  return absl::OkStatus();
}

void PasswordHasher::EndTurn() {
  absl::MutexLock lock(&mutex_);
  --running_;
}

absl::StatusOr<std::string> PasswordHasher::Hash(const std::string& password) {
  TESSERA_RETURN_IF_ERROR(AwaitTurn());
  char hash[crypto_pwhash_STRBYTES];
  const int failed = crypto_pwhash_str_alg(hash, password.data(), password.size(), options_.passes,
                                           options_.memory_bytes, crypto_pwhash_ALG_ARGON2ID13);
  EndTurn();
  if (failed != 0) return absl::InternalError("no memory to hash a password");
  return std::string(hash);
}

absl::StatusOr<bool> PasswordHasher::Verify(const std::string& password, const std::string& hash) {
  TESSERA_RETURN_IF_ERROR(AwaitTurn());
  // What is too long to be anybody's costs what any other costs.
  const size_t size = std::min(password.size(), kPasswordBytesMax);
  const std::string& compared = hash.empty() ? nobody_ : hash;
  const bool same = crypto_pwhash_str_verify(compared.c_str(), password.data(), size) == 0;
  EndTurn();
  return same && !hash.empty() && size == password.size();
}

uint64_t PasswordHasher::computed() const {
  absl::MutexLock lock(&mutex_);
  return computed_;
}

}  // namespace tessera::mgmt
