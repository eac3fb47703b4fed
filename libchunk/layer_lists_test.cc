#include "libchunk/layer_lists.h"

#include <catch2/catch.hpp>
#include <string>

namespace tessera::chunk {
namespace {

ChunkId Chunk(uint64_t index) { return ChunkId(ChunkKey{1, index, 0}); }

TEST_CASE("a path has one to sixteen parts whose branches fall") {
  REQUIRE_FALSE(LayerPath::Make({}).has_value());
  REQUIRE_FALSE(LayerPath::Make({{1, 0}, {1, 0}}).has_value());
  REQUIRE_FALSE(LayerPath::Make({{1, 0}, {2, 0}}).has_value());
  std::vector<LayerPath::Part> parts;
  for (uint32_t branch = 17; branch > 1; --branch) parts.push_back({branch, 0});
  REQUIRE(LayerPath::Make(parts).has_value());
  parts.push_back({1, 0});
  REQUIRE_FALSE(LayerPath::Make(parts).has_value());
  const LayerPath path = *LayerPath::Make({{3, LayerPath::kHead}, {0, 4}});
  REQUIRE(path.branch() == 3);
  REQUIRE(path.Sees(MakeLayer(3, 77)));
  REQUIRE(path.Sees(4));
  REQUIRE_FALSE(path.Sees(5));
  REQUIRE_FALSE(path.Sees(MakeLayer(1, 0)));
  REQUIRE(LayerPath().Sees(0));
  REQUIRE(LayerPath() == *LayerPath::Make({{0, LayerPath::kHead}}));
}

TEST_CASE(
    "the newest layer on a path is that of its first branch that has one, up to its ordinal") {
  LayerList list;
  for (const uint64_t layer : {uint64_t{2}, uint64_t{5}, MakeLayer(1, 3), MakeLayer(4, 0)}) {
    PutLayer(&list, {.layer = layer});
  }
  REQUIRE(NewestOn(LayerPath(), list) == 5);
  REQUIRE(NewestOn(*LayerPath::Make({{0, 4}}), list) == 2);
  REQUIRE(NewestOn(*LayerPath::Make({{0, 1}}), list) == std::nullopt);
  REQUIRE(NewestOn(*LayerPath::Make({{1, 2}, {0, 4}}), list) == 2);
  REQUIRE(NewestOn(*LayerPath::Make({{1, 3}, {0, 4}}), list) == MakeLayer(1, 3));
  REQUIRE(NewestOn(*LayerPath::Make({{2, 9}, {1, 9}, {0, 9}}), list) == MakeLayer(1, 3));
  REQUIRE(NewestOn(*LayerPath::Make({{5, LayerPath::kHead}, {0, LayerPath::kHead}}), list) == 5);
  RemoveLayer(&list, 5);
  REQUIRE(NewestOn(LayerPath(), list) == 2);
}

TEST_CASE("lists are bounded, one that is not used goes first, and a pinned one stays") {
  LayerLists lists(600);
  LayerLists::Pin pin = lists.Put(Chunk(0), {{.layer = 1}});
  for (uint64_t i = 1; i < 3; ++i) lists.Put(Chunk(i), {{.layer = i}});
  REQUIRE(lists.Find(Chunk(1)) != nullptr);
  lists.Put(Chunk(3), {{.layer = 3}});
  REQUIRE(lists.Find(Chunk(0)) == pin.get());
  REQUIRE(lists.Find(Chunk(1)) != nullptr);
  REQUIRE(lists.Find(Chunk(2)) == nullptr);
  REQUIRE(lists.Find(Chunk(3)) != nullptr);
  // Kept up by whoever changes layers; where there is no list there is nothing to do.
  lists.Set({1, 0, 9}, 1);
  lists.Set({1, 2, 9}, 1);
  lists.Remove({1, 0, 1});
  REQUIRE(*pin == LayerList{{.layer = 9, .base = 1}});
  REQUIRE(lists.Find(Chunk(2)) == nullptr);
  // One that is there is newer than one that was read.
  REQUIRE(lists.Put(Chunk(0), {}) == pin);
  pin.reset();
  for (uint64_t i = 4; i < 9; ++i) lists.Put(Chunk(i), {});
  REQUIRE(lists.Find(Chunk(0)) == nullptr);
}

TEST_CASE("the greatest layer is known without the list, as long as changes tell which it is") {
  LayerLists lists(600);
  const LayerPath head;
  const auto newest = [&](uint64_t chunk, const LayerPath& path) {
    const LayerLists::Newest found = lists.FindNewest(Chunk(chunk), path);
    return found.is_known ? std::to_string(found.layer.value_or(kNoBase)) : "unknown";
  };
  REQUIRE(newest(0, head) == "unknown");
  lists.PutGreatest(Chunk(0), 5);
  REQUIRE(newest(0, head) == "5");
  REQUIRE(newest(0, *LayerPath::Make({{0, 4}})) == "unknown");
  REQUIRE(lists.Find(Chunk(0)) == nullptr);
  lists.Set({1, 0, 3}, kNoBase);
  REQUIRE(newest(0, head) == "5");
  lists.Set({1, 0, 7}, 5);
  REQUIRE(newest(0, head) == "7");
  lists.Remove({1, 0, 3});
  REQUIRE(newest(0, head) == "7");
  lists.Remove({1, 0, 7});
  REQUIRE(newest(0, head) == "unknown");
  // None, and then one.
  lists.PutGreatest(Chunk(1), std::nullopt);
  REQUIRE(newest(1, head) == std::to_string(kNoBase));
  lists.Set({1, 1, 0}, kNoBase);
  REQUIRE(newest(1, head) == "0");
  // The list is no older than what is known, and tells more.
  lists.PutGreatest(Chunk(2), 5);
  lists.Put(Chunk(2), {{.layer = 4}, {.layer = 5}});
  REQUIRE(newest(2, *LayerPath::Make({{0, 4}})) == "4");
  lists.PutGreatest(Chunk(2), 9);
  REQUIRE(newest(2, head) == "5");
  lists.Remove({1, 2, 5});
  REQUIRE(newest(2, head) == "4");
  lists.Set({1, 2, 6}, 4);
  REQUIRE(newest(2, head) == "6");
  for (uint64_t i = 10; i < 20; ++i) lists.PutGreatest(Chunk(i), 1);
  REQUIRE(newest(2, head) == "unknown");
}

}  // namespace
}  // namespace tessera::chunk
