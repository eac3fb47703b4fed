// tessera-fault-disk: a folder as a disk that can fail, by FUSE.
//
// Passes everything on to a backing folder (the page cache of the kernel is bypassed: direct_io)
// and, as told by lines on a unix socket, fails calls, is slow, or loses power (undo_log.h). Every
// line is answered by one: "ok ..." or "error ...".
//
//   fail read|write|fsync ERRNO   from now on such calls fail with that number
//   slow MILLISECONDS             each call takes that much longer
//   heal                          neither
//   powercut SEED                 as if power had been lost and come back: "ok N" undone things.
//                                 Nobody may have a file open for writing.
//   counts                        "ok READS WRITES FSYNCS"
//
// Runs in the foreground until it is ended or unmounted.
#define FUSE_USE_VERSION 32
#include <dirent.h>
#include <fuse3/fuse.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "integration/faults/disk/undo_log.h"

namespace {

using tessera::faults::UndoLog;

struct Disk {
  std::string backing;
  std::unique_ptr<UndoLog> log;
  std::atomic<int> read_errno{0};
  std::atomic<int> write_errno{0};
  std::atomic<int> fsync_errno{0};
  std::atomic<int> slow_ms{0};
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> writes{0};
  std::atomic<uint64_t> fsyncs{0};
};

Disk& TheDisk() { return *static_cast<Disk*>(fuse_get_context()->private_data); }

std::string Backing(const char* path) {
  std::string whole = TheDisk().backing + path;
  // The root is named without a slash at its end, as the parent of its files is.
  if (whole.back() == '/') whole.pop_back();
  return whole;
}

int Result(int returned) { return returned < 0 ? -errno : 0; }

void Delay() {
  const int slow = TheDisk().slow_ms.load();
  if (slow > 0) std::this_thread::sleep_for(std::chrono::milliseconds(slow));
}

int Descriptor(const fuse_file_info* file) { return static_cast<int>(file->fh); }

void* Init(fuse_conn_info*, fuse_config* config) {
  config->direct_io = 1;
  config->kernel_cache = 0;
  config->attr_timeout = 0;
  config->entry_timeout = 0;
  config->negative_timeout = 0;
  config->use_ino = 1;
  return fuse_get_context()->private_data;
}

int GetAttributes(const char* path, struct stat* info, fuse_file_info* file) {
  return Result(file != nullptr ? fstat(Descriptor(file), info)
                                : lstat(Backing(path).c_str(), info));
}

int ReadFolder(const char* path, void* buffer, fuse_fill_dir_t fill, off_t, fuse_file_info*,
               fuse_readdir_flags) {
  DIR* folder = opendir(Backing(path).c_str());
  if (folder == nullptr) return -errno;
  while (const dirent* entry = readdir(folder)) {
    if (fill(buffer, entry->d_name, nullptr, 0, fuse_fill_dir_flags{}) != 0) break;
  }
  closedir(folder);
  return 0;
}

int Open(const char* path, fuse_file_info* file) {
  const int descriptor = open(Backing(path).c_str(), file->flags & ~(O_DIRECT | O_APPEND));
  if (descriptor < 0) return -errno;
  file->fh = static_cast<uint64_t>(descriptor);
  file->direct_io = 1;
  return 0;
}

int Create(const char* path, mode_t mode, fuse_file_info* file) {
  const std::string whole = Backing(path);
  const bool existed = access(whole.c_str(), F_OK) == 0;
  const int descriptor = open(whole.c_str(), (file->flags & ~O_DIRECT) | O_CREAT, mode);
  if (descriptor < 0) return -errno;
  if (!existed) TheDisk().log->Created(whole);
  file->fh = static_cast<uint64_t>(descriptor);
  file->direct_io = 1;
  return 0;
}

int Read(const char*, char* buffer, size_t size, off_t offset, fuse_file_info* file) {
  Disk& disk = TheDisk();
  disk.reads.fetch_add(1);
  Delay();
  if (const int error = disk.read_errno.load(); error != 0) return -error;
  const ssize_t n = pread(Descriptor(file), buffer, size, offset);
  return n < 0 ? -errno : static_cast<int>(n);
}

int Write(const char*, const char* buffer, size_t size, off_t offset, fuse_file_info* file) {
  Disk& disk = TheDisk();
  disk.writes.fetch_add(1);
  Delay();
  if (const int error = disk.write_errno.load(); error != 0) return -error;
  disk.log->BeforeWrite(Descriptor(file), static_cast<uint64_t>(offset), size);
  const ssize_t n = pwrite(Descriptor(file), buffer, size, offset);
  return n < 0 ? -errno : static_cast<int>(n);
}

int Truncate(const char* path, off_t size, fuse_file_info* file) {
  const int own = file != nullptr ? -1 : open(Backing(path).c_str(), O_RDWR | O_CLOEXEC);
  const int descriptor = file != nullptr ? Descriptor(file) : own;
  if (descriptor < 0) return -errno;
  TheDisk().log->BeforeResize(descriptor, static_cast<uint64_t>(size));
  const int result = Result(ftruncate(descriptor, size));
  if (own >= 0) close(own);
  return result;
}

int Fallocate(const char*, int mode, off_t offset, off_t length, fuse_file_info* file) {
  Disk& disk = TheDisk();
  const int descriptor = Descriptor(file);
  if (const int error = disk.write_errno.load(); error != 0) return -error;
  if (mode != 0) {
    disk.log->BeforeWrite(descriptor, static_cast<uint64_t>(offset), static_cast<uint64_t>(length));
  } else {
    struct stat info {};
    fstat(descriptor, &info);
    if (offset + length > info.st_size) {
      disk.log->BeforeResize(descriptor, static_cast<uint64_t>(offset + length));
    }
  }
  return Result(fallocate(descriptor, mode, offset, length));
}

int Sync(const char*, int, fuse_file_info* file) {
  Disk& disk = TheDisk();
  disk.fsyncs.fetch_add(1);
  Delay();
  // As the kernel does it: the pages count as clean afterwards, and are lost.
  if (const int error = disk.fsync_errno.load(); error != 0) return -error;
  disk.log->Synced(Descriptor(file));
  return 0;
}

int SyncFolder(const char* path, int, fuse_file_info*) {
  Disk& disk = TheDisk();
  disk.fsyncs.fetch_add(1);
  if (const int error = disk.fsync_errno.load(); error != 0) return -error;
  disk.log->SyncedFolder(Backing(path));
  return 0;
}

int Release(const char*, fuse_file_info* file) { return Result(close(Descriptor(file))); }
int Unlink(const char* path) { return TheDisk().log->Unlink(Backing(path)); }
int Rename(const char* from, const char* to, unsigned flags) {
  return flags != 0 ? -EINVAL : TheDisk().log->Rename(Backing(from), Backing(to));
}
int MakeFolder(const char* path, mode_t mode) { return Result(mkdir(Backing(path).c_str(), mode)); }
int RemoveFolder(const char* path) { return Result(rmdir(Backing(path).c_str())); }
int Mode(const char* path, mode_t mode, fuse_file_info*) {
  return Result(chmod(Backing(path).c_str(), mode));
}
int Owner(const char* path, uid_t user, gid_t group, fuse_file_info*) {
  return Result(lchown(Backing(path).c_str(), user, group));
}
int Times(const char* path, const timespec* times, fuse_file_info*) {
  return Result(utimensat(AT_FDCWD, Backing(path).c_str(), times, AT_SYMLINK_NOFOLLOW));
}
int Access(const char* path, int mode) { return Result(access(Backing(path).c_str(), mode)); }
int Facts(const char* path, struct statvfs* facts) {
  return Result(statvfs(Backing(path).c_str(), facts));
}

fuse_operations Operations() {
  fuse_operations operations{};
  operations.init = Init;
  operations.getattr = GetAttributes;
  operations.readdir = ReadFolder;
  operations.open = Open;
  operations.create = Create;
  operations.read = Read;
  operations.write = Write;
  operations.truncate = Truncate;
  operations.fallocate = Fallocate;
  operations.fsync = Sync;
  operations.fsyncdir = SyncFolder;
  operations.release = Release;
  operations.unlink = Unlink;
  operations.rename = Rename;
  operations.mkdir = MakeFolder;
  operations.rmdir = RemoveFolder;
  operations.chmod = Mode;
  operations.chown = Owner;
  operations.utimens = Times;
  operations.access = Access;
  operations.statfs = Facts;
  return operations;
}

std::string Command(Disk* disk, const std::string& line) {
  std::istringstream words(line);
  std::string verb;
  words >> verb;
  if (verb == "fail") {
    std::string what;
    int number = 0;
    words >> what >> number;
    std::atomic<int>* target = what == "read"    ? &disk->read_errno
                               : what == "write" ? &disk->write_errno
                               : what == "fsync" ? &disk->fsync_errno
                                                 : nullptr;
    if (target == nullptr || number <= 0) return "error: fail read|write|fsync ERRNO";
    *target = number;
    return "ok";
  }
  if (verb == "slow") {
    int milliseconds = 0;
    words >> milliseconds;
    disk->slow_ms = milliseconds;
    return "ok";
  }
  if (verb == "heal") {
    disk->read_errno = disk->write_errno = disk->fsync_errno = disk->slow_ms = 0;
    return "ok";
  }
  if (verb == "powercut") {
    uint64_t seed = 0;
    words >> seed;
    return "ok " + std::to_string(disk->log->PowerCut(seed));
  }
  if (verb == "counts") {
    return "ok " + std::to_string(disk->reads) + " " + std::to_string(disk->writes) + " " +
           std::to_string(disk->fsyncs);
  }
  return "error: unknown command '" + verb + "'";
}

// One client at a time, one line at a time.
void Serve(Disk* disk, int listener) {
  while (true) {
    const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    std::string text;
    char piece[256];
    while (text.find('\n') == std::string::npos) {
      const ssize_t n = read(client, piece, sizeof(piece));
      if (n <= 0) break;
      text.append(piece, static_cast<size_t>(n));
    }
    const std::string answer = Command(disk, text.substr(0, text.find('\n'))) + "\n";
    if (write(client, answer.data(), answer.size()) < 0) std::perror("answer");
    close(client);
  }
}

int Listen(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return -1;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  unlink(path.c_str());
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener, 4) != 0) {
    return -1;
  }
  return listener;
}

}  // namespace

