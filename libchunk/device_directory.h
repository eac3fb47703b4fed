// The directory of a block device that holds a store: where its regions are and which files it has
// (FORMAT.md, "On a block device"). Bytes and their checks only; device_env.h uses them.
//
// Threads: pure functions and values.
#ifndef TESSERA_LIBCHUNK_DEVICE_DIRECTORY_H_
#define TESSERA_LIBCHUNK_DEVICE_DIRECTORY_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::chunk {

// The first bytes of the device: two copies of the directory, the rest zeros.
inline constexpr uint64_t kDeviceHeadBytes = 1u << 20;
inline constexpr std::array<uint64_t, 2> kDirectoryOffsets = {0, 512u << 10};
inline constexpr size_t kDirectoryBytesMax = 64u << 10;
inline constexpr size_t kDeviceFilesMax = 16;
inline constexpr size_t kDeviceNameBytesMax = 24;

// Files that have a region of their own, instead of units.
inline constexpr std::string_view kJournalName = "journal";
inline constexpr std::string_view kDataName = "data";

struct DeviceRegion {
  uint64_t offset = 0;
  uint64_t size_bytes = 0;
};

struct DeviceLayout {
  uint64_t device_bytes = 0;  // when it was formatted
  DeviceRegion journal;
  DeviceRegion metadata;    // in units, which files get as they grow
  uint64_t unit_bytes = 0;  // a power of two that divides the region
  DeviceRegion data;
};

struct UnitRun {
  uint32_t first = 0;
  uint32_t count = 0;
};

struct DeviceFileEntry {
  std::string name;
  uint64_t size_bytes = 0;
  std::vector<UnitRun> runs;  // of a file with a region: none
};

using DeviceId = std::array<std::byte, 16>;

struct DeviceDirectory {
  uint64_t sequence = 0;
  DeviceId id = {};
  DeviceLayout layout;
  std::vector<DeviceFileEntry> files;
};

// The layout of a device of this size; FAILED_PRECONDITION, with the least size, when it is too
// small to leave data_bytes_min for data.
[[nodiscard]] absl::StatusOr<DeviceLayout> PlanDevice(uint64_t device_bytes, uint64_t journal_bytes,
                                                      uint64_t data_bytes_min);

// At most kDirectoryBytesMax bytes; without files they fit into one sector.
[[nodiscard]] std::vector<std::byte> EncodeDirectory(const DeviceDirectory& directory);
// DATA_LOSS when the copy is not whole or contradicts itself; FAILED_PRECONDITION when its format
// version is unknown.
[[nodiscard]] absl::StatusOr<DeviceDirectory> DecodeDirectory(std::span<const std::byte> copy);

// The newest directory in a device's first kDeviceHeadBytes. Errors:
//  - NOT_FOUND: all of them are zero;
//  - FAILED_PRECONDITION: they hold something else, or a format version that is unknown;
//  - DATA_LOSS: a directory that is damaged or was written over.
[[nodiscard]] absl::StatusOr<DeviceDirectory> NewestDirectory(std::span<const std::byte> head);

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_DEVICE_DIRECTORY_H_
