// Which layers may go: random histories of snapshots, clones, rollbacks and deletions, judged by
// catalogs of any age; nobody ever loses a layer that it sees.
#include "services/sds/layer_drop.h"

#include <catch2/catch.hpp>
#include <deque>
#include <map>
#include <optional>
#include <random>

namespace tessera::sds {
namespace {

using chunk::ChunkInfo;
using chunk::LayerPath;
using chunk::MakeLayer;

using Parts = std::vector<LayerPath::Part>;

LayerPath PathOfParts(const Parts& parts) { return *LayerPath::Make(parts); }

std::optional<uint64_t> Newest(const std::map<uint64_t, ChunkInfo>& layers, const LayerPath& path) {
  std::optional<uint64_t> newest;
  for (const auto& [layer, info] : layers) {
    if (path.Sees(layer)) newest = layer;
  }
  return newest;
}

struct Volume {
  uint32_t branch = 0;
  uint32_t ordinal = 0;  // that its writer has
  uint32_t head = 0;     // the greatest given out
  Parts inherited;
  [[nodiscard]] Parts With(uint32_t branch_of, uint32_t ordinal_max) const {
    Parts parts{{branch_of, ordinal_max}};
    parts.insert(parts.end(), inherited.begin(), inherited.end());
    return parts;
  }
};
struct Snapshot {
  Parts parts;
  bool is_ready = false;
};

class History {
 public:
  explicit History(uint64_t seed) : random_(seed) { volumes_.emplace_back(); }

  void Step() {
    Volume* volume = volumes_.empty() ? nullptr : &volumes_[Random(volumes_.size())];
    switch (Random(12)) {
      case 0:
      case 1:
      case 2:
        if (volume != nullptr) Write(*volume);
        break;
      case 3:
      case 4:
        if (volume != nullptr) BeginCut(volume);
        break;
      case 5:
        Clone(nullptr);
        break;
      case 6:
        if (volume != nullptr && Random(3) == 0) Clone(volume);
        break;
      case 7:
        Delete();
        break;
      case 8:
        catalogs_.push_back(Catalog());
        if (catalogs_.size() > 8) catalogs_.pop_front();
        break;
      default:
        Drop();
    }
  }
  [[nodiscard]] size_t dropped() const { return dropped_; }

 private:
  uint64_t Random(uint64_t below) { return random_() % below; }

  void Write(const Volume& volume) {
    const uint64_t layer = MakeLayer(volume.branch, volume.ordinal);
    if (all_.contains(layer)) return;
    const LayerPath path = PathOfParts(volume.With(volume.branch, volume.ordinal));
    // What a write makes its layer from is the same, whatever was dropped.
    const std::optional<uint64_t> base = Newest(all_, path);
    REQUIRE(Newest(here_, path) == base);
    ChunkInfo info{.key = {.vtree_id = 1, .layer = layer}, .base = base};
    all_[layer] = info;
    // A copy that was made whole knows its base no more.
    if (Random(3) == 0) info.base.reset();
    here_[layer] = info;
  }
  void BeginCut(Volume* volume) {
    // Those of one volume are made one after the other.
    for (size_t i = 0; i < snapshots_.size(); ++i) {
      Snapshot& snapshot = snapshots_[i];
      if (snapshot.is_ready || snapshot.parts[0].branch != volume->branch) continue;
      if (Random(3) == 0) {
        snapshots_.erase(snapshots_.begin() + static_cast<long>(i));  // its deadline passed
      } else {
        snapshot.is_ready = true;
        volume->ordinal = volume->head;
      }
      return;
    }
    if (volume->inherited.size() > 12) return;
    ++volume->head;
    snapshots_.push_back({volume->With(volume->branch, volume->head - 1)});
  }
  // A new volume, or this one rolled back.
  void Clone(Volume* volume) {
    std::vector<const Snapshot*> ready;
    for (const Snapshot& snapshot : snapshots_) {
      if (snapshot.is_ready && snapshot.parts.size() < 12) ready.push_back(&snapshot);
    }
    if (ready.empty() || (volume == nullptr && volumes_.size() > 6)) return;
    Volume made;
    made.branch = ++last_branch_;
    made.inherited = ready[Random(ready.size())]->parts;
    if (volume == nullptr) {
      volumes_.push_back(made);
      return;
    }
    // A cut of it that is under way ends.
    std::erase_if(snapshots_, [volume](const Snapshot& snapshot) {
      return !snapshot.is_ready && snapshot.parts[0].branch == volume->branch;
    });
    heads_[volume->branch] = volume->head;
    *volume = made;
  }
  void Delete() {
    if (Random(2) == 0 && volumes_.size() + snapshots_.size() > 1 && !snapshots_.empty()) {
      const size_t victim = Random(snapshots_.size());
      if (snapshots_[victim].is_ready) {
        snapshots_.erase(snapshots_.begin() + static_cast<long>(victim));
      }
    } else if (volumes_.size() > 1) {
      const size_t victim = Random(volumes_.size());
      heads_[volumes_[victim].branch] = volumes_[victim].head;
      std::erase_if(snapshots_, [&](const Snapshot& snapshot) {
        return !snapshot.is_ready && snapshot.parts[0].branch == volumes_[victim].branch;
      });
      volumes_.erase(volumes_.begin() + static_cast<long>(victim));
    }
  }
  std::vector<LayerPath> LivePaths() const {
    std::vector<LayerPath> paths;
    for (const Volume& volume : volumes_) {
      paths.push_back(PathOfParts(volume.With(volume.branch, LayerPath::kHead)));
    }
    for (const Snapshot& snapshot : snapshots_) paths.push_back(PathOfParts(snapshot.parts));
    return paths;
  }
  LayerCatalog Catalog() {
    for (const Volume& volume : volumes_) heads_[volume.branch] = volume.head;
    v1::VtreeCatalog catalog;
    catalog.set_vtree_id(1);
    for (const LayerPath& path : LivePaths()) {
      v1::LayerPath* to = catalog.add_paths();
      if (path == LayerPath()) continue;
      for (const LayerPath::Part& part : path.parts()) {
        v1::LayerPathPart* part_to = to->add_parts();
        part_to->set_branch(part.branch);
        part_to->set_ordinal_max(part.ordinal_max);
      }
    }
    for (const auto& [branch, head] : heads_) {
      v1::LayerPathPart* to = catalog.add_heads();
      to->set_branch(branch);
      to->set_ordinal_max(head);
    }
    return *LayerCatalog::Make(catalog);
  }
  void Drop() {
    const bool is_new = catalogs_.empty() || Random(3) == 0;
    DropBy(is_new ? Catalog() : catalogs_[Random(catalogs_.size())], is_new);
  }
  void DropBy(const LayerCatalog& catalog, bool is_new) {
    std::vector<ChunkInfo> layers;
    for (const auto& [layer, info] : here_) layers.push_back(info);
    const std::vector<chunk::ChunkKey> drop = LayersToDrop(layers, catalog);
    for (size_t i = 1; i < drop.size(); ++i) REQUIRE(drop[i] < drop[i - 1]);
    for (const chunk::ChunkKey& key : drop) {
      ++dropped_;
      const std::optional<uint64_t> base = here_.at(key.layer).base;
      if (Random(4) == 0) {
        here_.at(key.layer).pruned = true;  // others share with it
        continue;
      }
      here_.erase(key.layer);
      for (auto& [layer, info] : here_) {
        if (info.base == key.layer) info.base = base;
      }
    }
    for (const LayerPath& path : LivePaths()) {
      const std::optional<uint64_t> newest = Newest(all_, path);
      REQUIRE(Newest(here_, path) == newest);
      if (newest.has_value()) REQUIRE_FALSE(here_.at(*newest).pruned);
    }
    if (!is_new) return;
    // All that is left is seen, by now or by a cut that is under way.
    for (const auto& [layer, info] : here_) {
      if (info.pruned) continue;
      bool is_seen = false;
      for (const LayerPath& path : LivePaths()) is_seen |= Newest(all_, path) == layer;
      REQUIRE(is_seen);
    }
  }

