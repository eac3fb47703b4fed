// Opening, closing, flushing and the two threads of a store.
#include "libchunk/store.h"

#include <pthread.h>

#include <algorithm>
#include <bit>
#include <random>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "libchunk/check.h"
#include "libchunk/status_macros.h"
#include "libchunk/store_impl.h"

namespace tessera::chunk {
namespace {

constexpr uint32_t kChunkBytesMin = 256u << 10;
constexpr uint32_t kChunkBytesMax = 4u << 20;
// A record of a whole chunk takes at most a quarter of the journal.
constexpr uint64_t kJournalChunksMin = 8;
// With fewer free blocks than this (1 GiB) checkpoints are kept small.
constexpr uint64_t kTightBlocks = 262'144;
// Lists of layers have an eighth of what the rows have: a list is a small part of a row.
constexpr uint64_t kLayerListsShare = 8;
// With room for fewer than this a block device is refused.
constexpr uint64_t kDeviceChunksMin = 16;
// Of the metadata's log on a device, as SQLite works it off by itself (1000 pages).
constexpr uint64_t kDeviceLogBytesMax = 4'096'000;
constexpr absl::Duration kIdleInterval = absl::Seconds(5);

absl::Status ValidateOptions(const StoreOptions& options) {
  if (!std::has_single_bit(options.chunk_bytes) || options.chunk_bytes < kChunkBytesMin ||
      options.chunk_bytes > kChunkBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("chunk_bytes is ", options.chunk_bytes,
                                                   "; it must be a power of two from ",
                                                   kChunkBytesMin, " to ", kChunkBytesMax));
  }
  if (options.journal_bytes % kBlockBytes != 0 ||
      options.journal_bytes < kJournalChunksMin * options.chunk_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("journal_bytes is ", options.journal_bytes,
                                                   "; it must be a multiple of ", kBlockBytes,
                                                   " and at least ", kJournalChunksMin, " chunks"));
  }
  if (options.direct_write_bytes < kBlockBytes) {
    return absl::InvalidArgumentError(absl::StrCat("direct_write_bytes is ",
                                                   options.direct_write_bytes,
                                                   "; it must be at least ", kBlockBytes));
  }
  return absl::OkStatus();
}

absl::Status SyncParent(Env* env, std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.find_last_of('/');
  if (slash == std::string_view::npos) return env->SyncFolder(".");
  return env->SyncFolder(slash == 0 ? "/" : std::string(path.substr(0, slash)));
}

absl::Status RequireFolder(Env* env, const std::string& path) {
  CHUNK_ASSIGN_OR_RETURN(const bool exists, env->Exists(path));
  if (!exists) CHUNK_RETURN_IF_ERROR(env->CreateFolder(path));
  if (absl::Status listed = env->List(path).status(); !listed.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        path,
        " is neither a folder that can be read nor a block device; give one: ", listed.message()));
  }
  // Also when all is there already: a process before this one may have died between making a folder
  // or file and making its name durable.
#ifdef TESSERA_PLANT_SKIP_FOLDER_SYNC  // see check_planted_bugs.sh
  return absl::OkStatus();
#endif
  CHUNK_RETURN_IF_ERROR(SyncParent(env, path));
  return env->SyncFolder(path);
}

// Locks the folder or block device and makes it ready for a store.
absl::Status OpenPlaceFor(StoreImpl::Parts* parts) {
  Env* const env = parts->env;
  CHUNK_ASSIGN_OR_RETURN(const bool on_device, env->IsBlockDevice(parts->folder));
  if (!on_device) CHUNK_RETURN_IF_ERROR(RequireFolder(env, parts->folder));
  CHUNK_ASSIGN_OR_RETURN(parts->folder_lock, env->LockFolder(parts->folder));
  if (!on_device) return absl::OkStatus();
  StoreOptions& options = parts->options;
  CHUNK_ASSIGN_OR_RETURN(
      parts->device,
      DeviceEnv::Open(env, parts->folder,
                      DeviceFormat{.journal_bytes = options.journal_bytes,
                                   .data_bytes_min = options.reserve_bytes +
                                                     kDeviceChunksMin * options.chunk_bytes}));
  parts->env = parts->device.get();
  // Only of use when the store is made: on a device that was formatted with another journal.
  options.journal_bytes =
      std::min(options.journal_bytes, parts->device->layout().journal.size_bytes);
  return absl::OkStatus();
}

