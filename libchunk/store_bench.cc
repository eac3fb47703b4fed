// store_bench: processor time and latency of a Store on a real folder.
//
//   store_bench FOLDER [--seconds S] [--json]
//
// Makes a store of its own in FOLDER/store_bench and deletes its files at the end. For each case it
// prints the processor time of an operation with everything that the store does for it in the
// background (getrusage of the whole process, user and system), and the time on the clock. Warm:
// the working set has been written and read once before.
//
// Exit status: 0; 1 when the store returned an error; 2 for wrong arguments.
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "libchunk/env_posix.h"
#include "libchunk/seeded_random.h"
#include "libchunk/status_macros.h"
#include "libchunk/store.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kChunks = 256;
constexpr uint64_t kSeed = 42;
constexpr uint32_t kSmallBytes = 4096;
constexpr uint32_t kLargeBytes = 128u << 10;
constexpr uint64_t kStream = 1;

struct Arguments {
  std::string folder;
  uint64_t seconds = 2;  // for each case
  bool json = false;
};

struct Result {
  std::string name;
  uint64_t operations = 0;
  double processor_nanos = 0;  // an operation
  double clock_nanos = 0;      // an operation
  double median_nanos = 0;     // of one call
  double p99_nanos = 0;        // of one call
};

uint64_t ProcessorNanos() {
  rusage usage;
  (void)getrusage(RUSAGE_SELF, &usage);  // cannot fail for a valid argument
  const auto nanos = [](const timeval& time) {
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000u +
           static_cast<uint64_t>(time.tv_usec) * 1'000u;
  };
  return nanos(usage.ru_utime) + nanos(usage.ru_stime);
}

class Bench {
 public:
  Bench(PosixEnv* env, Store* store, uint64_t seconds)
      : env_(env), store_(store), limit_nanos_(seconds * 1'000'000'000u), random_(kSeed) {
    for (std::byte& byte : data_) byte = static_cast<std::byte>(random_.Next());
  }

  absl::Status Run() {
    CHUNK_RETURN_IF_ERROR(Warm());
    CHUNK_RETURN_IF_ERROR(
        Measure("write 4k, batches of 1", 1, [&] { return Write(1, kSmallBytes); }));
    CHUNK_RETURN_IF_ERROR(
        Measure("write 4k, batches of 32", 32, [&] { return Write(32, kSmallBytes); }));
    CHUNK_RETURN_IF_ERROR(Measure("read 4k, warm", 1, [&] { return Read(/*cached=*/false); }));
    CHUNK_RETURN_IF_ERROR(
        Measure("read 4k, cached call", 1, [&] { return Read(/*cached=*/true); }));
    CHUNK_RETURN_IF_ERROR(Measure("write 128k", 1, [&] { return Write(1, kLargeBytes); }));
    return Measure("write 4k and flush", 1, [&]() -> absl::Status {
      CHUNK_RETURN_IF_ERROR(Write(1, kSmallBytes));
      return store_->Flush();
    });
  }

  const std::vector<Result>& results() const { return results_; }

 private:
  ChunkKey RandomKey() { return {1, random_.Below(kChunks), 0}; }

  // Every chunk whole, then moved to its place and read once.
  absl::Status Warm() {
    std::vector<std::byte> out(kLargeBytes);
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      for (uint32_t at = 0; at < store_->chunk_bytes(); at += kLargeBytes) {
        CHUNK_RETURN_IF_ERROR(WriteAt({1, chunk, 0}, at, kLargeBytes));
      }
    }
    CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/true));
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      for (uint32_t at = 0; at < store_->chunk_bytes(); at += kLargeBytes) {
        CHUNK_RETURN_IF_ERROR(store_->Read({1, chunk, 0}, at, out));
      }
    }
    return absl::OkStatus();
  }

  Change MakeChange(const ChunkKey& key, uint32_t offset_bytes, uint32_t length_bytes,
                    std::span<const std::byte>& slice) {
    slice = std::span(data_).first(length_bytes);
    Change change;
    change.key = key;
    change.stream = {1, kStream};
    change.version = {1, ++sequence_};
    change.offset_bytes = offset_bytes;
    change.length_bytes = length_bytes;
    change.data = {&slice, 1};
    return change;
  }

  absl::Status WriteAt(const ChunkKey& key, uint32_t offset_bytes, uint32_t length_bytes) {
    std::span<const std::byte> slice;
    const Change change = MakeChange(key, offset_bytes, length_bytes, slice);
    absl::Status result;
    store_->Apply({&change, 1}, {&result, 1});
    return result;
  }

  absl::Status Write(size_t count, uint32_t length_bytes) {
    changes_.resize(count);
    slices_.resize(count);
    statuses_.resize(count);
    const uint64_t places = store_->chunk_bytes() / length_bytes;
    for (size_t i = 0; i < count; ++i) {
      const auto offset_bytes = static_cast<uint32_t>(random_.Below(places)) * length_bytes;
      changes_[i] = MakeChange(RandomKey(), offset_bytes, length_bytes, slices_[i]);
    }
    store_->Apply(changes_, statuses_);
    for (const absl::Status& status : statuses_) CHUNK_RETURN_IF_ERROR(status);
    return absl::OkStatus();
  }

  absl::Status Read(bool cached) {
    const uint64_t places = store_->chunk_bytes() / kSmallBytes;
    const auto offset_bytes = static_cast<uint32_t>(random_.Below(places)) * kSmallBytes;
    const ChunkKey key = RandomKey();
    const std::span<std::byte> out = std::span(out_).first(kSmallBytes);
    if (cached) {
      absl::Status status = store_->ReadCached(key, offset_bytes, out);
      if (!absl::IsUnavailable(status)) return status;
    }
    return store_->Read(key, offset_bytes, out);
  }

  absl::Status Measure(const std::string& name, size_t operations_per_call,
                       const std::function<absl::Status()>& call) {
    std::vector<uint64_t> latencies;
    const uint64_t processor_start = ProcessorNanos();
    const uint64_t start = env_->NowNanos();
    uint64_t now = start;
    while (now - start < limit_nanos_) {
      CHUNK_RETURN_IF_ERROR(call());
      const uint64_t after = env_->NowNanos();
      latencies.push_back(after - now);
      now = after;
    }
    // The debt that the writes leave to the checkpoint belongs to them.
    CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/true));
    const auto operations = static_cast<double>(latencies.size() * operations_per_call);
    std::sort(latencies.begin(), latencies.end());
    Result result;
    result.name = name;
    result.operations = latencies.size() * operations_per_call;
    result.processor_nanos = static_cast<double>(ProcessorNanos() - processor_start) / operations;
    result.clock_nanos = static_cast<double>(now - start) / operations;
    result.median_nanos = static_cast<double>(latencies[latencies.size() / 2]);
    result.p99_nanos = static_cast<double>(latencies[latencies.size() * 99 / 100]);
    results_.push_back(result);
    return absl::OkStatus();
  }

  PosixEnv* const env_;
  Store* const store_;
  const uint64_t limit_nanos_;
  SeededRandom random_;
  std::vector<std::byte> data_ = std::vector<std::byte>(kLargeBytes);
  std::vector<std::byte> out_ = std::vector<std::byte>(kLargeBytes);
  uint64_t sequence_ = 0;
  std::vector<Change> changes_;
  std::vector<std::span<const std::byte>> slices_;
  std::vector<absl::Status> statuses_;
  std::vector<Result> results_;
};

