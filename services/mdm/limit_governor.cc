#include "services/mdm/limit_governor.h"

#include <algorithm>

namespace tessera::mdm {
namespace {

constexpr uint64_t kNanosOfMilli = 1'000'000;

// A server's part of a limit.
double CapOf(double limit, double here, double all, size_t servers) {
  const double share = all > 0 ? std::min(1.0, here / all) : 0;
  const double floor = LimitGovernor::kCapFloor / static_cast<double>(std::max<size_t>(1, servers));
  return limit * (LimitGovernor::kCapSlack * share + floor);
}

}  // namespace

void LimitGovernor::Granted(uint64_t volume_id, uint64_t sdc_id, const VolumeLimits& limits,
                            size_t servers, uint64_t now_ms) {
  const std::pair key{volume_id, sdc_id};
  absl::MutexLock lock(&mutex_);
  if (!limits.any()) {
    clients_.erase(key);
    return;
  }
  Client& client = clients_[key];
  client.servers = servers;
  client.granted_ms = now_ms;
  if (client.limits == limits) return;
  client.limits = limits;
  client.since_ms = now_ms;
  client.samples.clear();
  client.bucket = RateLimiter();
  client.bucket.Configure(
      {kSlack * limits.iops, kSlack * static_cast<double>(limits.bandwidth_bytes),
       limits.burst_seconds + kSlackSeconds},
      now_ms * kNanosOfMilli);
}

void LimitGovernor::Report(uint64_t sds_id, uint64_t covered_ms, const std::vector<Use>& uses,
                           uint64_t now_ms) {
  const double part = covered_ms > kReportMillis
                          ? static_cast<double>(kReportMillis) / static_cast<double>(covered_ms)
                          : 1;
  absl::MutexLock lock(&mutex_);
  for (const Use& use : uses) {
    const auto found = clients_.find({use.volume_id, use.sdc_id});
    if (found == clients_.end()) continue;
    Client& client = found->second;
    if (now_ms < client.since_ms + covered_ms) continue;  // in part under other limits
    (void)client.bucket.Wait(now_ms * kNanosOfMilli);     // fills it up to now
    const Sample sample{now_ms,
                        sds_id,
                        std::clamp<uint64_t>(covered_ms, 1, kReportMillis),
                        {part * use.operations, part * use.bytes},
                        {part * use.client_operations, part * use.client_bytes}};
    client.bucket.Take({sample.client.operations, static_cast<uint64_t>(sample.client.bytes)});
    client.samples.push_back(sample);
  }
}

void LimitGovernor::Forget(Client* client, uint64_t now_ms) {
  while (!client->samples.empty() && client->samples.front().time_ms + kWindowMillis <= now_ms) {
    client->samples.pop_front();
  }
}

LimitGovernor::Rates LimitGovernor::RatesOf(const Client& client) {
  struct Sum {
    uint64_t covered_ms = 0;
    Amount counted;
    Amount client;
  };
  std::map<uint64_t, Sum> sums;
  for (const Sample& sample : client.samples) {
    Sum& sum = sums[sample.sds_id];
    sum.covered_ms += sample.covered_ms;
    sum.counted += sample.counted;
    sum.client += sample.client;
  }
  Rates rates;
  for (const auto& [sds_id, sum] : sums) {
    // One that has just begun, or ended, has done nothing in the rest of the window.
    const bool whole = sum.covered_ms >= kWindowMillis * 7 / 10;
    const double seconds = static_cast<double>(whole ? sum.covered_ms : kWindowMillis) / 1000;
    rates.counted[sds_id] = {sum.counted.operations / seconds, sum.counted.bytes / seconds};
    rates.client += {sum.client.operations / seconds, sum.client.bytes / seconds};
  }
  return rates;
}

std::vector<LimitGovernor::Change> LimitGovernor::Judge(uint64_t now_ms) {
  std::vector<Change> changes;
  absl::MutexLock lock(&mutex_);
  for (auto place = clients_.begin(); place != clients_.end();) {
    const auto& [key, _] = *place;
    Client& client = place->second;
    Forget(&client, now_ms);
    const bool exceeds = client.bucket.Wait(now_ms * kNanosOfMilli) > 0;
    const Amount rate = RatesOf(client).client;
    const VolumeLimits& limits = client.limits;
    const bool busy = (limits.iops != 0 && rate.operations > kCalm * limits.iops) ||
                      (limits.bandwidth_bytes != 0 &&
                       rate.bytes > kCalm * static_cast<double>(limits.bandwidth_bytes));
    const bool before = client.capped;
    if (exceeds || busy) client.busy_ms = now_ms;
    if (exceeds) {
      client.capped = true;
    } else if (now_ms - client.busy_ms >= kCalmMillis) {
      client.capped = false;
    }
    if (client.capped != before) {
      changes.push_back(
          {key.first, key.second, client.capped, limits, rate.operations, rate.bytes});
    }
    const bool gone = !client.capped && now_ms - client.granted_ms >= kGrantMemoryMillis;
    place = gone ? clients_.erase(place) : std::next(place);
  }
  return changes;
}

std::vector<v1::ClientCap> LimitGovernor::CapsFor(uint64_t sds_id, uint64_t now_ms) {
  std::vector<v1::ClientCap> caps;
  absl::MutexLock lock(&mutex_);
  for (auto& [key, client] : clients_) {
    if (!client.capped) continue;
    Forget(&client, now_ms);
    Rates rates = RatesOf(client);
    const Amount here = rates.counted[sds_id];
    const Amount all = rates.client;
    v1::ClientCap& cap = caps.emplace_back();
    cap.set_volume_id(key.first);
    cap.set_sdc_id(key.second);
    cap.set_operations_per_second(
        CapOf(client.limits.iops, here.operations, all.operations, client.servers));
    cap.set_bytes_per_second(CapOf(static_cast<double>(client.limits.bandwidth_bytes), here.bytes,
                                   all.bytes, client.servers));
  }
  return caps;
}

size_t LimitGovernor::capped() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<size_t>(std::count_if(clients_.begin(), clients_.end(),
                                           [](const auto& entry) { return entry.second.capped; }));
}

}  // namespace tessera::mdm