absl::Status DeleteLeftOvers(Env* env, const StorePaths& paths) {
  for (const std::string& path : {paths.superblock_new, paths.journal, paths.data, paths.database,
                                  paths.database + "-wal", paths.database + "-journal"}) {
    CHUNK_ASSIGN_OR_RETURN(const bool exists, env->Exists(path));
    if (exists) CHUNK_RETURN_IF_ERROR(env->Delete(path));
  }
  return absl::OkStatus();
}

absl::Status CreateStore(Env* env, const StorePaths& paths, const StoreOptions& options) {
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<File> marker,
                         env->OpenFile(paths.creating, OpenMode::kCreateIfMissing));
  CHUNK_RETURN_IF_ERROR(marker->SyncData());
  CHUNK_RETURN_IF_ERROR(env->SyncFolder(paths.folder));
  CHUNK_RETURN_IF_ERROR(DeleteLeftOvers(env, paths));

  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<File> journal,
                         env->OpenFile(paths.journal, OpenMode::kCreateNew));
  CHUNK_RETURN_IF_ERROR(Journal::Format(journal.get(), options.journal_bytes));
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<File> data,
                         env->OpenFile(paths.data, OpenMode::kCreateNew));
  CHUNK_RETURN_IF_ERROR(data->SyncData());
  CHUNK_RETURN_IF_ERROR(MetadataDatabase::Open(env, paths.database,
                                               options.chunk_bytes / kBlockBytes,
                                               MetadataDatabase::Mode::kCreate)
                            .status());
  CHUNK_RETURN_IF_ERROR(env->SyncFolder(paths.folder));

  Superblock superblock;
  std::random_device random;
  superblock.store_id = uint64_t{random()} << 32 | random();
  superblock.chunk_bytes = options.chunk_bytes;
  superblock.journal_bytes = options.journal_bytes;
  superblock.clean = true;
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<File> file,
                         env->OpenFile(paths.superblock_new, OpenMode::kCreateNew));
  CHUNK_RETURN_IF_ERROR(file->Allocate(0, 2 * kSuperblockCopyBytes));
  CHUNK_RETURN_IF_ERROR(WriteSuperblock(file.get(), &superblock));
  CHUNK_RETURN_IF_ERROR(env->Rename(paths.superblock_new, paths.superblock));
  CHUNK_RETURN_IF_ERROR(env->SyncFolder(paths.folder));
  CHUNK_RETURN_IF_ERROR(env->Delete(paths.creating));
  return env->SyncFolder(paths.folder);
}

// Makes the store when there is none; true when it was made.
absl::StatusOr<bool> CreateIfMissing(Env* env, const StorePaths& paths,
                                     const StoreOptions& options) {
  CHUNK_ASSIGN_OR_RETURN(const bool exists, env->Exists(paths.superblock));
  if (exists) return false;
  CHUNK_ASSIGN_OR_RETURN(const bool creating, env->Exists(paths.creating));
  CHUNK_ASSIGN_OR_RETURN(const bool has_database, env->Exists(paths.database));
  CHUNK_ASSIGN_OR_RETURN(const bool has_data, env->Exists(paths.data));
  if (!creating && (has_database || has_data)) {
    return absl::DataLossError(absl::StrCat(
        paths.folder, " holds a store whose superblock is missing; nothing was changed"));
  }
  CHUNK_RETURN_IF_ERROR(CreateStore(env, paths, options));
  return true;
}

