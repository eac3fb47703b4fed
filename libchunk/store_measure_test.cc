// What is counted equals what was done: random histories of volumes, snapshots, clones, rollbacks
// and deletions, judged by a model that knows of each view and block which write it is of. Two
// views share a block when it is of the same write; layers, rows and overlays are nothing to it.
#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "libchunk/seeded_random.h"
#include "libchunk/space_counter.h"
#include "libchunk/store_layers_fixture.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kChunks = 5;
constexpr uint32_t kBlocks = 64;  // 256 KiB

// By (chunk, block): the number of the write.
using Content = std::map<std::pair<uint64_t, uint32_t>, uint64_t>;

struct View {
  LayerPath path;
  Content content;
  bool is_head = false;
  Volume volume;  // of a head
};

class History : public LayersFixture {
 public:
  explicit History(uint64_t seed) : random_(seed) {
    Close();
    options.metadata_cache_bytes = 16 * kKiB;  // rows come and go
    options.capacity_bytes = 256 * kMiB;
    Open();
    views_.push_back({.path = LayerPath(), .is_head = true});
  }

  void Step() {
    const uint64_t what = random_.Below(100);
    if (what < 70) {
      Change(Head());
    } else if (what < 80) {
      Snapshot(Head());
    } else if (what < 84) {
      Clone();
    } else if (what < 88) {
      Delete();
    } else if (what < 92) {
      DropUnseen();
    } else if (what < 96) {
      Checkpoint();
    } else if (what < 98) {
      Flush();
      LosePowerAndOpen();
    } else {
      Close();
      Open();
    }
  }

  // `is_settled`: nothing is left that nobody sees.
  void Check(bool is_settled) {
    std::vector<LayerPath> paths;
    for (const View& view : views_) paths.push_back(view.path);
    SpaceCounter counter(paths);
    std::optional<uint64_t> after;
    uint64_t own_blocks = 0;
    for (;;) {
      const auto page = store->ListVtreeLayers(1, after, 1 + random_.Below(4));
      REQUIRE(page.ok());
      if (page->empty()) break;
      for (const ChunkLayers& chunk : *page) {
        REQUIRE((!after || chunk.chunk_index > *after));
        REQUIRE(chunk.placement_group_id == Stream().placement_group_id);
        after = chunk.chunk_index;
        for (const LayerBlocks& layer : chunk.layers) own_blocks += layer.own_blocks;
        counter.Add(chunk);
      }
    }
    const VtreeSpace space = counter.Result();
    REQUIRE(own_blocks == Blocks());
    REQUIRE(space.data_blocks == Blocks());

    std::map<uint64_t, size_t> viewers;
    std::set<uint64_t> seen_by_heads;
    for (const View& view : views_) {
      for (const auto& [place, write] : view.content) {
        ++viewers[write];
        if (view.is_head) seen_by_heads.insert(write);
      }
    }
    for (size_t i = 0; i < views_.size(); ++i) {
      uint64_t unique = 0;
      for (const auto& [place, write] : views_[i].content) unique += viewers[write] == 1 ? 1 : 0;
      INFO("view " << i << " of " << views_.size());
      REQUIRE(space.views[i].logical_blocks == views_[i].content.size());
      REQUIRE(space.views[i].unique_blocks == unique);
    }
    REQUIRE(space.data_blocks - space.unseen_blocks == viewers.size());
    REQUIRE(space.snapshot_only_blocks == viewers.size() - seen_by_heads.size());
    if (is_settled) REQUIRE(space.unseen_blocks == 0);
  }

  // Drops all layers that nobody sees, until nothing more goes.
  void DropUnseen() {
    for (bool more = true; more;) {
      more = false;
      for (uint64_t chunk = 0; chunk < kChunks; ++chunk) more |= DropUnseenOf(chunk);
    }
  }

  [[nodiscard]] size_t views() const { return views_.size(); }

 private:
  size_t Head() {
    for (;;) {
      const size_t index = random_.Below(views_.size());
      if (views_[index].is_head) return index;
    }
  }

  void Change(size_t index) {
    View& view = views_[index];
    const uint64_t chunk = random_.Below(kChunks);
    constexpr uint32_t kSectors = kBlocks * kBlockBytes / kSectorBytes;
    const auto from = static_cast<uint32_t>(random_.Below(kSectors));
    // Small ones into the journal, large ones directly; cutting blocks or not.
    auto count = static_cast<uint32_t>(1 + random_.Below(random_.Below(3) == 0 ? kSectors : 24));
    count = std::min(count, kSectors - from);
    const uint64_t kind = random_.Below(3);
    tessera::chunk::Change change =
        ChangeOf(view.volume,
                 kind < 2 ? ChangeKind::kWrite
                          : (random_.Below(2) == 0 ? ChangeKind::kTrim : ChangeKind::kWriteZeroes),
                 from * kSectorBytes, count * kSectorBytes);
    change.key.chunk_index = chunk;
    const std::vector<std::byte> bytes(count * kSectorBytes, std::byte{7});
    const std::span<const std::byte> slice(bytes);
    if (change.kind == ChangeKind::kWrite) change.data = std::span(&slice, 1);
    const absl::Status status = Put(change);
    INFO(status);
    REQUIRE(status.ok());
    constexpr uint32_t kSectorsPerBlock = kBlockBytes / kSectorBytes;
    for (uint32_t block = from / kSectorsPerBlock; block * kSectorsPerBlock < from + count;
         ++block) {
      const bool whole =
          block * kSectorsPerBlock >= from && (block + 1) * kSectorsPerBlock <= from + count;
      const std::pair place(chunk, block);
      if (change.kind == ChangeKind::kWrite) {
        view.content[place] = ++writes_;
      } else if (whole) {
        view.content.erase(place);
      } else if (view.content.contains(place)) {
        view.content[place] = ++writes_;
      }
    }
  }

