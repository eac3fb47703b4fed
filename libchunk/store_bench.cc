// store_bench: processor time and latency of a Store on a real folder.
//
//   store_bench FOLDER [--seconds S] [--case TEXT] [--metadata-cache BYTES] [--json]
//
// Makes a store of its own in FOLDER/store_bench and deletes its files at the end. For each case
// (--case: whose name contains TEXT) it prints the processor time of an operation with everything
// that the store does for it in the background, how much of that was in the kernel, what each
// thread took, and the time on the clock of one call. Work that the kernel does in threads of its
// own (write-back, the file system's journal) is not in it. Warm: the working set has been written
// and read once before. `plain` cases are the same without a store, for comparison.
//
// Exit status: 0; 1 when the store returned an error; 2 for wrong arguments.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "libchunk/bench_usage.h"
#include "libchunk/env_posix.h"
#include "libchunk/seeded_random.h"
#include "libchunk/status_macros.h"
#include "libchunk/store.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kChunks = 1024;
constexpr uint64_t kSmallChunks = 256;  // the working set of small reads and writes
constexpr uint64_t kSeed = 42;
constexpr uint32_t kSmallBytes = 4096;
constexpr uint32_t kLargeBytes = 128u << 10;
constexpr uint32_t kHugeBytes = 1u << 20;
constexpr uint64_t kPlainFileBytes = 256u << 20;
constexpr uint64_t kStream = 1;
constexpr uint64_t kPlainVtree = 1;
// A volume with snapshots; each chunk has been written after each of them.
constexpr uint64_t kLayeredVtree = 2;
constexpr uint64_t kLayeredChunks = 64;
constexpr uint32_t kLayers = 200;

// Aligned to pages: where a buffer begins by chance can double the time of a copy.
struct FreeBuffer {
  void operator()(std::byte* bytes) const { std::free(bytes); }
};
using Buffer = std::unique_ptr<std::byte, FreeBuffer>;
Buffer AllocateBuffer() {
  return Buffer(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kHugeBytes)));
}

struct Arguments {
  std::string folder;
  uint64_t seconds = 2;  // for each case
  std::string only;      // cases whose name contains it; empty: all
  uint64_t metadata_cache_bytes = StoreOptions().metadata_cache_bytes;
  bool json = false;
};

struct Result {
  std::string name;
  uint64_t operations = 0;
  double clock_nanos = 0;                                      // an operation
  UsageByThread usage;                                         // in all
  double median_nanos = 0, p99_nanos = 0, greatest_nanos = 0;  // of one call

  double processor_nanos() const {
    double sum = 0;
    for (const auto& [name, thread] : usage) sum += static_cast<double>(thread.nanos);
    return sum / static_cast<double>(operations);
  }
  double system_nanos() const {
    double sum = 0;
    for (const auto& [name, thread] : usage) sum += thread.system_nanos();
    return sum / static_cast<double>(operations);
  }
};

class Bench {
 public:
  Bench(PosixEnv* env, Store* store, const Arguments& arguments)
      : env_(env), store_(store), arguments_(arguments), random_(kSeed) {
    for (std::byte& byte : data_) byte = static_cast<std::byte>(random_.Next());
  }

  absl::Status Run() {
    CHUNK_RETURN_IF_ERROR(Warm());
    const auto small = [&](size_t count) { return [this, count] { return WriteSmall(count); }; };
    const auto large = [&](size_t count, uint32_t bytes) {
      return [this, count, bytes] { return WriteNext(count, bytes); };
    };
    CHUNK_RETURN_IF_ERROR(Measure("write 4k, batches of 1", 1, small(1)));
    CHUNK_RETURN_IF_ERROR(Measure("write 4k, batches of 32", 32, small(32)));
    CHUNK_RETURN_IF_ERROR(Measure("read 4k, warm", 1, [&] { return Read(/*cached=*/false); }));
    CHUNK_RETURN_IF_ERROR(
        Measure("read 4k, cached call", 1, [&] { return Read(/*cached=*/true); }));
    CHUNK_RETURN_IF_ERROR(Measure("overwrite 128k, batches of 1", 1, large(1, kLargeBytes)));
    CHUNK_RETURN_IF_ERROR(Measure("overwrite 128k, batches of 8", 8, large(8, kLargeBytes)));
    CHUNK_RETURN_IF_ERROR(Measure("overwrite 1m, batches of 2", 2, large(2, kHugeBytes)));
    CHUNK_RETURN_IF_ERROR(Measure("write 4k and flush", 1, [&]() -> absl::Status {
      CHUNK_RETURN_IF_ERROR(WriteSmall(1));
      return store_->Flush();
    }));
    CHUNK_RETURN_IF_ERROR(MeasureLayers());
    return MeasurePlain();
  }

