#include "services/sds/scrubber.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/sds/block_rules.h"
#include "services/sds/replica_messages.h"

namespace tessera::sds {
namespace {

constexpr size_t kChunksPerPage = 16;
constexpr size_t kListPage = 1'024;
constexpr uint64_t kLookMillis = 1'000;
constexpr uint64_t kSaveMillis = 5'000;
// A chunk that is being written is at one version on all replicas only for moments.
constexpr int kCompareAttempts = 3;
constexpr uint64_t kCompareAgainMillis = 20;
// While clients' operations wait for the device, scrub waits, but not for ever.
constexpr size_t kBusyQueue = 4;
constexpr uint64_t kYieldMillis = 10;
constexpr int kYieldsMax = 20;
constexpr size_t kBadCountedMax = 4'096;
constexpr absl::Duration kDecisionWait = absl::Seconds(2);

}  // namespace

Scrubber::Scrubber(IoEngine* engine, BlockRepairer* repairer, ReplicaPeers* peers,
                   const EngineContext* context, LocalState* state)
    : engine_(engine),
      repairer_(repairer),
      peers_(peers),
      context_(context),
      state_(state),
      executor_({.name = "scrub",
                 .threads = engine->workers().size(),
                 .queue_limit = engine->workers().size(),
                 .background = true}) {
  for (const auto& worker : engine_->workers()) {
    devices_.push_back(std::make_unique<DeviceScrub>());
    devices_.back()->worker = worker.get();
  }
}

void Scrubber::Start() {
  for (const auto& device : devices_) {
    const std::string& uuid = device->worker->device()->uuid();
    const absl::StatusOr<ScrubRecord> record = state_->Scrub(uuid);
    device->record.device_uuid = uuid;
    if (record.ok()) {
      device->record = *record;
    } else {
      LogError("where scrub stood can't be read", {{"error", record.status()}});
    }
    (void)executor_.Post([this, device = device.get()] { Run(device); });
  }
}

void Scrubber::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  executor_.Shutdown();
}

bool Scrubber::stopping() {
  absl::MutexLock lock(&mutex_);
  return stopping_;
}

bool Scrubber::Pause(uint64_t milliseconds) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&stopping_),
                                 absl::Milliseconds(static_cast<int64_t>(milliseconds)));
}

void Scrubber::TakeOrders(const google::protobuf::RepeatedPtrField<v1::ScrubOrder>& orders) {
  absl::MutexLock lock(&mutex_);
  ++orders_;
  for (const auto& device : devices_) {
    device->order.reset();
    for (const v1::ScrubOrder& order : orders) {
      if (order.device_id() == device->worker->device()->device_id()) device->order = order;
    }
  }
}

std::vector<v1::ScrubStatus> Scrubber::Status() {
  for (const auto& device : devices_) CountFates(device.get());
  std::vector<v1::ScrubStatus> all;
  absl::MutexLock lock(&mutex_);
  for (const auto& device : devices_) {
    if (device->worker->device()->device_id() == 0) continue;
    v1::ScrubStatus& status = all.emplace_back(device->status);
    status.set_device_id(device->worker->device()->device_id());
    status.set_completed_ms(device->record.completed_ms);
    status.set_completed_operation_id(device->record.completed_operation_id);
  }
  return all;
}

std::optional<ScrubWish> Scrubber::Wanted(DeviceScrub* device) {
  const uint64_t now = context_->clock->WallMillis();
  absl::MutexLock lock(&mutex_);
  if (stopping_ || !device->order.has_value()) return std::nullopt;
  // A device that was never gone through has its first pass after an interval, not at once.
  if (device->record.completed_ms == 0) device->record.completed_ms = now;
  return WishOf(*device->order, device->record, now);
}

void Scrubber::Run(DeviceScrub* device) {
  while (!stopping()) {
    const std::optional<ScrubWish> wish = Wanted(device);
    const Device* disk = device->worker->device();
    if (wish.has_value() && disk->store() != nullptr && !disk->failed()) {
      RunPass(device, *wish);
    } else {
      bool ended = false;
      {
        absl::MutexLock lock(&mutex_);
        // Orders that came and name nothing: what had begun is over.
        ended = orders_ > 0 && !wish.has_value() && device->record.started_ms != 0 && !stopping_;
        if (ended) device->record.started_ms = 0;
        device->status.set_running(false);
      }
      if (ended) Save(device, true);
    }
    absl::MutexLock lock(&mutex_);
    const uint64_t seen = orders_;
    const auto news = [&] {
      mutex_.AssertReaderHeld();
      return stopping_ || orders_ != seen;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&news), absl::Milliseconds(kLookMillis));
  }
  Save(device, true);
}

