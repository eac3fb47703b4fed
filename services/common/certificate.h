// What certificates say: until when they are good, and for whom.
//
// Threads: any.
#ifndef TESSERA_SERVICES_COMMON_CERTIFICATE_H_
#define TESSERA_SERVICES_COMMON_CERTIFICATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

// Until when the first certificate of the PEM file is good, in milliseconds since the Unix epoch.
// NOT_FOUND; INVALID_ARGUMENT for a file that holds none.
[[nodiscard]] absl::StatusOr<uint64_t> CertificateEndMs(const std::string& path);
// The URIs among its subject alternative names. Errors likewise.
[[nodiscard]] absl::StatusOr<std::vector<std::string>> CertificateUris(const std::string& path);
// INVALID_ARGUMENT for a key file that holds none, or that of another certificate; else likewise.
[[nodiscard]] absl::Status CheckKeyOfCertificate(const std::string& certificate_path,
                                                 const std::string& key_path);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_CERTIFICATE_H_
