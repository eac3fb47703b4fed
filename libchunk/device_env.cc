#include "libchunk/device_env.h"

#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libchunk/device_node.h"
#include "libchunk/status_macros.h"

namespace tessera::chunk {
namespace {

absl::Status WriteOne(File* device, uint64_t offset, std::span<const std::byte> bytes) {
  return device->Write(offset, {&bytes, 1});
}

}  // namespace

// ---- Opening ---------------------------------------------------------------------------------

absl::StatusOr<std::unique_ptr<DeviceEnv>> DeviceEnv::Open(
    Env* base, const std::string& path, const std::optional<DeviceFormat>& format) {
  const auto at_path = [&](const absl::Status& status, const char* hint = "") {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message(), hint));
  };
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<File> device, base->OpenFile(path, OpenMode::kMustExist));
  CHUNK_ASSIGN_OR_RETURN(const uint64_t device_bytes, device->Size());
  std::vector<std::byte> head(kDeviceHeadBytes);
  if (device_bytes < head.size()) {
    return at_path(PlanDevice(device_bytes, format ? format->journal_bytes : 0,
                              format ? format->data_bytes_min : 0)
                       .status());
  }
  CHUNK_RETURN_IF_ERROR(device->Read(0, head));
  absl::StatusOr<DeviceDirectory> directory = NewestDirectory(head);
  if (absl::IsFailedPrecondition(directory.status())) {
    return at_path(directory.status(),
                   "; nothing was changed. If nobody needs it, empty the device: `blkdiscard -z` "
                   "it, or `wipefs --all` it and write zeros over its first MiB");
  }
  if (absl::IsNotFound(directory.status()) && format) {
    absl::StatusOr<DeviceLayout> layout =
        PlanDevice(device_bytes, format->journal_bytes, format->data_bytes_min);
    if (!layout.ok()) return at_path(layout.status());
    directory = DeviceDirectory{.layout = *layout};
    if (getrandom(directory->id.data(), directory->id.size(), 0) !=
        static_cast<ssize_t>(directory->id.size())) {
      return absl::InternalError("getrandom gives no device id");
    }
  }
  if (!directory.ok()) return at_path(directory.status(), "; nothing was changed");
  if (device_bytes < directory->layout.device_bytes) {
    return absl::DataLossError(absl::StrCat(path, ": the device has ", device_bytes,
                                            " bytes of the ", directory->layout.device_bytes,
                                            " it was formatted with; nothing was changed"));
  }
  // Also when it is there already: a process before this one may have failed to make it durable,
  // and the kernel may hold it in memory only, marked clean. The other copy is whole until then.
  CHUNK_RETURN_IF_ERROR(WriteOne(device.get(),
                                 kDirectoryOffsets[directory->sequence % kDirectoryOffsets.size()],
                                 EncodeDirectory(*directory)));
  CHUNK_RETURN_IF_ERROR(device->SyncData());
  return std::unique_ptr<DeviceEnv>(
      new DeviceEnv(base, path, std::move(device), *std::move(directory)));
}

DeviceEnv::DeviceEnv(Env* base, std::string path, std::unique_ptr<File> device,
                     DeviceDirectory directory)
    : base_(base),
      path_(std::move(path)),
      device_(std::move(device)),
      layout_(directory.layout),
      id_(directory.id) {
  absl::MutexLock sync_lock(&sync_mutex_);
  sequence_ = directory.sequence;
  absl::MutexLock lock(&mutex_);
  units_taken_.resize(layout_.metadata.size_bytes / layout_.unit_bytes);
  for (DeviceFileEntry& file : directory.files) {
    const NodePointer node = NewNode(file.name);
    node->size_bytes = file.size_bytes;
    node->durable_size_bytes = file.size_bytes;
    node->runs = std::move(file.runs);
    for (const UnitRun& run : node->runs) {
      std::fill_n(units_taken_.begin() + run.first, run.count, true);
    }
  }
}

DeviceEnv::~DeviceEnv() = default;

uint64_t DeviceEnv::metadata_used_bytes() {
  absl::MutexLock lock(&mutex_);
  const auto taken = std::count(units_taken_.begin(), units_taken_.end(), true);
  return static_cast<uint64_t>(taken) * layout_.unit_bytes;
}

// ---- Sizes and units -------------------------------------------------------------------------

