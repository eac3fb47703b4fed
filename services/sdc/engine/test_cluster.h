// A cluster of scripted servers around one engine, with an MDM in the test's own hands, for the
// engine's tests.
//
// Threads: one test thread; the engine runs on a loop of its own.
#ifndef TESSERA_SERVICES_SDC_ENGINE_TEST_CLUSTER_H_
#define TESSERA_SERVICES_SDC_ENGINE_TEST_CLUSTER_H_

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "services/common/placement_hash.h"
#include "services/sdc/control/loop_call.h"
#include "services/sdc/engine/fake_sds.h"
#include "services/sdc/engine/io_engine.h"
#include "services/sdc/resume/test_memory.h"

namespace tessera::sdc {

inline constexpr uint32_t kChunkBytes = 16 << 10;
inline constexpr uint64_t kVolumeBytes = 32 * kChunkBytes;
inline constexpr uint64_t kPool = 3;
inline constexpr uint32_t kGroups = 4;
inline constexpr std::chrono::milliseconds kPatience = std::chrono::seconds(20);

// The cache's file in memory: done at once, told of in the loop's next turn.
class LoopStore final : public CacheStore {
 public:
  LoopStore(EventLoop& loop, std::vector<std::byte>& disk) : loop_(loop), disk_(disk) {}
  bool Read(uint64_t offset, CacheBytes into, Done done) override {
    std::copy_n(disk_.begin() + static_cast<std::ptrdiff_t>(offset), into.size, into.memory.get());
    loop_.Post([done = std::move(done)]() mutable { done(true); });
    return true;
  }
  bool Write(uint64_t offset, CacheBytes bytes, Done done) override {
    std::copy_n(bytes.memory.get(), bytes.size,
                disk_.begin() + static_cast<std::ptrdiff_t>(offset));
    loop_.Post([done = std::move(done)]() mutable { done(true); });
    return true;
  }

 private:
  EventLoop& loop_;
  std::vector<std::byte>& disk_;
};

// An MDM without a network: decides at once, or not at all while it is away. Its state is the
// loop's.
class TestCluster final : public ClusterLink {
 public:
  // `cache_slots`: with a read cache, which has its lease. 0: without.
  explicit TestCluster(size_t replicas, EngineOptions options = PatientOptions(),
                       uint32_t cache_slots = 0)
      : cache_slots_(cache_slots), disk_(size_t{cache_slots} * kCacheLineBytes) {
    token::RandomBytes(secret_);
    for (size_t i = 0; i < replicas; ++i) {
      servers.push_back(std::make_unique<FakeSds>(10 + i, 100 + i, secret_, kChunkBytes));
      servers.back()->Start();
    }
    for (uint32_t index = 0; index < kGroups; ++index) {
      v1::PlacementGroup& entry = entries_[PlacementGroupId(kPool, index)];
      entry.set_placement_group_id(PlacementGroupId(kPool, index));
      entry.set_epoch(1);
      for (size_t i = 0; i < replicas; ++i) {
        v1::Replica* replica = entry.add_replicas();
        replica->set_device_id(100 + i);
        replica->set_sds_id(10 + i);
        replica->set_role(v1::REPLICA_ROLE_IN_SYNC);
      }
    }
    options_ = options;
    memory_ = std::make_shared<TestMemory>(kGeometry.TotalBytes());
    table_ = ResumeTable::Create(memory_, {"boot", "node", ++lives_}, kGeometry);
    BeginLoop([] {});
    OnLoop([this] {
      REQUIRE(engine->ApplyMap(Map()).ok());
      engine->SetGrant("test", MakeGrant());
    });
    Lease();
  }
  // The build runs these tests with both kinds of streams (see stream_queue.h).
  static std::shared_ptr<grpc::ChannelCredentials> Credentials() {
    const char* streams = std::getenv("TESSERA_TEST_STREAMS");
    const bool watched = streams != nullptr && std::string_view(streams) == "watched";
    return watched ? nullptr : grpc::InsecureChannelCredentials();
  }
  // A loaded machine is no failed replica.
  static EngineOptions PatientOptions() {
    EngineOptions options;
    options.replica_timeout = std::chrono::seconds(10);
    return options;
  }
  // Keeps no acknowledged writes.
  static EngineOptions Forgetful() {
    EngineOptions options = PatientOptions();
    options.unflushed_bytes = 0;
    return options;
  }
  ~TestCluster() override {
    EndLoop();
    for (auto& server : servers) server->Stop();
  }

