#include "integration/cache/client.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <sstream>

namespace tessera::cache_model {
namespace {

std::string ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void WriteWhole(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// What a sector with this value reads as.
void FillSector(uint64_t value, std::byte* into) {
  for (size_t i = 0; i < kSector / sizeof(value); ++i) {
    std::memcpy(into + i * sizeof(value), &value, sizeof(value));
  }
}

// UINT64_MAX when it is no sector that ever was.
uint64_t ValueOf(const std::byte* sector) {
  uint64_t value = 0;
  std::memcpy(&value, sector, sizeof(value));
  for (size_t i = 0; i < kSector / sizeof(value); ++i) {
    uint64_t other = 0;
    std::memcpy(&other, sector + i * sizeof(value), sizeof(value));
    if (other != value) return UINT64_MAX;
  }
  return value;
}

}  // namespace

void World::Start(size_t index, bool with_cache) {
  Client& client = *clients_[index];
  ++client.life;
  client.paused = false;
  client.process = std::make_unique<Process>(client.disk);
  Process& process = *client.process;
  if (with_cache) {
    auto folder = sdc::CacheFolder::Lock(client.folder, 0);
    if (!folder.ok()) return Fail("lock: " + std::string(folder.status().message()));
    process.folder = *std::move(folder);
    auto saved = process.folder->Load({"client-" + std::to_string(index), client.life}, kSlots);
    if (!saved.ok()) return Fail("load: " + std::string(saved.status().message()));
    sdc::ReadCacheOptions options;
    options.slots = kSlots;
    options.rest_nanos = 400'000'000;
    options.late_tick_nanos = UINT64_MAX;
    process.cache =
        std::make_unique<sdc::ReadCache>(options, process.store, [this, drift = client.drift] {
          return static_cast<uint64_t>(static_cast<double>(now_) * drift);
        });
    process.cache->Restore(*saved);
    if (!saved->lines.empty()) ++coverage_["restarts with a cache that was left"];
  }
  auto left = std::exchange(client.left, std::nullopt);
  if (left.has_value() && !Chance(6)) {
    Attach(index, left->grant, true);
    // Told by the map that it knew against the one of now.
    if (process.volume != nullptr && left->losses != client.losses) process.volume->Drop();
    for (const auto& write : left->writes) {
      if (process.volume != nullptr) {
        process.volume->WriteBegins(
            {write->first * kSector, (write->first + write->count) * kSector});
      }
      write->ticket =
          process.gate
              .Enter(sdc::RangeGate::Kind::kWrite,
                     {write->first * kSector, (write->first + write->count) * kSector}, write.get())
              .ticket;
      process.writes.push_back(write);
      if (write->taken) {
        Send({static_cast<int>(index), client.life,
              [this, index, write] { WriteAnswered(index, write); }});
      } else if (!write->queued) {
        SendWrite(index, write);
      }
    }
  }
  if (process.cache != nullptr) process.cache->DropRestored();
}

void World::Crash(size_t index) {
  Client& client = *clients_[index];
  Process& process = *client.process;
  ++coverage_["crashes"];
  client.left.reset();
  if (process.attached) {
    client.left = Client::Left{process.grant, client.losses, process.writes};
  }
  process.store.Crash([this] { return Chance(3) ? 255 : Pick(256); });
  client.process.reset();
  Damage(client);
}

void World::StopInOrder(size_t index) {
  Client& client = *clients_[index];
  Process& process = *client.process;
  ++coverage_["stops in order"];
  client.left.reset();
  if (process.attached) {
    client.left = Client::Left{process.grant, client.losses, process.writes};
  }
  *process.alive = false;
  if (process.volume != nullptr) process.volume->Keep();
  process.volume.reset();
  process.store.Close();
  if (process.cache != nullptr) {
    const sdc::SavedCache saved = process.cache->Save();
    const absl::Status status = process.folder->Save(saved);
    if (!status.ok()) Fail("save: " + std::string(status.message()));
  }
  client.process.reset();
  Damage(client);
}

// While nobody looks: what was kept may be gone, older, or wrong.
void World::Damage(Client& client) {
  const std::string path = client.folder + "/sdc_chunks.db";
  const std::string now = ReadWhole(path);
  switch (Pick(12)) {
    case 0:
      ++coverage_["bytes damaged"];
      for (int i = 0; i < 20; ++i) client.disk[Pick(client.disk.size())] ^= std::byte{0x55};
      break;
    case 1:
      ++coverage_["file lost"];
      std::fill(client.disk.begin(), client.disk.end(), std::byte{0});
      break;
    case 2:
      ++coverage_["database lost"];
      (void)unlink(path.c_str());
      break;
    case 3: {
      ++coverage_["database damaged"];
      std::string bytes = now;
      for (int i = 0; i < 30 && !bytes.empty(); ++i) {
        bytes[Pick(bytes.size())] = static_cast<char>(Pick(256));
      }
      WriteWhole(path, bytes);
      break;
    }
    case 4:
      if (client.old_database.empty()) break;
      ++coverage_["an older database put back"];
      WriteWhole(path, client.old_database);
      break;
    default:
      break;
  }
  if (Chance(2)) client.old_database = now;
}

void World::Attach(size_t index, const Granted& grant, bool resumed) {
  Process& process = *clients_[index]->process;
  process.attached = true;
  process.needs_grant = false;
  process.grant = grant;
  if (process.cache != nullptr) {
    process.volume = process.cache->Open(IdentityOf(grant), resumed);
  }
}

sdc::CacheIdentity World::IdentityOf(const Granted& grant) const {
  return {volume_id_, 1, grant.generation, 0, grant.size_bytes, grant.mode == Mode::kReadOnly};
}

void World::Detach(size_t index) {
  Process& process = *clients_[index]->process;
  ++coverage_["detaches"];
  *process.alive = false;
  process.alive = std::make_shared<bool>(true);
  process.volume.reset();
  process.attached = process.needs_grant = false;
  process.reads.clear();
  process.writes.clear();
  process.gate = sdc::RangeGate();
}

void World::Heartbeat(size_t index) {
  Client& client = *clients_[index];
  Process& process = *client.process;
  v1::HeartbeatRequest request;
  request.set_incarnation(client.life);
  std::optional<sdc::CachedVolume::LeaseWish> wish;
  if (process.volume != nullptr) wish = process.volume->WishForLease();
  if (wish.has_value()) {
    v1::CacheLease* lease = request.add_cache_leases();
    lease->set_volume_id(volume_id_);
    lease->set_generation(wish->generation);
  }
  const auto sent = static_cast<uint64_t>(static_cast<double>(now_) * client.drift);
  const uint64_t life = client.life;
  auto answered = [this, index, life, wish, sent](const v1::HeartbeatResponse& response) {
    Send({static_cast<int>(index), life, [this, index, wish, sent, response] {
            Process& now = *clients_[index]->process;
            if (wish.has_value() && now.volume != nullptr && response.cache_leases_size() > 0) {
              now.volume->SetLease(*wish, sent, response.cache_leases(0).lease_ms());
              ++coverage_["leases"];
            }
            const bool mapped = response.mapped_volume_ids_size() > 0;
            if (!mapped && now.attached) Detach(index);
            if (mapped && !now.attached) now.needs_grant = true;
          }});
  };
  Send({-1, 0,
        [this, index, life, request, answered] { TakeHeartbeat(index, life, request, answered); }});
}

void World::Acquire(size_t index) {
  Client& client = *clients_[index];
  Process& process = *client.process;
  process.asking = true;
  uint64_t given_up = 0;
  if (process.volume != nullptr && process.grant.mode == Mode::kReadWrite) {
    given_up = process.volume->GiveUpLease();
  }
  Send(
      {-1, 0, [this, index, life = client.life, given_up] { TakeAcquire(index, life, given_up); }});
}

// ---- Requests.

void World::Submit(size_t index) {
  Process& process = *clients_[index]->process;
  if (process.reads.size() + process.writes.size() >= 8) return;
  const uint64_t sectors_of_block = sdc::kCacheBlockBytes / kSector;
  // Mostly in a few blocks, so that requests meet.
  const uint64_t blocks = Chance(6) ? kVolumeLines * sdc::kCacheBlocksInLine : 4;
  uint64_t first = Pick(blocks) * sectors_of_block;
  if (Chance(3)) first = (first + kVolumeSectors / 2) % kVolumeSectors;
  uint64_t count = (1 + (Chance(3) ? Pick(3) : 0)) * sectors_of_block;
  if (Chance(5)) {
    first += Pick(sectors_of_block);
    count = 1 + Pick(2 * sectors_of_block);
  }
  if (Chance(60)) count = kVolumeSectors;
  count = std::min(count, kVolumeSectors - first);
  if (process.grant.mode == Mode::kReadWrite && Chance(10)) {
    return SubmitWrite(index, first, count, Chance(5));
  }
  auto read = std::make_shared<Read>();
  read->range = {first * kSector, (first + count) * kSector};
  read->invoked = now_;
  read->values.resize(count);
  process.reads[read.get()] = read;
  const auto entry = process.gate.Enter(sdc::RangeGate::Kind::kRead, read->range, read.get());
  read->ticket = entry.ticket;
  if (entry.ready) BeginRead(index, read);
}

void World::BeginRead(size_t index, const std::shared_ptr<Read>& read) {
  Process& process = *clients_[index]->process;
  read->begun = true;
  ++coverage_["reads"];
  const auto want = [this, index, read] {
    Process& now = *clients_[index]->process;
    if (now.volume != nullptr) {
      read->fill = now.volume->BeginFill(read->range, now.gate.HasWrites(read->range));
    }
    SendRead(index, read);
  };
  if (process.volume == nullptr) return want();
  const bool asked =
      process.volume->Read(read->range, [this, index, read, want, alive = process.alive](
                                            const std::optional<sdc::CacheBytes>& bytes) {
        if (!*alive) return;
        if (!bytes.has_value()) return want();
        ++coverage_["hits"];
        for (size_t i = 0; i < read->values.size(); ++i) {
          read->values[i] = ValueOf(bytes->memory.get() + i * kSector);
        }
        ReadFinished(index, read);
      });
  if (!asked) want();
}

void World::SendRead(size_t index, const std::shared_ptr<Read>& read) {
  Client& client = *clients_[index];
  Send({-1, 0,
        [this, index, life = client.life, read, generation = client.process->grant.generation] {
          TakeRead(index, life, read, generation);
        }});
}

void World::ReadServed(size_t index, const std::shared_ptr<Read>& read,
                       const std::vector<uint64_t>& values) {
  Process& process = *clients_[index]->process;
  if (!process.reads.contains(read.get())) return;
  read->values = values;
  if (read->fill.has_value() && process.volume != nullptr) {
    std::vector<std::byte> content(values.size() * kSector);
    for (size_t i = 0; i < values.size(); ++i) FillSector(values[i], content.data() + i * kSector);
    // In two pieces, as messages cut it.
    const std::span<const std::byte> all(content);
    const std::array<std::span<const std::byte>, 2> pieces{all.first(all.size() / 3),
                                                           all.subspan(all.size() / 3)};
    process.volume->EndFill(*read->fill, read->range.begin, pieces);
  }
  ReadFinished(index, read);
}

void World::ReadFinished(size_t index, const std::shared_ptr<Read>& read) {
  Process& process = *clients_[index]->process;
  std::vector<void*> ready;
  process.gate.Leave(read->ticket, &ready);
  read->held = true;
  const auto entry = process.gate.Enter(sdc::RangeGate::Kind::kRead, read->range, read.get());
  read->ticket = entry.ticket;
  if (entry.ready) AnswerRead(index, read);
  RunReady(index, ready);
}

void World::AnswerRead(size_t index, const std::shared_ptr<Read>& read) {
  Process& process = *clients_[index]->process;
  for (size_t i = 0; i < read->values.size(); ++i) {
    const uint64_t sector = read->range.begin / kSector + i;
    const auto& past = history_[sector];
    bool right = false;
    for (size_t k = past.size(); k-- > 0 && !right;) {
      right = past[k].second == read->values[i];
      if (past[k].first <= read->invoked) break;  // was over before the request came
    }
    if (!right) {
      Fail("client " + std::to_string(index) + ": sector " + std::to_string(sector) + " read as " +
           std::to_string(read->values[i]) + ", it is " + std::to_string(Get(sector)));
    }
  }
  std::vector<void*> ready;
  process.gate.Leave(read->ticket, &ready);
  process.reads.erase(read.get());
  RunReady(index, ready);
}

void World::SubmitWrite(size_t index, uint64_t first, uint64_t count, bool zeroes) {
  Process& process = *clients_[index]->process;
  auto write = std::make_shared<Write>();
  write->first = first;
  write->count = count;
  write->value = zeroes ? 0 : next_value_++;
  const sdc::ByteRange range{first * kSector, (first + count) * kSector};
  if (process.volume != nullptr) process.volume->WriteBegins(range);
  write->ticket = process.gate.Enter(sdc::RangeGate::Kind::kWrite, range, write.get()).ticket;
  process.writes.push_back(write);
  SendWrite(index, write);
}

void World::SendWrite(size_t index, const std::shared_ptr<Write>& write) {
  write->generation = clients_[index]->process->grant.generation;
  write->queued = true;
  clients_[index]->wire.push_back(write);
}

void World::WriteAnswered(size_t index, const std::shared_ptr<Write>& write) {
  Process& process = *clients_[index]->process;
  const auto found = std::find(process.writes.begin(), process.writes.end(), write);
  if (found == process.writes.end()) return;
  ++coverage_["writes"];
  process.writes.erase(found);
  std::vector<void*> ready;
  process.gate.Leave(write->ticket, &ready);
  RunReady(index, ready);
}

void World::RunReady(size_t index, const std::vector<void*>& ready) {
  for (void* owner : ready) {
    Process& process = *clients_[index]->process;
    const auto found = process.reads.find(owner);
    if (found == process.reads.end()) continue;  // a write waits for nobody
    const std::shared_ptr<Read> read = found->second;
    if (read->held) {
      AnswerRead(index, read);
    } else if (!read->begun) {
      BeginRead(index, read);
    }
  }
}

}  // namespace tessera::cache_model
