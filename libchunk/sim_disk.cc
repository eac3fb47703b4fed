#include "libchunk/sim_disk.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libchunk/types.h"

namespace tessera::chunk {
namespace {

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status MachineIsOff() { return absl::InternalError("the machine is off"); }

absl::Status NoSuchFile(const std::string& path) {
  return absl::NotFoundError(absl::StrCat(path, ": no such file or folder"));
}

}  // namespace

const char* CallKindName(CallKind kind) {
  static constexpr std::array<const char*, kCallKindCount> kNames = {
      "read",       "read cached", "write",     "sync data",     "allocate",
      "punch hole", "truncate",    "open file", "create folder", "sync folder",
      "rename",     "delete",      "query",     "lock folder"};
  return kNames[static_cast<size_t>(kind)];
}

// ---- Handles ---------------------------------------------------------------------------------

class SimulatedDisk::OpenedFile final : public File {
 public:
  OpenedFile(SimulatedDisk* disk, std::string path, std::shared_ptr<Node> node, uint64_t epoch)
      : disk_(disk), path_(std::move(path)), node_(std::move(node)), epoch_(epoch) {}

  absl::Status Read(uint64_t offset, std::span<std::byte> out) override {
    return disk_->ReadNode(*node_, CallKind::kRead, path_, epoch_, offset, out);
  }
  absl::Status ReadCached(uint64_t offset, std::span<std::byte> out) override {
    return disk_->ReadNode(*node_, CallKind::kReadCached, path_, epoch_, offset, out);
  }
  absl::Status Write(uint64_t offset, std::span<const std::span<const std::byte>> slices) override {
    return disk_->WriteNode(*node_, path_, epoch_, offset, slices);
  }
  absl::Status SyncData() override { return disk_->SyncNode(*node_, path_, epoch_); }
  void StartWriteBack() override {}  // what is not synced may be on the medium anyway
  absl::Status Allocate(uint64_t offset, uint64_t length_bytes) override {
    return disk_->ReshapeNode(*node_, CallKind::kAllocate, path_, epoch_, offset, length_bytes);
  }
  absl::Status PunchHole(uint64_t offset, uint64_t length_bytes) override {
    return disk_->ReshapeNode(*node_, CallKind::kPunchHole, path_, epoch_, offset, length_bytes);
  }
  absl::Status Truncate(uint64_t size_bytes) override {
    return disk_->ReshapeNode(*node_, CallKind::kTruncate, path_, epoch_, size_bytes, 0);
  }
  absl::StatusOr<uint64_t> Size() override {
    return disk_->QueryNode(*node_, path_, epoch_, /*allocated=*/false);
  }
  absl::StatusOr<uint64_t> AllocatedBytes() override {
    return disk_->QueryNode(*node_, path_, epoch_, /*allocated=*/true);
  }

 private:
  SimulatedDisk* const disk_;
  const std::string path_;
  const std::shared_ptr<Node> node_;  // shared with the names: see Names
  const uint64_t epoch_;
};

class SimulatedDisk::HeldLock final : public FolderLock {
 public:
  HeldLock(SimulatedDisk* disk, std::string path, uint64_t epoch)
      : disk_(disk), path_(std::move(path)), epoch_(epoch) {}
  ~HeldLock() override { disk_->Unlock(path_, epoch_); }

