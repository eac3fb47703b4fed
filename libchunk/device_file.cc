// The files of a DeviceEnv.
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libchunk/device_node.h"
#include "libchunk/status_macros.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr size_t kZeroBytes = 64u << 10;
// A shorter range is written, a longer one is left to the device.
constexpr uint64_t kHoleBytesMin = 1u << 20;
constexpr std::array<std::byte, kZeroBytes> kZeros{};

// The next `size_bytes` of the slices from *index and *skip on, which are moved behind them.
std::vector<std::span<const std::byte>> CutSlices(
    std::span<const std::span<const std::byte>> slices, uint64_t size_bytes, size_t* index,
    size_t* skip) {
  std::vector<std::span<const std::byte>> cut;
  while (size_bytes > 0) {
    const std::span<const std::byte> rest = slices[*index].subspan(*skip);
    const size_t length = std::min<uint64_t>(rest.size(), size_bytes);
    if (length > 0) cut.push_back(rest.first(length));
    size_bytes -= length;
    *skip += length;
    if (*skip == slices[*index].size()) {
      ++*index;
      *skip = 0;
    }
  }
  return cut;
}

}  // namespace

absl::Status ZeroPiece(File* device, const DevicePiece& piece) {
  uint64_t offset = piece.offset;
  const uint64_t end = offset + piece.size_bytes;
  while (offset < end) {
    const uint64_t pages_end = end / kPageBytes * kPageBytes;
    if (offset % kPageBytes == 0 && pages_end >= offset + kHoleBytesMin) {
      CHUNK_RETURN_IF_ERROR(device->PunchHole(offset, pages_end - offset));
      offset = pages_end;
      continue;
    }
    // To the next page first, so that what follows can be a hole.
    const uint64_t rest = end - offset;
    const uint64_t to_page = kPageBytes - offset % kPageBytes;
    const uint64_t length =
        std::min({rest, uint64_t{kZeroBytes}, to_page < kPageBytes ? to_page : rest});
    const std::span<const std::byte> zeros = std::span(kZeros).first(length);
    CHUNK_RETURN_IF_ERROR(device->Write(offset, {&zeros, 1}));
    offset += length;
  }
  return absl::OkStatus();
}

class DeviceEnv::OpenedFile final : public File {
 public:
  OpenedFile(DeviceEnv* env, std::string path, NodePointer node)
      : env_(env), path_(std::move(path)), node_(std::move(node)) {}
  ~OpenedFile() override { env_->CloseNode(node_); }

  absl::Status Read(uint64_t offset, std::span<std::byte> out) override {
    return ReadPieces(offset, out, &File::Read);
  }

  absl::Status ReadCached(uint64_t offset, std::span<std::byte> out) override {
    return ReadPieces(offset, out, &File::ReadCached);
  }

  absl::Status Write(uint64_t offset, std::span<const std::span<const std::byte>> slices) override {
    uint64_t length = 0;
    for (const auto& slice : slices) length += slice.size();
    if (length == 0) return absl::OkStatus();
    CHUNK_RETURN_IF_ERROR(CheckRange(offset, length));
    const uint64_t end = offset + length;
    {
      absl::ReaderMutexLock lock(&node_->shape);
      if (end <= node_->size_bytes) return WritePieces(offset, slices, length);
    }
    absl::MutexLock lock(&node_->shape);
    if (end > node_->size_bytes) {
      CHUNK_RETURN_IF_ERROR(env_->GrowTo(*node_, end));
      if (offset > node_->size_bytes) CHUNK_RETURN_IF_ERROR(env_->ExtendTo(*node_, offset));
    }
    CHUNK_RETURN_IF_ERROR(WritePieces(offset, slices, length));
    if (end > node_->size_bytes) env_->SetSize(*node_, end);
    return absl::OkStatus();
  }

  absl::Status SyncData() override {
    uint64_t version = 0;
    {
      absl::MutexLock lock(&env_->mutex_);
      if (node_->failed) return env_->failure_;
      version = node_->changed_version;
    }
    CHUNK_RETURN_IF_ERROR(env_->SyncAll(version));
    // Another one's sync may have failed meanwhile, and this one's found nothing left to do.
    return node_->failed ? env_->failure() : absl::OkStatus();
  }

  void StartWriteBack() override { env_->device_->StartWriteBack(); }

