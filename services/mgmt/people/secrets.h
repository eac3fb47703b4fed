// Secrets of sessions and API tokens, and passwords that are made up.
//
// A secret is 32 random bytes, so that a plain SHA-256 of it is enough to store: nobody can guess
// what was hashed, which is what slow hashes of passwords are for.
//
// Threads: free functions, any thread.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_SECRETS_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_SECRETS_H_

#include <string>

namespace tessera::mgmt {

// 64 lower-case hex digits.
[[nodiscard]] std::string NewSecret();
// SHA-256 of the secret's bytes; of the text as it is where it is not hexadecimal.
[[nodiscard]] std::string SecretHash(const std::string& secret);
// In a time that does not depend on where they differ.
[[nodiscard]] bool SameSecretHash(const std::string& one, const std::string& other);
// "h7k2m-9xwqp-c4t6n-b8rvd": 100 random bits in letters and digits that are not mistaken for
// others.
[[nodiscard]] std::string NewOneTimePassword();

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_SECRETS_H_
