// What a disk has been told and not yet been asked to keep: every change since the last fsync, with
// what was there before, so that a power cut can take it back.
//
// Model of a power cut (a drive with a volatile cache below a file system that journals metadata):
//  - A sector (512 bytes) written several times since the last fsync of its file holds any one of
//    these contents, or the one of before; each sector for itself, so writes tear and are
//    reordered.
//  - A file's size is any one that it had since the last fsync.
//  - Of the changes of names in a directory since its last fsync a prefix of their order remains.
//  - Nothing that was fsynced is touched.
// After a cut whatever the disk holds is on the platter: the log is empty.
//
// Files are known by inode number, so a rename changes nothing for their data. The log holds a
// descriptor of every file with changes.
//
// Threads: any; one lock around everything.
#ifndef TESSERA_INTEGRATION_FAULTS_DISK_UNDO_LOG_H_
#define TESSERA_INTEGRATION_FAULTS_DISK_UNDO_LOG_H_

#include <sys/types.h>

#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace tessera::faults {

class UndoLog {
 public:
  static constexpr uint64_t kSectorBytes = 512;

  // `folder`: a directory on the backing file system, outside of the disk's, for files that were
  // unlinked but may come back.
  explicit UndoLog(std::string folder) : folder_(std::move(folder)) {}
  ~UndoLog();
  UndoLog(const UndoLog&) = delete;
  UndoLog& operator=(const UndoLog&) = delete;

  // Before [offset, offset + length) of the open file is changed, or its size.
  void BeforeWrite(int descriptor, uint64_t offset, uint64_t length);
  void BeforeResize(int descriptor, uint64_t size_bytes);
  // After the file was made.
  void Created(const std::string& path);
  // Instead of unlink and rename, with their results: 0 or -errno.
  [[nodiscard]] int Unlink(const std::string& path);
  [[nodiscard]] int Rename(const std::string& from, const std::string& to);

  // After an fsync that worked.
  void Synced(int descriptor);
  void SyncedFolder(const std::string& folder);

  // Takes back what the seed says. The number of sectors and names taken back.
  uint64_t PowerCut(uint64_t seed);

 private:
  using Inode = ino_t;
  struct OpenFile {
    int descriptor = -1;
  };
  struct DataChange {
    Inode inode = 0;
    bool resize = false;
    uint64_t offset = 0;      // of a write
    uint64_t size_bytes = 0;  // before the change
    std::vector<char> before;
  };
  struct NameChange {
    enum class Kind { kCreated, kUnlinked, kRenamed };
    Kind kind = Kind::kCreated;
    std::string path;     // of renames: the old name
    std::string to;       // of renames
    std::string kept_as;  // what was unlinked or renamed over; empty: nothing
  };

  [[nodiscard]] Inode Hold(int descriptor);
  void ForgetData(Inode inode);
  [[nodiscard]] std::string KeepAside(const std::string& path);
  uint64_t UndoData(std::mt19937_64* random);
  uint64_t UndoWrite(const DataChange& change, std::set<std::pair<Inode, uint64_t>>* kept,
                     std::mt19937_64* random);
  uint64_t UndoNames(std::mt19937_64* random);

  std::mutex mutex_;
  const std::string folder_;
  uint64_t next_aside_ = 0;
  std::map<Inode, OpenFile> files_;
  std::map<Inode, std::list<DataChange>> data_;  // in order
  std::list<NameChange> names_;                  // in order
};

}  // namespace tessera::faults

#endif  // TESSERA_INTEGRATION_FAULTS_DISK_UNDO_LOG_H_