  absl::Status Allocate(uint64_t offset, uint64_t length_bytes) override {
    if (length_bytes == 0) return absl::OkStatus();
    CHUNK_RETURN_IF_ERROR(CheckRange(offset, length_bytes));
    absl::MutexLock lock(&node_->shape);
    if (offset + length_bytes <= node_->size_bytes) return absl::OkStatus();
    CHUNK_RETURN_IF_ERROR(env_->GrowTo(*node_, offset + length_bytes));
    return env_->ExtendTo(*node_, offset + length_bytes);
  }

  absl::Status PunchHole(uint64_t offset, uint64_t length_bytes) override {
    CHUNK_RETURN_IF_ERROR(CheckRange(offset, length_bytes));
    absl::ReaderMutexLock lock(&node_->shape);
    const uint64_t end = std::min(offset + length_bytes, node_->size_bytes.load());
    if (end <= offset) return absl::OkStatus();
    if (node_->failed) return env_->failure();
    node_->dirty = true;
    absl::Status status;
    for (const DevicePiece& piece : node_->PiecesOf(env_->layout_, offset, end - offset)) {
      const bool pages = piece.offset % kPageBytes == 0 && piece.size_bytes % kPageBytes == 0;
      status.Update(pages ? env_->device_->PunchHole(piece.offset, piece.size_bytes)
                          : ZeroPiece(env_->device_.get(), piece));
    }
    node_->dirty = true;  // a sync that began meanwhile may not have seen it
    return status;
  }

  bool HolesGiveSpaceBack() override { return env_->device_->HolesGiveSpaceBack(); }

  absl::Status Truncate(uint64_t size_bytes) override {
    absl::MutexLock lock(&node_->shape);
    if (size_bytes == node_->size_bytes) return absl::OkStatus();
    if (node_->region == &env_->layout_.data) {
      return absl::InternalError(absl::StrCat(path_, ": has the size of its region"));
    }
    if (size_bytes < node_->size_bytes) return env_->Shrink(*node_, size_bytes);
    CHUNK_RETURN_IF_ERROR(env_->GrowTo(*node_, size_bytes));
    return env_->ExtendTo(*node_, size_bytes);
  }

  absl::StatusOr<uint64_t> Size() override { return node_->size_bytes.load(); }

  absl::StatusOr<uint64_t> AllocatedBytes() override {
    absl::ReaderMutexLock lock(&node_->shape);
    return node_->RoomBytes(env_->layout_.unit_bytes);
  }

 private:
  absl::Status CheckRange(uint64_t offset, uint64_t length_bytes) const {
    constexpr uint64_t kOffsetMax = uint64_t{1} << 62;
    if (offset <= kOffsetMax && length_bytes <= kOffsetMax) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(path_, ": offset ", offset, " + length ",
                                                   length_bytes, " exceeds ", kOffsetMax));
  }

  absl::Status ReadPieces(uint64_t offset, std::span<std::byte> out,
                          absl::Status (File::*read)(uint64_t, std::span<std::byte>)) {
    CHUNK_RETURN_IF_ERROR(CheckRange(offset, out.size()));
    absl::ReaderMutexLock lock(&node_->shape);
    if (offset + out.size() > node_->size_bytes) {
      return absl::OutOfRangeError(absl::StrCat(path_, ": has ", node_->size_bytes.load(),
                                                " bytes, not ", offset + out.size()));
    }
    for (const DevicePiece& piece : node_->PiecesOf(env_->layout_, offset, out.size())) {
      CHUNK_RETURN_IF_ERROR(
          (env_->device_.get()->*read)(piece.offset, out.first(piece.size_bytes)));
      out = out.subspan(piece.size_bytes);
    }
    return absl::OkStatus();
  }

  // Inside the file's space. Under its shape.
  absl::Status WritePieces(uint64_t offset, std::span<const std::span<const std::byte>> slices,
                           uint64_t length_bytes) {
    if (node_->failed) return env_->failure();
    node_->dirty = true;
    const DevicePieces pieces = node_->PiecesOf(env_->layout_, offset, length_bytes);
    absl::Status status;
    if (pieces.size() == 1) {
      status = env_->device_->Write(pieces[0].offset, slices);
    } else {
      size_t index = 0, skip = 0;
      for (const DevicePiece& piece : pieces) {
        if (!status.ok()) break;
        status =
            env_->device_->Write(piece.offset, CutSlices(slices, piece.size_bytes, &index, &skip));
      }
    }
    node_->dirty = true;  // a sync that began meanwhile may not have seen it
    return status;
  }

  DeviceEnv* const env_;
  const std::string path_;
  const NodePointer node_;
};

std::unique_ptr<File> DeviceEnv::MakeFile(const std::string& path, NodePointer node) {
  return std::make_unique<OpenedFile>(this, path, std::move(node));
}

}  // namespace tessera::chunk
