#include "integration/cache/world.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "integration/cache/client.h"
#include "services/mdm/volume_table.h"

namespace tessera::cache_model {
namespace {

constexpr uint64_t kMilli = 1'000'000;

uint64_t SdcOf(size_t client) { return client + 1; }

}  // namespace

World::World(uint64_t seed, std::string folder, mdm::MdmStore* store, uint64_t volume_id,
             Coverage* coverage)
    : random_(seed),
      folder_(std::move(folder)),
      store_(store),
      volume_id_(volume_id),
      coverage_(*coverage),
      history_(kVolumeSectors, {{0, 0}}) {
  const absl::Status read = store_->Write([&](mdm::WriteTransaction& transaction) {
    for (size_t client = 0; client < kClients; ++client) {
      mdm::DeleteMapping(transaction.db, volume_id_, SdcOf(client));
    }
    mdm::ForgetCacheLeases(transaction.db, volume_id_, INT64_MAX);
    mdm::RecordWriteToken(transaction.db, volume_id_, 0);
    generation_ = mdm::FindVolume(transaction.db, volume_id_)->generation;
    return absl::OkStatus();
  });
  if (!read.ok()) Fail(std::string(read.message()));
  reconciled_ = server_generation_ = generation_;
  RestartMdm();
  for (size_t client = 0; client < kClients; ++client) {
    clients_.push_back(std::make_unique<Client>(folder_ + "/" + std::to_string(client)));
    // 500 ppm either way.
    clients_.back()->drift = 0.9995 + 0.0001 * static_cast<double>(Pick(11));
    Start(client, true);
  }
}

World::~World() = default;

void World::Fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

std::string World::Run(int steps) {
  for (int i = 0; i < steps && failure_.empty(); ++i) Step();
  return failure_;
}

void World::Step() {
  now_ += 1 + Pick(8) * kMilli;
  const size_t index = Pick(kClients);
  Client& client = *clients_[index];
  // Nobody is away for long: what happens after that is the interesting part.
  if (client.paused && Chance(250)) client.paused = false;
  if (client.process == nullptr && Chance(100)) Start(index, !Chance(8));
  if (write_token_ != 0 && Chance(400)) UseWriteToken();
  const bool runs = client.process != nullptr && !client.paused;
  const uint64_t what = Pick(100);
  if (what < 1) {
    if (Chance(2)) Rarely();
  } else if (what < 4) {
    StepFence();
  } else if (what < 5) {
    if (mappings_.empty() || Chance(8)) Map();
  } else if (what < 7) {
    if (runs && client.process->needs_grant && !client.process->asking) Acquire(index);
  } else if (what < 10) {
    if (runs) Heartbeat(index);
  } else if (what < 11) {
    if (runs && client.process->cache != nullptr) client.process->cache->Tick();
  } else if (what < 20) {
    TakeWrite(index);
  } else if (what < 38) {
    if (runs && client.process->attached) Submit(index);
  } else if (what < 62) {
    if (!runs) return;
    (void)(Chance(2) ? client.process->store.Step(Chance(2'000)) : client.process->store.Tell());
  } else {
    Deliver();
  }
}

void World::Rarely() {
  const size_t index = Pick(kClients);
  Client& client = *clients_[index];
  switch (Pick(18)) {
    case 0:
    case 1:
      if (client.process == nullptr) {
        Start(index, !Chance(8));
      } else if (!client.paused) {
        Chance(2) ? Crash(index) : StopInOrder(index);
      }
      return;
    case 2:
    case 3:
      if (client.process == nullptr) return Start(index, true);
      client.paused = !client.paused;
      if (client.paused) ++coverage_["pauses"];
      return;
    case 4:
      now_ += Pick(4'000) * kMilli;
      return;
    case 5:
    case 6:
      return Unmap(index, false);
    case 7:
    case 8:
    case 9:
      return Unmap(index, true);
    case 10:
      return EndTokens();
    case 11:
      if (Chance(3)) RestartMdm();
      return;
    case 12:
      return LoseWrites();
    case 13:
      size_bytes_ += kSector * 8;
      for (size_t i = 0; i < kClients; ++i) {
        if (clients_[i]->process == nullptr || !mappings_.contains(i)) continue;
        if (clients_[i]->process->grant.generation == generation_) Answer(i, clients_[i]->life);
      }
      return;
    case 14:
    case 15:
      return RequestWriteToken();
    default:
      unflushed_.clear();
      return;
  }
}

// Any of the messages that can arrive.
void World::Deliver() {
  if (messages_.empty()) return;
  const size_t first = Pick(messages_.size());
  for (size_t i = 0; i < messages_.size(); ++i) {
    const size_t at = (first + i) % messages_.size();
    const Message& message = messages_[at];
    if (message.client >= 0) {
      const Client& client = *clients_[static_cast<size_t>(message.client)];
      const bool gone = client.life != message.life || client.process == nullptr;
      if (client.paused && !gone) continue;
      if (gone) {
        messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(at));
        return;
      }
    }
    const Message arriving = std::move(messages_[at]);
    messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(at));
    return arriving.arrive();
  }
}

// ---- The MDM.

void World::RestartMdm() {
  fences_.clear();
  leases_ = std::make_unique<mdm::CacheLeases>(store_, this);
  if (const absl::Status status = leases_->Load(); !status.ok()) {
    Fail(std::string(status.message()));
  }
  if (mdm_life_++ > 0) ++coverage_["restarts of the MDM"];
  for (const auto& client : clients_) {
    if (client->process != nullptr) client->process->asking = false;
  }
}

void World::RaiseGeneration() {
  ++generation_;
  const absl::Status status = store_->Write([&](mdm::WriteTransaction& transaction) {
    mdm::VolumeRow row = *mdm::FindVolume(transaction.db, volume_id_);
    row.generation = generation_;
    mdm::UpdateVolumeGenerations(transaction.db, row);
    return absl::OkStatus();
  });
  if (!status.ok()) Fail(std::string(status.message()));
}

void World::AddFence(std::function<void()> done) {
  fences_.push_back({generation_, false, std::move(done)});
}

// What VolumeFence does: every server knows the generation, and no lease below it is left.
void World::StepFence() {
  if (fences_.empty()) return;
  const size_t at = Pick(fences_.size());
  Fence& fence = fences_[at];
  if (!fence.servers_know) {
    server_generation_ = std::max(server_generation_, fence.generation);
    fence.servers_know = true;
    return;
  }
  const bool moved_on = fence.generation != generation_;
  if (!moved_on && leases_->EndMillis(volume_id_, fence.generation) > 0) {
    ++coverage_["waits for a lease"];
    return;
  }
  const Fence over = std::move(fence);
  fences_.erase(fences_.begin() + static_cast<std::ptrdiff_t>(at));
  if (!moved_on) {
    reconciled_ = generation_;
    const absl::Status status = store_->Write([&](mdm::WriteTransaction& transaction) {
      mdm::ForgetCacheLeases(transaction.db, volume_id_, generation_);
      return absl::OkStatus();
    });
    if (!status.ok()) Fail(std::string(status.message()));
  }
  over.done();
}

void World::Map() {
  const size_t index = Pick(kClients);
  const Mode mode = Chance(4) ? Mode::kReadOnly : Mode::kReadWrite;
  if (mappings_.contains(index)) return;
  for (const auto& [other, mapping] : mappings_) {
    if (mode == Mode::kReadWrite || mapping.first == Mode::kReadWrite) return;
  }
  mappings_[index] = {mode, generation_};
  ++coverage_[mode == Mode::kReadOnly ? "mapped for reading" : "mapped"];
  const absl::Status status = store_->Write([&](mdm::WriteTransaction& transaction) {
    mdm::MappingRow row;
    row.volume_id = volume_id_;
    row.sdc_id = SdcOf(index);
    row.mode = mode == Mode::kReadOnly ? v1::MAPPING_MODE_READ_ONLY : v1::MAPPING_MODE_READ_WRITE;
    row.since_generation = generation_;
    mdm::InsertMapping(transaction.db, row);
    return absl::OkStatus();
  });
  if (!status.ok()) Fail(std::string(status.message()));
}

void World::Unmap(size_t index, bool force) {
  const auto found = mappings_.find(index);
  if (found == mappings_.end()) return;
  ++coverage_[force ? "unmapped by force" : "unmapped in order"];
  if (force) return TakeAway(index);
  const uint64_t moment = leases_->Now();
  const uint64_t mdm_life = mdm_life_;
  auto over = std::make_shared<bool>(false);
  const auto end = [this, index, over, mdm_life, mapping = found->second.second] {
    if (std::exchange(*over, true) || mdm_life != mdm_life_) return;
    const auto now = mappings_.find(index);
    if (now != mappings_.end() && now->second.second == mapping) TakeAway(index);
  };
  const uint64_t life = clients_[index]->life;
  Send({static_cast<int>(index), life, [this, index, life, moment, over, end, mdm_life] {
          if (clients_[index]->process->attached) Detach(index);
          Send({-1, 0, [this, index, life, moment, over, end, mdm_life] {
                  if (!*over && mdm_life == mdm_life_) {
                    leases_->GiveUpBefore(volume_id_, {SdcOf(index), life}, moment);
                    // Whoever asked for it has given up: the client attaches it again.
                    if (Chance(4)) *over = true;
                  }
                  end();
                }});
        }});
  Send({-1, 0, end});  // the client does not answer in time
}

void World::TakeAway(size_t index) {
  mappings_.erase(index);
  const absl::Status status = store_->Write([&](mdm::WriteTransaction& transaction) {
    mdm::DeleteMapping(transaction.db, volume_id_, SdcOf(index));
    return absl::OkStatus();
  });
  if (!status.ok()) Fail(std::string(status.message()));
  RaiseGeneration();
  AddFence([] {});
}

void World::EndTokens() {
  RaiseGeneration();
  AddFence([] {});
}

// Somebody without a client writes once, when he comes to it.
void World::RequestWriteToken() {
  if (!mappings_.empty()) return;
  RaiseGeneration();
  const absl::Status status = store_->Write([&](mdm::WriteTransaction& transaction) {
    mdm::RecordWriteToken(transaction.db, volume_id_, generation_);
    return absl::OkStatus();
  });
  if (!status.ok()) Fail(std::string(status.message()));
  AddFence([this, generation = generation_] {
    if (generation_ == generation) write_token_ = generation;
  });
}

void World::TakeHeartbeat(size_t index, uint64_t life, v1::HeartbeatRequest request,
                          std::function<void(const v1::HeartbeatResponse&)> answer) {
  Client& client = *clients_[index];
  if (life < client.heard_life) return;
  client.heard_life = life;
  v1::HeartbeatResponse response;
  const absl::Status status = leases_->Renew({SdcOf(index), life}, request, &response);
  if (!status.ok()) return Fail(std::string(status.message()));
  if (mappings_.contains(index)) response.add_mapped_volume_ids(volume_id_);
  answer(response);
}

void World::TakeAcquire(size_t index, uint64_t life, uint64_t given_up) {
  leases_->GiveUp(volume_id_, {SdcOf(index), life}, given_up);
  const auto mapped = mappings_.find(index);
  if (mapped == mappings_.end()) {
    Send({static_cast<int>(index), life, [this, index] {
            Process& process = *clients_[index]->process;
            process.asking = process.needs_grant = false;
            if (process.attached) Detach(index);
          }});
    return;
  }
  if (mapped->second.first == Mode::kReadWrite) RaiseGeneration();
  if (reconciled_ == generation_) return Answer(index, life);
  AddFence([this, index, life] { Answer(index, life); });
}

void World::Answer(size_t index, uint64_t life) {
  const auto mapped = mappings_.find(index);
  if (mapped == mappings_.end() || reconciled_ != generation_) {
    Send({static_cast<int>(index), life,
          [this, index] { clients_[index]->process->asking = false; }});
    return;
  }
  const Granted grant{generation_, mapped->second.first, size_bytes_, mapped->second.second};
  Send({static_cast<int>(index), life, [this, index, grant] { TakeGrant(index, grant); }});
}

void World::TakeGrant(size_t index, const Granted& grant) {
  Process& process = *clients_[index]->process;
  process.asking = false;
  if (!process.attached) return Attach(index, grant, false);
  if (grant.generation < process.grant.generation) return;  // late
  if (grant.mapping_id != process.grant.mapping_id) {
    Detach(index);
    process.needs_grant = true;
    return;
  }
  process.needs_grant = false;
  process.grant = grant;
  ++coverage_["new grants"];
  if (process.volume != nullptr) process.volume->SetIdentity(IdentityOf(grant));
  for (const auto& write : process.writes) {
    if (!write->queued && !write->taken) SendWrite(index, write);
  }
  for (const auto& [owner, read] : process.reads) {
    if (std::exchange(read->refused, false)) SendRead(index, read);
  }
}

// ---- The server.

void World::Set(uint64_t sector, uint64_t value) { history_[sector].emplace_back(now_, value); }

void World::TakeWrite(size_t index) {
  Client& client = *clients_[index];
  if (client.wire.empty()) return;
  const std::shared_ptr<Write> write = client.wire.front();
  client.wire.pop_front();
  write->queued = false;
  if (write->taken) return;
  if (write->generation < server_generation_) {
    Send({static_cast<int>(index), client.life, [this, index] {
            Process& process = *clients_[index]->process;
            if (process.attached) process.needs_grant = true;
          }});
    return;
  }
  write->taken = true;
  for (uint64_t sector = write->first; sector < write->first + write->count; ++sector) {
    unflushed_.emplace_back(sector, Get(sector));
    Set(sector, write->value);
  }
  Send({static_cast<int>(index), client.life,
        [this, index, write] { WriteAnswered(index, write); }});
}

void World::TakeRead(size_t index, uint64_t life, const std::shared_ptr<Read>& read,
                     uint64_t generation) {
  if (generation < server_generation_) {
    Send({static_cast<int>(index), life, [this, index, read] {
            Process& process = *clients_[index]->process;
            if (!process.reads.contains(read.get())) return;
            read->refused = true;
            process.needs_grant = true;
          }});
    return;
  }
  std::vector<uint64_t> values;
  for (size_t i = 0; i < read->values.size(); ++i) {
    values.push_back(Get(read->range.begin / kSector + i));
  }
  Send({static_cast<int>(index), life,
        [this, index, read, values] { ReadServed(index, read, values); }});
}

void World::UseWriteToken() {
  const uint64_t generation = std::exchange(write_token_, 0);
  if (generation < server_generation_) return;
  ++coverage_["writes with a token"];
  const uint64_t value = next_value_++;
  for (uint64_t sector = 0; sector < kVolumeSectors; ++sector) {
    unflushed_.emplace_back(sector, Get(sector));
    Set(sector, value);
  }
}

// Power is lost everywhere, and what was not flushed with it. Clients are told before they can read
// what is there now.
void World::LoseWrites() {
  for (const auto& client : clients_) {
    if (client->paused) return;
  }
  if (unflushed_.empty()) return;
  ++coverage_["losses"];
  for (; !unflushed_.empty(); unflushed_.pop_back()) {
    Set(unflushed_.back().first, unflushed_.back().second);
  }
  for (const auto& client : clients_) {
    ++client->losses;
    if (client->process != nullptr && client->process->volume != nullptr) {
      client->process->volume->Drop();
    }
  }
}

}  // namespace tessera::cache_model