// Writes the database's log again where it is, for the reason given at StoreImpl::Rewrite: SQLite
// would take a commit whose sync failed for durable.
absl::Status RewriteDatabaseLog(Env* env, const StorePaths& paths) {
  absl::StatusOr<std::unique_ptr<File>> file =
      env->OpenFile(paths.database + "-wal", OpenMode::kMustExist);
  if (absl::IsNotFound(file.status())) return absl::OkStatus();
  CHUNK_RETURN_IF_ERROR(file.status());
  CHUNK_ASSIGN_OR_RETURN(const uint64_t size, (*file)->Size());
  std::vector<std::byte> bytes;
  for (uint64_t offset = 0; offset < size; offset += bytes.size()) {
    bytes.resize(std::min<uint64_t>(1u << 20, size - offset));
    CHUNK_RETURN_IF_ERROR((*file)->Read(offset, bytes));
    const std::span<const std::byte> slice(bytes);
    CHUNK_RETURN_IF_ERROR((*file)->Write(offset, std::span(&slice, 1)));
  }
  return (*file)->SyncData();
}

absl::Status RequireSameGeometry(const Superblock& superblock, const StoreOptions& options) {
  if (superblock.chunk_bytes != options.chunk_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the store was made with chunk_bytes = ", superblock.chunk_bytes, ", not ",
                     options.chunk_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

StorePaths::StorePaths(const std::string& the_folder)
    : folder(the_folder),
      superblock(folder + "/superblock"),
      superblock_new(folder + "/superblock.new"),
      journal(folder + "/journal"),
      data(folder + "/data"),
      database(folder + "/meta.db"),
      creating(folder + "/creating") {}

absl::StatusOr<std::unique_ptr<Store>> Store::Open(Env* env, const std::string& path,
                                                   const StoreOptions& options) {
  CHUNK_RETURN_IF_ERROR(ValidateOptions(options));
  const StorePaths paths(path);
  StoreImpl::Parts parts{.env = env, .options = options, .folder = path};
  CHUNK_RETURN_IF_ERROR(OpenPlaceFor(&parts));
  env = parts.env;
  CHUNK_ASSIGN_OR_RETURN(const FileSystemSpace space, env->Space(path));
  CHUNK_ASSIGN_OR_RETURN(parts.report.created, CreateIfMissing(env, paths, parts.options));
  CHUNK_ASSIGN_OR_RETURN(parts.superblock_file,
                         env->OpenFile(paths.superblock, OpenMode::kMustExist));
  CHUNK_ASSIGN_OR_RETURN(parts.superblock, ReadSuperblock(parts.superblock_file.get()));
  CHUNK_RETURN_IF_ERROR(RequireSameGeometry(parts.superblock, options));
  parts.options.journal_bytes = parts.superblock.journal_bytes;
  parts.report.clean = parts.superblock.clean;
  if (!parts.report.clean) CHUNK_RETURN_IF_ERROR(RewriteDatabaseLog(env, paths));

  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<File> journal_file,
                         env->OpenFile(paths.journal, OpenMode::kMustExist));
  CHUNK_ASSIGN_OR_RETURN(const uint64_t journal_size, journal_file->Size());
  if (journal_size < parts.superblock.journal_bytes) {
    return absl::DataLossError(absl::StrCat("the journal has ", journal_size, " bytes of ",
                                            parts.superblock.journal_bytes));
  }
  parts.journal = std::make_unique<Journal>(
      std::move(journal_file), JournalGeometry{.size_bytes = parts.superblock.journal_bytes,
                                               .store_id = parts.superblock.store_id});
  CHUNK_ASSIGN_OR_RETURN(parts.data, env->OpenFile(paths.data, OpenMode::kMustExist));
  CHUNK_ASSIGN_OR_RETURN(
      parts.database, MetadataDatabase::Open(env, paths.database, options.chunk_bytes / kBlockBytes,
                                             MetadataDatabase::Mode::kUse));
  if (parts.device != nullptr) {
    CHUNK_RETURN_IF_ERROR(parts.database->LimitLog(
        std::min<uint64_t>(kDeviceLogBytesMax, parts.device->layout().metadata.size_bytes / 8)));
    // The data's region is all that data can have; journal and superblock count as in a folder.
    const uint64_t most =
        space.total_bytes + parts.superblock.journal_bytes + 2 * kSuperblockCopyBytes;
    parts.options.capacity_bytes =
        options.capacity_bytes == 0 ? most : std::min(options.capacity_bytes, most);
  } else if (options.capacity_bytes == 0) {
    CHUNK_ASSIGN_OR_RETURN(const uint64_t data_bytes, parts.data->AllocatedBytes());
    parts.options.capacity_bytes = space.available_bytes + data_bytes +
                                   (parts.report.created ? 0 : parts.superblock.journal_bytes);
  }
  if (parts.options.capacity_bytes < parts.options.journal_bytes + parts.options.reserve_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("a capacity of ", parts.options.capacity_bytes,
                     " bytes leaves no room beside ", parts.options.journal_bytes,
                     " of journal and ", parts.options.reserve_bytes, " of reserve"));
  }
  auto store = std::make_unique<StoreImpl>(std::move(parts));
  CHUNK_RETURN_IF_ERROR(store->Recover());
  return store;
}

