#include "services/mgmt/people/secrets.h"

#include <sodium.h>

#include <cstdlib>
#include <span>
#include <string_view>

#include "services/common/auth.h"
#include "services/common/sha256.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kSecretBytes = 32;
// 32 signs, without i, l, o, u.
constexpr std::string_view kAlphabet = "0123456789abcdefghjkmnpqrstvwxyz";
constexpr int kGroups = 4;
constexpr int kGroupLetters = 5;

// Without a source of randomness nothing here may go on.
void NeedSodium() {
  if (sodium_init() < 0) std::abort();
}

}  // namespace

std::string NewSecret() {
  NeedSodium();
  std::string bytes(kSecretBytes, '\0');
  randombytes_buf(bytes.data(), bytes.size());
  return ToHex(bytes);
}

std::string SecretHash(const std::string& secret) {
  const absl::StatusOr<std::string> decoded = FromHex(secret);
  const std::string& bytes = decoded.ok() ? *decoded : secret;
  Sha256 hash;
  hash.Add(std::as_bytes(std::span(bytes)));
  return hash.Digest();
}

bool SameSecretHash(const std::string& one, const std::string& other) {
  return one.size() == other.size() && sodium_memcmp(one.data(), other.data(), one.size()) == 0;
}

std::string NewOneTimePassword() {
  NeedSodium();
  std::string password;
  for (int group = 0; group < kGroups; ++group) {
    if (group > 0) password += '-';
    for (int letter = 0; letter < kGroupLetters; ++letter) {
      password += kAlphabet[randombytes_uniform(kAlphabet.size())];
    }
  }
  return password;
}

}  // namespace tessera::mgmt
