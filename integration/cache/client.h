// A client as the model plays it: what VolumeEngine does around the cache, with the real range
// gate.
#ifndef TESSERA_INTEGRATION_CACHE_CLIENT_H_
#define TESSERA_INTEGRATION_CACHE_CLIENT_H_

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "integration/cache/world.h"

namespace tessera::cache_model {

// A request on its way; also what the gate knows it by.
struct World::Read {
  sdc::ByteRange range;
  uint64_t invoked = 0;
  sdc::RangeGate::Ticket ticket = 0;
  bool begun = false;
  bool held = false;     // has its bytes, and waits for writes that overtook it
  bool refused = false;  // by the server: it is sent again under the next grant
  std::optional<uint64_t> fill;
  std::vector<uint64_t> values;  // by sector
};

struct World::Write {
  uint64_t first = 0;
  uint64_t count = 0;
  uint64_t value = 0;
  uint64_t generation = 0;
  bool queued = false;  // on its way to the server
  bool taken = false;
  sdc::RangeGate::Ticket ticket = 0;
};

// One life of a client.
struct World::Process {
  explicit Process(std::vector<std::byte>& disk) : store(disk) {}

  // Attached, or not.
  bool attached = false;
  Granted grant;
  bool needs_grant = false;
  bool asking = false;

  sdc::MemoryStore store;
  std::unique_ptr<sdc::CacheFolder> folder;
  std::unique_ptr<sdc::ReadCache> cache;
  std::unique_ptr<sdc::CachedVolume> volume;
  sdc::RangeGate gate;
  std::map<void*, std::shared_ptr<Read>> reads;
  std::deque<std::shared_ptr<Write>> writes;  // not answered, in order
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
};

// What outlives a process is here.
struct World::Client {
  explicit Client(std::string path)
      : folder(std::move(path)), disk(size_t{kSlots} * sdc::kCacheLineBytes) {}

  const std::string folder;
  std::vector<std::byte> disk;
  std::string old_database;  // a copy of an earlier sdc_chunks.db
  uint64_t life = 0;         // incarnation
  uint64_t heard_life = 0;   // by the MDM
  double drift = 0;          // of its clock
  bool paused = false;
  std::unique_ptr<Process> process;
  // The resume file.
  struct Left {
    Granted grant;
    uint64_t losses = 0;
    std::deque<std::shared_ptr<Write>> writes;
  };
  std::optional<Left> left;
  uint64_t losses = 0;                      // that the map tells of
  std::deque<std::shared_ptr<Write>> wire;  // to the server, in order
};

}  // namespace tessera::cache_model

#endif  // TESSERA_INTEGRATION_CACHE_CLIENT_H_