  // The process is killed, what comes back to it counts for nothing, and `meanwhile` happens.
  void Kill(std::function<void()> meanwhile = [] {}) {
    OnLoop([this] { memory_ = std::make_shared<TestMemory>(*memory_); });
    EndLoop();
    meanwhile();
  }
  // The process ends in order; its cache is kept.
  void StopInOrder() {
    REQUIRE(AskLoop<bool>(*loop_, kPatience, [this](auto answer) {
              engine->KeepRecords();
              engine->Detach(7, false, [answer = std::move(answer)]() mutable { answer(true); });
            }).ok());
    EndLoop();
  }
  void Lease() {
    if (cache_slots_ == 0) return;
    OnLoop([this] {
      for (const auto& volume : engine->Volumes()) {
        const auto wish = volume->cache()->WishForLease();
        if (wish.has_value()) {
          volume->cache()->SetLease(*wish, static_cast<uint64_t>(loop_->Now().count()), 3'600'000);
        }
      }
    });
  }
  uint64_t CacheHits() { return cache_ == nullptr ? 0 : cache_->figures().hits.load(); }
  // It starts again, without the MDM. Returns how many volumes it goes on with.
  size_t StartAgain(uint64_t sdc_id = 1) {
    size_t resumed = 0;
    EndLoop();
    ResumedState left;
    auto table = ResumeTable::TakeOver(memory_, {"boot", "node", ++lives_}, &left);
    REQUIRE(table.ok());
    table_ = *std::move(table);
    BeginLoop([&] {
      resumed = engine->Resume(left, sdc_id).size();
      if (cache_ != nullptr) cache_->DropRestored();
    });
    Lease();
    return resumed;
  }
  [[nodiscard]] TestMemory& memory() { return *memory_; }
  [[nodiscard]] EventLoop& loop() { return *loop_; }

  void OnLoop(std::function<void()> task) {
    REQUIRE(AskLoop<bool>(*loop_, kPatience, [&task](auto answer) {
              task();
              answer(true);
            }).ok());
  }
  void Start(BlockRequest request) {
    loop_->Post([this, request = std::move(request)]() mutable {
      engine->Find("")->Submit(std::move(request));
    });
  }
  BlockReply Do(BlockRequest request) {
    auto reply = AskLoop<BlockReply>(*loop_, kPatience, [this, &request](auto answer) {
      request.done = std::move(answer);
      engine->Find("test")->Submit(std::move(request));
    });
    REQUIRE(reply.ok());
    return *std::move(reply);
  }
  int Write(uint64_t offset, const std::string& bytes, bool force_unit_access = false) {
    return Do(WriteRequest(offset, bytes, force_unit_access)).error;
  }
  static BlockRequest WriteRequest(uint64_t offset, const std::string& bytes, bool fua = false) {
    auto owner = std::make_shared<std::string>(bytes);
    BlockRequest request;
    request.command = Command::kWrite;
    request.offset_bytes = offset;
    request.length_bytes = bytes.size();
    request.force_unit_access = fua;
    // In two pieces, as a ring buffer's end makes them.
    const auto all = std::as_bytes(std::span(*owner));
    request.data.pieces = {all.first(bytes.size() / 2), all.subspan(bytes.size() / 2)};
    request.data.owner = owner;
    return request;
  }
  static BlockRequest Simple(Command command, uint64_t offset = 0, uint64_t length = 0) {
    BlockRequest request;
    request.command = command;
    request.offset_bytes = offset;
    request.length_bytes = length;
    return request;
  }
  std::string Read(uint64_t offset, uint64_t length) {
    const BlockReply reply = Do(Simple(Command::kRead, offset, length));
    REQUIRE(reply.error == 0);
    return Text(reply.data);
  }
  static std::string Text(const Payload& payload) {
    std::string text;
    for (const auto piece : payload.pieces) {
      text.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    }
    return text;
  }
  int Flush() { return Do(Simple(Command::kFlush)).error; }

  std::string Volume(size_t server) {
    std::string all;
    for (uint64_t chunk = 0; chunk * kChunkBytes < kVolumeBytes; ++chunk) {
      all += servers[server]->Chunk(chunk);
    }
    return all;
  }