StoreImpl::StoreImpl(Parts parts)
    : parts_(std::move(parts)),
      journal_(parts_.journal.get()),
      active_(std::make_unique<Overlay>()),
      cache_(parts_.options.metadata_cache_bytes),
      layer_lists_(parts_.options.metadata_cache_bytes / kLayerListsShare) {}

StoreImpl::~StoreImpl() { StopThreads(); }

absl::Status StoreImpl::Fail(const absl::Status& cause) {
  bool first = false;
  {
    absl::MutexLock lock(&failure_mutex_);
    first = failure_.ok();
    if (first) failure_ = cause;
    is_failed_ = true;
  }
  if (first) {
    // The next Open shall know that unflushed changes may be gone though the host did not boot. As
    // much as can be done on a failed device: if this fails, too, the device has other troubles.
    absl::MutexLock lock(&superblock_mutex_);
    parts_.superblock.sync_failed = true;
    WriteSuperblock(parts_.superblock_file.get(), &parts_.superblock).IgnoreError();
  }
  return absl::FailedPreconditionError(absl::StrCat("the device has failed: ", cause.message()));
}

absl::Status StoreImpl::failed() {
  absl::MutexLock lock(&failure_mutex_);
  return failure_;
}

absl::Status StoreImpl::CheckAlive() {
  if (closed_) return absl::FailedPreconditionError("the store is closed");
  if (!is_failed_) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the device has failed: ", failed().message()));
}

absl::Status StoreImpl::SyncUpTo(uint64_t lsn) {
  if (durable_lsn_ >= lsn) return absl::OkStatus();
  absl::MutexLock sync_lock(&sync_mutex_);
  if (durable_lsn_ >= lsn) return absl::OkStatus();
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  uint64_t goal = 0;
  bool data_too = false;
  {
    absl::MutexLock append_lock(&append_mutex_);
    goal = journal_->head().next_lsn - 1;
    data_too = std::exchange(direct_unsynced_, false);
    direct_unsynced_bytes_ = 0;
  }
  // Data first: a record that is durable then finds its direct data durable, too.
#ifdef TESSERA_PLANT_SKIP_DATA_SYNC  // see check_planted_bugs.sh
  data_too = false;
#endif
  if (data_too) {
    if (absl::Status synced = parts_.data->SyncData(); !synced.ok()) return Fail(synced);
  }
  if (absl::Status synced = journal_->Sync(); !synced.ok()) return Fail(synced);
  durable_lsn_ = goal;
  ++syncs_;
  return absl::OkStatus();
}

absl::Status StoreImpl::AcknowledgeLoss() {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  absl::Status written;
  {
    absl::MutexLock lock(&superblock_mutex_);
    if (!parts_.superblock.loss_untold) return absl::OkStatus();
    parts_.superblock.loss_untold = false;
    written = WriteSuperblock(parts_.superblock_file.get(), &parts_.superblock);
  }
  return written.ok() ? written : Fail(written);
}

absl::Status StoreImpl::Flush() {
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  ++flushes_;
  return SyncUpTo(appended_lsn_);
}

void StoreImpl::FlushAsync(std::function<void(absl::Status)> done) {
  if (!parts_.options.background_threads) {
    done(Flush());
    return;
  }
  absl::Status alive = CheckAlive();
  if (alive.ok()) {
    ++flushes_;
    absl::MutexLock lock(&work_mutex_);
    if (!stopping_) {
      flush_waiters_.push_back({appended_lsn_, std::move(done)});
      return;
    }
    alive = absl::FailedPreconditionError("the store is closed");
  }
  done(std::move(alive));
}

