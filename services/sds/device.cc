#include "services/sds/device.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"
#include "services/sds/device_space.h"

namespace tessera::sds {
namespace {

absl::StatusOr<std::string> IdentityOfFolder(const std::string& path) {
  const std::string file = path + "/device.uuid";
  struct stat info {};
  if (stat(file.c_str(), &info) == 0) {
    TESSERA_ASSIGN_OR_RETURN(std::string uuid, ReadFile(file));
    absl::StripAsciiWhitespace(&uuid);
    if (uuid.size() != 36) {
      return absl::DataLossError(absl::StrCat(file, " holds no UUID: '", uuid, "'"));
    }
    return uuid;
  }
  std::string uuid = NewUuid();
  TESSERA_RETURN_IF_ERROR(WriteFileAtomically(file, uuid + "\n", 0600));
  return uuid;
}

absl::StatusOr<std::string> IdentityOfBlockDevice(const std::string& path, LocalState* state) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<DeviceRecord> known, state->Devices());
  for (const DeviceRecord& record : known) {
    if (record.path == path) return record.device_uuid;
  }
  std::string uuid = NewUuid();
  TESSERA_RETURN_IF_ERROR(state->SaveDevice({.device_uuid = uuid, .path = path}));
  return uuid;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> Device::Find(const DeviceOptions& options,
                                                     StoreOpener opener, LocalState* state) {
  struct stat info {};
  if (stat(options.path.c_str(), &info) != 0 || !(S_ISDIR(info.st_mode) || S_ISBLK(info.st_mode))) {
    return absl::InvalidArgumentError(
        absl::StrCat("device '", options.path, "' is neither a folder nor a block device"));
  }
  TESSERA_ASSIGN_OR_RETURN(std::string uuid, S_ISDIR(info.st_mode)
                                                 ? IdentityOfFolder(options.path)
                                                 : IdentityOfBlockDevice(options.path, state));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<DeviceRecord> known, state->Devices());
  std::unique_ptr<Device> device(new Device(options, std::move(opener), state, std::move(uuid)));
  absl::MutexLock lock(&device->mutex_);
  for (const DeviceRecord& record : known) {
    if (record.device_uuid != device->uuid_) continue;
    device->device_id_ = record.device_id;
    device->pool_id_ = record.pool_id;
    device->chunk_bytes_ = record.chunk_bytes;
  }
  TESSERA_RETURN_IF_ERROR(device->Save());
  if (device->chunk_bytes_ != 0) {
    if (absl::Status opened = device->OpenStore(device->chunk_bytes_); !opened.ok()) {
      device->failure_ = std::string(opened.message());
      device->failed_ = true;
      LogError("device does not open", {{"path", options.path}, {"error", opened}});
    }
  }
  return device;
}

absl::Status Device::OpenStore(uint32_t chunk_bytes) {
  chunk::StoreOptions store_options = options_.store;
  store_options.chunk_bytes = chunk_bytes;
  TESSERA_ASSIGN_OR_RETURN(store_, opener_(options_.path, store_options));
  chunk_bytes_ = chunk_bytes;
  const chunk::OpenReport& report = store_->open_report();
  volatile_state_lost_ = report.volatile_state_lost;
  store_pointer_.store(store_.get(), std::memory_order_release);
  LogInfo("store opened", {{"path", options_.path},
                           {"device", uuid_},
                           {"created", report.created},
                           {"clean", report.clean},
                           {"volatile_state_lost", report.volatile_state_lost},
                           {"records_replayed", report.records_replayed},
                           {"store_incarnation", report.incarnation}});
  return absl::OkStatus();
}

void Device::AcknowledgeLoss() {
  if (!volatile_state_lost_) return;
  // Where that can't be written down, the next life says it once more: its replicas catch up twice.
  if (const absl::Status written = store()->AcknowledgeLoss(); !written.ok()) {
    LogWarning("the store does not note that its loss was told",
               {{"device", uuid_}, {"error", written}});
  }
  volatile_state_lost_ = false;
}

absl::Status Device::Save() {
  return state_->SaveDevice({.device_uuid = uuid_,
                             .path = options_.path,
                             .device_id = device_id_,
                             .pool_id = pool_id_,
                             .chunk_bytes = chunk_bytes_});
}

absl::Status Device::SetDeviceId(uint64_t device_id) {
  absl::MutexLock lock(&mutex_);
  if (device_id_ == device_id) return absl::OkStatus();
  device_id_ = device_id;
  return Save();
}

absl::Status Device::Configure(uint64_t device_id, uint64_t pool_id, uint32_t chunk_bytes) {
  absl::MutexLock lock(&mutex_);
  if (failed_) return absl::FailedPreconditionError(absl::StrCat("device failed: ", failure_));
  if (device_id_ == device_id && pool_id_ == pool_id && (pool_id == 0 || store_ != nullptr) &&
      (pool_id == 0 || chunk_bytes_ == chunk_bytes)) {
    return absl::OkStatus();
  }
  if (pool_id != 0 && store_ != nullptr && chunk_bytes_ != chunk_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the store of ", options_.path, " was made with chunks of ", chunk_bytes_,
                     " bytes, the pool has chunks of ", chunk_bytes));
  }
  if (pool_id != 0 && store_ == nullptr) {
    if (absl::Status opened = OpenStore(chunk_bytes); !opened.ok()) {
      failure_ = std::string(opened.message());
      failed_ = true;
      return opened;
    }
  }
  device_id_ = device_id;
  pool_id_ = pool_id;
  return Save();
}

bool Device::Fail(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  if (failed_) return false;
  failure_ = std::string(why.message());
  failed_ = true;
  return true;
}

std::string Device::failure() const {
  absl::MutexLock lock(&mutex_);
  return failure_;
}

v1::DeviceDescription Device::Describe() const {
  v1::DeviceDescription description;
  absl::MutexLock lock(&mutex_);
  description.set_device_uuid(uuid_);
  description.set_path(options_.path);
  description.set_chunk_bytes(chunk_bytes_);
  description.set_failure(failure_);
  description.set_pool_name(options_.pool_name);
  description.set_volatile_state_lost(volatile_state_lost_);
  if (store_ != nullptr) {
    const chunk::StoreStats stats = store_->stats();
    description.set_capacity_bytes(stats.capacity_bytes);
    description.set_used_bytes(stats.used_bytes + BytesBesideStore(options_.path));
    description.set_store_incarnation(store_->open_report().incarnation);
    return description;
  }
  uint64_t capacity_bytes = options_.store.capacity_bytes;
  if (capacity_bytes == 0) capacity_bytes = AvailableBytes(options_.path);
  description.set_capacity_bytes(capacity_bytes);
  return description;
}

absl::Status Device::Close() {
  absl::MutexLock lock(&mutex_);
  if (store_ == nullptr) return absl::OkStatus();
  // A failed store must not be marked clean.
  const absl::Status closed = failed_ ? absl::OkStatus() : store_->Close();
  store_pointer_.store(nullptr, std::memory_order_release);
  store_.reset();
  return closed;
}

}  // namespace tessera::sds
