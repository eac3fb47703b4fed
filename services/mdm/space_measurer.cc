#include "services/mdm/space_measurer.h"

#include <algorithm>
#include <utility>

#include "services/common/logging.h"
#include "services/common/status_macros.h"

namespace tessera::mdm {
namespace {

using std::chrono::milliseconds;
using std::chrono::system_clock;

milliseconds Until(system_clock::time_point end) {
  const auto left = std::chrono::duration_cast<milliseconds>(end - system_clock::now());
  return std::max(milliseconds(1), left);
}

}  // namespace

SpaceAnswers SpaceMeasurer::Ask(const SpacePlan& plan, const CountedReplicas& counted,
                                const std::set<uint64_t>& silent, system_clock::time_point until,
                                const std::function<bool()>& cancelled,
                                std::set<uint64_t>* failed) {
  SpaceAnswers answers;
  for (const std::vector<v1::VtreeCatalog>& catalogs : CatalogsOf(plan)) {
    NodeControl::MeasureRequests requests;
    for (const auto& [sds_id, target] : plan.servers) {
      if (silent.contains(sds_id) || failed->contains(sds_id)) continue;
      v1::MeasureVtreesRequest& request =
          requests.emplace_back(target, v1::MeasureVtreesRequest()).second;
      request.mutable_catalogs()->Assign(catalogs.begin(), catalogs.end());
      if (const auto own = counted.find(sds_id); own != counted.end()) {
        request.mutable_counted()->Assign(own->second.begin(), own->second.end());
      }
    }
    for (auto& [sds_id, answer] : control_->MeasureVtrees(requests, Until(until), cancelled)) {
      if (!answer.ok()) {
        LogInfo("a server did not count what it holds",
                {{"sds", sds_id}, {"error", answer.status()}});
        failed->insert(sds_id);
        continue;
      }
      ServerSpace& space = answers[sds_id];
      for (v1::VtreeMeasure& vtree : *answer->mutable_vtrees()) {
        const uint64_t vtree_id = vtree.vtree_id();
        space.vtrees[vtree_id] = std::move(vtree);
      }
      for (const v1::DeviceMeasure& device : answer->devices()) {
        space.devices[device.device_id()] = device;
        health_->NoteDeviceData(device.device_id(), device.data_bytes());
      }
    }
  }
  for (const uint64_t sds_id : *failed) answers.erase(sds_id);
  return answers;
}

absl::StatusOr<v1::GetUsageResponse> SpaceMeasurer::Measure(
    const SpacePlan& plan, milliseconds timeout, const std::function<bool()>& cancelled) {
  const system_clock::time_point until = system_clock::now() + timeout;
  std::set<uint64_t> silent;
  for (const auto& [sds_id, target] : plan.servers) {
    if (!health_->Reachable({v1::COMPONENT_KIND_SDS, sds_id})) silent.insert(sds_id);
  }
  for (int attempt = 1;; ++attempt) {
    TESSERA_ASSIGN_OR_RETURN(const CountedReplicas counted, ChooseCounted(plan, silent));
    std::set<uint64_t> failed;
    const SpaceAnswers answers = Ask(plan, counted, silent, until, cancelled, &failed);
    if (cancelled()) return absl::CancelledError("the caller is gone");
    const bool complete = std::none_of(failed.begin(), failed.end(), [&](uint64_t sds_id) {
      const auto own = counted.find(sds_id);
      return own != counted.end() && !own->second.empty();
    });
    if (complete) return AddUp(plan, answers);
    silent.insert(failed.begin(), failed.end());
    if (attempt < kAttemptsMax && system_clock::now() < until) continue;
    TESSERA_RETURN_IF_ERROR(ChooseCounted(plan, silent).status());
    return absl::UnavailableError("servers fall silent while they are asked: try again");
  }
}

}  // namespace tessera::mdm