  std::mt19937_64 random_;
  std::vector<Volume> volumes_;
  std::vector<Snapshot> snapshots_;
  std::map<uint32_t, uint32_t> heads_;
  uint32_t last_branch_ = 0;
  std::map<uint64_t, ChunkInfo> all_;   // as if nothing had ever been dropped
  std::map<uint64_t, ChunkInfo> here_;  // on a replica
  std::deque<LayerCatalog> catalogs_;
  size_t dropped_ = 0;
};

TEST_CASE("No catalog, however late, drops a layer that somebody sees") {
  size_t dropped = 0;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    INFO("seed " << seed);
    History history(seed);
    for (int step = 0; step < 400; ++step) history.Step();
    dropped += history.dropped();
  }
  CHECK(dropped > 5'000);
}

v1::VtreeCatalog HeadCatalog(uint32_t ordinal) {
  v1::VtreeCatalog catalog;
  catalog.set_vtree_id(1);
  catalog.add_paths();
  v1::LayerPathPart* head = catalog.add_heads();
  head->set_ordinal_max(ordinal);
  return catalog;
}

std::vector<ChunkInfo> Layers(const std::vector<std::pair<uint64_t, std::optional<uint64_t>>>& of) {
  std::vector<ChunkInfo> layers;
  for (const auto& [layer, base] : of) {
    layers.push_back({.key = {.vtree_id = 1, .layer = layer}, .base = base});
  }
  return layers;
}

TEST_CASE("What a snapshot that is newer than the catalog sees stays, whatever it was made from") {
  const auto catalog = LayerCatalog::Make(HeadCatalog(3));
  REQUIRE(catalog.ok());
  // Layer 4 was copied whole: that the snapshot below it sees layer 2, only the path says.
  const auto drop = LayersToDrop(Layers({{0, {}}, {1, 0}, {2, 1}, {4, {}}}), *catalog);
  REQUIRE(drop.size() == 2);
  CHECK(drop[0].layer == 1);
  CHECK(drop[1].layer == 0);
}

TEST_CASE("What the catalog does not know stays, and what it was made from") {
  const auto catalog = LayerCatalog::Make(HeadCatalog(3));
  REQUIRE(catalog.ok());
  const auto drop = LayersToDrop(Layers({{0, {}}, {1, 0}, {3, 1}, {MakeLayer(7, 0), 1}}), *catalog);
  REQUIRE(drop.size() == 1);
  CHECK(drop[0].layer == 0);
}

TEST_CASE("Catalogs that are none are refused") {
  v1::VtreeCatalog catalog = HeadCatalog(1);
  CHECK(LayerCatalog::Make(catalog).ok());
  SECTION("no vtree") { catalog.set_vtree_id(0); }
  SECTION("nobody sees anything") { catalog.clear_paths(); }
  SECTION("two heads of a branch") { catalog.add_heads(); }
  SECTION("branches that do not fall") {
    catalog.mutable_paths(0)->add_parts()->set_branch(1);
    catalog.mutable_paths(0)->add_parts()->set_branch(2);
  }
  CHECK(absl::IsInvalidArgument(LayerCatalog::Make(catalog).status()));
}

}  // namespace
}  // namespace tessera::sds
