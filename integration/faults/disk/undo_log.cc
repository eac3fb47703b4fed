#include "integration/faults/disk/undo_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

namespace tessera::faults {
namespace {

std::string FolderOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

bool Coin(std::mt19937_64* random) { return ((*random)() & 1) != 0; }

}  // namespace

UndoLog::~UndoLog() {
  for (const auto& [inode, file] : files_) close(file.descriptor);
}

UndoLog::Inode UndoLog::Hold(int descriptor) {
  struct stat info {};
  fstat(descriptor, &info);
  OpenFile& file = files_[info.st_ino];
  if (file.descriptor < 0) {
    // Opened by way of /proc, so that it can be written whatever the other was opened for.
    const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
    file.descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
  }
  return info.st_ino;
}

void UndoLog::BeforeWrite(int descriptor, uint64_t offset, uint64_t length) {
  const std::lock_guard lock(mutex_);
  const Inode inode = Hold(descriptor);
  struct stat info {};
  fstat(descriptor, &info);
  DataChange change{.inode = inode, .offset = offset};
  change.size_bytes = static_cast<uint64_t>(info.st_size);
  // Whole sectors: they are what tears. What lies beyond the end reads as zeros.
  const uint64_t begin = offset / kSectorBytes * kSectorBytes;
  const uint64_t end = (offset + length + kSectorBytes - 1) / kSectorBytes * kSectorBytes;
  change.offset = begin;
  change.before.resize(end - begin);
  const int own = files_[inode].descriptor;
  size_t got = 0;
  while (got < change.before.size()) {
    const ssize_t n = pread(own, change.before.data() + got, change.before.size() - got,
                            static_cast<off_t>(begin + got));
    if (n <= 0) break;
    got += static_cast<size_t>(n);
  }
  data_[inode].push_back(std::move(change));
}

void UndoLog::BeforeResize(int descriptor, uint64_t size_bytes) {
  struct stat info {};
  fstat(descriptor, &info);
  const auto present = static_cast<uint64_t>(info.st_size);
  if (size_bytes < present) BeforeWrite(descriptor, size_bytes, present - size_bytes);
  const std::lock_guard lock(mutex_);
  const Inode inode = Hold(descriptor);
  data_[inode].push_back({.inode = inode, .resize = true, .size_bytes = present});
}

void UndoLog::Created(const std::string& path) {
  const std::lock_guard lock(mutex_);
  names_.push_back({.kind = NameChange::Kind::kCreated, .path = path});
}

std::string UndoLog::KeepAside(const std::string& path) {
  std::string aside = folder_ + "/" + std::to_string(next_aside_++);
  return link(path.c_str(), aside.c_str()) == 0 ? aside : "";
}

int UndoLog::Unlink(const std::string& path) {
  const std::lock_guard lock(mutex_);
  const std::string aside = KeepAside(path);
  if (unlink(path.c_str()) != 0) return -errno;
  names_.push_back({.kind = NameChange::Kind::kUnlinked, .path = path, .kept_as = aside});
  return 0;
}

int UndoLog::Rename(const std::string& from, const std::string& to) {
  const std::lock_guard lock(mutex_);
  const std::string aside = access(to.c_str(), F_OK) == 0 ? KeepAside(to) : "";
  if (rename(from.c_str(), to.c_str()) != 0) return -errno;
  names_.push_back({.kind = NameChange::Kind::kRenamed, .path = from, .to = to, .kept_as = aside});
  return 0;
}

void UndoLog::ForgetData(Inode inode) {
  data_.erase(inode);
  const auto file = files_.find(inode);
  if (file == files_.end()) return;
  close(file->second.descriptor);
  files_.erase(file);
}

void UndoLog::Synced(int descriptor) {
  struct stat info {};
  fstat(descriptor, &info);
  const std::lock_guard lock(mutex_);
  ForgetData(info.st_ino);
}

void UndoLog::SyncedFolder(const std::string& folder) {
  const std::lock_guard lock(mutex_);
  for (auto change = names_.begin(); change != names_.end();) {
    const bool here =
        FolderOf(change->path) == folder || (!change->to.empty() && FolderOf(change->to) == folder);
    if (!here) {
      ++change;
      continue;
    }
    if (!change->kept_as.empty()) unlink(change->kept_as.c_str());
    change = names_.erase(change);
  }
}

uint64_t UndoLog::PowerCut(uint64_t seed) {
  const std::lock_guard lock(mutex_);
  std::mt19937_64 random(seed);
  uint64_t undone = UndoData(&random);
  undone += UndoNames(&random);
  std::vector<Inode> inodes;
  for (const auto& [inode, file] : files_) inodes.push_back(inode);
  for (const Inode inode : inodes) ForgetData(inode);
  data_.clear();
  return undone;
}

// Newest first: a sector that keeps a content is not touched by what came before it.
uint64_t UndoLog::UndoData(std::mt19937_64* random) {
  uint64_t undone = 0;
  std::set<std::pair<Inode, uint64_t>> kept;
  for (auto& [inode, changes] : data_) {
    bool size_kept = false;
    for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
      if (!change->resize) undone += UndoWrite(*change, &kept, random);
      struct stat info {};
      fstat(files_[inode].descriptor, &info);
      const bool resized = static_cast<uint64_t>(info.st_size) != change->size_bytes;
      if (size_kept || !resized) continue;
      size_kept = Coin(random);
      if (size_kept) continue;
      if (ftruncate(files_[inode].descriptor, static_cast<off_t>(change->size_bytes)) == 0) {
        ++undone;
      }
    }
  }
  return undone;
}

uint64_t UndoLog::UndoWrite(const DataChange& change, std::set<std::pair<Inode, uint64_t>>* kept,
                            std::mt19937_64* random) {
  uint64_t undone = 0;
  struct stat info {};
  fstat(files_[change.inode].descriptor, &info);
  const auto end = static_cast<uint64_t>(info.st_size);
  for (uint64_t at = 0; at < change.before.size(); at += kSectorBytes) {
    const uint64_t offset = change.offset + at;
    if (kept->contains({change.inode, offset})) continue;
    if (Coin(random)) {
      kept->insert({change.inode, offset});
      continue;
    }
    // Never makes the file longer: its size is a matter of its own.
    if (offset >= end) continue;
    const size_t length = std::min<uint64_t>(kSectorBytes, end - offset);
    if (pwrite(files_[change.inode].descriptor, change.before.data() + at, length,
               static_cast<off_t>(offset)) > 0) {
      ++undone;
    }
  }
  return undone;
}

uint64_t UndoLog::UndoNames(std::mt19937_64* random) {
  const size_t remain = names_.empty() ? 0 : (*random)() % (names_.size() + 1);
  const uint64_t undone = names_.size() - remain;
  while (names_.size() > remain) {
    const NameChange& change = names_.back();
    switch (change.kind) {
      case NameChange::Kind::kCreated:
        unlink(change.path.c_str());
        break;
      case NameChange::Kind::kUnlinked:
        if (!change.kept_as.empty()) rename(change.kept_as.c_str(), change.path.c_str());
        break;
      case NameChange::Kind::kRenamed:
        rename(change.to.c_str(), change.path.c_str());
        if (!change.kept_as.empty()) rename(change.kept_as.c_str(), change.to.c_str());
        break;
    }
    names_.pop_back();
  }
  for (const NameChange& change : names_) {
    if (!change.kept_as.empty()) unlink(change.kept_as.c_str());
  }
  names_.clear();
  return undone;
}

}  // namespace tessera::faults
