// Snapshot schedules by rules: when one runs, what its snapshots are called, which of them stay
// (docs/volumes/schedules.md).
//
// Times are milliseconds of MDM time. Pure. Threads: any.
#ifndef TESSERA_SERVICES_MDM_SCHEDULE_RULES_H_
#define TESSERA_SERVICES_MDM_SCHEDULE_RULES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tessera/v1/schedule.pb.h"

namespace tessera::mdm {

// Of a snapshot that a schedule made: the schedule's id. Callers can take it away, and not give it.
inline constexpr char kScheduleLabel[] = "tessera.schedule";

inline constexpr uint32_t kScheduleIntervalMinSeconds = 60;
inline constexpr uint32_t kScheduleIntervalMaxSeconds = 31 * 86'400;
inline constexpr size_t kScheduleNameMax = 24;
inline constexpr int kScheduleVolumesMax = 1'024;
inline constexpr int kConsistentVolumesMax = 64;  // SnapshotMaker::kSourcesMax

// INVALID_ARGUMENT for settings that can't be, with the field's name.
[[nodiscard]] absl::Status CheckSchedule(const v1::SnapshotSchedule& settings);

// The last of the schedule's times that is not after `now_ms`; 0: there was none yet.
[[nodiscard]] uint64_t LastRunTime(const v1::SnapshotSchedule& settings, uint64_t now_ms);
// Its first time after `ms`.
[[nodiscard]] uint64_t NextRunTime(const v1::SnapshotSchedule& settings, uint64_t ms);
// The time that a run's snapshots are named by: its own, or the real one where it was missed.
[[nodiscard]] uint64_t NamedTime(uint64_t run_time_ms, uint64_t now_ms);

// `<volume>-<schedule>-<time>`. A volume's name that is too long for that is cut, and its id added,
// so that two volumes never have one name.
[[nodiscard]] std::string SnapshotName(const std::string& volume_name, uint64_t volume_id,
                                       const std::string& schedule_name, uint64_t time_ms);

// A snapshot that the schedule made of one volume.
struct ScheduledSnapshot {
  uint64_t snapshot_id = 0;
  uint64_t created_ms = 0;
  bool held = false;  // locked or mapped: it is not deleted
};
// Those of one volume that nothing keeps, oldest first. What is held counts like the others.
[[nodiscard]] std::vector<uint64_t> PastRetention(const v1::SnapshotRetention& retention,
                                                  std::vector<ScheduledSnapshot> snapshots);

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_SCHEDULE_RULES_H_