std::vector<uint64_t> Scrubber::GroupsOf(const DeviceScrub& device) const {
  std::vector<uint64_t> groups;
  for (const LocalMembership& local : context_->placements->All()) {
    if (local.device_id == device.worker->device()->device_id()) {
      groups.push_back(local.placement_group_id);
    }
  }
  std::sort(groups.begin(), groups.end());
  return groups;
}

uint64_t Scrubber::BytesOf(const DeviceScrub& device, uint64_t vtree_id) {
  uint64_t bytes = 0;
  for (const uint64_t group : GroupsOf(device)) {
    std::optional<chunk::ChunkKey> after;
    while (!stopping()) {
      const auto page = device.worker->device()->store()->ListChunks(group, after, kListPage);
      if (!page.ok()) break;
      for (const chunk::ChunkInfo& info : *page) {
        if (vtree_id == 0 || info.key.vtree_id == vtree_id) bytes += info.own_bytes;
      }
      if (page->size() < kListPage) break;
      after = page->back().key;
    }
  }
  return bytes;
}

void Scrubber::Begin(DeviceScrub* device, const ScrubWish& wish) {
  const uint64_t bytes_total = BytesOf(*device, wish.vtree_id);
  absl::MutexLock lock(&mutex_);
  ScrubRecord& record = device->record;
  const bool goes_on = GoesOn(record, wish);
  if (!goes_on) {
    record.started_ms = context_->clock->WallMillis();
    record.operation_id = wish.operation_id;
    record.vtree_id = wish.vtree_id;
    record.placement_group_id = 0;
    record.key = {};
    record.bytes_done = 0;
    device->bad.clear();
    device->status = {};
  }
  v1::ScrubStatus& status = device->status;
  status.set_running(true);
  status.set_operation_id(wish.operation_id);
  status.set_started_ms(record.started_ms);
  status.set_bytes_done(record.bytes_done);
  status.set_bytes_total(std::max(bytes_total, record.bytes_done));
}

void Scrubber::RunPass(DeviceScrub* device, const ScrubWish& wish) {
  Begin(device, wish);
  Save(device, true);
  LogInfo("scrub begins",
          {{"device", device->worker->device()->device_id()},
           {"operation", wish.operation_id},
           {"bytes_left", device->status.bytes_total() - device->record.bytes_done}});
  for (const uint64_t group : GroupsOf(*device)) {
    if (group < device->record.placement_group_id) continue;
    if (!ScrubGroup(device, wish, group)) {
      Save(device, true);
      return;
    }
  }
  Complete(device, wish);
}

bool Scrubber::ScrubGroup(DeviceScrub* device, const ScrubWish& wish, uint64_t placement_group_id) {
  std::optional<chunk::ChunkKey> after;
  if (device->record.placement_group_id == placement_group_id) after = device->record.key;
  chunk::Store* store = device->worker->device()->store();
  while (true) {
    const auto page = store->ListChunks(placement_group_id, after, kChunksPerPage);
    if (!page.ok()) {
      NoteError(device, std::string(page.status().message()));
      return true;
    }
    std::vector<chunk::ChunkKey> keys;
    for (const chunk::ChunkInfo& info : *page) {
      if (wish.vtree_id != 0 && info.key.vtree_id != wish.vtree_id) continue;
      if (!ScrubChunk(device, wish, info)) return false;
      keys.push_back(info.key);
    }
    if (!keys.empty()) Compare(device, placement_group_id, keys);
    if (page->empty()) return true;
    after = page->back().key;
    {
      absl::MutexLock lock(&mutex_);
      device->record.placement_group_id = placement_group_id;
      device->record.key = *after;
    }
    Save(device, false);
    if (page->size() < kChunksPerPage) return true;
  }
}

