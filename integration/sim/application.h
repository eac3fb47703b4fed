// Programs that use a volume at one client: each has one request out at a time, of all kinds, over
// ranges that overlap those of the others, and tells the volume's history what it was answered.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_APPLICATION_H_
#define TESSERA_INTEGRATION_SIM_APPLICATION_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "integration/sim/cluster.h"
#include "services/sdc/block_device.h"
#include "services/sdc/engine/volume_engine.h"

namespace tessera::sim {

class Application {
 public:
  // Of the current life, a client's. Runs until the life ends or Stop.
  Application(Cluster* cluster, NodeId client, uint64_t volume_id);
  void Start();
  // Begins nothing new.
  void Stop() { stopped_ = true; }
  [[nodiscard]] bool waiting() const { return waiting_; }
  // What it waits for the answer to.
  [[nodiscard]] const char* doing() const { return doing_; }
  [[nodiscard]] const Life* life() const { return life_; }
  [[nodiscard]] uint64_t volume_id() const { return volume_id_; }

  // Writes for a while and hardly thinks.
  void Burst();
  // Flushes next, and then reads everything.
  void Verify() { verify_ = true; }

  // Applications of all clients think this long on average.
  static void SetPause(Nanos pause);

 private:
  struct Range {
    uint64_t first = 0;  // cells
    uint64_t end = 0;
    [[nodiscard]] uint64_t bytes() const;
  };
  void Next();
  void Act();
  [[nodiscard]] static Range Region(uint64_t index);
  [[nodiscard]] Range PickRange(bool aligned);
  void Read(const Range& range);
  void Write(const Range& range, bool force_unit_access);
  void Zero(const Range& range, sdc::Command command);
  void Flush();
  void Submit(sdc::BlockRequest request);
  // Whether a write that is submitted now, and then answered, was held up by a snapshot.
  struct Holds {
    const sdc::VolumeEngine* volume = nullptr;
    uint64_t count = 0;
    bool holding = false;
  };
  [[nodiscard]] Holds HoldsNow() const;
  [[nodiscard]] bool WasPrompt(const Holds& submitted) const;
  // That something was served: it was not beyond the end.
  [[nodiscard]] std::function<void()> EndCheck(const Range& range) const;
  void Failed(const char* what, const sdc::BlockReply& reply);

  Cluster* const cluster_;
  const NodeId client_;
  const uint64_t volume_id_;
  Life* const life_;
  bool waiting_ = false;
  bool verify_ = false;
  uint32_t burst_ = 0;         // requests of it that are left
  uint64_t attachment_ = 0;    // that it has begun with
  uint64_t regions_left_ = 0;  // of reading all
  const char* doing_ = "";
  bool stopped_ = false;
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_APPLICATION_H_
