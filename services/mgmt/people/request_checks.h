// Checks of request fields that the services of people share.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_REQUEST_CHECKS_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_REQUEST_CHECKS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/mgmt/people/session_table.h"

namespace tessera::mgmt {

// 0 means 100; at most 1,000.
[[nodiscard]] uint32_t PageLimit(uint32_t page_size);
// A page of what is listed by id, newest first; the token is the last id of the page before.
[[nodiscard]] absl::StatusOr<NewestFirst> ParseNewestFirst(uint32_t page_size,
                                                           const std::string& page_token);
// Empty when the page was not full, so that nothing can follow.
[[nodiscard]] std::string NextPageToken(uint32_t limit, size_t rows, uint64_t last_id);

[[nodiscard]] absl::Status CheckUserName(const std::string& field, const std::string& name);
// 10 to 128 bytes.
[[nodiscard]] absl::Status CheckNewPassword(const std::string& field, const std::string& password);

// NOT_FOUND: "there is no user 7".
[[nodiscard]] absl::Status NoSuch(const std::string& what, uint64_t id);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_REQUEST_CHECKS_H_