 private:
  SimulatedDisk* const disk_;
  const std::string path_;
  const uint64_t epoch_;
};

// ---- Judgement of calls ----------------------------------------------------------------------

SimulatedDisk::SimulatedDisk(const SimulatedDiskOptions& options)
    : options_(options), random_(options.seed), capacity_bytes_(options.capacity_bytes) {
  absl::MutexLock lock(&mutex_);
  for (const char* root : {"/", "."}) {
    names_.folders[root] = true;
    durable_names_.folders[root] = true;
  }
}

SimulatedDisk::~SimulatedDisk() = default;

SimulatedDisk::Verdict SimulatedDisk::Begin(CallKind kind, const std::string& what, bool changes) {
  if (off_) return {Fate::kFail, FaultKind::kInputOutputError, MachineIsOff()};
  now_nanos_ += options_.nanos_per_call;
  ++calls_[static_cast<size_t>(kind)];
  changes_ += changes ? 1 : 0;
  if (changes && changes_until_crash_ > 0 && --changes_until_crash_ == 0) {
    off_ = true;
    return {Fate::kCrash, FaultKind::kInputOutputError, MachineIsOff()};
  }
  const bool counts = calls_until_fault_ > 0 && (!fault_call_.has_value() || *fault_call_ == kind);
  if (!counts || --calls_until_fault_ > 0) return {};
  calls_until_fault_ = fault_persistent_ ? 1 : 0;
  fault_struck_ = true;
  const std::string message = absl::StrCat("simulated fault: ", CallKindName(kind), " ", what);
  const bool no_space = fault_kind_ == FaultKind::kNoSpace &&
                        (kind == CallKind::kWrite || kind == CallKind::kAllocate);
  return {Fate::kFail, fault_kind_,
          no_space ? absl::ResourceExhaustedError(message) : absl::InternalError(message)};
}

bool SimulatedDisk::Done(const Verdict& verdict) {
  return verdict.fate == Fate::kRun || (verdict.fate == Fate::kCrash && random_.Chance(1, 2));
}

uint64_t SimulatedDisk::PrefixWritten(const Verdict& verdict, uint64_t length_bytes) {
  if (verdict.fate == Fate::kRun) return length_bytes;
  if (length_bytes == 0) return 0;
  if (verdict.fate == Fate::kFail && verdict.fault == FaultKind::kShortWrite) {
    return length_bytes == 1 ? 0 : random_.Between(1, length_bytes - 1);
  }
  switch (random_.Below(3)) {
    case 0:
      return 0;
    case 1:
      return verdict.fate == Fate::kCrash ? length_bytes : 0;
    default:
      return random_.Below(length_bytes) / kSectorBytes * kSectorBytes;
  }
}

// ---- Files -----------------------------------------------------------------------------------

absl::Status SimulatedDisk::CheckEpoch(const std::string& path, uint64_t epoch) const {
  if (off_) return MachineIsOff();
  if (epoch == epoch_) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path, ": opened before the crash"));
}

absl::Status SimulatedDisk::ReadNode(Node& node, CallKind kind, const std::string& path,
                                     uint64_t epoch, uint64_t offset, std::span<std::byte> out) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckEpoch(path, epoch); !status.ok()) return status;
  const Verdict verdict = Begin(kind, path, /*changes=*/false);
  if (verdict.fate != Fate::kRun) return verdict.status;
  if (kind == CallKind::kReadCached && !random_.Chance(options_.cached_reads_of_16, 16)) {
    return absl::UnavailableError("not in the page cache");
  }
  if (node.image.Read(offset, out)) return absl::OkStatus();
  return absl::OutOfRangeError(
      absl::StrCat(path, ": has ", node.image.size_bytes(), " bytes, not ", offset + out.size()));
}

absl::Status SimulatedDisk::WriteNode(Node& node, const std::string& path, uint64_t epoch,
                                      uint64_t offset,
                                      std::span<const std::span<const std::byte>> slices) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckEpoch(path, epoch); !status.ok()) return status;
  std::vector<std::byte> bytes;
  for (const auto& slice : slices) bytes.insert(bytes.end(), slice.begin(), slice.end());
  Verdict verdict = Begin(CallKind::kWrite, path, /*changes=*/true);
  uint64_t length_bytes = PrefixWritten(verdict, bytes.size());
  if (node.block_device && offset + bytes.size() > node.image.size_bytes()) {
    return absl::ResourceExhaustedError(absl::StrCat(path, ": ends before the range does"));
  }
  const uint64_t available_bytes = AvailableBytes();
  const uint64_t page = SparsePages::kPageBytes;
  uint64_t needed_bytes = node.image.CountAbsentPages(offset, length_bytes) * page;
  if (node.linked && needed_bytes > available_bytes) {
    while (needed_bytes > available_bytes) {  // the prefix that fits, by whole pages
      const uint64_t end = offset + length_bytes;
      const uint64_t cut = std::min(length_bytes, end % page == 0 ? page : end % page);
      length_bytes -= cut;
      needed_bytes = node.image.CountAbsentPages(offset, length_bytes) * page;
    }
    if (verdict.fate == Fate::kRun) {
      verdict.status = absl::ResourceExhaustedError(absl::StrCat(path, ": no space left"));
    }
  }
  if (node.linked) used_bytes_ += needed_bytes;
  node.image.Write(offset, std::span(bytes).first(length_bytes));
  return verdict.status;
}

