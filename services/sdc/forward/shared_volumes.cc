#include "services/sdc/forward/shared_volumes.h"

#include <algorithm>

namespace tessera::sdc {

std::shared_ptr<SharedVolume> SharedVolumes::FindShared(uint64_t volume_id) const {
  const auto found = volumes_.find(volume_id);
  return found == volumes_.end() ? nullptr : found->second;
}

std::vector<SharedVolumes::Offer> SharedVolumes::Offers() const {
  std::vector<Offer> offers;
  for (const auto& [id, volume] : volumes_) {
    offers.push_back({id, volume->name(), volume, engine_.FindVolume(id), volume});
  }
  for (const auto& volume : engine_.Volumes()) {
    if (volumes_.contains(volume->volume_id())) continue;
    offers.push_back({volume->volume_id(), volume->name(), volume, volume, nullptr});
  }
  return offers;
}

SharedVolumes::Offer SharedVolumes::FindOffer(uint64_t volume_id) const {
  for (Offer& offer : Offers()) {
    if (offer.volume_id == volume_id) return std::move(offer);
  }
  return {};
}

std::vector<std::string> SharedVolumes::Names() const {
  std::vector<std::string> names;
  for (const Offer& offer : Offers()) names.push_back(offer.name);
  std::sort(names.begin(), names.end());
  return names;
}

std::shared_ptr<BlockDevice> SharedVolumes::Find(const std::string& name) const {
  std::vector<Offer> offers = Offers();
  if (name.empty()) return offers.size() == 1 ? offers.front().device : nullptr;
  for (const Offer& offer : offers) {
    if (offer.name == name) return offer.device;
  }
  return nullptr;
}

}  // namespace tessera::sdc
