#include "services/sds/block_repairer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/logging.h"
#include "services/common/status_macros.h"
#include "services/sds/block_rules.h"
#include "services/sds/replica_messages.h"

namespace tessera::sds {
namespace {

constexpr size_t kBlocksAtOnce = 64;
constexpr size_t kRunsTold = 1'000;
constexpr absl::Duration kLookAgain = absl::Seconds(5);
// A layer that another replica lacks may come there with a write that is on its way; after this
// many tries, about a second, it has been dropped there.
constexpr uint32_t kTriesOfAbsent = 6;

const char* FinderName(v1::CorruptBlockFinder finder) {
  switch (finder) {
    case v1::CORRUPT_BLOCK_FINDER_WRITE:
      return "a write";
    case v1::CORRUPT_BLOCK_FINDER_COPY:
      return "a read for another replica";
    case v1::CORRUPT_BLOCK_FINDER_SCRUB:
      return "scrub";
    default:
      return "a read";
  }
}

std::string Describe(const BlockId& id) {
  return absl::StrCat("block ", id.block, " of chunk ", id.key.vtree_id, "/", id.key.chunk_index,
                      "/", id.key.layer, " on device ", id.device_id);
}

}  // namespace

struct BlockRepairer::Batch {
  uint64_t placement_group_id = 0;
  uint64_t epoch = 0;
  DeviceWorker* worker = nullptr;
  struct Bad {
    CorruptBlock block;
    chunk::Version version;  // of the chunk, as of the last look
    bool again = false;      // some source is at another version
    bool differs = false;    // some source has another content at this version
    bool dropped = false;    // some source has dropped the layer, or has not made it yet
  };
  std::map<BlockId, Bad> rest;
};

BlockRepairer::BlockRepairer(IoEngine* engine, ReplicaPeers* peers, const EngineContext* context,
                             LocalState* state, HealthBoard* health)
    : engine_(engine),
      peers_(peers),
      context_(context),
      state_(state),
      health_(health),
      executor_({.name = "repair", .threads = 1, .queue_limit = 1}) {}

void BlockRepairer::Start() {
  const absl::StatusOr<std::vector<CorruptBlock>> known = state_->UnreadableBlocks();
  if (!known.ok()) LogError("the list of bad blocks can't be read", {{"error", known.status()}});
  {
    absl::MutexLock lock(&mutex_);
    const uint64_t now = context_->clock->BootMillis();
    if (known.ok()) {
      for (const CorruptBlock& block : *known) book_.Found(block, now);
    }
  }
  (void)executor_.Post([this] { Run(); });
}

void BlockRepairer::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  executor_.Shutdown();
}

void BlockRepairer::Found(const BadRange& range) {
  absl::MutexLock lock(&mutex_);
  if (stopping_ || suspects_.size() >= kSuspectsMax) return;
  if (std::find(suspects_.begin(), suspects_.end(), range) != suspects_.end()) return;
  // Known already, and nothing new to do about it.
  bool all_known = true;
  for (uint32_t i = 0; i < range.block_count && all_known; ++i) {
    all_known = book_.Contains({range.device_id, range.key, range.first_block + i});
  }
  if (!all_known) suspects_.push_back(range);
}

