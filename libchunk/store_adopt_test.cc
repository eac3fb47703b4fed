// Adopting: a volume gets layers of its own of what it sees only by inheritance, and nothing that
// anybody sees changes.
#include <catch2/catch.hpp>
#include <string>

#include "libchunk/store_layers_fixture.h"

namespace tessera::chunk {
namespace {

constexpr uint32_t kB = kBlockBytes;

struct AdoptFixture : LayersFixture {
  absl::Status TryAdopt(const Volume& volume, bool incomplete = false) {
    Change change = ChangeOf(volume, ChangeKind::kAdopt, 0, store->chunk_bytes());
    change.incomplete = incomplete;
    version = change.version;
    return Put(change);
  }
  void Adopt(const Volume& volume, bool incomplete = false) {
    const absl::Status status = TryAdopt(volume, incomplete);
    INFO(status);
    REQUIRE(status.ok());
  }
  Version VersionOf(uint64_t layer) {
    const auto info = store->GetChunk(Layer(layer));
    REQUIRE(info.ok());
    REQUIRE(info->has_value());
    return (*info)->version;
  }
  Version CursorNow() { return store->Cursor(MakeChange(ChangeKind::kTrim, 1, 0, kB).stream); }

  Version version;  // of the last adoption
};

LayerPath OwnBranchOf(const Volume& volume) {
  return *LayerPath::Make({{volume.path.branch(), LayerPath::kHead}});
}

TEST_CASE("an adopted layer inherits everything, and its branch alone sees it") {
  AdoptFixture f;
  Volume origin;
  f.WriteTo(origin, 0, 4 * kB, 'a');
  const bool base_in_row = GENERATE(true, false);
  if (base_in_row) f.Checkpoint();
  const LayerPath snapshot = origin.Snapshot();
  const Volume clone = CloneOf(snapshot, 1);
  f.Adopt(clone);
  const LayerPath own = OwnBranchOf(clone);
  const uint64_t layer = MakeLayer(1, 0);
  const std::string layers = "0:4 " + std::to_string(layer) + "<0:0";
  InEveryState(f, [&] {
    REQUIRE(f.Layers() == layers);
    REQUIRE(f.Blocks() == 4);
    REQUIRE(f.ReadOf(own, 0, 5 * kB) == "a16384 .4096");
    REQUIRE(f.ReadOf(clone, 0, 5 * kB) == "a16384 .4096");
    REQUIRE(f.VersionOf(layer) == f.version);
    REQUIRE(f.CursorNow() == f.version);
    f.CheckClosed();
    REQUIRE(f.ReadOf(own, 0, 5 * kB) == "a16384 .4096");
  });
  // What it was made from can go: all of it is the layer's then.
  f.Drop(0);
  REQUIRE(f.Layers() == std::to_string(layer) + ":4");
  REQUIRE(f.ReadOf(own, 0, 5 * kB) == "a16384 .4096");
  f.CheckClosed();
}

TEST_CASE("through 16 branches it is made from the newest that is seen") {
  AdoptFixture f;
  Volume volume;
  f.WriteTo(volume, 0, 8 * kB, 'a');
  for (uint32_t branch = 1; branch < 16; ++branch) {
    volume = CloneOf(volume.Snapshot(), branch);
    if (branch % 5 == 0) f.WriteTo(volume, branch % 8 * kB, kB, static_cast<char>('a' + branch));
  }
  // Branch 15 has written its layer; another one beside it has not.
  std::vector<LayerPath::Part> parts = {{16, LayerPath::kHead}};
  for (const LayerPath::Part& part : volume.path.parts().first(15)) parts.push_back(part);
  parts[1].ordinal_max = volume.floor++;
  const Volume clone{.path = *LayerPath::Make(parts)};
  const std::string seen = f.ReadOf(clone, 0, 8 * kB);
  f.Adopt(clone);
  REQUIRE(f.ReadOf(OwnBranchOf(clone), 0, 8 * kB) == seen);
  REQUIRE(f.Layers().find(std::to_string(MakeLayer(16, 0)) + "<" +
                          std::to_string(MakeLayer(15, 0)) + ":0") != std::string::npos);
  f.CheckClosed();
  REQUIRE(f.ReadOf(OwnBranchOf(clone), 0, 8 * kB) == seen);
}

TEST_CASE("where there is nothing, or a layer of the branch below, only the cursor moves") {
  AdoptFixture f;
  Volume origin;
  SECTION("nothing at all") {
    const Volume clone = CloneOf(origin.Snapshot(), 1);
    f.Adopt(clone);
    InEveryState(f, [&] {
      REQUIRE(f.Layers().empty());
      REQUIRE(f.CursorNow() == f.version);
      REQUIRE(f.store->stats().chunks == 0);
    });
    // The cursor goes with the vtree.
    REQUIRE(f.store->DeleteVtree(1, 0).ok());
    REQUIRE(f.CursorNow() == Version{});
  }
  SECTION("a layer of the branch that a snapshot has") {
    f.WriteTo(origin, 0, 2 * kB, 'a');
    Volume clone = CloneOf(origin.Snapshot(), 1);
    f.WriteTo(clone, 0, kB, 'b');
    const Version before = f.VersionOf(MakeLayer(1, 0));
    const std::string layers = f.Layers();
    clone.Snapshot();
    f.Adopt(clone);
    InEveryState(f, [&] {
      REQUIRE(f.Layers() == layers);
      REQUIRE(f.VersionOf(MakeLayer(1, 0)) == before);
      REQUIRE(f.CursorNow() == f.version);
      REQUIRE(f.ReadOf(OwnBranchOf(clone), 0, 2 * kB) == "b4096 a4096");
    });
  }
  SECTION("the head of branch 0") {
    f.WriteTo(origin, 0, kB, 'a');
    origin.Snapshot();
    f.Adopt(origin);
    REQUIRE(f.Layers() == "0:1");
    REQUIRE(f.CursorNow() == f.version);
  }
}

TEST_CASE("the layer that is written already gets the version, and keeps its content") {
  AdoptFixture f;
  Volume origin;
  f.WriteTo(origin, 0, 2 * kB, 'a');
  const Volume clone = CloneOf(origin.Snapshot(), 1);
  f.WriteTo(clone, 0, kB, 'b');
  const std::string layers = f.Layers();
  f.Adopt(clone);
  InEveryState(f, [&] {
    REQUIRE(f.Layers() == layers);
    REQUIRE(f.VersionOf(MakeLayer(1, 0)) == f.version);
    REQUIRE(f.ReadOf(clone, 0, 2 * kB) == "b4096 a4096");
  });
}

TEST_CASE("where the chunk is not whole, a layer is made from nothing, as by a write") {
  AdoptFixture f;
  Volume origin;
  f.WriteTo(origin, 0, 2 * kB, 'a');
  Volume clone = CloneOf(origin.Snapshot(), 1);
  f.WriteTo(clone, 0, kB, 'b');
  clone.Snapshot();
  f.Adopt(clone, /*incomplete=*/true);
  InEveryState(f, [&] {
    const auto made = f.store->GetChunk(f.Layer(MakeLayer(1, 1)));
    REQUIRE(made.ok());
    REQUIRE(made->has_value());
    CHECK((*made)->incomplete);
    CHECK_FALSE((*made)->base.has_value());
    CHECK((*made)->mapped_bytes == 0);
    CHECK((*made)->version == f.version);
  });
}

TEST_CASE("several in one record, with writes before and after them") {
  AdoptFixture f;
  Volume origin;
  f.WriteTo(origin, 0, 2 * kB, 'a');
  const Volume clone = CloneOf(origin.Snapshot(), 1);
  const std::vector<std::byte> bytes(kB, std::byte{'b'});
  const std::span<const std::byte> slice(bytes);
  std::vector<Change> changes;
  changes.push_back(f.ChangeOf(clone, ChangeKind::kAdopt, 0, f.store->chunk_bytes()));
  changes.push_back(f.ChangeOf(clone, ChangeKind::kWrite, kB, kB));
  changes.back().data = std::span(&slice, 1);
  changes.push_back(f.ChangeOf(clone, ChangeKind::kAdopt, 0, f.store->chunk_bytes()));
  std::vector<absl::Status> results(changes.size());
  f.store->Apply(changes, results);
  for (const absl::Status& result : results) REQUIRE(result.ok());
  InEveryState(f, [&] {
    REQUIRE(f.ReadOf(OwnBranchOf(clone), 0, 3 * kB) == "a4096 b4096 .4096");
    REQUIRE(f.CursorNow() == changes.back().version);
    REQUIRE(f.VersionOf(MakeLayer(1, 0)) == changes.back().version);
  });
  f.CheckClosed();
}

TEST_CASE("what can't be adopted is refused") {
  AdoptFixture f;
  Change change = f.MakeChange(ChangeKind::kAdopt, 1, 0, kB);
  REQUIRE(absl::IsInvalidArgument(f.Put(change)));
  const Volume clone = CloneOf(Volume().Snapshot(), 1);
  change = f.ChangeOf(clone, ChangeKind::kAdopt, 0, kB);
  change.keep_cursor = true;
  REQUIRE(absl::IsInvalidArgument(f.Put(change)));
  // Its own layer is a base by now, and the writer has not heard of that.
  Volume late = clone;
  f.WriteTo(late, 0, kB, 'a');
  Volume next = late;
  next.Snapshot();
  f.WriteTo(next, 0, kB, 'b');
  const LayerPath own = *LayerPath::Make({{1, 0}, {0, 0}});
  change = f.ChangeOf(late, ChangeKind::kAdopt, 0, kB);
  change.path = &own;
  REQUIRE(absl::IsPermissionDenied(f.Put(change)));
}

}  // namespace
}  // namespace tessera::chunk
