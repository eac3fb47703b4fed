#include "services/mdm/cache_leases.h"

#include <algorithm>

#include "services/common/sql.h"
#include "services/common/status_macros.h"
#include "services/mdm/volume_table.h"

namespace tessera::mdm {
namespace {

// A client asks for the volumes it has attached; more than this is no honest wish.
constexpr int kWishesMax = 10'000;

bool HadWriteToken(SQLite::Database& db, uint64_t volume_id, uint64_t generation) {
  return Sql(db, "SELECT 1 FROM write_token_generation WHERE volume_id = ? AND generation >= ?",
             volume_id, generation)
      .Next();
}

// Nobody but the client can change what it has read under this generation.
bool MayCache(SQLite::Database& db, uint64_t volume_id, uint64_t generation, uint64_t sdc_id) {
  const auto volume = FindVolume(db, volume_id);
  if (!volume.has_value() || volume->generation != generation) return false;
  if (HadWriteToken(db, volume_id, generation)) return false;
  bool mapped = false;
  bool alone = true;
  bool written = false;
  for (const MappingRow& mapping : ListMappings(db, volume_id)) {
    mapped |= mapping.sdc_id == sdc_id;
    alone &= mapping.sdc_id == sdc_id;
    written |= mapping.mode == v1::MAPPING_MODE_READ_WRITE;
    // Another may become its writer at any moment.
    if (mapping.mode == v1::MAPPING_MODE_SHARED) return false;
  }
  return mapped && (alone || !written);
}

bool IsRecorded(SQLite::Database& db, uint64_t volume_id, uint64_t generation) {
  return Sql(db, "SELECT 1 FROM cache_lease WHERE volume_id = ? AND generation >= ?", volume_id,
             generation)
      .Next();
}

}  // namespace

void RecordCacheLease(SQLite::Database& db, uint64_t volume_id, uint64_t generation) {
  Sql(db,
      "INSERT INTO cache_lease VALUES (?, ?) ON CONFLICT (volume_id) "
      "DO UPDATE SET generation = max(generation, excluded.generation)",
      volume_id, generation)
      .Run();
}

void ForgetCacheLeases(SQLite::Database& db, uint64_t volume_id, uint64_t generation) {
  Sql(db, "DELETE FROM cache_lease WHERE volume_id = ? AND generation < ?", volume_id, generation)
      .Run();
}

void RecordWriteToken(SQLite::Database& db, uint64_t volume_id, uint64_t generation) {
  Sql(db, "INSERT OR REPLACE INTO write_token_generation VALUES (?, ?)", volume_id, generation)
      .Run();
}

absl::Status CacheLeases::Load() {
  std::map<uint64_t, std::vector<Lease>> left;
  // Read before the clock is: what was given is older than this process.
  TESSERA_RETURN_IF_ERROR(store_->Read([&](SQLite::Database& db) {
    left.clear();
    Sql query(db, "SELECT volume_id, generation FROM cache_lease");
    while (query.Next()) {
      Lease lease;
      lease.generation = query.Unsigned(1);
      left[query.Unsigned(0)].push_back(lease);
    }
    return absl::OkStatus();
  }));
  const uint64_t end = clock_->BootMillis() + kLeaseMillis;
  for (auto& [volume_id, leases] : left) {
    for (Lease& lease : leases) lease.end_ms = end;
  }
  absl::MutexLock lock(&mutex_);
  leases_ = std::move(left);
  return absl::OkStatus();
}

std::vector<CacheLeases::Wish> CacheLeases::Note(const LeaseHolder& holder,
                                                 const v1::HeartbeatRequest& request) {
  std::vector<Wish> wishes;
  absl::MutexLock lock(&mutex_);
  const uint64_t now = clock_->BootMillis();
  for (const v1::CacheLease& asked : request.cache_leases()) {
    if (wishes.size() == kWishesMax) break;
    std::vector<Lease>& leases = leases_[asked.volume_id()];
    std::erase_if(leases, [now](const Lease& lease) { return lease.end_ms <= now; });
    auto found = std::find_if(leases.begin(), leases.end(), [&](const Lease& lease) {
      return lease.holder == holder && lease.generation == asked.generation();
    });
    if (found == leases.end()) {
      leases.push_back({holder, asked.generation(), 0, 0});
      found = leases.end() - 1;
    }
    Wish& wish = wishes.emplace_back();
    wish.volume_id = asked.volume_id();
    wish.generation = asked.generation();
    wish.end_before_ms = found->end_ms;
    wish.serial = found->serial = next_serial_++;
    found->end_ms = now + kLeaseMillis;
  }
  return wishes;
}

void CacheLeases::TakeBack(const LeaseHolder& holder, const Wish& wish) {
  absl::MutexLock lock(&mutex_);
  const auto found = leases_.find(wish.volume_id);
  if (found == leases_.end()) return;
  for (Lease& lease : found->second) {
    // A later wish of the same life may have been given.
    if (lease.holder == holder && lease.serial == wish.serial) lease.end_ms = wish.end_before_ms;
  }
  std::erase_if(found->second, [](const Lease& lease) { return lease.end_ms == 0; });
  if (found->second.empty()) leases_.erase(found);
}

// Noted before it is judged: a fence commits its generation before it looks for leases, so that
// either the judgement sees the generation or the fence sees the lease.
absl::Status CacheLeases::Renew(const LeaseHolder& holder, const v1::HeartbeatRequest& request,
                                v1::HeartbeatResponse* response) {
  if (request.cache_leases().empty()) return absl::OkStatus();
  std::vector<Wish> wishes = Note(holder, request);
  absl::Status status = store_->Read([&](SQLite::Database& db) {
    for (Wish& wish : wishes) {
      wish.given = MayCache(db, wish.volume_id, wish.generation, holder.sdc_id);
      wish.recorded = wish.given && IsRecorded(db, wish.volume_id, wish.generation);
    }
    return absl::OkStatus();
  });
  const bool news = std::any_of(wishes.begin(), wishes.end(),
                                [](const Wish& wish) { return wish.given && !wish.recorded; });
  if (status.ok() && news) {
    status = store_->Write([&](WriteTransaction& transaction) {
      for (Wish& wish : wishes) {
        if (!wish.given || wish.recorded) continue;
        wish.given = MayCache(transaction.db, wish.volume_id, wish.generation, holder.sdc_id);
        if (wish.given) RecordCacheLease(transaction.db, wish.volume_id, wish.generation);
      }
      return absl::OkStatus();
    });
  }
  for (const Wish& wish : wishes) {
    if (!status.ok() || !wish.given) {
      TakeBack(holder, wish);
      continue;
    }
    v1::CacheLease* lease = response->add_cache_leases();
    lease->set_volume_id(wish.volume_id);
    lease->set_generation(wish.generation);
    lease->set_lease_ms(kLeaseMillis);
  }
  return status;
}

void CacheLeases::GiveUp(uint64_t volume_id, const LeaseHolder& holder, uint64_t generation) {
  Erase(volume_id, [&](const Lease& lease) {
    return lease.holder == holder && lease.generation <= generation;
  });
}

uint64_t CacheLeases::Now() {
  absl::MutexLock lock(&mutex_);
  return next_serial_;
}

void CacheLeases::GiveUpBefore(uint64_t volume_id, const LeaseHolder& holder, uint64_t moment) {
  Erase(volume_id,
        [&](const Lease& lease) { return lease.holder == holder && lease.serial < moment; });
}

void CacheLeases::Erase(uint64_t volume_id, absl::FunctionRef<bool(const Lease&)> over) {
  absl::MutexLock lock(&mutex_);
  const auto found = leases_.find(volume_id);
  if (found == leases_.end()) return;
  std::erase_if(found->second, over);
  if (found->second.empty()) leases_.erase(found);
}

uint64_t CacheLeases::EndMillis(uint64_t volume_id, uint64_t generation) {
  absl::MutexLock lock(&mutex_);
  const auto found = leases_.find(volume_id);
  if (found == leases_.end()) return 0;
  const uint64_t now = clock_->BootMillis();
  std::erase_if(found->second, [now](const Lease& lease) { return lease.end_ms <= now; });
  uint64_t end = 0;
  for (const Lease& lease : found->second) {
    if (lease.generation < generation) end = std::max(end, lease.end_ms);
  }
  if (found->second.empty()) leases_.erase(found);
  return end;
}

}  // namespace tessera::mdm