DeviceEnv::NodePointer DeviceEnv::NewNode(const std::string& name) {
  const DeviceRegion* const region = name == kJournalName ? &layout_.journal
                                     : name == kDataName  ? &layout_.data
                                                          : nullptr;
  auto node = std::make_shared<Node>(region);
  names_[name] = node;
  nodes_.push_back(node);
  return node;
}

void DeviceEnv::FreeUnits(std::vector<UnitRun> runs) {
#ifdef TESSERA_PLANT_DEVICE_REUSE_EARLY  // see check_planted_bugs.sh
  for (const UnitRun& run : runs) {
    std::fill_n(units_taken_.begin() + run.first, run.count, false);
  }
  return;
#endif
  freed_.insert(freed_.end(), runs.begin(), runs.end());
}

void DeviceEnv::Unlink(const NodePointer& node) {
  node->linked = false;
  if (node->handles > 0) return;
  FreeUnits(std::move(node->runs));
  nodes_.erase(std::find(nodes_.begin(), nodes_.end(), node));
}

void DeviceEnv::CloseNode(const NodePointer& node) {
  absl::MutexLock lock(&mutex_);
  if (--node->handles == 0 && !node->linked) Unlink(node);
}

bool DeviceEnv::TakeUnits(Node& node, uint64_t count) {
  const auto free = std::count(units_taken_.begin(), units_taken_.end(), false);
  if (static_cast<uint64_t>(free) < count) return false;
  uint32_t next = node.runs.empty() ? 0 : node.runs.back().first + node.runs.back().count;
  for (; count > 0; ++next) {
    if (next >= units_taken_.size()) next = 0;
    if (units_taken_[next]) continue;
    units_taken_[next] = true;
    --count;
    if (!node.runs.empty() && node.runs.back().first + node.runs.back().count == next) {
      ++node.runs.back().count;
    } else {
      node.runs.push_back({next, 1});
    }
  }
  node.changed_version = ++version_;
  return true;
}

absl::Status DeviceEnv::GrowTo(Node& node, uint64_t size_bytes) {
  uint64_t version = 0;
  bool shrunk = false;
  {
    absl::MutexLock lock(&mutex_);
    CHUNK_RETURN_IF_ERROR(failure_);
    version = version_;
    shrunk = node.durable_size_bytes > node.size_bytes;
  }
  // What was cut off is gone before its place is written again: a loss of power can't bring it
  // back with zeros in it.
  if (shrunk) CHUNK_RETURN_IF_ERROR(SyncAll(version));
  const uint64_t room_bytes = node.RoomBytes(layout_.unit_bytes);
  if (size_bytes <= room_bytes) return absl::OkStatus();
  if (node.region == nullptr) {
    const uint64_t units = (size_bytes - room_bytes + layout_.unit_bytes - 1) / layout_.unit_bytes;
    {
      absl::MutexLock lock(&mutex_);
      if (TakeUnits(node, units)) return absl::OkStatus();
      version = ++version_;
    }
    CHUNK_RETURN_IF_ERROR(SyncAll(version));  // frees what was given back
    absl::MutexLock lock(&mutex_);
    if (TakeUnits(node, units)) return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(path_, ": no space left for ", size_bytes, " bytes of ",
                   node.region == nullptr ? "metadata" : "a file with a region of its own"));
}

absl::Status DeviceEnv::ExtendTo(Node& node, uint64_t end) {
  DevicePieces gap = node.PiecesOf(layout_, node.size_bytes, end - node.size_bytes);
#ifdef TESSERA_PLANT_DEVICE_SKIP_ZEROS  // see check_planted_bugs.sh
  gap.clear();
#endif
  node.dirty = true;
  for (const DevicePiece& piece : gap) {
    CHUNK_RETURN_IF_ERROR(ZeroPiece(device_.get(), piece));
  }
  node.dirty = true;
  SetSize(node, end);
  return absl::OkStatus();
}

void DeviceEnv::SetSize(Node& node, uint64_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  node.size_bytes = size_bytes;
#ifndef TESSERA_PLANT_DEVICE_FORGET_SIZE  // see check_planted_bugs.sh
  node.changed_version = ++version_;
#endif
}

