#include "libchunk/device_directory.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "libchunk/check.h"
#include "libchunk/checksum.h"
#include "libchunk/coding.h"
#include "libchunk/status_macros.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kMagic = 0x4349564544525354;  // "TSRDEVIC"
constexpr uint32_t kFormatVersion = 1;
constexpr size_t kChecksumOffset = 8;
constexpr size_t kCheckedOffset = 12;
constexpr size_t kLengthOffset = 16;
constexpr size_t kHeaderBytes = 120;
static_assert(kHeaderBytes <= kSectorBytes, "a device is formatted with one sector");

constexpr uint64_t kMiB = 1u << 20;
// For tiny devices; where it can, the metadata's region has kMetadataBytes at least.
constexpr uint64_t kMetadataBytesMin = 4 * kMiB;
constexpr uint64_t kMetadataBytes = 64 * kMiB;
constexpr uint64_t kMetadataShare = 50;
constexpr uint64_t kMetadataShareMax = 16;  // of a small device it is at most this part
constexpr uint64_t kUnitBytesMin = 256u << 10;
// However scattered, the runs of so many units fit into a directory.
constexpr uint64_t kUnitsMax = 4096;
static_assert(kHeaderBytes + kDeviceFilesMax * (kDeviceNameBytesMax + 12) + kUnitsMax * 8 <=
              kDirectoryBytesMax);

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

uint64_t MetadataBytesOf(uint64_t device_bytes) {
  const uint64_t wanted = std::max(std::min(kMetadataBytes, device_bytes / kMetadataShareMax),
                                   device_bytes / kMetadataShare);
  return std::max(kMetadataBytesMin, RoundUp(wanted, kMiB));
}

bool AllZero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

bool HasMagic(std::span<const std::byte> copy) {
  return LoadInteger<uint64_t>(copy.data()) == kMagic;
}

absl::Status Contradiction(const char* what) {
  return absl::DataLossError(absl::StrCat("the device's directory makes no sense: ", what));
}

absl::Status CheckLayout(const DeviceLayout& layout) {
  uint64_t end = kDeviceHeadBytes;
  for (const DeviceRegion* region : {&layout.journal, &layout.metadata, &layout.data}) {
    if (region->offset < end || region->size_bytes > layout.device_bytes ||
        region->offset > layout.device_bytes - region->size_bytes) {
      return Contradiction("its regions overlap");
    }
    end = region->offset + region->size_bytes;
  }
  if (layout.unit_bytes < kUnitBytesMin || layout.metadata.size_bytes % layout.unit_bytes != 0 ||
      layout.metadata.size_bytes / layout.unit_bytes > kUnitsMax) {
    return Contradiction("its units do not fill the metadata's region");
  }
  return absl::OkStatus();
}

