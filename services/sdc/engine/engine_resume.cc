// The engine's share of a restart without the MDM: the map, and the volumes of the earlier life.
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/sdc/engine/io_engine.h"

namespace tessera::sdc {
namespace {
// No renewal has it.
constexpr uint64_t kResumedRevision = UINT64_MAX;
}  // namespace

void IoEngine::RecordEntry(uint64_t placement_group_id) {
  if (table_ == nullptr) return;
  const MapCache::Group* group = map_.FindGroup(placement_group_id);
  table_->PutEntry(placement_group_id, group->entry.epoch,
                   group->signed_entry->SerializeAsString());
  RecordTrouble();
}

void IoEngine::RecordTrouble() {
  if (table_ == nullptr || keep_records_ || !table_->closed()) return;
  if (std::exchange(told_of_closed_table_, true)) return;
  LogError("the resume file is full: the next start will need the MDM");
}

std::vector<IoEngine::Resumed> IoEngine::Resume(const ResumedState& state, uint64_t sdc_id) {
  v1::WatchPlacementGroupsResponse map;
  for (const std::string& bytes : state.layouts) (void)map.add_pools()->ParseFromString(bytes);
  for (const std::string& bytes : state.addresses) {
    (void)map.add_sds_addresses()->ParseFromString(bytes);
  }
  for (const std::string& bytes : state.entries) {
    (void)map.add_placement_groups()->ParseFromString(bytes);
  }
  if (const auto applied = map_.Apply(map); !applied.ok()) {
    LogWarning("the map of an earlier life is no good", {{"why", applied.status()}});
  }
  for (const auto& [name, why] : state.refused) {
    LogWarning("a volume of an earlier life can't be gone on with", {{"name", name}, {"why", why}});
  }
  std::vector<Resumed> resumed;
  for (const ResumedVolume& left : state.volumes) {
    absl::StatusOr<Resumed> volume = ResumeVolume(left, sdc_id);
    if (volume.ok()) {
      resumed.push_back(*std::move(volume));
      continue;
    }
    LogWarning("a volume of an earlier life can't be gone on with",
               {{"volume", left.volume_id}, {"name", left.name}, {"why", volume.status()}});
    ForgetResumed(left);
  }
  if (!volumes_.empty()) ArmTick();
  return resumed;
}

absl::StatusOr<IoEngine::Resumed> IoEngine::ResumeVolume(const ResumedVolume& left,
                                                         uint64_t sdc_id) {
  Resumed resumed{left.volume_id, left.name, {}};
  if (!resumed.grant.ParseFromString(left.grant)) {
    return absl::DataLossError("its grant can't be read");
  }
  TESSERA_ASSIGN_OR_RETURN(VolumeGrant grant,
                           VolumeGrant::FromIssued(resumed.grant, kResumedRevision));
  if (grant.fields.sdc_id != sdc_id) {
    return absl::FailedPreconditionError("its grant is another client's");
  }
  TESSERA_RETURN_IF_ERROR(VolumeEngine::CheckResumed(left, grant, map_));
  for (const auto& [sds_id, key] : grant.keys) StreamTo(sds_id);
  auto volume = std::make_shared<VolumeEngine>(static_cast<EngineContext&>(*this), left.name,
                                               std::move(grant));
  volumes_[left.volume_id] = volume;
  volume->OpenCache(true);
  volume->Resume(left);
  size_t writes = 0;
  for (const ResumedGroup& group : left.groups) writes += group.writes.size();
  LogInfo("volume resumed", {{"volume", left.volume_id},
                             {"name", left.name},
                             {"generation", left.generation},
                             {"writes", writes}});
  return resumed;
}

void IoEngine::ForgetResumed(const ResumedVolume& left) {
  table_->ForgetVolume(left.volume_id);
  for (const ResumedGroup& group : left.groups) {
    for (const ResumedWrite& write : group.writes) table_->ReleaseWrite(write.slot);
  }
}

}  // namespace tessera::sdc