void BlockRepairer::Run() {
  while (true) {
    BadRange suspect;
    bool look = false;
    std::vector<CorruptBlock> due;
    {
      absl::MutexLock lock(&mutex_);
      const uint64_t now = context_->clock->BootMillis();
      const uint64_t next = book_.NextDueMillis().value_or(now + 60'000);
      const auto has_work = [this] {
        mutex_.AssertReaderHeld();
        return stopping_ || woken_ || !suspects_.empty();
      };
      const absl::Duration wait =
          next <= now ? absl::ZeroDuration() : absl::Milliseconds(static_cast<int64_t>(next - now));
      mutex_.AwaitWithTimeout(absl::Condition(&has_work), std::min(wait, kLookAgain));
      if (stopping_) return;
      woken_ = false;
      look = !suspects_.empty();
      if (look) {
        suspect = suspects_.front();
        suspects_.pop_front();
      }
      due = book_.Due(context_->clock->BootMillis(), kBlocksAtOnce);
    }
    if (look) {
      Examine(suspect);
      continue;
    }
    if (!due.empty()) Work(due);
    UpdateBoard();
  }
}

DeviceWorker* BlockRepairer::WorkerOf(uint64_t device_id) const {
  for (const auto& worker : engine_->workers()) {
    if (worker->device()->device_id() == device_id) return worker.get();
  }
  return nullptr;
}

std::vector<uint32_t> BlockRepairer::Examine(const BadRange& where) {
  std::vector<uint32_t> bad;
  const DeviceWorker* worker = WorkerOf(where.device_id);
  if (worker == nullptr || worker->device()->store() == nullptr || worker->device()->failed()) {
    return bad;
  }
  BadRange range = where;
  if (range.path.has_value()) {
    const auto layers =
        worker->device()->store()->ListLayers(range.key.vtree_id, range.key.chunk_index);
    if (!layers.ok()) return bad;
    for (const chunk::ChunkInfo& info : *layers) {
      if (range.path->Sees(info.key.layer)) range.key = info.key;
    }
  }
  const auto blocks = worker->device()->store()->ReadBlocks(
      range.key, range.first_block, range.block_count, chunk::BlockRead::kVerify);
  if (!blocks.ok()) {
    if (!absl::IsNotFound(blocks.status())) {
      LogWarning("a bad block can't be looked at",
                 {{"device", range.device_id}, {"error", blocks.status()}});
    }
    return bad;
  }
  for (uint32_t i = 0; i < range.block_count; ++i) {
    if (blocks->states[i].readable) continue;
    bad.push_back(range.first_block + i);
    const CorruptBlock block{.id = {range.device_id, range.key, range.first_block + i},
                             .placement_group_id = range.placement_group_id,
                             .finder = range.finder};
    bool news = false;
    {
      absl::MutexLock lock(&mutex_);
      news = book_.Found(block, context_->clock->BootMillis());
      woken_ |= news;
    }
    if (!news) continue;
    context_->metrics->blocks_found[static_cast<size_t>(range.finder)]->Increment();
    health_->Note(v1::EVENT_SEVERITY_WARNING, "corrupt_block_found",
                  absl::StrCat(Describe(block.id), " is bad, found by ", FinderName(range.finder)));
  }
  return bad;
}

bool BlockRepairer::Prepare(const std::vector<CorruptBlock>& due, Batch* batch) {
  batch->placement_group_id = due.front().placement_group_id;
  batch->worker = WorkerOf(due.front().id.device_id);
  const bool usable = batch->worker != nullptr && batch->worker->device()->store() != nullptr &&
                      !batch->worker->device()->failed();
  chunk::Store* store = usable ? batch->worker->device()->store() : nullptr;
  for (const CorruptBlock& block : due) {
    if (store == nullptr) {
      NoteAgain(block.id);
      continue;
    }
    const auto now = store->ReadBlocks(block.id.key, block.id.block, 1, chunk::BlockRead::kVerify);
    if (absl::IsNotFound(now.status()) || (now.ok() && now->states[0].readable)) {
      NoteHealed(block.id);
    } else if (!now.ok()) {
      NoteUnreadable(block, std::string(now.status().message()));
    } else {
      batch->rest[block.id] = {.block = block, .version = now->info.version};
    }
  }
  if (batch->rest.empty()) return false;
  const LocalMembership local = context_->placements->Find(batch->placement_group_id);
  batch->epoch = local.membership.epoch;
  if (local.device_id == due.front().id.device_id && MayRepair(local.membership, batch->epoch)) {
    return true;
  }
  // A replica that is not in sync is brought up to date as a whole.
  for (const auto& [id, bad] : batch->rest) NoteAgain(id);
  return false;
}

void BlockRepairer::Work(const std::vector<CorruptBlock>& due) {
  Batch batch;
  if (!Prepare(due, &batch)) return;
  const absl::StatusOr<ReplicaPeers::Peers> peers =
      peers_->Of(batch.placement_group_id, batch.epoch, due.front().id.device_id);
  if (!peers.ok()) {
    for (const auto& [id, bad] : batch.rest) NoteAgain(id);
    return;
  }
  for (const ReplicaPeers::Peer& peer : peers->reachable) {
    if (batch.rest.empty()) return;
    AskPeer(peer, &batch);
  }
  SettleRest(*peers, &batch);
}

void BlockRepairer::AskPeer(const ReplicaPeers::Peer& peer, Batch* batch) {
  v1::FetchBlocksRequest request;
  *request.mutable_ticket() = peer.ticket;
  for (const auto& [id, bad] : batch->rest) {
    v1::BlockList* list =
        request.chunks_size() == 0 ? nullptr : request.mutable_chunks(request.chunks_size() - 1);
    if (list == nullptr || ChunkKeyOf(list->key()) != id.key) {
      list = request.add_chunks();
      SetChunkKey(id.key, list->mutable_key());
    }
    list->add_blocks(id.block);
  }
  const auto response = peers_->FetchBlocks(peer, request);
  absl::Status status = response.status();
  if (response.ok() && response->chunks_size() != request.chunks_size()) {
    status = absl::InternalError("the source answered for other chunks than were asked for");
  }
  if (!status.ok()) {
    LogInfo("a source of bad blocks does not answer",
            {{"device", peer.device_id},
             {"placement_group", batch->placement_group_id},
             {"error", status}});
    peers_->Forget(batch->placement_group_id);
    for (auto& [id, bad] : batch->rest) bad.again = true;
    return;
  }
  for (int i = 0; i < response->chunks_size(); ++i) {
    const absl::Status fits = CheckFetched(request.chunks(i), response->chunks(i));
    if (fits.ok()) {
      TakeFetched(peer, response->chunks(i), request.chunks(i), batch);
    } else {
      LogWarning("fetched blocks are not taken", {{"device", peer.device_id}, {"error", fits}});
    }
  }
}

void BlockRepairer::TakeFetched(const ReplicaPeers::Peer& peer, const v1::FetchedChunk& fetched,
                                const v1::BlockList& asked, Batch* batch) {
  for (int i = 0; i < asked.blocks_size(); ++i) {
    const auto found = batch->rest.find(
        {batch->worker->device()->device_id(), ChunkKeyOf(asked.key()), asked.blocks(i)});
    if (found == batch->rest.end()) continue;
    Batch::Bad& bad = found->second;
    const SourceJudgement judgement = JudgeSource(bad.version, fetched, static_cast<size_t>(i));
    bad.again |= judgement.verdict == SourceVerdict::kAgain;
    bad.dropped |= judgement.verdict == SourceVerdict::kDropped;
    if (judgement.verdict != SourceVerdict::kApply) continue;
    const BlockId id = found->first;
    const absl::Status written = Rewrite(*batch, id, bad.version, judgement.content);
    if (written.ok()) {
      NoteRepaired(id, peer.device_id);
      batch->rest.erase(found);
    } else if (absl::IsInvalidArgument(written)) {
      bad.differs = true;
      absl::MutexLock lock(&mutex_);
      if (!book_.IsUnreadable(id)) book_.Different(id, batch->placement_group_id, peer.device_id);
    } else {
      bad.again = true;
    }
  }
}

absl::Status BlockRepairer::Rewrite(const Batch& batch, const BlockId& id,
                                    const chunk::Version& version,
                                    std::span<const std::byte> content) {
  absl::Status status = absl::UnavailableError("the server stops");
  batch.worker->Control([&] {
    const GroupReplica* replica = batch.worker->Find(batch.placement_group_id);
    chunk::Store* store = batch.worker->device()->store();
    if (replica == nullptr || !MayRepair(replica->membership, batch.epoch) || store == nullptr ||
        batch.worker->device()->failed()) {
      status = absl::AbortedError("the epoch moved on");
      return;
    }
    status = store->RepairBlock(id.key, version, id.block, content);
    if (absl::IsFailedPrecondition(status)) batch.worker->FailDevice(status);
  });
  if (!status.ok()) return status;
  // Only what reads well is repaired.
  TESSERA_ASSIGN_OR_RETURN(
      const chunk::ChunkBlocks now,
      batch.worker->device()->store()->ReadBlocks(id.key, id.block, 1, chunk::BlockRead::kVerify));
  return now.states[0].readable ? absl::OkStatus()
                                : absl::UnavailableError("the block is still bad");
}

void BlockRepairer::SettleRest(const ReplicaPeers::Peers& peers, Batch* batch) {
  for (const auto& [id, bad] : batch->rest) {
    if (bad.again) {
      NoteAgain(id);
    } else if (bad.dropped && !IsTriedOften(id)) {
      NoteAgain(id);
    } else if (bad.dropped) {
      NoteUnreadable(bad.block, "other copies have dropped the layer, which nobody sees any more");
    } else if (bad.differs) {
      NoteUnreadable(bad.block, "the other replicas have another content at the same version");
    } else if (peers.reachable.empty() && peers.unreachable == 0) {
      NoteUnreadable(bad.block, "this is the only copy in sync");
    } else if (peers.unreachable > 0) {
      NoteUnreadable(bad.block, "the other copies in sync can't be reached now");
    } else {
      NoteUnreadable(bad.block, "it is bad on every replica in sync");
    }
  }
}

void BlockRepairer::NoteRepaired(const BlockId& id, uint64_t other_device_id) {
  context_->metrics->blocks_repaired->Increment();
  bool lost = false;
  {
    absl::MutexLock lock(&mutex_);
    lost = book_.IsUnreadable(id);
    book_.Repaired(id, other_device_id);
  }
  if (lost) (void)state_->ForgetUnreadableBlock(id);
  health_->Note(v1::EVENT_SEVERITY_INFO, "corrupt_block_repaired",
                absl::StrCat(Describe(id), " was repaired from device ", other_device_id));
}

void BlockRepairer::NoteHealed(const BlockId& id) {
  bool lost = false;
  {
    absl::MutexLock lock(&mutex_);
    lost = book_.IsUnreadable(id);
    book_.Healed(id);
  }
  if (lost) (void)state_->ForgetUnreadableBlock(id);
}

bool BlockRepairer::IsTriedOften(const BlockId& id) {
  absl::MutexLock lock(&mutex_);
  return book_.Tries(id) >= kTriesOfAbsent;
}

void BlockRepairer::NoteAgain(const BlockId& id) {
  absl::MutexLock lock(&mutex_);
  book_.TryAgain(id, context_->clock->BootMillis());
}

void BlockRepairer::NoteUnreadable(const CorruptBlock& block, const std::string& reason) {
  bool news = false;
  {
    absl::MutexLock lock(&mutex_);
    news = !book_.IsUnreadable(block.id);
    book_.Unreadable(block.id, reason, context_->clock->BootMillis());
  }
  if (!news) return;
  context_->metrics->blocks_unrepairable->Increment();
  CorruptBlock lost = block;
  lost.unreadable = true;
  lost.reason = reason;
  if (const absl::Status saved = state_->SaveUnreadableBlock(lost); !saved.ok()) {
    LogError("a bad block can't be noted", {{"error", saved}});
  }
  health_->Note(v1::EVENT_SEVERITY_ERROR, "corrupt_block_unrepairable",
                absl::StrCat(Describe(block.id), " can't be repaired: ", reason));
}

void BlockRepairer::UpdateBoard() {
  std::map<uint64_t, uint64_t> by_device;
  {
    absl::MutexLock lock(&mutex_);
    for (const v1::CorruptBlocks& run : book_.UnreadableRuns(kRunsTold)) {
      by_device[run.device_id()] += run.block_count();
    }
  }
  std::set<std::string> now;
  for (const auto& [device_id, blocks] : by_device) {
    const std::string subject = absl::StrCat("device ", device_id);
    now.insert(subject);
    health_->Raise("unreadable_blocks", subject, v1::EVENT_SEVERITY_ERROR,
                   absl::StrCat(subject, " has ", blocks, " blocks that no replica can give"));
  }
  for (const std::string& subject : devices_on_board_) {
    if (!now.contains(subject)) health_->Resolve("unreadable_blocks", subject);
  }
  devices_on_board_ = std::move(now);
}

bool BlockRepairer::Settle(const BadRange& range, absl::Duration timeout) {
  Examine(range);
  return AwaitDecision(range.device_id, range.key, timeout);
}

bool BlockRepairer::AwaitDecision(uint64_t device_id, const chunk::ChunkKey& key,
                                  absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const uint32_t blocks = 4u << 20 >> 12;  // of the largest chunk
  const auto decided = [&] {
    mutex_.AssertReaderHeld();
    if (stopping_) return true;
    for (uint32_t block = 0; block < blocks; ++block) {
      const BlockId id{device_id, key, block};
      if (book_.Contains(id) && !book_.IsUnreadable(id)) return false;
    }
    return true;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&decided), timeout);
}

