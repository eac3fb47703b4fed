// All volumes that the client offers: those of the engine, and those that are mapped shared, which
// have one or not.
//
// Threads: loop thread, or before it runs.
#ifndef TESSERA_SERVICES_SDC_FORWARD_SHARED_VOLUMES_H_
#define TESSERA_SERVICES_SDC_FORWARD_SHARED_VOLUMES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "services/sdc/block_device.h"
#include "services/sdc/engine/io_engine.h"
#include "services/sdc/forward/shared_volume.h"

namespace tessera::sdc {

class SharedVolumes final : public ExportTable {
 public:
  // What is offered, whoever serves it.
  struct Offer {
    uint64_t volume_id = 0;
    std::string name;
    std::shared_ptr<BlockDevice> device;
    std::shared_ptr<VolumeEngine> engine;  // null: another client's
    std::shared_ptr<SharedVolume> shared;  // null: not mapped shared
  };

  // `engine` must outlive it.
  explicit SharedVolumes(const IoEngine& engine) : engine_(engine) {}

  void Add(std::shared_ptr<SharedVolume> volume) { volumes_[volume->volume_id()] = volume; }
  void Remove(uint64_t volume_id) { volumes_.erase(volume_id); }
  // Null: not mapped shared, or not offered yet.
  [[nodiscard]] std::shared_ptr<SharedVolume> FindShared(uint64_t volume_id) const;
  [[nodiscard]] std::vector<Offer> Offers() const;
  // Null device: none of that id.
  [[nodiscard]] Offer FindOffer(uint64_t volume_id) const;

  // ExportTable.
  [[nodiscard]] std::vector<std::string> Names() const override;
  [[nodiscard]] std::shared_ptr<BlockDevice> Find(const std::string& name) const override;

 private:
  const IoEngine& engine_;
  std::map<uint64_t, std::shared_ptr<SharedVolume>> volumes_;  // shared with NBD connections
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_FORWARD_SHARED_VOLUMES_H_
