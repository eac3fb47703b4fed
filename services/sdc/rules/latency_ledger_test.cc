// The ledger against a model that keeps every request, and the cutting of a round trip.
#include "services/sdc/rules/latency_ledger.h"

#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "libchunk/seeded_random.h"

namespace tessera::sdc {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr auto kAll = v1::LATENCY_OPERATION_UNSPECIFIED;
constexpr auto kRead = v1::LATENCY_OPERATION_READ;
constexpr auto kWrite = v1::LATENCY_OPERATION_WRITE;

using Key = std::tuple<int, int, uint64_t, uint64_t>;  // operation, stage, server, device

// One request as the model keeps it.
struct Kept {
  uint64_t answered_nanos = 0;
  LatencySample sample;
  std::vector<AnswerPath> paths;
  std::vector<AnswerPath> other_answers;
};

struct Totals {
  uint64_t count = 0;
  uint64_t sum = 0;
  uint64_t least = UINT64_MAX;
  uint64_t max = 0;
  std::map<uint32_t, uint64_t> buckets;
  void Add(uint64_t micros) {
    ++count;
    sum += micros;
    max = std::max(max, micros);
    ++buckets[static_cast<uint32_t>(LatencyBucketOf(micros))];
  }
};

// What the ledger has to say, from all requests, by the definition.
class Model {
 public:
  std::vector<Kept> kept;