absl::Status DeviceEnv::Shrink(Node& node, uint64_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  CHUNK_RETURN_IF_ERROR(failure_);
  uint64_t keep = (size_bytes + layout_.unit_bytes - 1) / layout_.unit_bytes;
  std::vector<UnitRun> kept, freed;
  for (const UnitRun& run : node.runs) {
    const auto of_run = static_cast<uint32_t>(std::min<uint64_t>(run.count, keep));
    if (of_run > 0) kept.push_back({run.first, of_run});
    if (of_run < run.count) freed.push_back({run.first + of_run, run.count - of_run});
    keep -= of_run;
  }
  node.runs = std::move(kept);
  FreeUnits(std::move(freed));
  node.size_bytes = size_bytes;
  node.changed_version = ++version_;
  return absl::OkStatus();
}

// ---- Durability ------------------------------------------------------------------------------

absl::Status DeviceEnv::failure() {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

absl::Status DeviceEnv::SyncAll(uint64_t version) {
  const uint64_t ticket = ++sync_tickets_;
  absl::MutexLock sync_lock(&sync_mutex_);
  {
    absl::MutexLock lock(&mutex_);
    if (durable_version_ >= version) version = 0;
  }
  if (version > 0) return Commit();
  if (synced_ticket_ >= ticket) return absl::OkStatus();
  return SyncDevice();
}

absl::Status DeviceEnv::SyncDevice() {
  std::vector<NodePointer> syncing;
  {
    absl::MutexLock lock(&mutex_);
    for (const NodePointer& node : nodes_) {
      if (node->dirty.exchange(false)) syncing.push_back(node);
    }
  }
  const uint64_t covered = sync_tickets_;
  const absl::Status synced = device_->SyncData();
  if (synced.ok()) {
    synced_ticket_ = covered;
    return synced;
  }
  absl::MutexLock lock(&mutex_);
  if (failure_.ok()) failure_ = synced;
  for (const NodePointer& node : syncing) node->failed = true;
  for (const NodePointer& node : nodes_) {
    if (node->dirty) node->failed = true;
  }
  return synced;
}

DeviceDirectory DeviceEnv::Snapshot() {
  DeviceDirectory directory{.sequence = sequence_ + 1, .id = id_, .layout = layout_, .files = {}};
  for (const auto& [name, node] : names_) {
    directory.files.push_back({.name = name, .size_bytes = node->size_bytes, .runs = node->runs});
  }
  return directory;
}

absl::Status DeviceEnv::Commit() {
  DeviceDirectory directory;
  uint64_t version = 0;
  std::vector<UnitRun> freed;
  std::vector<std::pair<NodePointer, uint64_t>> sizes;
  {
    absl::MutexLock lock(&mutex_);
    CHUNK_RETURN_IF_ERROR(failure_);
    directory = Snapshot();
    version = version_;
    freed.swap(freed_);
    for (const auto& [name, node] : names_) sizes.emplace_back(node, node->size_bytes);
  }
  // The content first: sizes that are durable then find it durable, too. Then the copy that is not
  // the durable one; it counts from the second sync on.
#ifndef TESSERA_PLANT_DEVICE_SKIP_CONTENT_SYNC  // see check_planted_bugs.sh
  absl::Status done = SyncDevice();
#else
  absl::Status done;
#endif
  if (done.ok()) {
    done = WriteOne(device_.get(), kDirectoryOffsets[directory.sequence % kDirectoryOffsets.size()],
                    EncodeDirectory(directory));
  }
#ifndef TESSERA_PLANT_DEVICE_SKIP_COPY_SYNC  // see check_planted_bugs.sh
  if (done.ok()) done = SyncDevice();
#endif
  absl::MutexLock lock(&mutex_);
  if (!done.ok()) {  // the next attempt writes the same copy
    freed_.insert(freed_.end(), freed.begin(), freed.end());
    return done;
  }
  sequence_ = directory.sequence;
  durable_version_ = version;
  for (const auto& [node, size_bytes] : sizes) node->durable_size_bytes = size_bytes;
  for (const UnitRun& run : freed) {
    std::fill_n(units_taken_.begin() + run.first, run.count, false);
  }
  return absl::OkStatus();
}

// ---- Names -----------------------------------------------------------------------------------

absl::StatusOr<std::string> DeviceEnv::NameIn(const std::string& path) const {
  const bool inside = path.size() > path_.size() + 1 && path.starts_with(path_) &&
                      path[path_.size()] == '/' &&
                      path.find('/', path_.size() + 1) == std::string::npos;
  if (!inside || path.size() - path_.size() - 1 > kDeviceNameBytesMax) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file or folder"));
  }
  return path.substr(path_.size() + 1);
}

