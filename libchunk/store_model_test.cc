// The judge is judged: it must find what is right, and must not find right what is wrong.
#include "libchunk/store_model.h"

#include <array>
#include <catch2/catch.hpp>
#include <vector>

namespace tessera::chunk {
namespace {

constexpr uint32_t kChunkBytes = 256u << 10;
constexpr ChunkKey kFirst = {1, 0, 0};
constexpr ChunkKey kSecond = {1, 1, 0};
constexpr StreamId kStream = {1, 1};

// A write of one block whose sectors carry `stamp`.
void Write(StoreModel& model, const ChunkKey& key, uint64_t sequence, uint64_t stamp) {
  Change change;
  change.key = key;
  change.stream = kStream;
  change.version = {1, sequence};
  change.length_bytes = kBlockBytes;
  const std::vector<uint64_t> stamps(kBlockBytes / kSectorBytes, stamp);
  model.Apply(change, stamps);
  model.AcknowledgeAll();
}

// The states of a model after each of three writes; [0] is the empty one.
std::vector<ModelState> WriteThree(StoreModel& model) {
  std::vector<ModelState> states = {model.state()};
  Write(model, kFirst, 1, 11);
  states.push_back(model.state());
  Write(model, kSecond, 2, 22);
  states.push_back(model.state());
  Write(model, kFirst, 3, 33);
  states.push_back(model.state());
  return states;
}

TEST_CASE("a sector gives its stamp back, and no other bytes give one") {
  std::array<std::byte, kSectorBytes> sector;
  for (const uint64_t stamp : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}, uint64_t{77} << 16}) {
    FillSector(stamp, sector);
    CHECK(StampOfSector(sector) == stamp);
    for (const size_t at : {size_t{0}, size_t{8}, size_t{255}, size_t{511}}) {
      sector[at] ^= std::byte{4};
      CHECK(StampOfSector(sector) != stamp);
      sector[at] ^= std::byte{4};
    }
  }
  std::array<std::byte, kSectorBytes> other;
  FillSector(5, sector);
  FillSector(6, other);
  std::copy_n(other.begin(), 256, sector.begin());  // torn
  CHECK_FALSE(StampOfSector(sector).has_value());
}

TEST_CASE("every prefix is accepted, down to the least") {
  for (size_t kept = 0; kept <= 3; ++kept) {
    for (size_t least = 0; least <= 3; ++least) {
      StoreModel model(kChunkBytes);
      const std::vector<ModelState> states = WriteThree(model);
      const auto prefix = model.AdoptPrefix(states[kept], least);
      CHECK(prefix.ok() == (kept >= least));
      if (!prefix.ok()) continue;
      CHECK(*prefix == kept);
      CHECK(model.steps() == kept);
      CHECK(model.acknowledged() == kept);
      CHECK(model.own_blocks() == std::min<size_t>(kept, 2));
    }
  }
}

TEST_CASE("a mix of two prefixes is refused") {
  StoreModel model(kChunkBytes);
  const std::vector<ModelState> states = WriteThree(model);
  ModelState mix = states[3];
  mix.chunks[kSecond] = nullptr;
  mix.chunks.erase(kSecond);  // the second write is missing, the third is there
  CHECK(absl::IsDataLoss(model.AdoptPrefix(mix, 0).status()));
}