void BlockRepairer::Different(const BlockId& id, uint64_t placement_group_id,
                              uint64_t other_device_id) {
  {
    absl::MutexLock lock(&mutex_);
    book_.Different(id, placement_group_id, other_device_id);
  }
  context_->metrics->blocks_different->Increment();
  health_->Note(v1::EVENT_SEVERITY_ERROR, "replicas_differ",
                absl::StrCat(Describe(id), " differs from device ", other_device_id,
                             " though the chunk's version is the same"));
}

BlockRepairer::Fate BlockRepairer::FateOf(const BlockId& id) {
  absl::MutexLock lock(&mutex_);
  if (!book_.Contains(id)) return Fate::kGone;
  return book_.IsUnreadable(id) ? Fate::kUnreadable : Fate::kPending;
}

void BlockRepairer::FillHeartbeat(v1::HeartbeatRequest* request) {
  absl::MutexLock lock(&mutex_);
  const CorruptBlockBook::Report& report = book_.NextReport();
  request->set_corrupt_block_report(report.number);
  request->set_corrupt_block_changes_dropped(report.dropped);
  request->mutable_corrupt_block_changes()->Add(report.changes.begin(), report.changes.end());
  for (v1::CorruptBlocks& run : book_.UnreadableRuns(kRunsTold)) {
    *request->add_unreadable_blocks() = std::move(run);
  }
}

void BlockRepairer::Confirm(uint64_t report_number) {
  absl::MutexLock lock(&mutex_);
  if (report_number != 0) book_.Confirm(report_number);
}

}  // namespace tessera::sds