bool Scrubber::ScrubChunk(DeviceScrub* device, const ScrubWish& wish,
                          const chunk::ChunkInfo& info) {
  for (int i = 0; i < kYieldsMax && device->worker->queued() > kBusyQueue; ++i) {
    if (Pause(kYieldMillis)) return false;
  }
  while (const uint64_t wait = device->pace.WaitMillis(context_->clock->BootMillis())) {
    if (Pause(std::min(wait, kLookMillis))) return false;
    if (Wanted(device) != wish) return false;
  }
  if (Wanted(device) != wish) return false;
  chunk::Store* store = device->worker->device()->store();
  if (device->worker->device()->failed()) return false;
  const uint32_t blocks = store->chunk_bytes() / chunk::kBlockBytes;
  // What a layer shares with its base is looked at where it belongs: once, and not with each.
  const auto read = store->ReadImage(info.key, chunk::ImageContent::kOwn);
  uint64_t bytes = info.own_bytes;
  std::vector<BlockId> bad;
  if (read.ok()) {
    bytes = read->blocks.size();
  } else if (absl::IsDataLoss(read.status())) {
    bad = ExamineLayers(device, info, blocks);
  } else {
    bytes = 0;
    if (!absl::IsNotFound(read.status())) {
      NoteError(device, std::string(read.status().message()));
    }
  }
  context_->metrics->scrub_bytes->Increment(static_cast<double>(bytes));
  context_->metrics->scrub_chunks->Increment();
  absl::MutexLock lock(&mutex_);
  device->record.bytes_done += bytes;
  v1::ScrubStatus& status = device->status;
  status.set_bytes_done(device->record.bytes_done);
  status.set_bytes_total(std::max(status.bytes_total(), status.bytes_done()));
  status.set_chunks_done(status.chunks_done() + 1);
  status.set_blocks_found(status.blocks_found() + bad.size());
  for (const BlockId& id : bad) {
    if (device->bad.size() == kBadCountedMax) break;
    device->bad.push_back(id);
  }
  if (!device->order.has_value()) return true;
  device->pace.Spend(bytes, ScrubRate(*device->order, wish, status.bytes_total()),
                     context_->clock->BootMillis());
  return true;
}

std::vector<BlockId> Scrubber::ExamineLayers(DeviceScrub* device, const chunk::ChunkInfo& info,
                                             uint32_t blocks) {
  std::vector<BlockId> bad;
  const uint64_t device_id = device->worker->device()->device_id();
  // Another replica may have dropped this layer, and have the block in one that shares it.
  std::vector<chunk::ChunkKey> keys{info.key};
  const auto layers =
      device->worker->device()->store()->ListLayers(info.key.vtree_id, info.key.chunk_index);
  if (layers.ok()) {
    std::vector<uint64_t> made{info.key.layer};
    for (const chunk::ChunkInfo& other : *layers) {
      if (!other.base.has_value()) continue;
      if (std::find(made.begin(), made.end(), *other.base) == made.end()) continue;
      made.push_back(other.key.layer);
      keys.push_back(other.key);
    }
  }
  for (const chunk::ChunkKey& key : keys) {
    const std::vector<uint32_t> found =
        repairer_->Examine({.device_id = device_id,
                            .placement_group_id = info.placement_group_id,
                            .key = key,
                            .block_count = blocks,
                            .finder = v1::CORRUPT_BLOCK_FINDER_SCRUB});
    for (const uint32_t block : found) bad.push_back({device_id, key, block});
  }
  return bad;
}

void Scrubber::Compare(DeviceScrub* device, uint64_t placement_group_id,
                       const std::vector<chunk::ChunkKey>& keys) {
  const LocalMembership local = context_->placements->Find(placement_group_id);
  const uint64_t device_id = device->worker->device()->device_id();
  if (local.device_id != device_id || !MayRepair(local.membership, local.membership.epoch)) return;
  const absl::StatusOr<ReplicaPeers::Peers> peers =
      peers_->Of(placement_group_id, local.membership.epoch, device_id);
  if (!peers.ok()) {
    // The epoch moved on: what has changed is compared by the next pass.
    if (!absl::IsAborted(peers.status())) NoteError(device, std::string(peers.status().message()));
    return;
  }
  if (peers->unreachable > 0) NoteError(device, "some replicas can't be reached to compare with");
  for (const ReplicaPeers::Peer& peer : peers->reachable) {
    std::vector<chunk::ChunkKey> left = keys;
    for (int attempt = 0; attempt < kCompareAttempts && !left.empty(); ++attempt) {
      if (attempt > 0 && Pause(kCompareAgainMillis)) return;
      v1::ListBlockChecksumsRequest request;
      *request.mutable_ticket() = peer.ticket;
      for (const chunk::ChunkKey& key : left) SetChunkKey(key, request.add_keys());
      const auto answer = peers_->ListBlockChecksums(peer, request);
      if (!answer.ok() || answer->chunks_size() != request.keys_size()) {
        peers_->Forget(placement_group_id);
        break;
      }
      left = CompareWith(device, placement_group_id, peer.device_id, left, *answer);
    }
  }
}

