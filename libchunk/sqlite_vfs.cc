#include "libchunk/sqlite_vfs.h"

#include <sqlite3.h>
#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libchunk/types.h"

namespace tessera::chunk {

// What all connections through one VFS share.
struct SqliteVfs::Registration {
  explicit Registration(Env* e) : env(e) {}

  // Keeps the error's text and gives SQLite's code for it.
  int Report(const absl::Status& status, int code) {
    absl::MutexLock lock(&mutex);
    last_error = status;
    return absl::IsResourceExhausted(status) ? SQLITE_FULL : code;
  }

  Env* const env;
  std::string name;
  sqlite3_vfs vfs = {};
  absl::Mutex mutex;
  absl::Status last_error ABSL_GUARDED_BY(mutex);
  // The file that holds the locks of a main database, by path.
  absl::flat_hash_map<std::string, const void*> owners ABSL_GUARDED_BY(mutex);
};

namespace {

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::span<std::byte> BytesOf(void* data, int length_bytes) {
  return {static_cast<std::byte*>(data), static_cast<size_t>(length_bytes)};
}

// A file without a name: gone when closed, never synced.
class MemoryFile final : public File {
 public:
  absl::Status Read(uint64_t offset, std::span<std::byte> out) override {
    if (offset + out.size() > bytes_.size()) return absl::OutOfRangeError("past the end");
    std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    return absl::OkStatus();
  }
  absl::Status ReadCached(uint64_t offset, std::span<std::byte> out) override {
    return Read(offset, out);
  }
  absl::Status Write(uint64_t offset, std::span<const std::span<const std::byte>> slices) override {
    for (const auto& slice : slices) {
      if (bytes_.size() < offset + slice.size()) bytes_.resize(offset + slice.size());
      std::copy(slice.begin(), slice.end(), bytes_.begin() + static_cast<ptrdiff_t>(offset));
      offset += slice.size();
    }
    return absl::OkStatus();
  }
  absl::Status SyncData() override { return absl::OkStatus(); }
  void StartWriteBack() override {}
  absl::Status Allocate(uint64_t offset, uint64_t length_bytes) override {
    bytes_.resize(std::max<uint64_t>(bytes_.size(), offset + length_bytes));
    return absl::OkStatus();
  }
  absl::Status PunchHole(uint64_t offset, uint64_t length_bytes) override {
    for (uint64_t i = offset; i < std::min<uint64_t>(offset + length_bytes, bytes_.size()); ++i) {
      bytes_[i] = std::byte{0};
    }
    return absl::OkStatus();
  }
  absl::Status Truncate(uint64_t size_bytes) override {
    bytes_.resize(size_bytes);
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Size() override { return bytes_.size(); }
  absl::StatusOr<uint64_t> AllocatedBytes() override { return bytes_.size(); }

 private:
  std::vector<std::byte> bytes_;
};

// What SQLite allocates for a file: szOsFile bytes, uninitialised until xOpen.
struct VfsFile {
  sqlite3_file base;  // first: SQLite sees only this
  SqliteVfs::Registration* registration;
  File* file;         // owned; deleted in Close
  std::string* path;  // owned; deleted in Close
  bool delete_on_close;
  int lock_level;
};

VfsFile& FileOf(sqlite3_file* file) { return *reinterpret_cast<VfsFile*>(file); }

SqliteVfs::Registration& RegistrationOf(sqlite3_vfs* vfs) {
  return *static_cast<SqliteVfs::Registration*>(vfs->pAppData);
}

// ---- sqlite3_io_methods ----------------------------------------------------------------------

int SetLock(VfsFile& self, int level) {
  absl::MutexLock lock(&self.registration->mutex);
  const void* const me = &self;
  if (level > SQLITE_LOCK_NONE) {
    const auto [owner, inserted] = self.registration->owners.emplace(*self.path, me);
    if (!inserted && owner->second != me) return SQLITE_BUSY;
  } else if (const auto owner = self.registration->owners.find(*self.path);
             owner != self.registration->owners.end() && owner->second == me) {
    self.registration->owners.erase(owner);
  }
  self.lock_level = level;
  return SQLITE_OK;
}

int Close(sqlite3_file* file) {
  VfsFile& self = FileOf(file);
  (void)SetLock(self, SQLITE_LOCK_NONE);
  delete self.file;
  int result = SQLITE_OK;
  if (self.delete_on_close) {
    const absl::Status status = self.registration->env->Delete(*self.path);
    if (!status.ok()) result = self.registration->Report(status, SQLITE_IOERR_DELETE);
  }
  delete self.path;
  self.file = nullptr;
  self.path = nullptr;
  return result;
}

int Read(sqlite3_file* file, void* out, int length_bytes, sqlite3_int64 offset) {
  VfsFile& self = FileOf(file);
  const auto start = static_cast<uint64_t>(offset);
  const std::span<std::byte> bytes = BytesOf(out, length_bytes);
  absl::Status status = self.file->Read(start, bytes);
  if (status.ok()) return SQLITE_OK;
  if (!absl::IsOutOfRange(status)) return self.registration->Report(status, SQLITE_IOERR_READ);
  // SQLite relies on zeros after the end of the file.
  const absl::StatusOr<uint64_t> size = self.file->Size();
  if (!size.ok()) return self.registration->Report(size.status(), SQLITE_IOERR_READ);
  const uint64_t present = *size > start ? std::min<uint64_t>(*size - start, bytes.size()) : 0;
  if (present > 0)
    status = self.file->Read(start, bytes.first(present));
  else
    status = absl::OkStatus();
  if (!status.ok()) return self.registration->Report(status, SQLITE_IOERR_READ);
  std::memset(bytes.data() + present, 0, bytes.size() - present);
  return present == bytes.size() ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

int Write(sqlite3_file* file, const void* data, int length_bytes, sqlite3_int64 offset) {
  VfsFile& self = FileOf(file);
  const std::span<const std::byte> slice(static_cast<const std::byte*>(data),
                                         static_cast<size_t>(length_bytes));
  const absl::Status status = self.file->Write(static_cast<uint64_t>(offset), {&slice, 1});
  return status.ok() ? SQLITE_OK : self.registration->Report(status, SQLITE_IOERR_WRITE);
}

int Truncate(sqlite3_file* file, sqlite3_int64 size_bytes) {
  VfsFile& self = FileOf(file);
  const absl::Status status = self.file->Truncate(static_cast<uint64_t>(size_bytes));
  return status.ok() ? SQLITE_OK : self.registration->Report(status, SQLITE_IOERR_TRUNCATE);
}

int Sync(sqlite3_file* file, int /*flags*/) {
  VfsFile& self = FileOf(file);
  const absl::Status status = self.file->SyncData();
  return status.ok() ? SQLITE_OK : self.registration->Report(status, SQLITE_IOERR_FSYNC);
}

int FileSize(sqlite3_file* file, sqlite3_int64* size_bytes) {
  VfsFile& self = FileOf(file);
  const absl::StatusOr<uint64_t> size = self.file->Size();
  if (!size.ok()) return self.registration->Report(size.status(), SQLITE_IOERR_FSTAT);
  *size_bytes = static_cast<sqlite3_int64>(*size);
  return SQLITE_OK;
}

int Lock(sqlite3_file* file, int level) {
  VfsFile& self = FileOf(file);
  return level <= self.lock_level ? SQLITE_OK : SetLock(self, level);
}

int Unlock(sqlite3_file* file, int level) {
  VfsFile& self = FileOf(file);
  return level >= self.lock_level ? SQLITE_OK : SetLock(self, level);
}

int CheckReservedLock(sqlite3_file* file, int* held) {
  VfsFile& self = FileOf(file);
  absl::MutexLock lock(&self.registration->mutex);
  *held = self.registration->owners.contains(*self.path) ? 1 : 0;
  return SQLITE_OK;
}

int FileControl(sqlite3_file* /*file*/, int /*operation*/, void* /*argument*/) {
  return SQLITE_NOTFOUND;  // no operation of ours; SQLite goes on by itself
}

int SectorSize(sqlite3_file* /*file*/) { return static_cast<int>(kSectorBytes); }

int DeviceCharacteristics(sqlite3_file* /*file*/) { return SQLITE_IOCAP_POWERSAFE_OVERWRITE; }

constexpr sqlite3_io_methods kMethods = {
    .iVersion = 1,
    .xClose = Close,
    .xRead = Read,
    .xWrite = Write,
    .xTruncate = Truncate,
    .xSync = Sync,
    .xFileSize = FileSize,
    .xLock = Lock,
    .xUnlock = Unlock,
    .xCheckReservedLock = CheckReservedLock,
    .xFileControl = FileControl,
    .xSectorSize = SectorSize,
    .xDeviceCharacteristics = DeviceCharacteristics,
};

// ---- sqlite3_vfs -----------------------------------------------------------------------------

// Opens the file; one that may be new is durable by name before this returns. "May be": a process
// that made it may have died before it synced the folder, so finding it says nothing.
absl::StatusOr<std::unique_ptr<File>> OpenNamed(Env* env, const std::string& path, int flags) {
  if ((flags & SQLITE_OPEN_CREATE) == 0) return env->OpenFile(path, OpenMode::kMustExist);
  absl::StatusOr<std::unique_ptr<File>> file = env->OpenFile(path, OpenMode::kCreateIfMissing);
  if (!file.ok()) return file;
  if (absl::Status status = env->SyncFolder(ParentOf(path)); !status.ok()) return status;
  return file;
}

int Open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  SqliteVfs::Registration& registration = RegistrationOf(vfs);
  VfsFile& self = FileOf(file);
  self.base.pMethods = nullptr;  // "not open": SQLite then does not call xClose
  std::unique_ptr<File> opened;
  if (name == nullptr) {
    opened = std::make_unique<MemoryFile>();
  } else {
    absl::StatusOr<std::unique_ptr<File>> result = OpenNamed(registration.env, name, flags);
    if (!result.ok()) return registration.Report(result.status(), SQLITE_CANTOPEN);
    opened = *std::move(result);
  }
  self.registration = &registration;
  self.file = opened.release();
  self.path = new std::string(name == nullptr ? "" : name);
  self.delete_on_close = name != nullptr && (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
  self.lock_level = SQLITE_LOCK_NONE;
  if (out_flags != nullptr) *out_flags = flags;
  self.base.pMethods = &kMethods;
  return SQLITE_OK;
}

int Delete(sqlite3_vfs* vfs, const char* name, int sync_folder) {
  SqliteVfs::Registration& registration = RegistrationOf(vfs);
  absl::Status status = registration.env->Delete(name);
  if (absl::IsNotFound(status)) return SQLITE_IOERR_DELETE_NOENT;
  if (!status.ok()) return registration.Report(status, SQLITE_IOERR_DELETE);
  if (sync_folder == 0) return SQLITE_OK;
  status = registration.env->SyncFolder(ParentOf(name));
  return status.ok() ? SQLITE_OK : registration.Report(status, SQLITE_IOERR_DIR_FSYNC);
}

// Whether the file is there, for every question SQLite asks: an Env has no permissions.
int Access(sqlite3_vfs* vfs, const char* name, int /*flags*/, int* result) {
  SqliteVfs::Registration& registration = RegistrationOf(vfs);
  const absl::StatusOr<bool> exists = registration.env->Exists(name);
  if (!exists.ok()) return registration.Report(exists.status(), SQLITE_IOERR_ACCESS);
  *result = *exists ? 1 : 0;
  return SQLITE_OK;
}

int FullPathname(sqlite3_vfs* /*vfs*/, const char* name, int capacity, char* out) {
  const size_t length = std::strlen(name);
  if (length >= static_cast<size_t>(capacity)) return SQLITE_CANTOPEN;
  std::memcpy(out, name, length + 1);
  return SQLITE_OK;
}

int Randomness(sqlite3_vfs* /*vfs*/, int length_bytes, char* out) {
  const ssize_t length = getrandom(out, static_cast<size_t>(length_bytes), 0);
  return length > 0 ? static_cast<int>(length) : 0;
}

int Sleep(sqlite3_vfs* /*vfs*/, int microseconds) {
  return microseconds;  // nobody to wait for: see SetLock
}

// Milliseconds since noon of 24 November 4714 B.C. in the Env's clock, which starts at 1970.
int CurrentTimeInt64(sqlite3_vfs* vfs, sqlite3_int64* milliseconds) {
  constexpr sqlite3_int64 kUnixEpochMilliseconds = 210'866'760'000'000;
  *milliseconds = kUnixEpochMilliseconds +
                  static_cast<sqlite3_int64>(RegistrationOf(vfs).env->NowNanos() / 1'000'000);
  return SQLITE_OK;
}

int CurrentTime(sqlite3_vfs* vfs, double* days) {
  sqlite3_int64 milliseconds = 0;
  const int result = CurrentTimeInt64(vfs, &milliseconds);
  *days = static_cast<double>(milliseconds) / 86'400'000.0;
  return result;
}

int GetLastError(sqlite3_vfs* vfs, int capacity, char* out) {
  SqliteVfs::Registration& registration = RegistrationOf(vfs);
  absl::MutexLock lock(&registration.mutex);
  if (capacity > 0) {
    sqlite3_snprintf(capacity, out, "%s", registration.last_error.ToString().c_str());
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SqliteVfs>> SqliteVfs::Register(Env* env) {
  auto registration = std::make_unique<Registration>(env);
  registration->name =
      absl::StrCat("tessera-", absl::Hex(reinterpret_cast<uintptr_t>(registration.get())));
  sqlite3_vfs& vfs = registration->vfs;
  vfs.iVersion = 2;
  vfs.szOsFile = sizeof(VfsFile);
  vfs.mxPathname = 4096;
  vfs.zName = registration->name.c_str();
  vfs.pAppData = registration.get();
  vfs.xOpen = Open;
  vfs.xDelete = Delete;
  vfs.xAccess = Access;
  vfs.xFullPathname = FullPathname;
  vfs.xRandomness = Randomness;
  vfs.xSleep = Sleep;
  vfs.xCurrentTime = CurrentTime;
  vfs.xGetLastError = GetLastError;
  vfs.xCurrentTimeInt64 = CurrentTimeInt64;
  if (const int result = sqlite3_vfs_register(&vfs, /*makeDflt=*/0); result != SQLITE_OK) {
    return absl::InternalError(absl::StrCat("sqlite3_vfs_register: ", sqlite3_errstr(result)));
  }
  return std::unique_ptr<SqliteVfs>(new SqliteVfs(std::move(registration)));
}

SqliteVfs::SqliteVfs(std::unique_ptr<Registration> registration)
    : registration_(std::move(registration)) {}

SqliteVfs::~SqliteVfs() { (void)sqlite3_vfs_unregister(&registration_->vfs); }

const std::string& SqliteVfs::name() const { return registration_->name; }

absl::Status SqliteVfs::last_error() const {
  absl::MutexLock lock(&registration_->mutex);
  return registration_->last_error;
}

}  // namespace tessera::chunk
