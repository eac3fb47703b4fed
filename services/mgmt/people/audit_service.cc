#include "services/mgmt/people/audit_service.h"

#include <utility>
#include <vector>

#include "services/common/status_macros.h"
#include "services/mgmt/people/request_checks.h"

namespace tessera::mgmt {

absl::Status AuditService::Do(const v1::ListAuditEntriesRequest& request,
                              v1::ListAuditEntriesResponse* response) const {
  TESSERA_ASSIGN_OR_RETURN(const NewestFirst page,
                           ParseNewestFirst(request.page_size(), request.page_token()));
  TESSERA_ASSIGN_OR_RETURN(std::vector<v1::AuditEntry> entries,
                           log_->List(request, page.before_id, page.limit));
  if (!entries.empty()) {
    response->set_next_page_token(
        NextPageToken(page.limit, entries.size(), entries.back().audit_id()));
  }
  for (v1::AuditEntry& entry : entries) *response->add_entries() = std::move(entry);
  return absl::OkStatus();
}

absl::Status AuditService::Do(const v1::VerifyAuditLogRequest&,
                              v1::VerifyAuditLogResponse* response) const {
  TESSERA_ASSIGN_OR_RETURN(*response, log_->Verify());
  return absl::OkStatus();
}

}  // namespace tessera::mgmt
