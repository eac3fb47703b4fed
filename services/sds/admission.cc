#include "services/sds/admission.h"

#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libtoken/base_path.h"
#include "services/common/crc32c.h"
#include "services/common/placement_hash.h"
#include "services/sds/replica_rules.h"

namespace tessera::sds {
namespace {

AdmissionVerdict Refused(token::Refusal refusal, std::string message = "") {
  return {.status = v1::IO_STATUS_TOKEN_REFUSED, .refusal = refusal, .message = std::move(message)};
}

AdmissionVerdict Invalid(std::string message) {
  return {.status = v1::IO_STATUS_INVALID, .message = std::move(message)};
}

std::optional<token::Operation> TokenOperation(v1::IoOperationType type) {
  switch (type) {
    case v1::IO_OPERATION_TYPE_READ:
    case v1::IO_OPERATION_TYPE_MAP:
    case v1::IO_OPERATION_TYPE_POSITION:
    case v1::IO_OPERATION_TYPE_CHANGES:
      return token::Operation::kRead;
    case v1::IO_OPERATION_TYPE_WRITE:
      return token::Operation::kWrite;
    case v1::IO_OPERATION_TYPE_WRITE_ZEROES:
      return token::Operation::kWriteZeroes;
    case v1::IO_OPERATION_TYPE_TRIM:
      return token::Operation::kTrim;
    case v1::IO_OPERATION_TYPE_ADOPT:
      return token::Operation::kAdopt;
    case v1::IO_OPERATION_TYPE_FLUSH:
      return token::Operation::kFlush;
    default:
      return std::nullopt;
  }
}

token::IoToken TokenOf(const v1::IoOperation& operation, token::Operation kind) {
  return {.operation = kind,
          .grant_id = operation.grant_id(),
          .generation = operation.generation(),
          .placement_group_id = operation.placement_group_id(),
          .epoch = operation.epoch(),
          .counter = operation.counter(),
          .chunk_index = operation.chunk_index(),
          .snapshot_sequence = operation.snapshot_sequence(),
          .offset_bytes = operation.offset_bytes(),
          .length_bytes = operation.length_bytes(),
          .data_crc32c = operation.data_crc32c(),
          .binds_data = !operation.unbound_data(),
          .sds_incarnation = operation.sds_incarnation()};
}

}  // namespace

AdmissionVerdict Admission::Judge(ClientSession* session, IoOperationRef* operation,
                                  const token::MdmTime& now) const {
  const v1::IoOperation& what = *operation->operation;
  const std::optional<token::Operation> kind = TokenOperation(what.type());
  if (!kind.has_value()) {
    return Invalid(absl::StrCat("type ", what.type(), " is no operation that this server knows"));
  }
  const std::shared_ptr<ShownGrant> shown = session->grants.Find(what.grant_id(), *context_->keys);
  if (shown == nullptr) {
    return Refused(token::Refusal::kNoToken, "the grant was not shown on this stream");
  }
  AdmissionVerdict verdict = JudgeToken(shown.get(), operation, shown, now);
  if (verdict.status != v1::IO_STATUS_OK) return verdict;
  verdict = JudgePlace(*operation);
  if (verdict.status != v1::IO_STATUS_OK) return verdict;
  if (what.type() == v1::IO_OPERATION_TYPE_WRITE &&
      (what.data_crc32c() != 0 || !what.unbound_data()) &&
      Crc32c(operation->data()) != what.data_crc32c()) {
    return Refused(token::Refusal::kDataMismatch, "the payload is not the one that was signed");
  }
  if (what.type() == v1::IO_OPERATION_TYPE_CHANGES) {
    verdict = JudgeBasePath(what);
    if (verdict.status != v1::IO_STATUS_OK) return verdict;
  }
  verdict = LearnGeneration(shown.get());
  if (verdict.status != v1::IO_STATUS_OK) return verdict;
  verdict = FindLimit(shown.get());
  if (verdict.status != v1::IO_STATUS_OK) return verdict;
  return UseCounter(shown.get(), *operation, now);
}

AdmissionVerdict Admission::JudgeToken(ShownGrant* shown, IoOperationRef* operation,
                                       const std::shared_ptr<ShownGrant>& shared,
                                       const token::MdmTime& now) const {
  const v1::IoOperation& what = *operation->operation;
  if (what.signature().empty()) return Refused(token::Refusal::kNoToken);
  if (!shown->key_known) return Refused(token::Refusal::kUnknownKey);
  const uint64_t lowest = shown->volume != nullptr
                              ? shown->volume->lowest_generation.load(std::memory_order_acquire)
                              : context_->volumes->LowestGeneration(shown->grant.volume_id);
  const std::span<const uint8_t> signature(
      reinterpret_cast<const uint8_t*>(what.signature().data()), what.signature().size());
  const token::Refusal refusal =
      token::CheckToken(shown->grant, shown->key, TokenOf(what, *TokenOperation(what.type())),
                        signature, context_->incarnation, lowest, now);
  if (refusal != token::Refusal::kBadSignature && refusal != token::Refusal::kNoToken) {
    operation->grant = shared;
  }
  if (refusal == token::Refusal::kWrongGeneration) {
    AdmissionVerdict verdict = Refused(refusal);
    verdict.status = v1::IO_STATUS_STALE_GENERATION;
    verdict.lowest_generation = lowest;
    return verdict;
  }
  return refusal == token::Refusal::kNone ? AdmissionVerdict{} : Refused(refusal);
}

AdmissionVerdict Admission::JudgePlace(const IoOperationRef& operation) const {
  const v1::IoOperation& what = *operation.operation;
  const token::Grant& grant = operation.grant->grant;
  if (PoolOfPlacementGroup(what.placement_group_id()) != grant.pool_id) {
    return Refused(token::Refusal::kWrongVolume, "the placement group is of another pool");
  }
  if (context_->deleted_vtrees->Contains(grant.vtree_id)) {
    return Refused(token::Refusal::kWrongVolume, "the volume is deleted");
  }
  if (what.type() == v1::IO_OPERATION_TYPE_FLUSH) return {};
  if (!operation.grant->path.has_value()) {
    return Refused(token::Refusal::kWrongVolume, "the grant's path is none");
  }
  if (IsChange(what.type()) && !operation.grant->write_path.has_value()) {
    return Refused(token::Refusal::kWrongVolume,
                   absl::StrCat("the grant's path does not see layer ", grant.snapshot_sequence,
                                " as one of its own branch"));
  }
  if (const char* problem =
          RangeProblem(what.offset_bytes(), what.length_bytes(), grant.chunk_bytes);
      problem != nullptr) {
    return Invalid(problem);
  }
  const uint32_t count = context_->placements->PlacementGroupCount(grant.pool_id);
  if (count == 0) return {};
  const uint64_t right = PlacementGroupId(
      grant.pool_id, PlacementGroupIndex(grant.vtree_id, what.chunk_index(), count));
  if (right == what.placement_group_id()) return {};
  return Invalid(absl::StrCat("chunk ", what.chunk_index(), " belongs to placement group ", right,
                              ", not ", what.placement_group_id()));
}

AdmissionVerdict Admission::JudgeBasePath(const v1::IoOperation& what) {
  const std::vector<token::PathPart> base_path = BasePathOf(what);
  if (what.unbound_data() || token::BasePathChecksum(base_path) != what.data_crc32c()) {
    return Refused(token::Refusal::kDataMismatch, "the base path is not the one that was signed");
  }
  if (base_path.empty() || LayerPathOf(base_path).has_value()) return {};
  return Invalid(absl::StrCat("the base path must have at most ", token::kPathPartsMax,
                              " parts, branches falling"));
}

AdmissionVerdict Admission::LearnGeneration(ShownGrant* shown) const {
  const token::Grant& grant = shown->grant;
  if (shown->volume != nullptr && shown->volume->lowest_generation.load() >= grant.generation) {
    return {};
  }
  if (context_->volumes->LowestGeneration(grant.volume_id) < grant.generation) {
    const absl::StatusOr<uint64_t> raised =
        context_->volumes->Raise(grant.volume_id, grant.generation);
    if (!raised.ok()) {
      return {.status = v1::IO_STATUS_INTERNAL,
              .message = absl::StrCat("the new generation could not be made durable: ",
                                      std::string(raised.status().message()))};
    }
    on_raised_(grant.volume_id, grant.generation);
  }
  shown->volume = context_->volumes->Find(grant.volume_id);
  return {};
}

AdmissionVerdict Admission::FindLimit(ShownGrant* shown) const {
  const uint64_t version = context_->limits->version();
  if (shown->limits_version == version) return {};
  const ClientLimits::Found found =
      context_->limits->Find(shown->grant, context_->clock->BootNanos());
  if (found.full) {
    return {.status = v1::IO_STATUS_OVERLOADED, .message = "too many clients have limits here"};
  }
  shown->limit = found.limit;
  shown->limits_version = version;
  return {};
}

AdmissionVerdict Admission::UseCounter(ShownGrant* shown, const IoOperationRef& operation,
                                       const token::MdmTime& now) const {
  if (IsChange(operation.operation->type())) return {};
  if (shown->window == nullptr) {
    shown->window = context_->windows->Get(shown->grant.grant_id, LastExpiryMillis(shown->grant),
                                           now.earliest_ms);
    if (shown->window == nullptr) {
      return {.status = v1::IO_STATUS_OVERLOADED, .message = "too many grants are live here"};
    }
  }
  const token::Refusal refusal = shown->window->Use(operation.operation->counter());
  return refusal == token::Refusal::kNone ? AdmissionVerdict{} : Refused(refusal);
}

}  // namespace tessera::sds