  [[nodiscard]] std::map<Key, Totals> Explain(uint32_t window_s, v1::LatencyOperation operation,
                                              uint64_t now_nanos) const {
    const uint64_t now = now_nanos / LatencyLedger::kWindowNanos;
    const uint64_t windows = std::min<uint64_t>((window_s + 9) / 10, LatencyLedger::kWindows - 1);
    std::map<Key, Totals> totals;
    std::map<std::pair<int, int>, uint64_t> least;
    const auto note = [&least](int of, int stage, uint64_t micros) {
      const auto [place, is_new] = least.emplace(std::pair(of, stage), micros);
      if (!is_new) place->second = std::min(place->second, micros);
    };
    for (const Kept& request : kept) {
      const uint64_t number = request.answered_nanos / LatencyLedger::kWindowNanos;
      const auto of = request.sample.operation;
      if (number + windows < now || (operation != kAll && of != operation)) continue;
      for (const auto* answers : {&request.paths, &request.other_answers}) {
        for (const AnswerPath& answer : *answers) {
          for (size_t i = 0; i < kServerStages; ++i) {
            note(of, v1::LATENCY_STAGE_NETWORK + static_cast<int>(i), answer.micros[i]);
          }
        }
      }
      totals[{of, 0, 0, 0}].Add(request.sample.total_micros);
      uint64_t rest = request.sample.total_micros;
      const auto stage = [&](int which, uint64_t sds, uint64_t device, uint64_t micros) {
        rest -= micros;
        if (micros > 0) totals[{of, which, sds, device}].Add(micros);
      };
      for (size_t i = 0; i < kClientStages; ++i) {
        note(of, static_cast<int>(i) + 1, request.sample.client_micros[i]);
        stage(static_cast<int>(i) + 1, 0, 0, request.sample.client_micros[i]);
      }
      for (const AnswerPath& path : request.paths) {
        for (size_t i = 0; i < kServerStages; ++i) {
          stage(v1::LATENCY_STAGE_NETWORK + static_cast<int>(i), path.sds_id, path.device_id,
                path.micros[i]);
        }
      }
      note(of, v1::LATENCY_STAGE_CLIENT_QUEUE, rest);
      if (rest > 0) totals[{of, v1::LATENCY_STAGE_CLIENT_QUEUE, 0, 0}].Add(rest);
      if (request.sample.slowest_replica_micros > 0) {
        totals[{of, v1::LATENCY_STAGE_SLOWEST_REPLICA, request.paths.back().sds_id,
                request.paths.back().device_id}]
            .Add(request.sample.slowest_replica_micros);
      }
    }
    for (auto& [key, of_key] : totals) {
      const auto found = least.find({std::get<0>(key), std::get<1>(key)});
      of_key.least = found == least.end() ? 0 : found->second;
    }
    return totals;
  }
};

AnswerPath RandomPath(chunk::SeededRandom* random, uint64_t devices) {
  AnswerPath path;
  path.device_id = 1 + random->Below(devices);
  path.sds_id = 100 + path.device_id / 2;
  for (uint32_t& micros : path.micros) {
    if (random->Below(2) == 0)
      micros = static_cast<uint32_t>(random->Below(1u << random->Below(22)));
  }
  return path;
}

Kept RandomRequest(chunk::SeededRandom* random, uint64_t now_nanos, uint64_t devices) {
  Kept request;
  request.answered_nanos = now_nanos;
  LatencySample& sample = request.sample;
  sample.operation = static_cast<v1::LatencyOperation>(1 + random->Below(3));
  uint64_t known = 0;
  for (uint32_t& micros : sample.client_micros) {
    if (random->Below(4) == 0) micros = static_cast<uint32_t>(random->Below(10'000));
    known += micros;
  }
  for (uint64_t i = random->Below(3); i > 0; --i) {
    request.paths.push_back(RandomPath(random, devices));
    for (const uint32_t micros : request.paths.back().micros) known += micros;
  }
  for (uint64_t i = random->Below(3); i > 0; --i) {
    request.other_answers.push_back(RandomPath(random, devices));
  }
  sample.total_micros = known + random->Below(500);
  if (!request.paths.empty() && random->Below(2) == 0) {
    sample.slowest_replica_micros = static_cast<uint32_t>(random->Below(5'000));
  }
  return request;
}

void Give(const Kept& request, LatencyLedger* ledger) {
  const auto of = request.sample.operation;
  for (const AnswerPath& path : request.paths) {
    ledger->NoteAnswer(of, path, request.answered_nanos);
  }
  for (const AnswerPath& path : request.other_answers) {
    ledger->NoteAnswer(of, path, request.answered_nanos);
  }
  LatencySample sample = request.sample;
  sample.paths = request.paths;
  ledger->Add(sample, request.answered_nanos);
}

void CheckRows(const v1::LatencyFigures& figures, const std::map<Key, Totals>& expected) {
  size_t seen = 0;
  for (const auto* rows : {&figures.requests(), &figures.rows()}) {
    for (const v1::LatencyRow& row : *rows) {
      const Key key(row.operation(), row.stage(), row.sds_id(), row.device_id());
      INFO("operation " << row.operation() << " stage " << row.stage() << " device "
                        << row.device_id());
      const auto found = expected.find(key);
      REQUIRE(found != expected.end());
      const Totals& totals = found->second;
      REQUIRE(row.count() == totals.count);
      REQUIRE(row.sum_micros() == totals.sum);
      REQUIRE(row.max_micros() == totals.max);
      if (row.stage() != v1::LATENCY_STAGE_UNSPECIFIED) REQUIRE(row.least_micros() == totals.least);
      REQUIRE(row.buckets_size() == static_cast<int>(totals.buckets.size()));
      int i = 0;
      for (const auto& [bucket, count] : totals.buckets) {
        REQUIRE(row.buckets(i) == bucket);
        REQUIRE(row.bucket_counts(i++) == count);
      }
      ++seen;
    }
  }
  REQUIRE(seen == expected.size());
}

TEST_CASE("figures of any window are those of the requests that were answered in it", "[latency]") {
  const uint64_t seed = GENERATE(1, 2, 3, 4, 5, 6);
  INFO("seed " << seed);
  chunk::SeededRandom random(seed);
  uint64_t now = 7 * kSecond + random.Below(1'000 * kSecond);
  LatencyLedger ledger(now);
  Model model;
  for (int step = 0; step < 600; ++step) {
    // Within a window as a rule, now and then over some, or over all of them.
    const uint64_t kind = random.Below(100);
    now += kind < 90   ? random.Below(2 * kSecond)
           : kind < 99 ? random.Below(60 * kSecond)
                       : random.Below(700 * kSecond);
    model.kept.push_back(RandomRequest(&random, now, 5));
    Give(model.kept.back(), &ledger);
    if (step % 20 != 0) continue;
    const uint32_t windows[] = {10, 25, 60, 300, 600};
    const uint32_t window_s = windows[random.Below(std::size(windows))];
    const auto operation = static_cast<v1::LatencyOperation>(random.Below(4));
    const uint64_t asked = now + random.Below(30 * kSecond);
    INFO("step " << step << " window " << window_s << " operation " << operation);
    CheckRows(ledger.Figures(window_s, operation, asked),
              model.Explain(window_s, operation, asked));
  }
}

TEST_CASE("stages add up to the requests' time", "[latency]") {
  chunk::SeededRandom random(11);
  LatencyLedger ledger(0);
  uint64_t whole = 0;
  for (int i = 0; i < 500; ++i) {
    const Kept request = RandomRequest(&random, static_cast<uint64_t>(i) * kSecond / 10, 3);
    whole += request.sample.total_micros;
    Give(request, &ledger);
  }
  uint64_t sum = 0;
  const v1::LatencyFigures figures = ledger.Figures(600, kAll, 50 * kSecond);
  for (const v1::LatencyRow& row : figures.rows()) {
    if (row.stage() != v1::LATENCY_STAGE_SLOWEST_REPLICA) sum += row.sum_micros();
  }
  CHECK(sum == whole);
}

TEST_CASE("the slowest requests of a window are kept with their stages", "[latency]") {
  LatencyLedger ledger(0);
  for (uint64_t i = 0; i < 100; ++i) {
    AnswerPath path;
    path.sds_id = 4;
    path.device_id = 40 + i;
    path.micros[ServerStage(v1::LATENCY_STAGE_JOURNAL)] = static_cast<uint32_t>(i * 37 % 100);
    LatencySample sample;
    sample.operation = kWrite;
    sample.total_micros = i * 37 % 100 + 1;
    sample.paths = {&path, 1};
    sample.offset_bytes = i * 4096;
    ledger.Add(sample, i * kSecond / 100);
  }
  const v1::LatencyFigures figures = ledger.Figures(10, kAll, 3 * kSecond);
  REQUIRE(figures.slowest_size() == static_cast<int>(LatencyLedger::kExamples));
  for (int i = 0; i < figures.slowest_size(); ++i) {
    CHECK(figures.slowest(i).total_micros() == static_cast<uint64_t>(100 - i));
    REQUIRE(figures.slowest(i).stages_size() == 2);
    CHECK(figures.slowest(i).stages(0).stage() == v1::LATENCY_STAGE_CLIENT_QUEUE);
    CHECK(figures.slowest(i).stages(1).stage() == v1::LATENCY_STAGE_JOURNAL);
    const uint64_t number = figures.slowest(i).stages(1).device_id() - 40;
    CHECK(figures.slowest(i).offset_bytes() == number * 4096);
    CHECK(figures.slowest(i).age_ms() == 3'000 - number * 10);
  }
  CHECK(ledger.Figures(10, kRead, 3 * kSecond).slowest().empty());
}

TEST_CASE("memory stays bounded, whatever happens and however long", "[latency]") {
  chunk::SeededRandom random(21);
  LatencyLedger ledger(0);
  size_t largest = 0;
  uint64_t count = 0;
  for (uint64_t second = 0; second < 2'000; second += 5) {
    for (int i = 0; i < 200; ++i) {
      Give(RandomRequest(&random, second * kSecond, 1'000), &ledger);
    }
    largest = std::max(largest, ledger.MemoryBytes());
  }
  CHECK(largest < 16u << 20);
  std::set<uint64_t> devices;
  // What there was no room for is counted all the same, together.
  bool rest = false;
  const v1::LatencyFigures figures = ledger.Figures(10, kAll, 1'999 * kSecond);
  for (const v1::LatencyRow& row : figures.rows()) {
    count += row.stage() == v1::LATENCY_STAGE_NETWORK ? row.count() : 0;
    rest |= row.stage() == v1::LATENCY_STAGE_NETWORK && row.sds_id() == 0;
    devices.insert(row.device_id());
  }
  CHECK(rest);
  CHECK(devices.size() <= 2 * LatencyLedger::kDevices);  // of two windows
  CHECK(count > 200);
}

TEST_CASE("three servers for ten minutes take less than half a mebibyte", "[latency]") {
  chunk::SeededRandom random(22);
  LatencyLedger ledger(0);
  for (uint64_t second = 0; second < 700; ++second) {
    for (int i = 0; i < 50; ++i) {
      AnswerPath path;
      path.device_id = path.sds_id = 1 + random.Below(3);
      for (const auto stage : {v1::LATENCY_STAGE_NETWORK, v1::LATENCY_STAGE_SERVER_QUEUE,
                               v1::LATENCY_STAGE_TOKEN_CHECK, v1::LATENCY_STAGE_JOURNAL,
                               v1::LATENCY_STAGE_REPLY_QUEUE}) {
        path.micros[ServerStage(stage)] = static_cast<uint32_t>(20 + random.Below(60));
      }
      LatencySample sample;
      sample.operation = random.Below(2) == 0 ? kRead : kWrite;
      sample.total_micros = 600;
      sample.paths = {&path, 1};
      ledger.Add(sample, second * kSecond);
    }
  }
  CHECK(ledger.MemoryBytes() < 1u << 19);
}

TEST_CASE("what is covered is told", "[latency]") {
  LatencyLedger ledger(1'000 * kSecond);
  CHECK(ledger.Figures(300, kAll, 1'004 * kSecond).covered_ms() == 4'000);
  CHECK(ledger.Figures(300, kAll, 1'304 * kSecond).covered_ms() == 304'000);
  CHECK(ledger.Figures(600, kAll, 2'009 * kSecond).covered_ms() == 599'000);
}

v1::StageTimes TimesOf(uint32_t away, uint32_t queue, uint32_t journal, uint32_t reply) {
  v1::StageTimes times;
  times.set_away_micros(away);
  times.set_queue_micros(queue);
  times.set_journal_micros(journal);
  times.set_reply_micros(reply);
  return times;
}

TEST_CASE("a round trip is cut without a gap, whatever the server says", "[latency]") {
  chunk::SeededRandom random(31);
  uint64_t best = UINT64_MAX;
  for (int i = 0; i < 10'000; ++i) {
    const auto some = [&random] {
      return static_cast<uint32_t>(random.Below(1u << random.Below(12)));
    };
    const v1::StageTimes times = TimesOf(some(), some(), some(), some());
    const uint64_t micros = random.Below(8'000);
    const uint64_t away = random.Below(2) * some();
    const auto cut =
        CutRoundTrip(micros * 1'000 + random.Below(1'000), away * 1'000, &times, &best);
    uint64_t sum = 0;
    for (const uint32_t part : cut) sum += part;
    // What is missing may have been spent in the client's socket.
    REQUIRE(sum <= micros);
    REQUIRE(sum + away >= micros);
  }
}

TEST_CASE("the way's time beyond its best was spent unseen, as far as the server looked away",
          "[latency]") {
  constexpr size_t kNetwork = ServerStage(v1::LATENCY_STAGE_NETWORK);
  constexpr size_t kQueue = ServerStage(v1::LATENCY_STAGE_SERVER_QUEUE);
  constexpr size_t kJournal = ServerStage(v1::LATENCY_STAGE_JOURNAL);
  uint64_t best = UINT64_MAX;
  const v1::StageTimes quiet = TimesOf(0, 5, 30, 5);
  auto cut = CutRoundTrip(140'000, 0, &quiet, &best);
  CHECK(cut[kNetwork] == 100);
  CHECK(cut[kQueue] == 5);
  CHECK(cut[kJournal] == 30);
  // 400 on the way, of which 100 are the way's own; it had not looked for 250.
  const v1::StageTimes busy = TimesOf(250, 5, 30, 5);
  cut = CutRoundTrip(440'000, 0, &busy, &best);
  CHECK(cut[kQueue] == 5 + 250);
  CHECK(cut[kNetwork] == 150);
  // It had not looked for long, and the message came late: what is the way's own stays.
  const v1::StageTimes away = TimesOf(9'000, 5, 30, 5);
  cut = CutRoundTrip(240'000, 0, &away, &best);
  CHECK(cut[kQueue] == 5 + 100);
  CHECK(cut[kNetwork] == 100);
  // A server that says nothing.
  cut = CutRoundTrip(300'000, 0, nullptr, &best);
  CHECK(cut[kNetwork] == 300);
  // The client itself had not looked for 120: that is nobody's on the way.
  cut = CutRoundTrip(300'000, 120'000, nullptr, &best);
  CHECK(cut[kNetwork] == 180);
}

}  // namespace
}  // namespace tessera::sdc