absl::Status CheckFiles(const DeviceDirectory& directory) {
  const DeviceLayout& layout = directory.layout;
  std::vector<bool> taken(layout.metadata.size_bytes / layout.unit_bytes);
  for (const DeviceFileEntry& file : directory.files) {
    const bool has_region = file.name == kJournalName || file.name == kDataName;
    uint64_t room = !has_region                 ? 0
                    : file.name == kJournalName ? layout.journal.size_bytes
                                                : layout.data.size_bytes;
    for (const UnitRun& run : file.runs) {
      if (run.first > taken.size() || run.count > taken.size() - run.first) {
        return Contradiction("a file's units lie outside their region");
      }
      for (uint32_t unit = run.first; unit < run.first + run.count; ++unit) {
        if (taken[unit]) return Contradiction("two files have one unit");
        taken[unit] = true;
      }
      room += run.count * layout.unit_bytes;
    }
    if (file.size_bytes > room) return Contradiction("a file is longer than its space");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DeviceLayout> PlanDevice(uint64_t device_bytes, uint64_t journal_bytes,
                                        uint64_t data_bytes_min) {
  const auto plan = [&](uint64_t bytes) {
    DeviceLayout layout;
    layout.device_bytes = bytes;
    layout.journal = {kDeviceHeadBytes, RoundUp(journal_bytes, kMiB)};
    uint64_t metadata_bytes = MetadataBytesOf(bytes);
    layout.unit_bytes = kUnitBytesMin;
    while (metadata_bytes / layout.unit_bytes > kUnitsMax) layout.unit_bytes *= 2;
    metadata_bytes = metadata_bytes / layout.unit_bytes * layout.unit_bytes;
    layout.metadata = {layout.journal.offset + layout.journal.size_bytes, metadata_bytes};
    layout.data.offset = RoundUp(layout.metadata.offset + layout.metadata.size_bytes, kMiB);
    const uint64_t rest = bytes - std::min(bytes, layout.data.offset);
    layout.data.size_bytes = rest / kBlockBytes * kBlockBytes;
    return layout;
  };
  const auto fits = [&](const DeviceLayout& layout) {
    return layout.data.offset < layout.device_bytes && layout.data.size_bytes >= data_bytes_min;
  };
  const DeviceLayout layout = plan(device_bytes);
  if (fits(layout)) return layout;
  uint64_t least = RoundUp(kDeviceHeadBytes + journal_bytes + data_bytes_min, kMiB);
  while (!fits(plan(least))) least += kMiB;
  return absl::FailedPreconditionError(
      absl::StrCat("the device has ", device_bytes, " bytes; a store with a journal of ",
                   journal_bytes, " bytes needs one of at least ", least));
}

std::vector<std::byte> EncodeDirectory(const DeviceDirectory& directory) {
  const DeviceLayout& layout = directory.layout;
  std::vector<std::byte> bytes;
  ByteWriter writer(&bytes);
  writer.Put(kMagic);
  writer.Put(uint32_t{0});  // checksum
  writer.Put(kFormatVersion);
  writer.Put(uint32_t{0});  // length
  writer.Put(static_cast<uint32_t>(directory.files.size()));
  writer.Put(directory.sequence);
  writer.PutBytes(directory.id);
  for (const uint64_t number :
       {layout.device_bytes, layout.journal.offset, layout.journal.size_bytes,
        layout.metadata.offset, layout.metadata.size_bytes, layout.unit_bytes, layout.data.offset,
        layout.data.size_bytes, uint64_t{0} /* reserved */}) {
    writer.Put(number);
  }
  CHUNK_CHECK(bytes.size() == kHeaderBytes);
  for (const DeviceFileEntry& file : directory.files) {
    std::array<std::byte, kDeviceNameBytesMax> name = {};
    CHUNK_CHECK(file.name.size() <= name.size());
    std::memcpy(name.data(), file.name.data(), file.name.size());
    writer.PutBytes(name);
    writer.Put(file.size_bytes);
    writer.Put(static_cast<uint32_t>(file.runs.size()));
    for (const UnitRun& run : file.runs) {
      writer.Put(run.first);
      writer.Put(run.count);
    }
  }
  CHUNK_CHECK(bytes.size() <= kDirectoryBytesMax);
  StoreInteger(bytes.data() + kLengthOffset, static_cast<uint32_t>(bytes.size()));
  StoreInteger(bytes.data() + kChecksumOffset, Crc32c(std::span(bytes).subspan(kCheckedOffset)));
  return bytes;
}

absl::StatusOr<DeviceDirectory> DecodeDirectory(std::span<const std::byte> copy) {
  if (copy.size() < kHeaderBytes || !HasMagic(copy)) {
    return absl::DataLossError("the device's directory has no magic number");
  }
  const uint32_t length = LoadInteger<uint32_t>(copy.data() + kLengthOffset);
  if (length < kHeaderBytes || length > copy.size() ||
      LoadInteger<uint32_t>(copy.data() + kChecksumOffset) !=
          Crc32c(copy.subspan(kCheckedOffset, length - kCheckedOffset))) {
    return absl::DataLossError("the checksum of the device's directory does not fit");
  }
  ByteReader reader(copy.first(length).subspan(kCheckedOffset));
  if (const uint32_t version = reader.Get<uint32_t>(); version != kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the device has format version ", version,
                                                      "; this program knows ", kFormatVersion));
  }
  (void)reader.Get<uint32_t>();  // length
  const uint32_t files = reader.Get<uint32_t>();
  DeviceDirectory directory;
  directory.sequence = reader.Get<uint64_t>();
  const std::span<const std::byte> id = reader.GetBytes(directory.id.size());
  std::copy(id.begin(), id.end(), directory.id.begin());
  DeviceLayout& layout = directory.layout;
  uint64_t reserved = 0;
  for (uint64_t* number : {&layout.device_bytes, &layout.journal.offset, &layout.journal.size_bytes,
                           &layout.metadata.offset, &layout.metadata.size_bytes, &layout.unit_bytes,
                           &layout.data.offset, &layout.data.size_bytes, &reserved}) {
    *number = reader.Get<uint64_t>();
  }
  CHUNK_RETURN_IF_ERROR(CheckLayout(layout));
  for (uint32_t i = 0; i < files && reader.ok(); ++i) {
    DeviceFileEntry& file = directory.files.emplace_back();
    const std::span<const std::byte> name = reader.GetBytes(kDeviceNameBytesMax);
    for (const std::byte letter : name) {
      if (letter != std::byte{0}) file.name.push_back(static_cast<char>(letter));
    }
    file.size_bytes = reader.Get<uint64_t>();
    const uint32_t runs = reader.Get<uint32_t>();
    for (uint32_t run = 0; run < runs && reader.ok(); ++run) {
      UnitRun& next = file.runs.emplace_back();
      next.first = reader.Get<uint32_t>();
      next.count = reader.Get<uint32_t>();
    }
  }
  if (!reader.ok()) return Contradiction("it is cut short");
  CHUNK_RETURN_IF_ERROR(CheckFiles(directory));
  return directory;
}

absl::StatusOr<DeviceDirectory> NewestDirectory(std::span<const std::byte> head) {
  CHUNK_CHECK(head.size() == kDeviceHeadBytes);
  int ours = 0, foreign = 0;
  std::optional<DeviceDirectory> newest;
  absl::Status problem;
  for (const uint64_t offset : kDirectoryOffsets) {
    const std::span<const std::byte> copy = head.subspan(offset, kDirectoryBytesMax);
    if (!HasMagic(copy)) {
      foreign += AllZero(copy) ? 0 : 1;
      continue;
    }
    ++ours;
    absl::StatusOr<DeviceDirectory> decoded = DecodeDirectory(copy);
    // An unknown version must not be passed over for an older copy.
    if (absl::IsFailedPrecondition(decoded.status())) return decoded.status();
    problem.Update(decoded.status());
    if (decoded.ok() && (!newest || decoded->sequence > newest->sequence)) {
      newest = *std::move(decoded);
    }
  }
  if (ours == 0) {
    if (AllZero(head)) return absl::NotFoundError("the device holds nothing");
    return absl::FailedPreconditionError(
        "the device holds something that is no store (a file system, a partition table?)");
  }
  // A write of a copy that was cut off leaves its first sector old or new: with the magic number.
  if (foreign > 0) {
    return absl::DataLossError("a copy of the device's directory was written over");
  }
  if (!newest) return problem;
  return *std::move(newest);
}

}  // namespace tessera::chunk