absl::Status SimulatedDisk::SyncNode(Node& node, const std::string& path, uint64_t epoch) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckEpoch(path, epoch); !status.ok()) return status;
  const Verdict verdict = Begin(CallKind::kSyncData, path, /*changes=*/true);
  if (verdict.fate == Fate::kFail) {
    node.image.FailSync(random_);
  } else if (Done(verdict) && !lying_sync_) {
    node.image.Sync();
  }
  return verdict.status;
}

absl::Status SimulatedDisk::ReshapeNode(Node& node, CallKind kind, const std::string& path,
                                        uint64_t epoch, uint64_t offset, uint64_t length_bytes) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckEpoch(path, epoch); !status.ok()) return status;
  const Verdict verdict = Begin(kind, path, /*changes=*/true);
  if (!Done(verdict)) return verdict.status;
  if (node.block_device && kind != CallKind::kPunchHole) {
    return absl::InternalError(absl::StrCat(path, ": a block device has its size"));
  }
  const uint64_t before_bytes = node.image.allocated_bytes();
  if (kind == CallKind::kAllocate) {
    const uint64_t needed_bytes =
        node.image.CountAbsentPages(offset, length_bytes) * SparsePages::kPageBytes;
    if (node.linked && needed_bytes > AvailableBytes()) {
      return verdict.fate == Fate::kCrash
                 ? verdict.status
                 : absl::ResourceExhaustedError(absl::StrCat(path, ": no space left"));
    }
    node.image.Allocate(offset, length_bytes);
  } else if (kind == CallKind::kPunchHole) {
    node.image.PunchHole(offset, length_bytes);
  } else {
    node.image.Truncate(offset);
  }
  if (node.linked) used_bytes_ += node.image.allocated_bytes() - before_bytes;
  return verdict.status;
}

absl::StatusOr<uint64_t> SimulatedDisk::QueryNode(Node& node, const std::string& path,
                                                  uint64_t epoch, bool allocated) {
  absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckEpoch(path, epoch); !status.ok()) return status;
  const Verdict verdict = Begin(CallKind::kQuery, path, /*changes=*/false);
  if (verdict.fate != Fate::kRun) return verdict.status;
  return allocated ? node.image.allocated_bytes() : node.image.size_bytes();
}

// ---- Names -----------------------------------------------------------------------------------

bool SimulatedDisk::FolderExists(const std::string& path) const {
  return names_.folders.contains(path);
}

void SimulatedDisk::ApplyChange(const FolderChange& change, Names& names) {
  switch (change.kind) {
    case FolderChange::Kind::kCreateFile:
      names.files[change.path] = change.node;
      break;
    case FolderChange::Kind::kCreateFolder:
      names.folders[change.path] = true;
      break;
    case FolderChange::Kind::kRename:
      if (const auto found = names.files.find(change.from);
          found != names.files.end() && found->second == change.node) {
        names.files.erase(found);
      }
      names.files[change.path] = change.node;
      break;
    case FolderChange::Kind::kDelete:
      if (const auto found = names.files.find(change.path);
          found != names.files.end() && found->second == change.node) {
        names.files.erase(found);
      }
      break;
  }
}

