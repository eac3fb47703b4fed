#include "services/mdm/request_checks.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "services/common/errors.h"
#include "services/common/node.h"

namespace tessera::mdm {
namespace {

constexpr size_t kNameMax = 63;

}  // namespace

absl::Status CheckName(const std::string& field, const std::string& name) {
  const bool good = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_islower(static_cast<unsigned char>(c)) ||
           absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '-';
  });
  if (!good || name.empty() || name.size() > kNameMax) {
    return InvalidField(field, absl::StrCat("'", name, "' is not 1 to 63 of a-z, 0-9 and '-'"));
  }
  return absl::OkStatus();
}

absl::Status CheckNodeName(const std::string& field, const std::string& name) {
  if (IsNodeName(name)) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("'", name, "' is not ", kNodeNameRule));
}

absl::Status CheckVolumeName(const std::string& field, const std::string& name) {
  const bool good = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
  if (!good || name.empty() || name.size() > kNameMax) {
    return InvalidField(
        field, absl::StrCat("'", name, "' is not 1 to 63 of a-z, A-Z, 0-9, '-', '_', '.'"));
  }
  return absl::OkStatus();
}

absl::Status CheckRequestId(const std::string& request_id) {
  const bool good = std::all_of(request_id.begin(), request_id.end(), [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c));
  });
  if (!good || request_id.size() > 64) {
    return InvalidField("request_id", "is not a UUID or another text of at most 64 characters");
  }
  return absl::OkStatus();
}

absl::StatusOr<Page> ParsePage(uint32_t page_size, const std::string& page_token,
                               uint32_t size_default) {
  Page page;
  if (!page_token.empty() && !absl::SimpleAtoi(page_token, &page.after_id)) {
    return InvalidField("page_token", "is not one that a page before has given");
  }
  page.limit = page_size == 0 ? size_default : std::min(page_size, kPageSizeMax);
  return page;
}

std::string NextPageToken(const Page& page, size_t rows, uint64_t last_id) {
  return rows < page.limit ? "" : absl::StrCat(last_id);
}

absl::Status NoSuch(const std::string& what, uint64_t id, const std::string& name) {
  const std::string which =
      id != 0 || name.empty() ? absl::StrCat(id) : absl::StrCat("'", name, "'");
  return WithReason(
      absl::NotFoundError(absl::StrCat("there is no ", what, " ", which)),
      absl::StrCat(absl::StrReplaceAll(absl::AsciiStrToUpper(what), {{" ", "_"}}), "_NOT_FOUND"),
      {{"id", absl::StrCat(id)}, {"name", name}});
}

std::string NbdUriOf(const std::string& listener, const std::string& volume_name) {
  const size_t query = listener.find('?');
  std::string base = listener.substr(0, query);
  if (!absl::EndsWith(base, "/")) base += '/';
  return absl::StrCat(base, volume_name, query == std::string::npos ? "" : listener.substr(query));
}

}  // namespace tessera::mdm
