#include "services/sds/record_keeper.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"

namespace tessera::sds {

absl::StatusOr<uint64_t> RecordKeeper::Begin() {
  pending_.Clear();
  pending_bytes_ = 0;
  TESSERA_ASSIGN_OR_RETURN(kept_revision_, state_->RecordsRevision());
  return refused_ ? 0 : kept_revision_;
}

absl::StatusOr<RecordKeeper::Outcome> RecordKeeper::Take(const v1::ClusterRecords& part) {
  const bool first = pending_.records_size() == 0;
  if (!first &&
      (part.revision() != pending_.revision() || part.snapshot() != pending_.snapshot())) {
    return absl::InternalError("the cluster's records of two revisions are mixed in one set");
  }
  if (part.revision() < kept_revision_ || (refused_ && !part.snapshot())) {
    refused_ = true;
    return Outcome::kOlder;
  }
  pending_bytes_ += part.ByteSizeLong();
  if (pending_bytes_ > kSetBytesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the cluster's records are more than ", kSetBytesMax, " bytes"));
  }
  pending_.MergeFrom(part);
  if (part.more()) return Outcome::kPartial;
  const v1::ClusterRecords all = std::exchange(pending_, {});
  pending_bytes_ = 0;
  TESSERA_RETURN_IF_ERROR(state_->SaveRecords(all));
  kept_revision_ = all.revision();
  refused_ = false;
  return Outcome::kTaken;
}

}  // namespace tessera::sds