  const std::vector<Result>& results() const { return results_; }

 private:
  ChunkKey RandomKey() { return {1, random_.Below(kSmallChunks), 0}; }

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
    slice = data_.first(length_bytes);
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

  absl::Status Apply(size_t count, const std::function<Change(size_t)>& make) {
    changes_.resize(count);
    slices_.resize(count);
    statuses_.resize(count);
    for (size_t i = 0; i < count; ++i) changes_[i] = make(i);
    store_->Apply(changes_, statuses_);
    for (const absl::Status& status : statuses_) CHUNK_RETURN_IF_ERROR(status);
    return absl::OkStatus();
  }

  // Random 4 KiB blocks.
  absl::Status WriteSmall(size_t count) {
    const uint64_t places = store_->chunk_bytes() / kSmallBytes;
    return Apply(count, [&](size_t i) {
      const auto offset_bytes = static_cast<uint32_t>(random_.Below(places)) * kSmallBytes;
      return MakeChange(RandomKey(), offset_bytes, kSmallBytes, slices_[i]);
    });
  }

  // The next ranges of all chunks, round and round, as a sequential writer makes them.
  absl::Status WriteNext(size_t count, uint32_t length_bytes) {
    return Apply(count, [&](size_t i) {
      const uint64_t unit = (next_bytes_ + length_bytes - 1) / length_bytes * length_bytes;
      const uint64_t at = unit % (kChunks * store_->chunk_bytes());
      next_bytes_ = at + length_bytes;
      return MakeChange({1, at / store_->chunk_bytes(), 0},
                        static_cast<uint32_t>(at % store_->chunk_bytes()), length_bytes,
                        slices_[i]);
    });
  }

  absl::Status Read(bool cached) {
    const uint64_t places = store_->chunk_bytes() / kSmallBytes;
    const auto offset_bytes = static_cast<uint32_t>(random_.Below(places)) * kSmallBytes;
    const ChunkKey key = RandomKey();
    const std::span<std::byte> out = out_.first(kSmallBytes);
    if (cached) {
      absl::Status status = store_->ReadCached(key, offset_bytes, out);
      if (!absl::IsUnavailable(status)) return status;
    }
    return store_->Read(key, offset_bytes, out);
  }

  // The same working set without layers and with 200, by way of a path.
  absl::Status MeasureLayers() {
    bool is_warm = false;
    // Warm for both: the caches are as full for the one as for the other.
    for (const char* what : {" layers: read, cached call", " layers: write, batches of 1",
                             " layers: write, batches of 32"}) {
      for (const uint64_t vtree_id : {kPlainVtree, kLayeredVtree}) {
        const std::string name = absl::StrCat(vtree_id == kPlainVtree ? 0 : kLayers, what);
        if (!IsWanted(name)) continue;
        if (!std::exchange(is_warm, true)) CHUNK_RETURN_IF_ERROR(WarmLayers());
        const bool reads = name.find("read") != std::string::npos;
        const size_t batch = name.find("32") == std::string::npos ? 1 : 32;
        CHUNK_RETURN_IF_ERROR(Measure(name, batch, [&] {
          return reads ? ReadOnPath(vtree_id) : WriteOnPath(vtree_id, batch);
        }));
      }
    }
    return absl::OkStatus();
  }