std::vector<chunk::ChunkKey> Scrubber::CompareWith(DeviceScrub* device, uint64_t placement_group_id,
                                                   uint64_t peer_device_id,
                                                   const std::vector<chunk::ChunkKey>& keys,
                                                   const v1::ListBlockChecksumsResponse& answer) {
  chunk::Store* store = device->worker->device()->store();
  std::vector<chunk::ChunkKey> again;
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto own = store->ReadBlocks(keys[i], 0, store->chunk_bytes() / chunk::kBlockBytes,
                                       chunk::BlockRead::kMetadata);
    if (!own.ok()) continue;
    const ChunkComparison comparison = CompareChunk(*own, answer.chunks(static_cast<int>(i)));
    if (!comparison.comparable) {
      // A layer that nobody sees goes from one replica before it goes from the other. One that is
      // just being made is compared by the next pass.
      if (comparison.is_there) again.push_back(keys[i]);
      continue;
    }
    for (const uint32_t block : comparison.different_blocks) {
      repairer_->Different({device->worker->device()->device_id(), keys[i], block},
                           placement_group_id, peer_device_id);
    }
    absl::MutexLock lock(&mutex_);
    device->status.set_chunks_compared(device->status.chunks_compared() + 1);
    device->status.set_blocks_different(device->status.blocks_different() +
                                        comparison.different_blocks.size());
  }
  return again;
}

void Scrubber::Complete(DeviceScrub* device, const ScrubWish& wish) {
  std::vector<BlockId> bad;
  {
    absl::MutexLock lock(&mutex_);
    bad = device->bad;
  }
  // What was found last may still be under repair.
  const uint64_t end = context_->clock->BootMillis() + absl::ToInt64Milliseconds(kDecisionWait);
  for (const BlockId& id : bad) {
    if (stopping() || context_->clock->BootMillis() >= end) break;
    repairer_->AwaitDecision(id.device_id, id.key, kDecisionWait);
  }
  CountFates(device);
  {
    absl::MutexLock lock(&mutex_);
    ScrubRecord& record = device->record;
    // A pass over everything is one of the schedule, too.
    if (wish.vtree_id == 0) record.completed_ms = context_->clock->WallMillis();
    if (wish.operation_id != 0) record.completed_operation_id = wish.operation_id;
    record.started_ms = 0;
    device->status.set_running(false);
    device->status.set_bytes_total(device->status.bytes_done());
  }
  Save(device, true);
  LogInfo("scrub is over", {{"device", device->worker->device()->device_id()},
                            {"operation", wish.operation_id},
                            {"bytes", device->status.bytes_done()},
                            {"found", device->status.blocks_found()},
                            {"repaired", device->status.blocks_repaired()}});
}

void Scrubber::Save(DeviceScrub* device, bool now) {
  ScrubRecord record;
  {
    absl::MutexLock lock(&mutex_);
    const uint64_t boot_ms = context_->clock->BootMillis();
    if (!now && boot_ms < device->saved_boot_ms + kSaveMillis) return;
    device->saved_boot_ms = boot_ms;
    record = device->record;
  }
  if (const absl::Status saved = state_->SaveScrub(record); !saved.ok()) {
    LogError("where scrub stands can't be noted", {{"error", saved}});
  }
}

void Scrubber::CountFates(DeviceScrub* device) {
  std::vector<BlockId> bad;
  {
    absl::MutexLock lock(&mutex_);
    bad = device->bad;
  }
  uint64_t repaired = 0;
  uint64_t unreadable = 0;
  for (const BlockId& id : bad) {
    const BlockRepairer::Fate fate = repairer_->FateOf(id);
    repaired += fate == BlockRepairer::Fate::kGone ? 1 : 0;
    unreadable += fate == BlockRepairer::Fate::kUnreadable ? 1 : 0;
  }
  absl::MutexLock lock(&mutex_);
  if (bad.size() != device->bad.size()) return;
  device->status.set_blocks_repaired(repaired);
  device->status.set_blocks_unreadable(unreadable);
}

void Scrubber::NoteError(DeviceScrub* device, const std::string& error) {
  absl::MutexLock lock(&mutex_);
  device->status.set_last_error(error.substr(0, 200));
}

}  // namespace tessera::sds
