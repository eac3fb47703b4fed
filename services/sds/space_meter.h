// Counts what vtrees take on the devices of this server, block by block (docs/volumes/space.md).
//
// Threads: any; a measurement takes its time, in the background, and IO goes on.
#ifndef TESSERA_SERVICES_SDS_SPACE_METER_H_
#define TESSERA_SERVICES_SDS_SPACE_METER_H_

#include <cstdint>
#include <functional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "services/sds/io_engine.h"
#include "services/sds/layer_drop.h"
#include "tessera/v1/sds_control.pb.h"

namespace tessera::sds {

class SpaceMeter {
 public:
  // False: the caller is gone.
  using Write = std::function<bool(const v1::MeasureVtreesResponse&)>;

  // Must outlive the meter.
  explicit SpaceMeter(IoEngine* engine) : engine_(engine) {}

  // MeasureVtrees of SdsControlService. `cancelled` is asked now and then. INVALID_ARGUMENT: a
  // catalog is none; UNAVAILABLE: a replica that is to be counted can't be.
  [[nodiscard]] absl::Status Measure(const v1::MeasureVtreesRequest& request,
                                     const std::function<bool()>& cancelled, const Write& write);

 private:
  using CountedReplicas = std::set<std::pair<uint64_t, uint64_t>>;  // device, placement group

  [[nodiscard]] absl::Status CheckCounted(const CountedReplicas& counted) const;
  [[nodiscard]] absl::Status MeasureVtree(const LayerCatalog& catalog,
                                          const CountedReplicas& counted,
                                          const std::function<bool()>& cancelled,
                                          v1::VtreeMeasure* measure) const;
  void MeasureDevices(v1::MeasureVtreesResponse* response) const;

  IoEngine* const engine_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_SPACE_METER_H_
