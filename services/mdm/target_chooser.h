// Which device gets a group's new member.
//
// Different servers always; different fault sets wherever a device that works and has room allows
// it; not above the full mark; then the emptiest by groups for its capacity, so that the work
// spreads over all devices. It keeps account of what it gave out and of running learners, by
// device.
//
// Pure and deterministic. Threads: one at a time.
#ifndef TESSERA_SERVICES_MDM_TARGET_CHOOSER_H_
#define TESSERA_SERVICES_MDM_TARGET_CHOOSER_H_

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "services/mdm/repair_view.h"

namespace tessera::mdm {

struct TargetChoice {
  const RepairDevice* device = nullptr;
  Obstacle obstacle = Obstacle::kNone;  // why there is none
  bool swap = false;                    // see RepairDecision::swap
};

class TargetChooser {
 public:
  // Both must outlive the chooser.
  TargetChooser(const RepairRules& rules, const RepairPool& pool);

  // For the member `leaving` (0: one more is wanted). `ignore_bounds`: as if nothing ran.
  [[nodiscard]] TargetChoice Choose(const RepairGroup& group, uint64_t leaving,
                                    bool ignore_bounds = false) const;
  // An in-sync member to copy from with room in its bound; 0: none, and why.
  [[nodiscard]] uint64_t Source(const v1::PlacementGroup& entry, Obstacle* obstacle) const;

  // Accounts for a learner that runs or is about to.
  void AddLearner(uint64_t target_device_id, uint64_t source_device_id);
  // Accounts for a new member.
  void AddIncoming(const RepairGroup& group, uint64_t leaving, uint64_t target_device_id);

  // The group's move is given up: as if it had never been.
  void Undo(const RepairGroup& group);

  [[nodiscard]] const RepairDevice* Find(uint64_t device_id) const;
  [[nodiscard]] uint32_t Learners(uint64_t device_id) const;
  [[nodiscard]] uint32_t Sourced(uint64_t device_id) const;
  // Groups on the device once all moves are done.
  [[nodiscard]] uint32_t Load(uint64_t device_id) const;
  // Used once all moves are done, `more` bytes with it, as a share of its capacity.
  [[nodiscard]] double Fill(const RepairDevice& device, uint64_t more) const;
  // The device may take the place of `leaving` by servers and fault sets. `strict`: by fault sets,
  // too.
  [[nodiscard]] bool Fits(const v1::PlacementGroup& entry, uint64_t leaving,
                          const RepairDevice& device, bool strict) const;
  // It takes new members as far as its own state goes.
  [[nodiscard]] static bool Usable(const RepairDevice& device);
  // Two members of the entry share a fault set.
  [[nodiscard]] bool Crowded(const v1::PlacementGroup& entry) const;

 private:
  const RepairRules& rules_;
  const RepairPool& pool_;
  std::map<uint64_t, const RepairDevice*> devices_;
  std::map<uint64_t, uint32_t> learners_;  // by target device
  std::map<uint64_t, uint32_t> sourced_;   // by source device
  std::map<uint64_t, uint32_t> load_;
  std::map<uint64_t, uint64_t> incoming_bytes_;
};

}  // namespace tessera::mdm

#endif  // TESSERA_SERVICES_MDM_TARGET_CHOOSER_H_
