// One local device: a folder (or block device) with a chunk store, or waiting for one.
//
// A device has an identity from its first sight (file device.uuid in the folder; for a block device
// a record in sds_local.db), and a store from the moment when it is known which pool's chunk size
// it is to have. A failed device stays failed until the process starts again with it replaced: what
// it holds is not to be trusted.
//
// Threads: any. store() never changes once it is not null.
#ifndef TESSERA_SERVICES_SDS_DEVICE_H_
#define TESSERA_SERVICES_SDS_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/store.h"
#include "services/sds/local_state.h"
#include "tessera/v1/discovery.pb.h"

namespace tessera::sds {

struct DeviceOptions {
  std::string path;
  std::string pool_name;  // that it asks for; empty: an administrator decides
  chunk::StoreOptions store;
};

// Opens a store; chunk::Store::Open with an Env, or a fake's.
using StoreOpener = std::function<absl::StatusOr<std::unique_ptr<chunk::Store>>(
    const std::string& path, const chunk::StoreOptions& options)>;

class Device {
 public:
  // Finds or gives the device its identity, and opens its store when it was configured before. A
  // store that does not open makes a failed device, not an error. INVALID_ARGUMENT: no such folder
  // or block device.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Device>> Find(const DeviceOptions& options,
                                                                    StoreOpener opener,
                                                                    LocalState* state);

  [[nodiscard]] const std::string& uuid() const { return uuid_; }
  [[nodiscard]] const std::string& path() const { return options_.path; }
  [[nodiscard]] uint64_t device_id() const { return device_id_.load(std::memory_order_acquire); }
  [[nodiscard]] uint64_t pool_id() const { return pool_id_.load(std::memory_order_acquire); }
  // Null until configured.
  [[nodiscard]] chunk::Store* store() const {
    return store_pointer_.load(std::memory_order_acquire);
  }

  // The cluster's id of the device, durable when OK.
  [[nodiscard]] absl::Status SetDeviceId(uint64_t device_id);
  // Makes (or opens) the store for the pool, or with pool 0 only takes it out of its pool.
  // Idempotent. FAILED_PRECONDITION: the store has another chunk size, or the device failed.
  [[nodiscard]] absl::Status Configure(uint64_t device_id, uint64_t pool_id, uint32_t chunk_bytes);

  // Records the failure; true for the first.
  bool Fail(const absl::Status& why);
  [[nodiscard]] bool failed() const { return failed_.load(std::memory_order_acquire); }
  [[nodiscard]] std::string failure() const;

  [[nodiscard]] v1::DeviceDescription Describe() const;
  // The store lost what was not flushed; the MDM does not know it yet, or this server does not know
  // what the MDM made of it. Nothing is served meanwhile.
  [[nodiscard]] bool volatile_state_lost() const { return volatile_state_lost_; }
  // The MDM has heard of it and its answer, the map, is in force: it is not said again, in this
  // life or another.
  void AcknowledgeLoss();

  // Closes the store cleanly. No IO may follow.
  [[nodiscard]] absl::Status Close();

 private:
  Device(DeviceOptions options, StoreOpener opener, LocalState* state, std::string uuid)
      : options_(std::move(options)),
        opener_(std::move(opener)),
        state_(state),
        uuid_(std::move(uuid)) {}
  [[nodiscard]] absl::Status OpenStore(uint32_t chunk_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[nodiscard]] absl::Status Save() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const DeviceOptions options_;
  const StoreOpener opener_;
  LocalState* const state_;
  const std::string uuid_;
  std::atomic<uint64_t> device_id_{0};
  std::atomic<uint64_t> pool_id_{0};
  std::atomic<bool> failed_{false};
  std::atomic<bool> volatile_state_lost_{false};
  std::atomic<chunk::Store*> store_pointer_{nullptr};
  mutable absl::Mutex mutex_;
  uint32_t chunk_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string failure_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<chunk::Store> store_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_DEVICE_H_