void StoreImpl::StartThreads() {
  flusher_ = std::thread([this] { FlusherLoop(); });
  checkpointer_ = std::thread([this] { CheckpointLoop(); });
  // For whoever looks at the process from outside; a name that does not stick is no loss.
  (void)pthread_setname_np(flusher_.native_handle(), "chunk-flusher");
  (void)pthread_setname_np(checkpointer_.native_handle(), "chunk-checkpt");
}

void StoreImpl::StopThreads() {
  {
    absl::MutexLock lock(&work_mutex_);
    stopping_ = true;
  }
  if (flusher_.joinable()) flusher_.join();
  if (checkpointer_.joinable()) checkpointer_.join();
}

void StoreImpl::FlusherLoop() {
  for (;;) {
    std::deque<FlushWaiter> waiters;
    {
      absl::MutexLock lock(&work_mutex_);
      work_mutex_.Await(absl::Condition(
          +[](StoreImpl* store) ABSL_NO_THREAD_SAFETY_ANALYSIS {
            return store->stopping_ || !store->flush_waiters_.empty();
          },
          this));
      if (flush_waiters_.empty()) return;
      waiters.swap(flush_waiters_);
    }
    uint64_t lsn = 0;
    for (const FlushWaiter& waiter : waiters) lsn = std::max(lsn, waiter.lsn);
    const absl::Status status = SyncUpTo(lsn);
    for (FlushWaiter& waiter : waiters) waiter.done(status);
  }
}

void StoreImpl::RequestCheckpoint() {
  if (!parts_.options.background_threads) return;
  absl::MutexLock lock(&work_mutex_);
  checkpoint_requested_ = true;
}

void StoreImpl::RequestWriteBack() {
  if (!parts_.options.background_threads) return;
  absl::MutexLock lock(&work_mutex_);
  write_back_requested_ = true;
}

void StoreImpl::CheckpointLoop() {
  uint64_t idle_since_lsn = 0;
  uint64_t done_lsn = appended_lsn_;
  for (;;) {
    bool requested = false, write_back = false;
    {
      absl::MutexLock lock(&work_mutex_);
      work_mutex_.AwaitWithTimeout(absl::Condition(
                                       +[](StoreImpl* store) ABSL_NO_THREAD_SAFETY_ANALYSIS {
                                         return store->stopping_ || store->checkpoint_requested_ ||
                                                store->write_back_requested_;
                                       },
                                       this),
                                   kIdleInterval);
      if (stopping_) return;
      requested = std::exchange(checkpoint_requested_, false);
      write_back = std::exchange(write_back_requested_, false);
    }
    if (write_back && !requested) {
      parts_.data->StartWriteBack();
      continue;
    }
    // Idle: nothing was appended for a whole interval, and something is still in the journal.
    const uint64_t lsn = appended_lsn_;
    const bool idle = !requested && lsn == idle_since_lsn && lsn != done_lsn;
    idle_since_lsn = lsn;
    absl::MutexLock lock(&checkpoint_mutex_);
    // An error is kept in failed(), or the next attempt reports it to the writer that needs room.
    if ((requested || idle) && Checkpoint().ok()) done_lsn = lsn;
    TidySpace().IgnoreError();
  }
}

absl::StatusOr<uint64_t> StoreImpl::MeasureUsedBytes() {
  // A device's metadata region is no part of its capacity, however much of it is used.
  if (parts_.device != nullptr) {
    return journal_->size_bytes() + 2 * kSuperblockCopyBytes + DataBytesOnDevice();
  }
  const StorePaths paths(parts_.folder);
  uint64_t used = 0;
  for (File* file : {parts_.superblock_file.get(), journal_->file(), parts_.data.get()}) {
    CHUNK_ASSIGN_OR_RETURN(const uint64_t bytes, file->AllocatedBytes());
    used += bytes;
  }
  for (const std::string& path : {paths.database, paths.database + "-wal"}) {
    absl::StatusOr<std::unique_ptr<File>> file = parts_.env->OpenFile(path, OpenMode::kMustExist);
    if (absl::IsNotFound(file.status())) continue;
    CHUNK_RETURN_IF_ERROR(file.status());
    CHUNK_ASSIGN_OR_RETURN(const uint64_t bytes, (*file)->AllocatedBytes());
    used += bytes;
  }
  return used;
}