  // Every server becomes an in-sync member of every group, equal to one that is.
  void RestoreMembers() {
    OnLoop([this] {
      for (uint32_t index = 0; index < kGroups; ++index) {
        std::set<uint64_t> chunks;
        for (uint64_t chunk = 0; chunk * kChunkBytes < kVolumeBytes; ++chunk) {
          if (PlacementGroupIndex(7, chunk, kGroups) == index) chunks.insert(chunk);
        }
        v1::PlacementGroup& entry = entries_[PlacementGroupId(kPool, index)];
        if (CountInSync(entry) == servers.size()) continue;
        FakeSds* source = nullptr;
        for (const v1::Replica& replica : entry.replicas()) {
          if (replica.role() == v1::REPLICA_ROLE_IN_SYNC) {
            source = servers[replica.device_id() - 100].get();
          }
        }
        entry.set_epoch(entry.epoch() + 1);
        for (v1::Replica& replica : *entry.mutable_replicas()) {
          servers[replica.device_id() - 100]->CopyGroup(*source, entry.placement_group_id(),
                                                        chunks);
          replica.set_role(v1::REPLICA_ROLE_IN_SYNC);
        }
      }
      (void)engine->ApplyMap(Map());
    });
  }
  // Until the loop's timers that fall due meanwhile have run.
  void PassTime(EventLoop::Duration duration) {
    REQUIRE(AskLoop<bool>(*loop_, kPatience, [this, duration](auto answer) {
              loop_->After(duration, [answer = std::move(answer)]() mutable { answer(true); });
            }).ok());
  }
  // The MDM decides; the engine hears of the outcome.
  void Change(uint32_t index, const std::function<void(v1::PlacementGroup&)>& change) {
    OnLoop([this, index, &change] {
      change(entries_[PlacementGroupId(kPool, index)]);
      (void)engine->ApplyMap(Map());
    });
  }
  void PublishAddresses() {
    OnLoop([this] { (void)engine->ApplyMap(Map()); });
  }
  void RaiseGeneration() {
    OnLoop([this] { Raise(); });
  }
  // REQUIRES: no client runs.
  void RaiseGenerationMeanwhile() { Raise(); }
  size_t InSync(uint32_t index) {
    size_t count = 0;
    OnLoop([&] { count = CountInSync(entries_[PlacementGroupId(kPool, index)]); });
    return count;
  }

  v1::ReplicaRole Role(uint32_t index, int replica) {
    v1::ReplicaRole role{};
    OnLoop([&] { role = entries_[PlacementGroupId(kPool, index)].replicas(replica).role(); });
    return role;
  }

  // ClusterLink.
  void ReportReplicas(std::vector<ReplicaReport> reports) override {
    loop_->Post([this, reports = std::move(reports)] {
      ++reports_seen;
      if (away) return engine->ReportsFailed(reports);
      v1::ReportReplicaFailuresResponse response;
      for (const ReplicaReport& report : reports) {
        v1::PlacementGroup& entry = entries_[report.placement_group_id];
        if (entry.epoch() == report.epoch) Remove(entry, report.device_id);
        *response.add_placement_groups() = Sign(entry);
      }
      engine->ReportsAnswered(reports, response);
    });
  }
  void GrantNeeded(uint64_t, GrantTrouble trouble) override {
    loop_->Post([this, trouble] {
      if (away) return;
      ++grants_seen;
      if (trouble == GrantTrouble::kAcquire) {
        ++generation_;
        for (auto& server : servers) server->RaiseGeneration(generation_);
      }
      engine->SetGrant("test", MakeGrant());
    });
  }

  std::vector<std::unique_ptr<FakeSds>> servers;
  std::unique_ptr<IoEngine> engine;
  std::atomic<bool> away{false};
  std::atomic<int> reports_seen{0};
  std::atomic<int> grants_seen{0};
  token::AccessMode access = token::AccessMode::kReadWrite;
  uint32_t iops_limit = 0;
  uint64_t bandwidth_limit_bytes = 0;
  uint64_t layer = 0;  // of the grants
  bool over_budget = false;