TEST_CASE("each part of a chunk and of a cursor counts") {
  const auto refused = [](const auto& spoil) {
    StoreModel model(kChunkBytes);
    const std::vector<ModelState> states = WriteThree(model);
    ModelState found = states[3];
    auto chunk = std::make_shared<ModelChunk>(*found.chunks[kFirst]);
    spoil(found, *chunk);
    found.chunks[kFirst] = chunk;
    return !model.AdoptPrefix(found, 0).ok();
  };
  CHECK_FALSE(refused([](ModelState&, ModelChunk&) {}));
  CHECK(refused([](ModelState&, ModelChunk& chunk) { chunk.version.sequence = 9; }));
  CHECK(refused([](ModelState&, ModelChunk& chunk) { chunk.incomplete = true; }));
  CHECK(refused([](ModelState&, ModelChunk& chunk) { chunk.placement_group_id = 2; }));
  CHECK(refused([](ModelState&, ModelChunk& chunk) { chunk.stamps[7] = 11; }));
  CHECK(refused([](ModelState&, ModelChunk& chunk) { chunk.mapped[1] = true; }));
  CHECK(refused([](ModelState& state, ModelChunk&) { state.cursors[kStream].last = {1, 2}; }));
  CHECK(refused([](ModelState& state, ModelChunk&) { state.cursors.clear(); }));
  CHECK(refused([](ModelState& state, ModelChunk&) { state.cursors[{8, 8}] = {}; }));
}

TEST_CASE("a flush is the new beginning") {
  StoreModel model(kChunkBytes);
  const std::vector<ModelState> states = WriteThree(model);
  CHECK(model.TouchedSinceFlush(kFirst));
  model.Flushed();
  CHECK_FALSE(model.TouchedSinceFlush(kFirst));
  CHECK_FALSE(model.AdoptPrefix(states[2], 0).ok());
}

TEST_CASE("a vtree's deletion may be found half done, a write may not") {
  StoreModel model(kChunkBytes);
  const std::vector<ModelState> states = WriteThree(model);
  model.DeleteVtree(1, 0);
  CHECK(model.state().chunks.empty());
  CHECK(model.state().cursors.empty());
  ModelState half = states[3];
  half.chunks.erase(kSecond);
  const auto prefix = model.AdoptPrefix(half, 3);
  REQUIRE(prefix.ok());
  CHECK(*prefix == 4);
  CHECK(model.state().chunks.size() == 1);
  CHECK(model.state().cursors.size() == 1);
}

TEST_CASE(
    "the rules of changes: zeroes unmap whole blocks, incomplete is sticky, images keep blocks") {
  StoreModel model(kChunkBytes);
  Write(model, kFirst, 1, 11);
  Change change;
  change.key = kFirst;
  change.stream = kStream;
  change.version = {1, 2};
  change.kind = ChangeKind::kTrim;
  change.offset_bytes = kSectorBytes;
  change.length_bytes = kBlockBytes;  // cuts blocks 0 and 1
  change.incomplete = true;
  model.Apply(change, {});
  CHECK(model.Find(kFirst)->mapped[0]);
  CHECK_FALSE(model.Find(kFirst)->mapped[1]);
  CHECK(model.Find(kFirst)->stamps[0] == 11);
  CHECK(model.Find(kFirst)->stamps[1] == 0);
  change.incomplete = false;
  change.offset_bytes = 0;
  change.version = {1, 3};
  model.Apply(change, {});
  CHECK_FALSE(model.Find(kFirst)->mapped[0]);
  CHECK(model.Find(kFirst)->incomplete);

  ModelChunk image = *model.Find(kFirst);
  image.version = {1, 2};  // older than what is there
  image.mapped[0] = image.mapped[1] = true;
  image.stamps[0] = image.stamps[8] = 99;
  const std::vector<uint64_t> keep = {1};  // block 0
  model.ApplyImage(kFirst, image, keep);
  CHECK(model.Find(kFirst)->version == Version{1, 3});
  CHECK_FALSE(model.Find(kFirst)->incomplete);
  CHECK_FALSE(model.Find(kFirst)->mapped[0]);
  CHECK(model.Find(kFirst)->stamps[8] == 99);
}

// A write of one block by way of a path.
void WriteOn(StoreModel& model, const LayerPath& path, uint64_t floor, uint32_t block,
             uint64_t stamp, bool incomplete = false) {
  Change change;
  change.key = {1, 0, floor};
  change.path = &path;
  change.stream = kStream;
  change.version = {1, stamp};
  change.offset_bytes = block * kBlockBytes;
  change.length_bytes = kBlockBytes;
  change.incomplete = incomplete;
  const std::vector<uint64_t> stamps(kBlockBytes / kSectorBytes, stamp);
  REQUIRE_FALSE(model.MustRefuse(change));
  model.Apply(change, stamps);
  model.AcknowledgeAll();
}