void SimulatedDisk::RecordChange(FolderChange change) {
  ApplyChange(change, names_);
  unsynced_changes_.push_back(std::move(change));
  RecountUsed();
}

absl::StatusOr<std::unique_ptr<File>> SimulatedDisk::OpenFile(const std::string& path,
                                                              OpenMode mode) {
  absl::MutexLock lock(&mutex_);
  const auto found = names_.files.find(path);
  const bool present = found != names_.files.end();
  const bool creates = !present && mode != OpenMode::kMustExist && FolderExists(ParentOf(path));
  const Verdict verdict = Begin(CallKind::kOpenFile, path, creates);
  if (creates && Done(verdict)) {
    auto node = std::make_shared<Node>();
    RecordChange({FolderChange::Kind::kCreateFile, path, "", node});
  }
  if (verdict.fate != Fate::kRun) return verdict.status;
  if (!present && !creates) return NoSuchFile(path);
  if (present && mode == OpenMode::kCreateNew) {
    return absl::AlreadyExistsError(absl::StrCat(path, ": exists already"));
  }
  return std::make_unique<OpenedFile>(this, path, names_.files[path], epoch_);
}

absl::Status SimulatedDisk::CreateFolder(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  const bool creates = !FolderExists(path) && FolderExists(ParentOf(path));
  const Verdict verdict = Begin(CallKind::kCreateFolder, path, creates);
  if (creates && Done(verdict)) {
    RecordChange({FolderChange::Kind::kCreateFolder, path, "", nullptr});
  }
  if (verdict.fate != Fate::kRun) return verdict.status;
  return FolderExists(path) ? absl::OkStatus() : NoSuchFile(ParentOf(path));
}

absl::Status SimulatedDisk::SyncFolder(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  const Verdict verdict = Begin(CallKind::kSyncFolder, path, /*changes=*/true);
  if (verdict.fate == Fate::kRun && !FolderExists(path)) return NoSuchFile(path);
  if (!Done(verdict)) return verdict.status;
  std::vector<FolderChange> others;
  for (FolderChange& change : unsynced_changes_) {
    const bool touches =
        ParentOf(change.path) == path ||
        (change.kind == FolderChange::Kind::kRename && ParentOf(change.from) == path);
    if (touches) {
      ApplyChange(change, durable_names_);
    } else {
      others.push_back(std::move(change));
    }
  }
  unsynced_changes_ = std::move(others);
  return verdict.status;
}

absl::Status SimulatedDisk::Rename(const std::string& from, const std::string& to) {
  absl::MutexLock lock(&mutex_);
  const auto found = names_.files.find(from);
  const bool present = found != names_.files.end() && FolderExists(ParentOf(to));
  const std::shared_ptr<Node> node = present ? found->second : nullptr;
  const Verdict verdict = Begin(CallKind::kRename, from, present);
  if (present && from != to && Done(verdict)) {
    RecordChange({FolderChange::Kind::kRename, to, from, node});
  }
  if (verdict.fate != Fate::kRun) return verdict.status;
  return present ? absl::OkStatus() : NoSuchFile(from);
}

absl::Status SimulatedDisk::Delete(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  const auto found = names_.files.find(path);
  const bool present = found != names_.files.end();
  const std::shared_ptr<Node> node = present ? found->second : nullptr;
  const Verdict verdict = Begin(CallKind::kDelete, path, present);
  if (present && Done(verdict)) {
    RecordChange({FolderChange::Kind::kDelete, path, "", node});
  }
  if (verdict.fate != Fate::kRun) return verdict.status;
  return present ? absl::OkStatus() : NoSuchFile(path);
}

absl::StatusOr<bool> SimulatedDisk::Exists(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  const Verdict verdict = Begin(CallKind::kQuery, path, /*changes=*/false);
  if (verdict.fate != Fate::kRun) return verdict.status;
  return names_.files.contains(path) || FolderExists(path);
}

absl::StatusOr<bool> SimulatedDisk::IsBlockDevice(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  const Verdict verdict = Begin(CallKind::kQuery, path, /*changes=*/false);
  if (verdict.fate != Fate::kRun) return verdict.status;
  const auto found = names_.files.find(path);
  return found != names_.files.end() && found->second->block_device;
}

