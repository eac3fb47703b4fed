// When certificates end.
//
// Threads: any.
#ifndef TESSERA_SERVICES_COMMON_CERTIFICATE_H_
#define TESSERA_SERVICES_COMMON_CERTIFICATE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

// Until when the first certificate of the PEM file is good, in milliseconds since the Unix epoch.
// NOT_FOUND; INVALID_ARGUMENT for a file that holds none.
[[nodiscard]] absl::StatusOr<uint64_t> CertificateEndMs(const std::string& path);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_CERTIFICATE_H_