TEST_CASE("a layer is made from the newest on the path below the floor, and shares with it") {
  StoreModel model(kChunkBytes);
  WriteOn(model, LayerPath(), 0, 0, 11);
  WriteOn(model, LayerPath(), 0, 1, 22);
  WriteOn(model, LayerPath(), 3, 1, 33);
  const ModelChunkPointer made = model.Find({1, 0, 3});
  REQUIRE(made != nullptr);
  CHECK(made->base == 0);
  CHECK(made->stamps[0] == 11);
  CHECK(made->stamps[8] == 33);
  CHECK(made->inherited[0]);
  CHECK_FALSE(made->inherited[1]);
  CHECK(model.own_blocks() == 3);
  CHECK(model.Newest(LayerPath(), 1, 0) == 3);
  CHECK(model.Newest(*LayerPath::Make({{0, 2}}), 1, 0) == 0);
  CHECK(model.IsBase({1, 0, 0}));
  CHECK_FALSE(model.IsBase({1, 0, 3}));
  Change change;
  change.key = {1, 0, 0};
  CHECK(model.MustRefuse(change));
  WriteOn(model, LayerPath(), 5, 0, 44, /*incomplete=*/true);
  CHECK_FALSE(model.Find({1, 0, 5})->base.has_value());
  CHECK(model.BlocksSeenBy(std::vector<ChunkKey>{{1, 0, 0}, {1, 0, 3}}) == 3);
  CHECK(model.BlocksSeenBy(std::vector<ChunkKey>{{1, 0, 3}}) == 2);
}

TEST_CASE("what is dropped is in no state that the model can go back to") {
  StoreModel model(kChunkBytes);
  WriteOn(model, LayerPath(), 0, 0, 11);
  WriteOn(model, LayerPath(), 1, 1, 22);
  WriteOn(model, LayerPath(), 2, 2, 33);
  REQUIRE(model.DropLayer({1, 0, 1}, nullptr).ok());
  CHECK(model.Find({1, 0, 1}) == nullptr);
  CHECK(model.Find({1, 0, 2})->base == 0);
  CHECK(model.Find({1, 0, 2})->inherited == [] {
    std::vector<bool> inherited(kChunkBytes / kBlockBytes);
    inherited[0] = true;
    return inherited;
  }());
  CHECK(model.own_blocks() == 3);
  WriteOn(model, LayerPath(), 2, 2, 44);
  model.GoBackTo(3);
  CHECK(model.Find({1, 0, 1}) == nullptr);
  CHECK(model.Find({1, 0, 2})->base == 0);
}

TEST_CASE("a layer that two share with may not go, and may not lose what they share") {
  StoreModel model(kChunkBytes);
  WriteOn(model, LayerPath(), 0, 0, 11);
  WriteOn(model, LayerPath(), 0, 1, 22);
  const LayerPath clone = *LayerPath::Make({{1, LayerPath::kHead}, {0, 0}});
  WriteOn(model, LayerPath(), 1, 0, 33);
  WriteOn(model, clone, MakeLayer(1, 0), 2, 44);
  const ModelChunkPointer before = model.Find({1, 0, 0});
  CHECK_FALSE(model.DropLayer({1, 0, 0}, nullptr).ok());
  auto pruned = std::make_shared<ModelChunk>(*before);
  CHECK_FALSE(model.DropLayer({1, 0, 0}, pruned).ok());  // does not say so
  pruned->pruned = true;
  auto wrong = std::make_shared<ModelChunk>(*pruned);
  wrong->mapped[1] = false;
  CHECK_FALSE(model.DropLayer({1, 0, 0}, wrong).ok());
  CHECK(model.DropLayer({1, 0, 0}, pruned).ok());
  CHECK(model.Find({1, 0, 0})->pruned);
}

}  // namespace
}  // namespace tessera::chunk
