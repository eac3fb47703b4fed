// The language of the tests of layers: a volume with its path and floor, its snapshots and clones,
// all of chunk 1. For Catch2 test cases only.
#ifndef TESSERA_LIBCHUNK_STORE_LAYERS_FIXTURE_H_
#define TESSERA_LIBCHUNK_STORE_LAYERS_FIXTURE_H_

#include <string>
#include <vector>

#include "libchunk/store_test_fixture.h"

namespace tessera::chunk {

// What writes a branch: a volume.
struct Volume {
  LayerPath path;
  uint32_t floor = 0;

  // What it has now, to be read; what it writes from now on is not in it.
  LayerPath Snapshot() {
    std::vector<LayerPath::Part> parts(path.parts().begin(), path.parts().end());
    parts[0].ordinal_max = floor++;
    return *LayerPath::Make(parts);
  }
};

inline Volume CloneOf(const LayerPath& snapshot, uint32_t branch) {
  std::vector<LayerPath::Part> parts = {{branch, LayerPath::kHead}};
  parts.insert(parts.end(), snapshot.parts().begin(), snapshot.parts().end());
  return {.path = *LayerPath::Make(parts)};
}

class LayersFixture : public Fixture {
 public:
  LayersFixture() { Open(); }

  static ChunkKey Layer(uint64_t layer) { return {1, 1, layer}; }

  Change ChangeOf(const Volume& volume, ChangeKind kind, uint32_t offset, uint32_t length) {
    Change change = MakeChange(kind, 1, offset, length);
    change.path = &volume.path;
    change.key.layer = MakeLayer(volume.path.branch(), volume.floor);
    return change;
  }
  absl::Status TryWriteTo(const Volume& volume, uint32_t offset, uint32_t length, char letter,
                          bool incomplete = false) {
    const std::vector<std::byte> bytes(length, static_cast<std::byte>(letter));
    const std::span<const std::byte> slice(bytes);
    Change change = ChangeOf(volume, ChangeKind::kWrite, offset, length);
    change.data = std::span(&slice, 1);
    change.incomplete = incomplete;
    return Put(change);
  }
  void WriteTo(const Volume& volume, uint32_t offset, uint32_t length, char letter) {
    const absl::Status status = TryWriteTo(volume, offset, length, letter);
    INFO(status);
    REQUIRE(status.ok());
  }
  void TrimOf(const Volume& volume, uint32_t offset, uint32_t length) {
    const absl::Status status = Put(ChangeOf(volume, ChangeKind::kTrim, offset, length));
    INFO(status);
    REQUIRE(status.ok());
  }
  std::string ReadOf(const LayerPath& path, uint32_t offset, uint32_t length) {
    std::vector<std::byte> bytes(length, std::byte{'?'});
    const absl::Status status = store->Read(Key(1), &path, offset, bytes);
    if (!status.ok()) return std::string(absl::StatusCodeToString(status.code()));
    return Runs(bytes);
  }
  std::string ReadOf(const Volume& volume, uint32_t offset, uint32_t length) {
    return ReadOf(volume.path, offset, length);
  }
  // Each layer of chunk 1 with its base and own blocks: "0:3 5<0:1".
  std::string Layers() {
    const auto infos = store->ListLayers(1, 1);
    REQUIRE(infos.ok());
    std::string text;
    for (const ChunkInfo& info : *infos) {
      text += (text.empty() ? "" : " ") + std::to_string(info.key.layer);
      if (info.base) text += "<" + std::to_string(*info.base);
      text += ":" + std::to_string(info.own_bytes / kBlockBytes);
      if (info.pruned) text += "p";
    }
    return text;
  }
  void Drop(uint64_t layer) {
    const absl::Status status = store->DropLayer(Layer(layer));
    INFO(status);
    REQUIRE(status.ok());
  }
  uint64_t Exclusive(uint64_t layer) {
    const auto bytes = store->ExclusiveBytes(Layer(layer));
    REQUIRE(bytes.ok());
    return *bytes / kBlockBytes;
  }
  uint64_t Blocks() { return store->stats().data_bytes / kBlockBytes; }
  // Rows, bitmaps and blocks fit together, and the data file has no block too many.
  void CheckClosed() {
    const uint64_t blocks = Blocks();
    Close();
    std::vector<std::string> problems;
    const absl::Status status =
        InspectStore(&disk, "/d/store", InspectDepth::kVerify, [&](const std::string& line) {
          if (line.starts_with("problem")) problems.push_back(line);
        });
    REQUIRE(status.ok());
    REQUIRE(problems == std::vector<std::string>());
    auto file = disk.OpenFile("/d/store/data", OpenMode::kMustExist);
    REQUIRE(file.ok());
    REQUIRE(*(*file)->AllocatedBytes() == blocks * kBlockBytes);
    Open();
    REQUIRE(Blocks() == blocks);
  }
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_STORE_LAYERS_FIXTURE_H_
