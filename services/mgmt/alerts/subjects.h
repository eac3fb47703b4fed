// From what the poller found to what rules look at.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MGMT_ALERTS_SUBJECTS_H_
#define TESSERA_SERVICES_MGMT_ALERTS_SUBJECTS_H_

#include "services/mgmt/alerts/subject.h"
#include "services/mgmt/monitor/cluster_snapshot.h"

namespace tessera::mgmt {

// All subjects. What the MDM says has values only while it answers; what a part says of itself only
// while that part does.
[[nodiscard]] Subjects SubjectsOf(const ClusterSnapshot& snapshot);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_ALERTS_SUBJECTS_H_