  absl::Status WarmLayers() {
    const LayerPath path;
    for (uint32_t floor = 0; floor <= kLayers; ++floor) {
      for (uint64_t chunk = 0; chunk < kLayeredChunks; ++chunk) {
        std::span<const std::byte> slice;
        Change change = MakeChange({kLayeredVtree, chunk, floor}, floor * kSmallBytes,
                                   floor == 0 ? kHugeBytes : kSmallBytes, slice);
        change.path = &path;
        absl::Status result;
        store_->Apply({&change, 1}, {&result, 1});
        CHUNK_RETURN_IF_ERROR(result);
      }
      CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/false));
    }
    CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/true));
    for (uint64_t chunk = 0; chunk < kLayeredChunks; ++chunk) {
      CHUNK_RETURN_IF_ERROR(
          store_->Read({kLayeredVtree, chunk, 0}, &path, 0, out_.first(kHugeBytes)));
    }
    return absl::OkStatus();
  }

  absl::Status ReadOnPath(uint64_t vtree_id) {
    const LayerPath path;
    const ChunkKey key{vtree_id, random_.Below(kLayeredChunks), 0};
    const uint64_t places = store_->chunk_bytes() / kSmallBytes;
    const auto offset_bytes = static_cast<uint32_t>(random_.Below(places)) * kSmallBytes;
    const std::span<std::byte> out = out_.first(kSmallBytes);
    absl::Status status = store_->ReadCached(key, &path, offset_bytes, out);
    return absl::IsUnavailable(status) ? store_->Read(key, &path, offset_bytes, out) : status;
  }

  absl::Status WriteOnPath(uint64_t vtree_id, size_t count) {
    const LayerPath path;
    const uint64_t places = store_->chunk_bytes() / kSmallBytes;
    const uint64_t floor = vtree_id == kLayeredVtree ? kLayers : 0;
    return Apply(count, [&](size_t i) {
      const auto offset_bytes = static_cast<uint32_t>(random_.Below(places)) * kSmallBytes;
      Change change = MakeChange({vtree_id, random_.Below(kLayeredChunks), floor}, offset_bytes,
                                 kSmallBytes, slices_[i]);
      change.path = &path;
      return change;
    });
  }

  // pwrite and fdatasync in a file that was written in full: the least that a flush costs here.
  absl::Status MeasurePlain() {
    const std::string path = arguments_.folder + "/store_bench/plain";
    CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<File> file,
                           env_->OpenFile(path, OpenMode::kCreateIfMissing));
    const std::span<const std::byte> data = data_.first(kLargeBytes);
    for (uint64_t at = 0; at < kPlainFileBytes; at += data.size()) {
      CHUNK_RETURN_IF_ERROR(file->Write(at, std::span(&data, 1)));
    }
    CHUNK_RETURN_IF_ERROR(file->SyncData());
    const std::span<const std::byte> slice = data.first(kSmallBytes);
    uint64_t at = 0;
    CHUNK_RETURN_IF_ERROR(Measure("plain: write 4k and fdatasync", 1, [&]() -> absl::Status {
      at = (at + kSmallBytes) % kPlainFileBytes;
      CHUNK_RETURN_IF_ERROR(file->Write(at, std::span(&slice, 1)));
      return file->SyncData();
    }));
    const std::span<const std::byte> large = data;
    return Measure("plain: overwrite 128k", 1, [&]() -> absl::Status {
      at = (at + kLargeBytes) / kLargeBytes * kLargeBytes % kPlainFileBytes;
      return file->Write(at, std::span(&large, 1));
    });
  }

  bool IsWanted(const std::string& name) const {
    return name.find(arguments_.only) != std::string::npos;
  }

  absl::Status Measure(const std::string& name, size_t operations_per_call,
                       const std::function<absl::Status()>& call) {
    if (!IsWanted(name)) return absl::OkStatus();
    const uint64_t limit_nanos = arguments_.seconds * 1'000'000'000u;
    std::vector<uint64_t> latencies;
    latencies.reserve(1u << 20);
    const UsageByThread usage_before = ReadUsage();
    const uint64_t start = env_->NowNanos();
    uint64_t now = start;
    while (now - start < limit_nanos) {
      CHUNK_RETURN_IF_ERROR(call());
      const uint64_t after = env_->NowNanos();
      latencies.push_back(after - now);
      now = after;
    }
    // The debt that the writes leave to the checkpoint belongs to them.
    CHUNK_RETURN_IF_ERROR(store_->RunBackgroundWork(/*force=*/true));
    Result result;
    result.name = name;
    result.usage = ReadUsage() - usage_before;
    result.operations = latencies.size() * operations_per_call;
    result.clock_nanos = static_cast<double>(now - start) / static_cast<double>(result.operations);
    std::sort(latencies.begin(), latencies.end());
    result.median_nanos = static_cast<double>(latencies[latencies.size() / 2]);
    result.p99_nanos = static_cast<double>(latencies[latencies.size() * 99 / 100]);
    result.greatest_nanos = static_cast<double>(latencies.back());
    results_.push_back(result);
    return absl::OkStatus();
  }

  PosixEnv* const env_;
  Store* const store_;
  const Arguments arguments_;
  SeededRandom random_;
  const Buffer data_buffer_ = AllocateBuffer(), out_buffer_ = AllocateBuffer();
  const std::span<std::byte> data_ = {data_buffer_.get(), kHugeBytes};
  const std::span<std::byte> out_ = {out_buffer_.get(), kHugeBytes};
  uint64_t sequence_ = 0;
  uint64_t next_bytes_ = 0;
  std::vector<Change> changes_;
  std::vector<std::span<const std::byte>> slices_;
  std::vector<absl::Status> statuses_;
  std::vector<Result> results_;
};