absl::StatusOr<std::vector<std::string>> SimulatedDisk::List(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  const Verdict verdict = Begin(CallKind::kQuery, path, /*changes=*/false);
  if (verdict.fate != Fate::kRun) return verdict.status;
  if (!FolderExists(path)) return NoSuchFile(path);
  std::vector<std::string> found;
  for (const auto& [name, node] : names_.files) {
    if (ParentOf(name) == path) found.push_back(name.substr(name.rfind('/') + 1));
  }
  std::sort(found.begin(), found.end());
  return found;
}

absl::StatusOr<FileSystemSpace> SimulatedDisk::Space(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  const Verdict verdict = Begin(CallKind::kQuery, path, /*changes=*/false);
  if (verdict.fate != Fate::kRun) return verdict.status;
  return FileSystemSpace{capacity_bytes_, AvailableBytes()};
}

absl::StatusOr<std::unique_ptr<FolderLock>> SimulatedDisk::LockFolder(const std::string& path) {
  absl::MutexLock lock(&mutex_);
  const Verdict verdict = Begin(CallKind::kLockFolder, path, /*changes=*/false);
  if (verdict.fate != Fate::kRun) return verdict.status;
  if (!FolderExists(path) && !names_.files.contains(path)) return NoSuchFile(path);
  if (!locked_folders_.insert(path).second) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is locked"));
  }
  return std::make_unique<HeldLock>(this, path, epoch_);
}

void SimulatedDisk::Unlock(const std::string& path, uint64_t epoch) {
  absl::MutexLock lock(&mutex_);
  if (epoch == epoch_) locked_folders_.erase(path);
}

// ---- Clock, crashes and faults ---------------------------------------------------------------

uint64_t SimulatedDisk::NowNanos() {
  absl::MutexLock lock(&mutex_);
  return now_nanos_;
}

absl::StatusOr<std::string> SimulatedDisk::BootId() {
  absl::MutexLock lock(&mutex_);
  if (off_) return MachineIsOff();
  return absl::StrCat("simulated-boot-", options_.seed, "-", boot_);
}

void SimulatedDisk::CrashAtChange(uint64_t nth) {
  absl::MutexLock lock(&mutex_);
  changes_until_crash_ = nth;
}

void SimulatedDisk::CancelCrash() { CrashAtChange(0); }

bool SimulatedDisk::off() {
  absl::MutexLock lock(&mutex_);
  return off_;
}

void SimulatedDisk::Restart() {
  ++epoch_;
  off_ = false;
  changes_until_crash_ = 0;
  calls_until_fault_ = 0;
  locked_folders_.clear();
  RecountUsed();
}

void SimulatedDisk::LosePower(std::optional<LossStyle> style) {
  absl::MutexLock lock(&mutex_);
  const auto draw = [&] { return static_cast<LossStyle>(random_.Below(kLossStyleCount)); };
  // One style for all files in half of the cases: they are kept or lost together then.
  if (!style.has_value() && random_.Chance(1, 2)) style = draw();

  absl::flat_hash_set<Node*> lost;
  const auto lose = [&](Names& names) {
    for (auto& [path, node] : names.files) {
      if (lost.insert(node.get()).second) node->image.LosePower(style.value_or(draw()), random_);
    }
  };
  lose(names_);
  lose(durable_names_);
  // Nodes that only an unsynced change leads to: created, renamed and deleted again.
  for (FolderChange& change : unsynced_changes_) {
    if (change.node != nullptr && lost.insert(change.node.get()).second) {
      change.node->image.LosePower(style.value_or(draw()), random_);
    }
  }
  const LossStyle folder_style = style.value_or(draw());
  const uint64_t prefix = random_.Below(unsynced_changes_.size() + 1);
  for (size_t i = 0; i < unsynced_changes_.size(); ++i) {
    const bool keep = folder_style == LossStyle::kLoseAll   ? false
                      : folder_style == LossStyle::kKeepAll ? true
                      : folder_style == LossStyle::kPrefix  ? i < prefix
                                                            : random_.Chance(1, 2);
    if (keep) ApplyChange(unsynced_changes_[i], durable_names_);
  }
  unsynced_changes_.clear();
  // A file whose folder was lost is lost with it.
  for (auto entry = durable_names_.files.begin(); entry != durable_names_.files.end();) {
    const bool reachable = durable_names_.folders.contains(ParentOf(entry->first));
    entry = reachable ? std::next(entry) : durable_names_.files.erase(entry);
  }
  names_ = durable_names_;
  ++boot_;
  now_nanos_ = 1'000'000'000;
  Restart();
}

