// What differs between two paths: all that does is listed, and nothing that was not written.
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "libchunk/store_layers_fixture.h"

namespace tessera::chunk {
namespace {

constexpr uint32_t kB = kBlockBytes;

class ChangesFixture : public LayersFixture {
 public:
  // "=2 +1 -3": blocks that are equal, that differ, and that differ and are zeros.
  std::string Between(const LayerPath* base, const LayerPath& path, uint32_t blocks = 8) {
    const auto extents = store->Changes(Key(1), base, path, 0, blocks * kB);
    INFO(extents.status());
    REQUIRE(extents.ok());
    std::string text;
    std::string last;
    uint32_t count = 0;
    const auto put = [&] {
      if (count > 0) text += (text.empty() ? "" : " ") + last + std::to_string(count);
      count = 0;
    };
    for (const ChangedExtent& extent : *extents) {
      REQUIRE(extent.length_bytes % kB == 0);
      const std::string kind = !extent.changed ? "=" : extent.mapped ? "+" : "-";
      if (kind != last) put();
      last = kind;
      count += extent.length_bytes / kB;
    }
    put();
    return text;
  }
  std::string Between(const LayerPath& base, const LayerPath& path, uint32_t blocks = 8) {
    return Between(&base, path, blocks);
  }
};

TEST_CASE("what was written, zeroed or trimmed since a snapshot is listed, and nothing else") {
  ChangesFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 6 * kB, 'a');
  if (GENERATE(true, false)) f.Checkpoint();
  const LayerPath first = volume.Snapshot();
  f.WriteTo(volume, kB, kB, 'b');
  f.WriteTo(volume, 2 * kB + 512, 512, 'c');  // cuts a block
  f.TrimOf(volume, 4 * kB, kB);
  f.TrimOf(volume, 7 * kB, kB);  // was nothing before
  const LayerPath second = volume.Snapshot();
  f.WriteTo(volume, 4 * kB, kB, 'd');
  InEveryState(f, [&] {
    REQUIRE(f.Between(first, second) == "=1 +2 =1 -1 =3");
    REQUIRE(f.Between(second, volume.path) == "=4 +1 =3");
    REQUIRE(f.Between(first, volume.path) == "=1 +2 =1 +1 =3");
    // The other way round.
    REQUIRE(f.Between(volume.path, second) == "=4 -1 =3");
    REQUIRE(f.Between(second, first) == "=1 +2 =1 +1 =3");
    REQUIRE(f.Between(nullptr, second) == "+4 =1 +1 =2");
    REQUIRE(f.Between(second, second) == "=8");
    f.Checkpoint();
    REQUIRE(f.Between(first, second) == "=1 +2 =1 -1 =3");
  });
}

TEST_CASE("a chunk that was not written since is equal, whatever layers others made of it") {
  ChangesFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 3 * kB, 'a');
  const LayerPath first = volume.Snapshot();
  Volume clone = CloneOf(first, 1);
  f.WriteTo(clone, 0, kB, 'b');
  const LayerPath second = volume.Snapshot();
  InEveryState(f, [&] {
    REQUIRE(f.Between(first, second) == "=8");
    REQUIRE(f.Between(first, volume.path) == "=8");
    REQUIRE(f.Between(second, clone.path) == "+1 =7");
    REQUIRE(f.Between(clone.path, volume.path) == "+1 =7");
  });
}

TEST_CASE("a base that has nothing of the chunk differs in all that is mapped") {
  ChangesFixture f;
  Volume volume;
  const LayerPath empty = volume.Snapshot();
  f.WriteTo(volume, 2 * kB, 3 * kB, 'a');
  f.TrimOf(volume, 3 * kB, kB);
  InEveryState(f, [&] {
    REQUIRE(f.Between(empty, volume.path) == "=2 +1 =1 +1 =3");
    REQUIRE(f.Between(volume.path, empty) == "=2 -1 =1 -1 =3");
  });
}

TEST_CASE("many generations, and layers between that are dropped") {
  ChangesFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 8 * kB, '0');
  std::vector<LayerPath> snapshots;
  for (uint32_t i = 0; i < 20; ++i) {
    snapshots.push_back(volume.Snapshot());
    f.WriteTo(volume, i % 8 * kB, kB, static_cast<char>('A' + i));
    if (i % 3 == 0) f.Checkpoint();
  }
  snapshots.push_back(volume.Snapshot());
  const auto check = [&](uint32_t i) {
    INFO("generation " << i);
    const uint32_t block = i % 8;
    const std::string expected = (block > 0 ? "=" + std::to_string(block) + " " : "") + "+1" +
                                 (block < 7 ? " =" + std::to_string(7 - block) : "");
    REQUIRE(f.Between(snapshots[i], snapshots[i + 1]) == expected);
  };
  for (uint32_t i = 0; i < 20; ++i) check(i);
  REQUIRE(f.Between(snapshots[0], snapshots[20]) == "+8");
  REQUIRE(f.Between(snapshots[0], snapshots[3]) == "+3 =5");
  f.Checkpoint();
  for (uint64_t layer = 1; layer < 10; ++layer) f.Drop(layer);
  REQUIRE(f.Between(snapshots[0], snapshots[10]) == "+8");
  REQUIRE(f.Between(snapshots[10], snapshots[13]) == "=2 +3 =3");
  for (uint32_t i = 10; i < 20; ++i) check(i);
  f.CheckClosed();
  for (uint32_t i = 10; i < 20; ++i) check(i);
}

TEST_CASE("what a pruned layer has lost counts as changed") {
  ChangesFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 3 * kB, 'a');
  const LayerPath snapshot = volume.Snapshot();
  Volume one = CloneOf(snapshot, 1), two = CloneOf(snapshot, 2);
  f.WriteTo(one, 2 * kB, kB, 'b');
  f.WriteTo(two, 2 * kB, kB, 'c');
  f.Checkpoint();
  f.Drop(0);
  REQUIRE(f.Layers() == "0:2p 4294967296<0:1 8589934592<0:1");
  REQUIRE(f.Between(snapshot, one.path, 3) == "=2 +1");
  REQUIRE(f.Between(one.path, snapshot, 3) == "=2 -1");
  // It does not know what else it had: block 3 of neither is no sign of it.
  REQUIRE(f.Between(snapshot, two.path, 4) == "=2 +1 -1");
}

TEST_CASE("a range is of whole sectors inside the chunk, and may be a part of it") {
  ChangesFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 2 * kB, 'a');
  const LayerPath first = volume.Snapshot();
  f.WriteTo(volume, kB, kB, 'b');
  const auto part = f.store->Changes(f.Key(1), &first, volume.path, kB - 512, 1024);
  REQUIRE(part.ok());
  REQUIRE(part->size() == 2);
  REQUIRE(((*part)[0].offset_bytes == kB - 512 && (*part)[0].length_bytes == 512));
  REQUIRE((!(*part)[0].changed && (*part)[1].changed && (*part)[1].length_bytes == 512));
  REQUIRE(f.store->Changes(f.Key(1), &first, volume.path, 0, 0)->empty());
  const uint32_t chunk = f.store->chunk_bytes();
  REQUIRE(absl::IsInvalidArgument(
      f.store->Changes(f.Key(1), &first, volume.path, chunk - kB, 2 * kB).status()));
  REQUIRE(absl::IsInvalidArgument(f.store->Changes(f.Key(1), &first, volume.path, 1, kB).status()));
}

}  // namespace
}  // namespace tessera::chunk