void PrintTable(const std::vector<Result>& results) {
  std::printf("%-30s %9s %9s %9s %9s %9s %9s %9s  %s\n", "case (times in us)", "operations",
              "clock/op", "CPU/op", "system/op", "median", "p99", "max", "CPU/op by thread");
  for (const Result& result : results) {
    std::printf("%-30s %9lu %9.2f %9.2f %9.2f %9.1f %9.1f %9.1f ", result.name.c_str(),
                result.operations, result.clock_nanos / 1e3, result.processor_nanos() / 1e3,
                result.system_nanos() / 1e3, result.median_nanos / 1e3, result.p99_nanos / 1e3,
                result.greatest_nanos / 1e3);
    for (const auto& [name, thread] : result.usage) {
      std::printf(" %s %.2f", name.c_str(),
                  static_cast<double>(thread.nanos) / 1e3 / static_cast<double>(result.operations));
    }
    std::printf("\n");
  }
}

void PrintJson(const std::vector<Result>& results) {
  std::printf("[");
  bool first = true;
  for (const Result& result : results) {
    std::printf(
        "%s\n  {\"case\": \"%s\", \"operations\": %lu, \"processor_nanos\": %.0f, "
        "\"system_nanos\": %.0f, \"clock_nanos\": %.0f, \"median_nanos\": %.0f, "
        "\"p99_nanos\": %.0f, \"greatest_nanos\": %.0f}",
        first ? "" : ",", result.name.c_str(), result.operations, result.processor_nanos(),
        result.system_nanos(), result.clock_nanos, result.median_nanos, result.p99_nanos,
        result.greatest_nanos);
    first = false;
  }
  std::printf("\n]\n");
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
  options.capacity_bytes = uint64_t{8} << 30;
  options.metadata_cache_bytes = arguments.metadata_cache_bytes;
  CHUNK_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Store::Open(&env, folder, options));
  Bench bench(&env, store.get(), arguments);
  const absl::Status status = bench.Run();
  arguments.json ? PrintJson(bench.results()) : PrintTable(bench.results());
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
    } else if (word == "--case" && i + 1 < count) {
      arguments.only = words[++i];
    } else if ((word == "--seconds" || word == "--metadata-cache") && i + 1 < count) {
      const std::string_view value = words[++i];
      uint64_t& number = word == "--seconds" ? arguments.seconds : arguments.metadata_cache_bytes;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
      if (error != std::errc() || end != value.data() + value.size() || number == 0) {
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
    std::fprintf(stderr,
                 "usage: %s FOLDER [--seconds S] [--case TEXT] [--metadata-cache BYTES] [--json]\n",
                 argv[0]);
    return 2;
  }
  const absl::Status status = tessera::chunk::RunBench(*arguments);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
