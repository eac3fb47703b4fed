// One file of a block device, from the inside: for device_env.cc and device_file.cc alone.
#ifndef TESSERA_LIBCHUNK_DEVICE_NODE_H_
#define TESSERA_LIBCHUNK_DEVICE_NODE_H_

#include <algorithm>
#include <atomic>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/check.h"
#include "libchunk/device_env.h"

namespace tessera::chunk {

// A range of the device.
struct DevicePiece {
  uint64_t offset = 0;
  uint64_t size_bytes = 0;
};
using DevicePieces = absl::InlinedVector<DevicePiece, 4>;

// Makes the range read as zeros, by writing them or by a hole.
[[nodiscard]] absl::Status ZeroPiece(File* device, const DevicePiece& piece);

struct DeviceEnv::Node {
  explicit Node(const DeviceRegion* the_region) : region(the_region) {}

  uint64_t RoomBytes(uint64_t unit_bytes) const {
    if (region != nullptr) return region->size_bytes;
    uint64_t units = 0;
    for (const UnitRun& run : runs) units += run.count;
    return units * unit_bytes;
  }

  DevicePieces PiecesOf(const DeviceLayout& layout, uint64_t offset, uint64_t size_bytes) const {
    if (region != nullptr) return {{region->offset + offset, size_bytes}};
    DevicePieces pieces;
    for (const UnitRun& run : runs) {
      const uint64_t run_bytes = run.count * layout.unit_bytes;
      if (size_bytes == 0) break;
      if (offset >= run_bytes) {
        offset -= run_bytes;
        continue;
      }
      const uint64_t length = std::min(run_bytes - offset, size_bytes);
      pieces.push_back({layout.metadata.offset + run.first * layout.unit_bytes + offset, length});
      size_bytes -= length;
      offset = 0;
    }
    CHUNK_CHECK(size_bytes == 0);
    return pieces;
  }

  const DeviceRegion* const region;  // null: it has units
  // Held shared while bytes of the file are read or written in place, and alone to change its size
  // or its units: a unit that is given away must have nobody under way to it. Over disk work.
  absl::Mutex shape;
  // Changed under `shape` and the env's mutex_, so they may be read under either.
  std::atomic<uint64_t> size_bytes = 0;
  std::vector<UnitRun> runs;

  std::atomic<bool> dirty = false;   // written since the last sync began
  std::atomic<bool> failed = false;  // something of it was not synced when a sync failed
  // Under the env's mutex_:
  uint64_t durable_size_bytes = 0;
  uint64_t changed_version = 0;  // in which its size or units changed last
  bool linked = true;
  int handles = 0;
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_DEVICE_NODE_H_
