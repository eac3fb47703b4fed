// The file behind a ResumeTable: opened and locked for the life of the process, mapped, emptied
// when what is in it can't be taken over.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_RESUME_RESUME_FILE_H_
#define TESSERA_SERVICES_SDC_RESUME_RESUME_FILE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/sdc/resume/resume_table.h"

namespace tessera::sdc {

// Takes over what an earlier life of the owner left in the file, or makes it anew when there is
// nothing of use (why is logged). When another process holds the file's lock, this one gets a file
// of its own at the same place. Errors: the system's, and FAILED_PRECONDITION for a file that is
// not this user's alone.
[[nodiscard]] absl::StatusOr<std::unique_ptr<ResumeTable>> OpenResumeFile(
    const std::string& path, const ResumeOwner& owner, const ResumeGeometry& geometry,
    ResumedState* state);

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_RESUME_RESUME_FILE_H_
