// The folder of a client's read cache: a lock, the file with the blocks, and sdc_chunks.db with
// what a client that stopped in order has left in it. FORMAT.md has the layout.
//
// What is in sdc_chunks.db counts once: for the very next life of the same client. Opening the
// folder takes it and makes that durable before anything is read from the cache.
//
// Threads: one at a time.
#ifndef TESSERA_SERVICES_SDC_CACHE_CACHE_FOLDER_H_
#define TESSERA_SERVICES_SDC_CACHE_CACHE_FOLDER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "services/common/sqlite_db.h"
#include "services/sdc/cache/read_cache.h"

namespace tessera::sdc {

inline constexpr uint64_t kCacheBytesMin = 16 << 20;
inline constexpr uint64_t kCacheBytesMax = uint64_t{1} << 40;  // its index takes 2.4 GB of memory

// "10GiB", "512MiB", "1TiB", or bytes. INVALID_ARGUMENT for what is none, or out of bounds.
[[nodiscard]] absl::StatusOr<uint64_t> ParseCacheSize(const std::string& text);

class CacheFolder {
 public:
  // Which life of which client.
  struct Owner {
    std::string node_uuid;
    uint64_t incarnation = 0;
  };

  // Locks the folder, which is made if it is not there. INVALID_ARGUMENT: this user can't write to
  // it, or it has no room for a cache of so many bytes. FAILED_PRECONDITION: another process has
  // it.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<CacheFolder>> Lock(const std::string& path,
                                                                         uint64_t size_bytes);
  ~CacheFolder();

  // Opens the database and takes what the life before has left, if this is the next one and `slots`
  // is what it was. A damaged database is made anew. Once.
  [[nodiscard]] absl::StatusOr<SavedCache> Load(const Owner& owner, uint32_t slots);
  // For the next life. REQUIRES: Load; the file with the blocks is written.
  [[nodiscard]] absl::Status Save(const SavedCache& saved);

  [[nodiscard]] std::string file_path() const { return path_ + "/blocks"; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  CacheFolder(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}
  [[nodiscard]] absl::StatusOr<SavedCache> TakeSaved();

  const std::string path_;
  const int lock_;  // descriptor that holds it
  Owner owner_;
  uint32_t slots_ = 0;
  std::unique_ptr<SqliteDb> db_;
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CACHE_CACHE_FOLDER_H_