absl::StatusOr<std::unique_ptr<File>> DeviceEnv::OpenFile(const std::string& path, OpenMode mode) {
  CHUNK_ASSIGN_OR_RETURN(const std::string name, NameIn(path));
  absl::MutexLock lock(&mutex_);
  const auto found = names_.find(name);
  NodePointer node = found == names_.end() ? nullptr : found->second;
  if (node != nullptr && mode == OpenMode::kCreateNew) {
    return absl::AlreadyExistsError(absl::StrCat(path, ": exists already"));
  }
  if (node == nullptr) {
    if (mode == OpenMode::kMustExist) {
      return absl::NotFoundError(absl::StrCat(path, ": no such file or folder"));
    }
    CHUNK_RETURN_IF_ERROR(failure_);
    if (names_.size() == kDeviceFilesMax) {
      return absl::ResourceExhaustedError(absl::StrCat(path_, ": too many files"));
    }
    node = NewNode(name);
    if (node->region == &layout_.data) node->size_bytes = layout_.data.size_bytes;
    node->changed_version = ++version_;
  }
  ++node->handles;
  return MakeFile(path, std::move(node));
}

absl::Status DeviceEnv::CreateFolder(const std::string& path) {
  if (path == path_) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path, ": a device has no folders"));
}

absl::Status DeviceEnv::SyncFolder(const std::string& path) {
  if (path != path_) return absl::NotFoundError(absl::StrCat(path, ": no such folder"));
  uint64_t version = 0;
  {
    absl::MutexLock lock(&mutex_);
    CHUNK_RETURN_IF_ERROR(failure_);
    version = version_;
    if (durable_version_ >= version) return absl::OkStatus();
  }
  return SyncAll(version);
}

absl::Status DeviceEnv::Rename(const std::string& from, const std::string& to) {
  CHUNK_ASSIGN_OR_RETURN(const std::string from_name, NameIn(from));
  CHUNK_ASSIGN_OR_RETURN(const std::string to_name, NameIn(to));
  absl::MutexLock lock(&mutex_);
  CHUNK_RETURN_IF_ERROR(failure_);
  const auto found = names_.find(from_name);
  if (found == names_.end()) {
    return absl::NotFoundError(absl::StrCat(from, ": no such file or folder"));
  }
  for (const std::string& name : {from_name, to_name}) {
    if (name == kJournalName || name == kDataName) {
      return absl::InternalError(absl::StrCat(path_, ": ", name, " can't be renamed"));
    }
  }
  if (from_name == to_name) return absl::OkStatus();
  const NodePointer node = found->second;
  names_.erase(found);
  if (const auto replaced = names_.find(to_name); replaced != names_.end()) {
    Unlink(replaced->second);
  }
  names_[to_name] = node;
  ++version_;
  return absl::OkStatus();
}

absl::Status DeviceEnv::Delete(const std::string& path) {
  CHUNK_ASSIGN_OR_RETURN(const std::string name, NameIn(path));
  absl::MutexLock lock(&mutex_);
  CHUNK_RETURN_IF_ERROR(failure_);
  const auto found = names_.find(name);
  if (found == names_.end()) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file or folder"));
  }
  const NodePointer node = found->second;
  names_.erase(found);
  ++version_;
  Unlink(node);
  return absl::OkStatus();
}

absl::StatusOr<bool> DeviceEnv::Exists(const std::string& path) {
  if (path == path_) return true;
  const absl::StatusOr<std::string> name = NameIn(path);
  absl::MutexLock lock(&mutex_);
  return name.ok() && names_.contains(*name);
}

absl::StatusOr<std::vector<std::string>> DeviceEnv::List(const std::string& path) {
  if (path != path_) return absl::NotFoundError(absl::StrCat(path, ": no such folder"));
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> names;
  for (const auto& [name, node] : names_) names.push_back(name);
  return names;
}

absl::StatusOr<FileSystemSpace> DeviceEnv::Space(const std::string& /*path*/) {
  return FileSystemSpace{layout_.data.size_bytes, layout_.data.size_bytes};
}

absl::StatusOr<std::unique_ptr<FolderLock>> DeviceEnv::LockFolder(const std::string& path) {
  return base_->LockFolder(path);
}

absl::StatusOr<bool> DeviceEnv::IsBlockDevice(const std::string& /*path*/) { return false; }
uint64_t DeviceEnv::NowNanos() { return base_->NowNanos(); }
absl::StatusOr<std::string> DeviceEnv::BootId() { return base_->BootId(); }

}  // namespace tessera::chunk