void StoreImpl::UpdateSpaceLimit() {
  const StoreOptions& options = parts_.options;
  uint64_t other_bytes = options.reserve_bytes + options.journal_bytes + 2 * kSuperblockCopyBytes;
  const bool on_device = parts_.device != nullptr;
  absl::StatusOr<uint64_t> data_bytes =
      on_device ? DataBytesOnDevice() : parts_.data->AllocatedBytes();
  absl::StatusOr<uint64_t> used_bytes = MeasureUsedBytes();
  if (data_bytes.ok() && used_bytes.ok()) {
    const uint64_t fixed_bytes = options.journal_bytes + 2 * kSuperblockCopyBytes;
    const uint64_t not_data = *used_bytes - std::min(*used_bytes, *data_bytes);
    other_bytes += not_data - std::min(not_data, fixed_bytes);
  }
  allocator_->SetLimit((options.capacity_bytes - std::min(options.capacity_bytes, other_bytes)) /
                       kBlockBytes);
  const bool metadata_is_full = on_device && MetadataIsFull();
  if (metadata_is_full) allocator_->SetLimit(0);
  const Allocator::Space space = allocator_->space();
  space_is_tight_ = space.in_use_blocks + space.reserved_blocks + kTightBlocks > space.limit_blocks;
}

uint64_t StoreImpl::DataBytesOnDevice() {
  const Allocator::Space space = allocator_->space();
  return (space.in_use_blocks + space.warm_blocks) * kBlockBytes;
}

bool StoreImpl::MetadataIsFull() {
  const absl::StatusOr<uint64_t> used_bytes = parts_.database->UsedBytes();
  return !used_bytes.ok() || *used_bytes > parts_.device->layout().metadata.size_bytes / 2;
}

StoreStats StoreImpl::stats() {
  StoreStats stats;
  stats.capacity_bytes = parts_.options.capacity_bytes;
  stats.used_bytes = MeasureUsedBytes().value_or(0);
  {
    absl::MutexLock lock(&state_mutex_);
    stats.chunks = totals_.chunks;
    stats.data_bytes = totals_.own_blocks * kBlockBytes;
  }
  stats.journal_used_bytes = journal_used_bytes_;
  stats.journal_bytes = journal_->size_bytes();
  stats.writes = writes_;
  stats.write_bytes = write_bytes_;
  stats.reads = reads_;
  stats.read_bytes = read_bytes_;
  stats.flushes = flushes_;
  stats.syncs = syncs_;
  stats.checkpoints = checkpoints_;
  stats.checksum_errors = checksum_errors_;
  stats.recovered_records = parts_.report.records_replayed;
  return stats;
}

absl::Status StoreImpl::RunBackgroundWork(bool force) {
  absl::MutexLock lock(&checkpoint_mutex_);
  if (force || CheckpointDue()) CHUNK_RETURN_IF_ERROR(Checkpoint());
  return TidySpace();
}

absl::Status StoreImpl::Close() {
  StopThreads();
  CHUNK_RETURN_IF_ERROR(CheckAlive());
  CHUNK_RETURN_IF_ERROR(RunBackgroundWork(true));
  CHUNK_RETURN_IF_ERROR(GiveBackWarm(Allocator::Which::kAll, kAllBlocks).status());
  // The holes, too: after a clean stop nobody looks for blocks that came back.
  if (absl::Status synced = parts_.data->SyncData(); !synced.ok()) return Fail(synced);
  CHUNK_RETURN_IF_ERROR(SyncUpTo(appended_lsn_));
  closed_ = true;
  absl::MutexLock lock(&superblock_mutex_);
  parts_.superblock.clean = true;
  return WriteSuperblock(parts_.superblock_file.get(), &parts_.superblock);
}

}  // namespace tessera::chunk
