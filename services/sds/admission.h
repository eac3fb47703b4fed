// The gate: no operation reaches a device without a token for exactly it, good now, unused.
//
// Order of the checks: grant shown, key known, signature, then what the token says (libtoken's
// CheckToken), then what only this server knows: that the volume lives, that the placement group is
// the chunk's, that the payload is the signed one, and that the counter is fresh. A write's counter
// is its place in the order, which the replica judges (replica_rules.h).
//
// Threads: one Admission may be used by many threads; a session's operations by one at a time.
#ifndef TESSERA_SERVICES_SDS_ADMISSION_H_
#define TESSERA_SERVICES_SDS_ADMISSION_H_

#include <cstdint>
#include <functional>
#include <string>

#include "libtoken/token.h"
#include "services/sds/engine_context.h"
#include "services/sds/io_operation.h"

namespace tessera::sds {

struct AdmissionVerdict {
  v1::IoStatus status = v1::IO_STATUS_OK;
  token::Refusal refusal = token::Refusal::kNone;
  std::string message;
  uint64_t lowest_generation = 0;  // with STALE_GENERATION
};

class Admission {
 public:
  // `on_raised` is told when a token proves a generation that this server had not heard of; it is
  // durable by then.
  Admission(const EngineContext* context,
            std::function<void(uint64_t volume_id, uint64_t generation)> on_raised)
      : context_(context), on_raised_(std::move(on_raised)) {}

  // Judges the operation, whose data spans are set. When its signature is good, `operation->grant`
  // is set, whatever the verdict.
  [[nodiscard]] AdmissionVerdict Judge(ClientSession* session, IoOperationRef* operation,
                                       const token::MdmTime& now) const;

 private:
  [[nodiscard]] AdmissionVerdict JudgeToken(ShownGrant* shown, IoOperationRef* operation,
                                            const std::shared_ptr<ShownGrant>& shared,
                                            const token::MdmTime& now) const;
  [[nodiscard]] AdmissionVerdict JudgePlace(const IoOperationRef& operation) const;
  [[nodiscard]] static AdmissionVerdict JudgeBasePath(const v1::IoOperation& what);
  [[nodiscard]] AdmissionVerdict LearnGeneration(ShownGrant* shown) const;
  [[nodiscard]] AdmissionVerdict FindLimit(ShownGrant* shown) const;
  [[nodiscard]] AdmissionVerdict UseCounter(ShownGrant* shown, const IoOperationRef& operation,
                                            const token::MdmTime& now) const;

  const EngineContext* const context_;
  const std::function<void(uint64_t, uint64_t)> on_raised_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_ADMISSION_H_