  void Snapshot(size_t index) {
    if (views_.size() > 40) return;
    View snapshot{.content = views_[index].content};
    snapshot.path = views_[index].volume.Snapshot();
    views_.push_back(std::move(snapshot));
  }

  void Clone() {
    if (views_.size() > 40) return;
    const size_t index = random_.Below(views_.size());
    if (views_[index].is_head) return;
    if (views_[index].path.parts().size() >= LayerPath::kPartsMax) return;
    View clone{.content = views_[index].content, .is_head = true};
    clone.volume = CloneOf(views_[index].path, ++branches_);
    clone.path = clone.volume.path;
    views_.push_back(std::move(clone));
  }

  void Delete() {
    if (views_.size() < 4) return;
    const size_t index = random_.Below(views_.size());
    size_t heads = 0;
    for (const View& view : views_) heads += view.is_head ? 1 : 0;
    if (views_[index].is_head && heads == 1) return;
    views_.erase(views_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  bool DropUnseenOf(uint64_t chunk) {
    const auto layers = store->ListLayers(1, chunk);
    REQUIRE(layers.ok());
    std::set<uint64_t> seen;
    for (const View& view : views_) {
      std::optional<uint64_t> newest;
      for (const ChunkInfo& info : *layers) {
        if (view.path.Sees(info.key.layer)) newest = info.key.layer;
      }
      if (newest) seen.insert(*newest);
    }
    std::vector<ChunkKey> keys;
    for (size_t i = layers->size(); i-- > 0;) {
      if (!seen.contains((*layers)[i].key.layer)) keys.push_back((*layers)[i].key);
    }
    if (keys.empty()) return false;
    std::vector<absl::Status> results(keys.size());
    store->DropLayers(keys, results);
    for (const absl::Status& result : results) {
      INFO(result);
      REQUIRE(result.ok());
    }
    const auto left = store->ListLayers(1, chunk);
    REQUIRE(left.ok());
    return left->size() < layers->size();
  }

  SeededRandom random_;
  std::vector<View> views_;
  uint64_t writes_ = 0;
  uint32_t branches_ = 0;
};

TEST_CASE("space is counted to the block, whatever was done and wherever it lies") {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    INFO("seed " << seed);
    History history(seed);
    for (int step = 0; step < 400; ++step) {
      INFO("step " << step);
      history.Step();
      if (step % 7 == 0) history.Check(/*is_settled=*/false);
    }
    REQUIRE(history.views() > 5);
    // What goes is decided from rows: nothing may lie over them.
    history.Checkpoint();
    history.DropUnseen();
    history.Check(/*is_settled=*/true);
    history.Checkpoint();
    history.Check(/*is_settled=*/true);
  }
}

TEST_CASE_METHOD(LayersFixture, "a vtree's chunks come in order, page by page, and no other's") {
  for (const uint64_t chunk : {uint64_t{9}, uint64_t{2}, uint64_t{5}}) Write(chunk, 0, 8192, 'a');
  const std::vector<std::byte> bytes(4096, std::byte{1});
  const std::span<const std::byte> slice(bytes);
  tessera::chunk::Change other = MakeChange(ChangeKind::kWrite, 3, 0, 4096);
  other.key.vtree_id = 2;
  other.data = std::span(&slice, 1);
  REQUIRE(Put(other).ok());
  InEveryState(*this, [&] {
    std::vector<uint64_t> chunks;
    std::optional<uint64_t> after;
    for (;;) {
      const auto page = store->ListVtreeLayers(1, after, 1);
      REQUIRE(page.ok());
      if (page->empty()) break;
      REQUIRE(page->size() == 1);
      REQUIRE(page->front().layers.size() == 1);
      REQUIRE(page->front().layers[0].mapped_blocks == 2);
      REQUIRE(page->front().layers[0].own_blocks == 2);
      after = page->front().chunk_index;
      chunks.push_back(*after);
    }
    REQUIRE(chunks == std::vector<uint64_t>{2, 5, 9});
    REQUIRE(store->ListVtreeLayers(7, std::nullopt, 10)->empty());
  });
}

TEST_CASE_METHOD(LayersFixture, "what is being repaired or deleted is counted as it is then") {
  Volume volume;
  WriteTo(volume, 0, 16 * 4096, 'a');
  (void)volume.Snapshot();
  WriteTo(volume, 0, 4096, 'b');
  Checkpoint();
  REQUIRE(store->ListVtreeLayers(1, std::nullopt, 10)->front().layers.size() == 2);
  REQUIRE(store->DeleteChunk(Layer(1)).ok());
  const auto left = store->ListVtreeLayers(1, std::nullopt, 10);
  REQUIRE(left.ok());
  REQUIRE(left->size() == 1);
  REQUIRE(left->front().layers.size() == 1);
  REQUIRE(left->front().layers[0].own_blocks == 16);
  REQUIRE(store->DeleteVtree(1, 0).ok());
  REQUIRE(store->ListVtreeLayers(1, std::nullopt, 10)->empty());
}

}  // namespace
}  // namespace tessera::chunk
