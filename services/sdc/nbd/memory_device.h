// A sparse block device in memory, for tests, fuzzing and measuring the NBD server by itself.
//
// It answers at the end of the turn in which a request was submitted, in order; tests can hold
// answers back, answer out of order, and make requests fail.
//
// Threads: the event loop's thread.
#ifndef TESSERA_SERVICES_SDC_NBD_MEMORY_DEVICE_H_
#define TESSERA_SERVICES_SDC_NBD_MEMORY_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "services/sdc/block_device.h"
#include "services/sdc/event_loop.h"

namespace tessera::sdc::nbd {

class MemoryDevice : public BlockDevice, public std::enable_shared_from_this<MemoryDevice> {
 public:
  static constexpr uint64_t kPageBytes = 32 << 10;

  // `loop` must outlive the device. Made by std::make_shared.
  MemoryDevice(EventLoop& loop, BlockDeviceInfo info) : loop_(loop), info_(std::move(info)) {}

  BlockDeviceInfo info() const override { return info_; }
  void Submit(BlockRequest request) override;

  // Says the errno that a request fails with; 0 lets it pass. Called at submission.
  void SetFault(std::function<int(const BlockRequest&)> fault) { fault_ = std::move(fault); }
  // While held, requests take effect but wait for their answers.
  void Hold() { held_ = true; }
  // Answers what was held, last submitted first if `reversed`, and holds no more.
  void Release(bool reversed = false);
  // Drops what waits without an answer, as a device does that is torn down.
  void DropPending() { pending_.clear(); }
  [[nodiscard]] size_t pending() const { return pending_.size(); }

  [[nodiscard]] uint64_t flushes() const { return flushes_; }
  [[nodiscard]] uint64_t forced_writes() const { return forced_writes_; }

 private:
  using Page = std::vector<std::byte>;
  struct Answer {
    absl::AnyInvocable<void(BlockReply)> done;
    BlockReply reply;
  };

  BlockReply Execute(BlockRequest& request);
  Payload Read(uint64_t offset_bytes, uint64_t length_bytes) const;
  void Write(uint64_t offset_bytes, const Payload& data);
  void Zero(uint64_t offset_bytes, uint64_t length_bytes, bool keep_allocated);
  std::vector<StatusExtent> Status(uint64_t offset_bytes, uint64_t length_bytes) const;
  Page& Allocate(uint64_t page);
  void AnswerPending();

  EventLoop& loop_;
  const BlockDeviceInfo info_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Page>> pages_;
  std::function<int(const BlockRequest&)> fault_;
  std::vector<Answer> pending_;
  bool answer_posted_ = false;
  bool held_ = false;
  uint64_t flushes_ = 0;
  uint64_t forced_writes_ = 0;
};

// Exports by name; the default export is the only one.
class MemoryExportTable : public ExportTable {
 public:
  void Add(const std::string& name, std::shared_ptr<BlockDevice> device) {
    devices_[name] = std::move(device);
  }
  void Remove(const std::string& name) { devices_.erase(name); }

  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    for (const auto& [name, device] : devices_) names.push_back(name);
    return names;
  }
  std::shared_ptr<BlockDevice> Find(const std::string& name) const override {
    if (name.empty() && devices_.size() == 1) return devices_.begin()->second;
    const auto found = devices_.find(name);
    return found == devices_.end() ? nullptr : found->second;
  }

 private:
  std::map<std::string, std::shared_ptr<BlockDevice>> devices_;
};

}  // namespace tessera::sdc::nbd

#endif  // TESSERA_SERVICES_SDC_NBD_MEMORY_DEVICE_H_
