// A block device as the folder of a store: an Env on an Env, whose files are regions of one device
// (FORMAT.md, "On a block device").
//
//   absl::StatusOr<std::unique_ptr<DeviceEnv>> env = DeviceEnv::Open(base, "/dev/sdx", format);
//   (*env)->OpenFile("/dev/sdx/journal", OpenMode::kCreateNew);
//
// It promises what env.h does, with these differences:
//  - The directory is one whole: SyncFolder, and SyncData of a file whose size or place has
//    changed, make all names, sizes and places of that moment durable, with the content they had.
//  - Names, sizes and places that are not durable go with the process, not only with the power:
//    until a directory has them they are in memory. Writes in place are kept as ever.
//  - A sync is one of the device. When it fails, each file that had something unsynced is failed
//    for good: its writes and syncs return that error. So are changes of names, sizes and places.
//    A file that had nothing unsynced can still be written in place and synced: the store notes in
//    its superblock that it failed.
//  - `data` has the size of its region from the moment it is made; it can't be truncated, and what
//    was never written in it is what the device had there. Its AllocatedBytes is its size.
//  - RESOURCE_EXHAUSTED also when the metadata's region has no unit left; nothing changed then.
//
// Formatting: a device whose first MiB is zero becomes one with an empty directory, by writing one
// sector. Anything else is refused and not changed. The caller holds LockFolder of the base Env.
//
// Threads: any. Files must not outlive their DeviceEnv, nor it its base.
#ifndef TESSERA_LIBCHUNK_DEVICE_ENV_H_
#define TESSERA_LIBCHUNK_DEVICE_ENV_H_

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_map.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/device_directory.h"
#include "libchunk/env.h"

namespace tessera::chunk {

// How a device is laid out that holds nothing yet.
struct DeviceFormat {
  uint64_t journal_bytes = 0;
  uint64_t data_bytes_min = 0;  // with less it is refused
};

class DeviceEnv final : public Env {
 public:
  // Without `format` an empty device is NOT_FOUND. FAILED_PRECONDITION: the device holds something
  // else or is too small. DATA_LOSS: its directory is damaged, or it has become smaller.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<DeviceEnv>> Open(
      Env* base, const std::string& path, const std::optional<DeviceFormat>& format);
  ~DeviceEnv() override;

  [[nodiscard]] const DeviceLayout& layout() const { return layout_; }
  [[nodiscard]] const DeviceId& id() const { return id_; }
  // Of the metadata's region, in use or waiting for a durable directory.
  [[nodiscard]] uint64_t metadata_used_bytes();

  // ---- Env. Paths are the device's, '/', and a name. -------------------------------------------
  [[nodiscard]] absl::StatusOr<std::unique_ptr<File>> OpenFile(const std::string& path,
                                                               OpenMode mode) override;
  [[nodiscard]] absl::Status CreateFolder(const std::string& path) override;
  [[nodiscard]] absl::Status SyncFolder(const std::string& path) override;
  [[nodiscard]] absl::Status Rename(const std::string& from, const std::string& to) override;
  [[nodiscard]] absl::Status Delete(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<bool> Exists(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<std::vector<std::string>> List(const std::string& path) override;
  // Of the data's region.
  [[nodiscard]] absl::StatusOr<FileSystemSpace> Space(const std::string& path) override;
  [[nodiscard]] absl::StatusOr<std::unique_ptr<FolderLock>> LockFolder(
      const std::string& path) override;
  [[nodiscard]] absl::StatusOr<bool> IsBlockDevice(const std::string& path) override;
  [[nodiscard]] uint64_t NowNanos() override;
  [[nodiscard]] absl::StatusOr<std::string> BootId() override;

 private:
  class OpenedFile;
  struct Node;
  using NodePointer = std::shared_ptr<Node>;  // shared by its name and the files that have it open

  DeviceEnv(Env* base, std::string path, std::unique_ptr<File> device, DeviceDirectory directory);

  // The name in `path`; NOT_FOUND when it is not one of this device.
  absl::StatusOr<std::string> NameIn(const std::string& path) const;
  std::unique_ptr<File> MakeFile(const std::string& path, NodePointer node);
  NodePointer NewNode(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The name leads to it no more; its units are free once nobody has it open.
  void Unlink(const NodePointer& node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CloseNode(const NodePointer& node);
  void FreeUnits(std::vector<UnitRun> runs) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Gives the node units for `size_bytes`; commits when that frees some. Under the node's shape.
  absl::Status GrowTo(Node& node, uint64_t size_bytes);
  bool TakeUnits(Node& node, uint64_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the node's bytes [size, end) zeros and part of it. Under its shape.
  absl::Status ExtendTo(Node& node, uint64_t end);
  void SetSize(Node& node, uint64_t size_bytes);
  absl::Status Shrink(Node& node, uint64_t size_bytes);

  // Everything written is durable, and the directory of version `version` or a later one.
  absl::Status SyncAll(uint64_t version) ABSL_LOCKS_EXCLUDED(sync_mutex_, mutex_);
  absl::Status SyncDevice() ABSL_EXCLUSIVE_LOCKS_REQUIRED(sync_mutex_);
  absl::Status Commit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(sync_mutex_);
  DeviceDirectory Snapshot() ABSL_EXCLUSIVE_LOCKS_REQUIRED(sync_mutex_, mutex_);
  absl::Status failure() ABSL_LOCKS_EXCLUDED(mutex_);

  Env* const base_;
  const std::string path_;
  const std::unique_ptr<File> device_;
  const DeviceLayout layout_;
  const DeviceId id_;
  std::atomic<uint64_t> sync_tickets_ = 0;

  // Held over the device's syncs and the writes of its directory: one file descriptor tells the
  // error of a sync to one caller, so syncs are one after another. Who waits finds the work done.
  absl::Mutex sync_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  uint64_t synced_ticket_ ABSL_GUARDED_BY(sync_mutex_) = 0;  // covered by a good sync
  uint64_t sequence_ ABSL_GUARDED_BY(sync_mutex_) = 0;       // of the durable copy

  absl::Mutex mutex_;  // never over disk work
  absl::btree_map<std::string, NodePointer> names_ ABSL_GUARDED_BY(mutex_);
  std::vector<NodePointer> nodes_ ABSL_GUARDED_BY(mutex_);  // with a name or open
  std::vector<bool> units_taken_ ABSL_GUARDED_BY(mutex_);
  // Taken still, as the durable directory may name them; free once the next one is durable.
  std::vector<UnitRun> freed_ ABSL_GUARDED_BY(mutex_);
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 1;  // of names, sizes and places
  uint64_t durable_version_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::chunk

#endif  // TESSERA_LIBCHUNK_DEVICE_ENV_H_