int main(int argc, char** argv) {
  Disk disk;
  std::string mount;
  std::string control;
  std::string aside;
  CLI::App app("A folder as a disk that can fail.", "tessera-fault-disk");
  app.add_option("--backing", disk.backing, "Folder with the disk's files.")->required();
  app.add_option("--aside", aside, "Folder beside it, for files that may come back.")->required();
  app.add_option("--mount", mount, "Where to mount the disk.")->required();
  app.add_option("--control", control, "Path of the unix socket for commands.")->required();
  CLI11_PARSE(app, argc, argv);
  disk.log = std::make_unique<UndoLog>(aside);
  const fuse_operations operations = Operations();
  std::string name = "tessera-fault-disk";
  char* arguments[] = {name.data()};
  fuse_args args = FUSE_ARGS_INIT(1, arguments);
  fuse* file_system = fuse_new(&args, &operations, sizeof(operations), &disk);
  fuse_opt_free_args(&args);
  if (file_system == nullptr || fuse_mount(file_system, mount.c_str()) != 0) return 1;
  const int listener = Listen(control);
  if (listener < 0) {
    std::perror(control.c_str());
    fuse_unmount(file_system);
    return 1;
  }
  std::thread server([&disk, listener] { Serve(&disk, listener); });
  fuse_loop_config loop{};
  loop.max_idle_threads = 8;
  fuse_set_signal_handlers(fuse_get_session(file_system));
  const int result = fuse_loop_mt(file_system, &loop);
  fuse_unmount(file_system);
  fuse_destroy(file_system);
  shutdown(listener, SHUT_RDWR);
  server.join();
  close(listener);
  return result;
}
