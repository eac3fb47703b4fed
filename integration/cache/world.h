// A world of two clients with read caches, one MDM and one server, in virtual time: the client's
// cache, its folder and the MDM's leases are the real ones, everything between them is played here,
// and each answer is checked.
//
// What happens next is chosen by a seed: requests, steps of the cache's file, messages in any
// order, pauses, crashes (with torn writes), damage, restarts in order, unmapping in order and by
// force, writes with tokens beside all clients, losses of answered writes, growth, a restarted MDM.
//
// The check: the server carries out one thing after the other, and keeps what each sector was when.
// A read is right when each of its sectors was what it brought at some moment between its request
// and its answer. That is linearizability, with the server's order as the witness.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_CACHE_WORLD_H_
#define TESSERA_INTEGRATION_CACHE_WORLD_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "libchunk/seeded_random.h"
#include "services/common/clock.h"
#include "services/mdm/cache_leases.h"
#include "services/mdm/mdm_store.h"
#include "services/sdc/cache/cache_folder.h"
#include "services/sdc/cache/memory_store.h"
#include "services/sdc/cache/read_cache.h"
#include "services/sdc/rules/range_gate.h"

namespace tessera::cache_model {

inline constexpr uint64_t kSector = sdc::kSectorBytes;
inline constexpr uint64_t kVolumeLines = 4;
inline constexpr uint64_t kVolumeSectors = kVolumeLines * sdc::kCacheLineBytes / kSector;
inline constexpr uint32_t kSlots = 3;
inline constexpr size_t kClients = 2;

// What was seen to happen, over all runs.
struct Coverage {
  std::map<std::string, uint64_t> counts;
  uint64_t& operator[](const std::string& what) { return counts[what]; }
};

class World final : public Clock {
 public:
  // `folder` is for files of this run, and empty. `store` has a volume `volume_id` that nobody
  // uses.
  World(uint64_t seed, std::string folder, mdm::MdmStore* store, uint64_t volume_id,
        Coverage* coverage);
  ~World() override;
  // Empty: everything was right; else what was not.
  [[nodiscard]] std::string Run(int steps);

  // Clock: of the MDM.
  [[nodiscard]] uint64_t WallMillis() const override { return now_ / 1'000'000; }
  [[nodiscard]] uint64_t BootNanos() const override { return now_; }

 private:
  struct Client;
  struct Process;
  struct Write;
  struct Read;
  enum class Mode { kReadWrite, kReadOnly };
  // What a client knows of its grant.
  struct Granted {
    uint64_t generation = 0;
    Mode mode = Mode::kReadWrite;
    uint64_t size_bytes = 0;
    uint64_t mapping_id = 0;
  };
  struct Message {
    int client = -1;    // whom it is for; -1: the MDM or the server
    uint64_t life = 0;  // of the client
    std::function<void()> arrive;
  };
  struct Fence {
    uint64_t generation = 0;
    bool servers_know = false;
    std::function<void()> done;
  };

  void Step();
  void Rarely();
  void Send(Message message) { messages_.push_back(std::move(message)); }
  void Deliver();
  [[nodiscard]] uint64_t Pick(uint64_t bound) { return random_.Below(bound); }
  [[nodiscard]] bool Chance(uint64_t of) { return random_.Below(of) == 0; }
  void Fail(const std::string& what);

  // The MDM.
  void RestartMdm();
  void RaiseGeneration();
  void AddFence(std::function<void()> done);
  void StepFence();
  void Map();
  void Unmap(size_t client, bool force);
  void TakeAway(size_t client);
  void EndTokens();
  void RequestWriteToken();
  void TakeHeartbeat(size_t client, uint64_t life, v1::HeartbeatRequest request,
                     std::function<void(const v1::HeartbeatResponse&)> answer);
  void TakeAcquire(size_t client, uint64_t life, uint64_t given_up);
  void Answer(size_t client, uint64_t life);

  // The server.
  void Set(uint64_t sector, uint64_t value);
  [[nodiscard]] uint64_t Get(uint64_t sector) const { return history_[sector].back().second; }
  void TakeWrite(size_t client);
  void TakeRead(size_t client, uint64_t life, const std::shared_ptr<Read>& read,
                uint64_t generation);
  void UseWriteToken();
  void LoseWrites();

  // Clients: client.cc.
  void Start(size_t client, bool with_cache);
  void Crash(size_t client);
  void StopInOrder(size_t client);
  void Damage(Client& client);
  void Attach(size_t client, const Granted& grant, bool resumed);
  [[nodiscard]] sdc::CacheIdentity IdentityOf(const Granted& grant) const;
  void Detach(size_t client);
  void Heartbeat(size_t client);
  void Acquire(size_t client);
  void Submit(size_t client);
  void BeginRead(size_t client, const std::shared_ptr<Read>& read);
  void SendRead(size_t client, const std::shared_ptr<Read>& read);
  void ReadServed(size_t client, const std::shared_ptr<Read>& read,
                  const std::vector<uint64_t>& values);
  void ReadFinished(size_t client, const std::shared_ptr<Read>& read);
  void AnswerRead(size_t client, const std::shared_ptr<Read>& read);
  void SubmitWrite(size_t client, uint64_t first, uint64_t count, bool zeroes);
  void SendWrite(size_t client, const std::shared_ptr<Write>& write);
  void WriteAnswered(size_t client, const std::shared_ptr<Write>& write);
  void RunReady(size_t client, const std::vector<void*>& ready);
  void TakeGrant(size_t client, const Granted& grant);

  chunk::SeededRandom random_;
  const std::string folder_;
  mdm::MdmStore* const store_;
  const uint64_t volume_id_;
  Coverage& coverage_;
  uint64_t now_ = 1'000'000'000'000;
  std::string failure_;
  std::vector<Message> messages_;

  std::unique_ptr<mdm::CacheLeases> leases_;
  uint64_t mdm_life_ = 0;
  uint64_t generation_ = 1;
  uint64_t reconciled_ = 1;
  uint64_t size_bytes_ = kVolumeSectors * kSector;
  std::map<size_t, std::pair<Mode, uint64_t>> mappings_;  // by client: mode, mapping id
  std::vector<Fence> fences_;
  uint64_t write_token_ = 0;  // generation of one that is out and not used; 0: none

  uint64_t server_generation_ = 1;
  std::vector<std::vector<std::pair<uint64_t, uint64_t>>> history_;  // by sector: since when, value
  uint64_t next_value_ = 1;
  std::vector<std::pair<uint64_t, uint64_t>> unflushed_;  // sector, value before

  std::vector<std::unique_ptr<Client>> clients_;
};

}  // namespace tessera::cache_model

#endif  // TESSERA_INTEGRATION_CACHE_WORLD_H_
