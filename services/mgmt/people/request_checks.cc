#include "services/mgmt/people/request_checks.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/common/errors.h"
#include "services/mgmt/people/audit_rules.h"
#include "services/mgmt/people/password_hasher.h"

namespace tessera::mgmt {
namespace {

constexpr uint32_t kPageSizeDefault = 100;
constexpr uint32_t kPageSizeMax = 1'000;

}  // namespace

uint32_t PageLimit(uint32_t page_size) {
  return page_size == 0 ? kPageSizeDefault : std::min(page_size, kPageSizeMax);
}

absl::StatusOr<NewestFirst> ParseNewestFirst(uint32_t page_size, const std::string& page_token) {
  NewestFirst page;
  page.limit = PageLimit(page_size);
  if (page_token.empty()) return page;
  if (!absl::SimpleAtoi(page_token, &page.before_id) || page.before_id == 0) {
    return InvalidField("page_token", "is not one that a page before has given");
  }
  return page;
}

std::string NextPageToken(uint32_t limit, size_t rows, uint64_t last_id) {
  return rows < limit ? "" : absl::StrCat(last_id);
}

absl::Status CheckUserName(const std::string& field, const std::string& name) {
  if (IsUserName(name)) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("'", name.substr(0, 80),
                                          "' is not 1 to 64 of a-z, 0-9, '.', '_' and '-', "
                                          "beginning with a letter"));
}

absl::Status CheckNewPassword(const std::string& field, const std::string& password) {
  if (password.size() >= kPasswordBytesMin && password.size() <= kPasswordBytesMax) {
    return absl::OkStatus();
  }
  return InvalidField(field, absl::StrCat("has ", password.size(), " bytes, must have from ",
                                          kPasswordBytesMin, " to ", kPasswordBytesMax));
}

absl::Status NoSuch(const std::string& what, uint64_t id) {
  return WithReason(
      absl::NotFoundError(absl::StrCat("there is no ", what, " ", id)),
      absl::StrCat(absl::StrReplaceAll(absl::AsciiStrToUpper(what), {{" ", "_"}}), "_NOT_FOUND"),
      {{"id", absl::StrCat(id)}});
}

}  // namespace tessera::mgmt