void SimulatedDisk::CrashProcess() {
  absl::MutexLock lock(&mutex_);
  now_nanos_ += 1'000'000'000;
  Restart();
}

void SimulatedDisk::FailCall(std::optional<CallKind> kind, uint64_t nth, FaultKind fault,
                             bool persistent) {
  absl::MutexLock lock(&mutex_);
  fault_call_ = kind;
  calls_until_fault_ = nth;
  fault_kind_ = fault;
  fault_persistent_ = persistent;
  fault_struck_ = false;
}

void SimulatedDisk::CancelFault() {
  absl::MutexLock lock(&mutex_);
  calls_until_fault_ = 0;
}

bool SimulatedDisk::fault_struck() {
  absl::MutexLock lock(&mutex_);
  return fault_struck_;
}

absl::Status SimulatedDisk::FlipBits(const std::string& path, uint64_t offset, std::byte mask) {
  absl::MutexLock lock(&mutex_);
  const auto found = names_.files.find(path);
  if (found == names_.files.end()) return NoSuchFile(path);
  if (offset >= found->second->image.size_bytes()) {
    return absl::OutOfRangeError(absl::StrCat(path, ": ends before offset ", offset));
  }
  found->second->image.Flip(offset, mask);
  return absl::OkStatus();
}

void SimulatedDisk::set_lying_sync(bool lying) {
  absl::MutexLock lock(&mutex_);
  lying_sync_ = lying;
}

void SimulatedDisk::set_capacity_bytes(uint64_t capacity_bytes) {
  absl::MutexLock lock(&mutex_);
  capacity_bytes_ = capacity_bytes;
}

void SimulatedDisk::AddBlockDevice(const std::string& path, uint64_t size_bytes) {
  absl::MutexLock lock(&mutex_);
  auto node = std::make_shared<Node>();
  node->linked = false;
  node->block_device = true;
  node->image.Truncate(size_bytes);
  node->image.Sync();
  names_.files[path] = node;
  durable_names_.files[path] = std::move(node);
}

void SimulatedDisk::AdvanceClock(uint64_t nanos) {
  absl::MutexLock lock(&mutex_);
  now_nanos_ += nanos;
}

// ---- Accounts --------------------------------------------------------------------------------

uint64_t SimulatedDisk::AvailableBytes() const {
  return capacity_bytes_ > used_bytes_ ? capacity_bytes_ - used_bytes_ : 0;
}

void SimulatedDisk::RecountUsed() {
  for (const FolderChange& change : unsynced_changes_) {
    if (change.node != nullptr) change.node->linked = false;
  }
  used_bytes_ = 0;
  for (auto& [path, node] : names_.files) {
    node->linked = !node->block_device;
    if (node->linked) used_bytes_ += node->image.allocated_bytes();
  }
}

uint64_t SimulatedDisk::calls(CallKind kind) {
  absl::MutexLock lock(&mutex_);
  return calls_[static_cast<size_t>(kind)];
}

uint64_t SimulatedDisk::changes() {
  absl::MutexLock lock(&mutex_);
  return changes_;
}

uint64_t SimulatedDisk::used_bytes() {
  absl::MutexLock lock(&mutex_);
  return used_bytes_;
}

}  // namespace tessera::chunk