void Print(const std::vector<Result>& results, bool json) {
  if (!json)
    std::printf("%-26s %10s %12s %12s %12s %12s\n", "case", "operations", "CPU ns/op",
                "clock ns/op", "median ns", "p99 ns");
  if (json) std::printf("[");
  bool first = true;
  for (const Result& result : results) {
    if (json) {
      std::printf(
          "%s\n  {\"case\": \"%s\", \"operations\": %lu, \"processor_nanos\": %.0f, "
          "\"clock_nanos\": %.0f, \"median_nanos\": %.0f, \"p99_nanos\": %.0f}",
          first ? "" : ",", result.name.c_str(), result.operations, result.processor_nanos,
          result.clock_nanos, result.median_nanos, result.p99_nanos);
    } else {
      std::printf("%-26s %10lu %12.0f %12.0f %12.0f %12.0f\n", result.name.c_str(),
                  result.operations, result.processor_nanos, result.clock_nanos,
                  result.median_nanos, result.p99_nanos);
    }
    first = false;
  }
  if (json) std::printf("\n]\n");
}

absl::Status DeleteFiles(PosixEnv& env, const std::string& folder) {
  CHUNK_ASSIGN_OR_RETURN(const std::vector<std::string> names, env.List(folder));
  for (const std::string& name : names) CHUNK_RETURN_IF_ERROR(env.Delete(folder + "/" + name));
  return absl::OkStatus();
}

absl::Status RunBench(const Arguments& arguments) {
  PosixEnv env;
  const std::string folder = arguments.folder + "/store_bench";
  CHUNK_RETURN_IF_ERROR(env.CreateFolder(folder));
  StoreOptions options;
  options.capacity_bytes = uint64_t{2} << 30;
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::Open(&env, folder, options));
  Bench bench(&env, store.get(), arguments.seconds);
  const absl::Status status = bench.Run();
  Print(bench.results(), arguments.json);
  CHUNK_RETURN_IF_ERROR(status);
  CHUNK_RETURN_IF_ERROR(store->Close());
  store.reset();
  return DeleteFiles(env, folder);
}

std::optional<Arguments> Parse(int count, char** words) {
  Arguments arguments;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--json") {
      arguments.json = true;
    } else if (word == "--seconds" && i + 1 < count) {
      const std::string_view value = words[++i];
      const auto [end, error] =
          std::from_chars(value.data(), value.data() + value.size(), arguments.seconds);
      if (error != std::errc() || end != value.data() + value.size() || arguments.seconds == 0) {
        return std::nullopt;
      }
    } else if (arguments.folder.empty() && !word.starts_with("-")) {
      arguments.folder = word;
    } else {
      return std::nullopt;
    }
  }
  return arguments.folder.empty() ? std::nullopt : std::optional(arguments);
}

}  // namespace
}  // namespace tessera::chunk

int main(int argc, char** argv) {
  const auto arguments = tessera::chunk::Parse(argc, argv);
  if (!arguments.has_value()) {
    std::fprintf(stderr, "usage: %s FOLDER [--seconds S] [--json]\n", argv[0]);
    return 2;
  }
  const absl::Status status = tessera::chunk::RunBench(*arguments);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
