// Checks of request fields that several services share, and paging.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_REQUEST_CHECKS_H_
#define TESSERA_SERVICES_MDM_REQUEST_CHECKS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/mdm/node_table.h"

namespace tessera::mdm {

// 1 to 63 of a-z, 0-9, '-'. INVALID_ARGUMENT with the field's name.
[[nodiscard]] absl::Status CheckName(const std::string& field, const std::string& name);
// As IsNodeName.
[[nodiscard]] absl::Status CheckNodeName(const std::string& field, const std::string& name);
// 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.'.
[[nodiscard]] absl::Status CheckVolumeName(const std::string& field, const std::string& name);
// Empty, or at most 64 printable characters.
[[nodiscard]] absl::Status CheckRequestId(const std::string& request_id);

inline constexpr uint32_t kPageSizeDefault = 100;
inline constexpr uint32_t kPageSizeMax = 1'000;
// A page token is the last id of the page before. `size_default` stands for a page size of 0.
[[nodiscard]] absl::StatusOr<Page> ParsePage(uint32_t page_size, const std::string& page_token,
                                             uint32_t size_default = kPageSizeDefault);
// Empty when the page was not full, so that nothing can follow.
[[nodiscard]] std::string NextPageToken(const Page& page, size_t rows, uint64_t last_id);

// NOT_FOUND: "there is no volume 7" or "there is no volume 'data'".
[[nodiscard]] absl::Status NoSuch(const std::string& what, uint64_t id,
                                  const std::string& name = "");

// "nbd://host:1" and "vol" make "nbd://host:1/vol"; "nbd+unix:///?socket=/p" makes
// "nbd+unix:///vol?socket=/p".
[[nodiscard]] std::string NbdUriOf(const std::string& listener, const std::string& volume_name);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_REQUEST_CHECKS_H_
