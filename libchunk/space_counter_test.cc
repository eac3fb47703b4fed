#include "libchunk/space_counter.h"

#include <bit>
#include <catch2/catch.hpp>
#include <initializer_list>
#include <optional>

namespace tessera::chunk {
namespace {

constexpr uint32_t kHead = LayerPath::kHead;

// Bits of one word each: what the layer maps, and what of that it inherits.
LayerBlocks Layer(uint64_t layer, std::optional<uint64_t> base, uint64_t mapped,
                  uint64_t inherited) {
  return {.layer = layer,
          .base = base,
          .mapped_blocks = static_cast<uint32_t>(std::popcount(mapped)),
          .own_blocks = static_cast<uint32_t>(std::popcount(mapped & ~inherited)),
          .mapped = {mapped},
          .inherited = {inherited}};
}

VtreeSpace Count(std::initializer_list<LayerPath> paths, std::vector<LayerBlocks> layers) {
  SpaceCounter counter(std::span(paths.begin(), paths.size()));
  counter.Add({.layers = std::move(layers)});
  return counter.Result();
}

TEST_CASE("a chunk of one layer is its viewer's alone, or shared by all") {
  LayerBlocks layer{.layer = 0, .mapped_blocks = 5, .own_blocks = 5};
  const VtreeSpace alone = Count({LayerPath()}, {layer});
  CHECK(alone.data_blocks == 5);
  CHECK(alone.views[0].logical_blocks == 5);
  CHECK(alone.views[0].unique_blocks == 5);
  CHECK(alone.snapshot_only_blocks == 0);

  const LayerPath snapshot = *LayerPath::Make({{0, 0}});
  const VtreeSpace shared = Count({LayerPath(), snapshot}, {layer});
  CHECK(shared.data_blocks == 5);
  CHECK(shared.views[1].logical_blocks == 5);
  CHECK(shared.views[0].unique_blocks == 0);
  CHECK(shared.views[1].unique_blocks == 0);
  CHECK(shared.snapshot_only_blocks == 0);

  const VtreeSpace kept = Count({snapshot}, {layer});
  CHECK(kept.snapshot_only_blocks == 5);
  const VtreeSpace unseen = Count({*LayerPath::Make({{3, kHead}})}, {layer});
  CHECK(unseen.unseen_blocks == 5);
  CHECK(unseen.views[0].logical_blocks == 0);
}

TEST_CASE("a block is its owner's, however many layers it was passed on through") {
  // Layer 0 has blocks 0 to 3; layer 1 wrote 0 anew; layer 2 wrote 0 and 1 anew and discarded 3.
  const std::vector<LayerBlocks> layers = {
      Layer(0, std::nullopt, 0b1111, 0), Layer(1, 0, 0b1111, 0b1110), Layer(2, 1, 0b0111, 0b0100)};
  const LayerPath oldest = *LayerPath::Make({{0, 0}});
  const LayerPath middle = *LayerPath::Make({{0, 1}});
  const VtreeSpace space = Count({LayerPath(), oldest, middle}, layers);
  CHECK(space.data_blocks == 7);
  CHECK(space.unseen_blocks == 0);
  CHECK(space.views[0].logical_blocks == 3);
  CHECK(space.views[0].unique_blocks == 2);
  CHECK(space.views[1].logical_blocks == 4);
  CHECK(space.views[1].unique_blocks == 1);
  CHECK(space.views[2].logical_blocks == 4);
  CHECK(space.views[2].unique_blocks == 1);
  // The old blocks 0, 1 and 3 and the middle one's 0.
  CHECK(space.snapshot_only_blocks == 4);

  const VtreeSpace without_middle = Count({LayerPath(), oldest}, layers);
  CHECK(without_middle.unseen_blocks == 1);
  CHECK(without_middle.views[1].unique_blocks == 3);
}

TEST_CASE("two snapshots of the same layer have nothing alone, and a clone shares with both") {
  const std::vector<LayerBlocks> layers = {Layer(0, std::nullopt, 0b11, 0),
                                           Layer(MakeLayer(1, 0), 0, 0b11, 0b01)};
  const LayerPath first = *LayerPath::Make({{0, 4}});
  const LayerPath second = *LayerPath::Make({{0, 9}});
  const LayerPath clone = *LayerPath::Make({{1, kHead}, {0, 4}});
  const VtreeSpace space = Count({first, second, clone}, layers);
  CHECK(space.data_blocks == 3);
  CHECK(space.views[0].unique_blocks == 0);
  CHECK(space.views[1].unique_blocks == 0);
  CHECK(space.views[2].unique_blocks == 1);
  CHECK(space.views[2].logical_blocks == 2);
  CHECK(space.snapshot_only_blocks == 1);
}

TEST_CASE("sets of layers beyond what is remembered are counted all the same") {
  SpaceCounter counter(std::vector<LayerPath>{LayerPath()});
  for (uint32_t ordinal = 0; ordinal < 3'000; ++ordinal) {
    counter.Add(
        {.chunk_index = ordinal,
         .layers = {{.layer = MakeLayer(0, ordinal), .mapped_blocks = 2, .own_blocks = 2}}});
  }
  CHECK(counter.Result().views[0].logical_blocks == 6'000);
  CHECK(counter.Result().views[0].unique_blocks == 6'000);
  CHECK(counter.Result().data_blocks == 6'000);
}

}  // namespace
}  // namespace tessera::chunk
