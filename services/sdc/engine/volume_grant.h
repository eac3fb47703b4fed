// A grant as the engine uses it: decoded, with its keys ready to sign.
//
// Threads: a value.
#ifndef TESSERA_SERVICES_SDC_ENGINE_VOLUME_GRANT_H_
#define TESSERA_SERVICES_SDC_ENGINE_VOLUME_GRANT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "libtoken/token.h"
#include "tessera/v1/token.pb.h"

namespace tessera::sdc {

struct VolumeGrant {
  token::Grant fields;
  std::string bytes;         // as shown to servers
  std::string issued;        // the IssuedGrant that it came in
  bool over_budget = false;  // what takes more space is refused
  uint64_t revision = 0;     // tells renewals of one grant apart, in this process
  std::vector<std::pair<uint64_t, token::GrantKey>> keys;  // by server

  // INVALID_ARGUMENT when the bytes are no grant or a key is not 32 bytes long.
  [[nodiscard]] static absl::StatusOr<VolumeGrant> FromIssued(const v1::IssuedGrant& issued,
                                                              uint64_t revision);
  // Null when the server was not in the pool when the grant was made.
  [[nodiscard]] const token::GrantKey* KeyFor(uint64_t sds_id) const {
    for (const auto& [id, key] : keys) {
      if (id == sds_id) return &key;
    }
    return nullptr;
  }
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_VOLUME_GRANT_H_