  VolumeGrant MakeGrant() {
    token::Grant grant;
    grant.grant_id = 1000 + generation_ + layer * 1'000'000;
    grant.key_id = 1;
    grant.sdc_id = 1;
    grant.volume_id = 7;
    grant.vtree_id = 7;
    grant.pool_id = kPool;
    grant.volume_size_bytes = kVolumeBytes;
    grant.chunk_bytes = kChunkBytes;
    grant.generation = generation_;
    grant.snapshot_sequence = layer;
    grant.access = access;
    grant.issued_ms = 1'000'000;
    grant.expiry_ms = 2'000'000 + ++renewals_;
    grant.outage_expiry_ms = 3'000'000;
    grant.iops_limit = iops_limit;
    grant.bandwidth_limit_bytes = bandwidth_limit_bytes;
    v1::IssuedGrant issued;
    issued.set_grant(token::EncodeGrant(grant));
    issued.set_over_budget(over_budget);
    for (size_t i = 0; i < servers.size(); ++i) {
      v1::GrantKeyForSds* key = issued.add_keys();
      key->set_sds_id(10 + i);
      const token::Key bytes =
          token::GrantKey::Derive(token::DeriveSdsKey(secret_, 10 + i), issued.grant()).bytes();
      key->set_key(bytes.data(), bytes.size());
    }
    return *VolumeGrant::FromIssued(issued, renewals_);
  }

 private:
  void BeginLoop(const std::function<void()>& first) {
    loop_ = std::make_unique<EventLoop>();
    engine = std::make_unique<IoEngine>(*loop_, options_, Credentials());
    if (cache_slots_ > 0) {
      ReadCacheOptions cache;
      cache.slots = cache_slots_;
      cache_store_ = std::make_unique<LoopStore>(*loop_, disk_);
      cache_ = std::make_unique<ReadCache>(
          cache, *cache_store_, [this] { return static_cast<uint64_t>(loop_->Now().count()); });
      cache_->Restore(std::exchange(saved_, SavedCache()));
      engine->SetReadCache(cache_.get());
    }
    engine->SetResumeTable(table_.get());
    engine->SetLink(this);
    first();
    thread_ = std::thread([this] { loop_->Run(); });
  }
  void EndLoop() {
    if (!thread_.joinable()) return;
    loop_->Stop();
    thread_.join();
    engine.reset();
    if (cache_ != nullptr) saved_ = cache_->Save();
    cache_.reset();
  }
  static v1::SignedPlacementGroup Sign(const v1::PlacementGroup& entry) {
    v1::SignedPlacementGroup signed_entry;
    signed_entry.set_placement_group(entry.SerializeAsString());
    return signed_entry;
  }
  void Raise() {
    ++generation_;
    for (auto& server : servers) server->RaiseGeneration(generation_);
  }
  static size_t CountInSync(const v1::PlacementGroup& entry) {
    return static_cast<size_t>(
        std::count_if(entry.replicas().begin(), entry.replicas().end(),
                      [](const auto& r) { return r.role() == v1::REPLICA_ROLE_IN_SYNC; }));
  }
  static void Remove(v1::PlacementGroup& entry, uint64_t device_id) {
    for (v1::Replica& replica : *entry.mutable_replicas()) {
      if (replica.device_id() != device_id || replica.role() == v1::REPLICA_ROLE_OUT_OF_SYNC) {
        continue;
      }
      if (replica.role() == v1::REPLICA_ROLE_IN_SYNC && CountInSync(entry) == 1) continue;
      replica.set_role(v1::REPLICA_ROLE_OUT_OF_SYNC);
      entry.set_epoch(entry.epoch() + 1);
    }
  }
  v1::WatchPlacementGroupsResponse Map() {
    v1::WatchPlacementGroupsResponse map;
    map.set_snapshot(true);
    v1::PoolLayout* pool = map.add_pools();
    pool->set_pool_id(kPool);
    pool->set_placement_group_count(kGroups);
    pool->set_chunk_bytes(kChunkBytes);
    pool->set_min_replicas(1);
    for (const auto& [id, entry] : entries_) *map.add_placement_groups() = Sign(entry);
    for (const auto& server : servers) *map.add_sds_addresses() = server->Address();
    return map;
  }

  static constexpr ResumeGeometry kGeometry{4096, 16 << 20};

  const uint32_t cache_slots_;
  std::vector<std::byte> disk_;
  SavedCache saved_;
  std::unique_ptr<LoopStore> cache_store_;
  std::unique_ptr<ReadCache> cache_;
  EngineOptions options_;
  std::shared_ptr<TestMemory> memory_;
  std::unique_ptr<ResumeTable> table_;
  uint64_t lives_ = 0;
  token::Key secret_{};
  std::map<uint64_t, v1::PlacementGroup> entries_;
  uint64_t generation_ = 1;
  uint64_t renewals_ = 0;
  std::unique_ptr<EventLoop> loop_;
  std::thread thread_;
};

inline std::string Pattern(uint64_t seed, size_t size) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_ENGINE_TEST_CLUSTER_H_
