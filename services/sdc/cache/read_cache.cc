#include "services/sdc/cache/read_cache.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "services/common/crc32c.h"

namespace tessera::sdc {
namespace {

// Of each millisecond of a lease. Two clocks drift apart by a tenth of what is missing at most.
constexpr uint64_t kLeaseNanosOfMilli = 990'000;

// Calls visit(line, blocks) for each line that the range touches, with the blocks of it that the
// range touches.
template <typename Visit>
void ForLines(const ByteRange& range, const Visit& visit) {
  for (uint64_t line = range.begin / kCacheLineBytes; line * kCacheLineBytes < range.end; ++line) {
    const uint64_t base = line * kCacheLineBytes;
    const uint64_t first = (std::max(range.begin, base) - base) / kCacheBlockBytes;
    const uint64_t end =
        (std::min(range.end, base + kCacheLineBytes) - base + kCacheBlockBytes - 1) /
        kCacheBlockBytes;
    visit(line, static_cast<BlockMask>(((1u << (end - first)) - 1) << first));
  }
}

// The whole blocks inside a range.
ByteRange NarrowToBlocks(const ByteRange& range) {
  const uint64_t begin = (range.begin + kCacheBlockBytes - 1) / kCacheBlockBytes * kCacheBlockBytes;
  const uint64_t end = range.end / kCacheBlockBytes * kCacheBlockBytes;
  return {begin, std::max(begin, end)};
}

// A block's content is worth nothing under another name.
uint32_t ChecksumOf(const CacheIdentity& identity, uint64_t line, uint32_t block,
                    std::span<const std::byte> content) {
  const std::array<uint64_t, 6> name{identity.volume_id,
                                     identity.vtree_id,
                                     identity.generation,
                                     identity.snapshot_sequence,
                                     line * kCacheBlocksInLine + block,
                                     kCacheBlockBytes};
  return Crc32c(content, Crc32c(std::as_bytes(std::span(name))));
}

// Bytes [begin, begin + into.size()) of spans that follow each other.
void CopyFrom(std::span<const std::span<const std::byte>> content, uint64_t begin,
              std::span<std::byte> into) {
  for (const std::span<const std::byte> span : content) {
    if (into.empty()) return;
    if (begin >= span.size()) {
      begin -= span.size();
      continue;
    }
    const size_t take = std::min<size_t>(into.size(), span.size() - begin);
    std::memcpy(into.data(), span.data() + begin, take);
    into = into.subspan(take);
    begin = 0;
  }
}

CacheBytes PartOf(const CacheBytes& whole, size_t begin, size_t size) {
  return {std::shared_ptr<std::byte[]>(whole.memory, whole.memory.get() + begin), size};
}

}  // namespace

// One run of blocks of one line.
struct ReadCache::Part {
  SlotRef ref;
  uint64_t line = 0;
  uint32_t first_block = 0;
  uint32_t blocks = 0;
  size_t begin = 0;  // in the bytes
};

struct ReadCache::PendingRead {
  CachedVolume* volume = nullptr;  // null: it is gone
  CacheSpace space = 0;
  CacheIdentity identity;
  ByteRange range;
  ByteRange blocks;  // around it
  CacheBytes bytes;  // of these
  absl::InlinedVector<Part, 2> parts;
  size_t outstanding = 0;
  bool failed = false;
  bool answered = false;
  uint64_t started_nanos = 0;
  absl::AnyInvocable<void(std::optional<CacheBytes>)> done;
};

ReadCache::ReadCache(const ReadCacheOptions& options, CacheStore& store, Clock now,
                     Observer observer)
    : options_(options),
      store_(store),
      now_(std::move(now)),
      observer_(std::move(observer)),
      index_(options.slots),
      ghosts_(std::max<size_t>(options.slots, 64)),
      alive_(std::make_shared<bool>(true)) {}

ReadCache::~ReadCache() { *alive_ = false; }

void ReadCache::Restore(const SavedCache& saved) {
  std::vector<CacheSpace> spaces;
  for (const SavedSpace& space : saved.spaces) spaces.push_back(space.space);
  index_.Restore(spaces, saved.lines);
  restored_ = saved.spaces;
  UpdateFigures();
}

void ReadCache::DropRestored() {
  for (const SavedSpace& space : std::exchange(restored_, {})) index_.DropSpace(space.space);
  UpdateFigures();
}

std::unique_ptr<CachedVolume> ReadCache::Open(const CacheIdentity& identity, bool resumed) {
  const auto found = std::find_if(restored_.begin(), restored_.end(), [&](const SavedSpace& left) {
    return left.identity == identity;
  });
  CacheSpace space = 0;
  if (resumed && found != restored_.end()) {
    space = found->space;
    restored_.erase(found);
  } else {
    space = index_.NewSpace();
  }
  return std::unique_ptr<CachedVolume>(new CachedVolume(*this, identity, space));
}

SavedCache ReadCache::Save() const {
  SavedCache saved;
  saved.spaces = kept_;
  for (SavedLine& line : index_.Save()) {
    const bool kept = std::any_of(kept_.begin(), kept_.end(), [&](const SavedSpace& space) {
      return space.space == line.key.space;
    });
    if (kept) saved.lines.push_back(line);
  }
  return saved;
}

void ReadCache::UpdateFigures() {
  figures_.used_bytes = index_.used_blocks() * kCacheBlockBytes;
  figures_.evicted_bytes = index_.evicted_blocks() * kCacheBlockBytes;
}

void ReadCache::Rest(const std::string& why) {
  ++figures_.errors;
  rest_until_nanos_ = now_() + options_.rest_nanos;
  if (figures_.resting.exchange(true)) return;
  why_resting_ = why;
  observer_(why);
}

void ReadCache::Tick() {
  const uint64_t now = now_();
  bool slow = false;
  std::vector<uint64_t> overdue;
  const bool late = now - std::exchange(last_tick_nanos_, now) > options_.late_tick_nanos;
  for (const auto& [id, read] : reads_) {
    if (late || now - read->started_nanos < options_.slow_nanos) break;
    if (!read->answered) overdue.push_back(id);
  }
  for (const uint64_t id : overdue) {
    const auto found = reads_.find(id);
    if (found == reads_.end() || found->second->answered) continue;
    ++figures_.slow_reads;
    slow = true;
    Answer(*found->second, false);
  }
  if (slow) Rest("a read of the cache's file took too long");
  // A file that does not answer is not used again before it has.
  if (figures_.resting && now >= rest_until_nanos_ && reads_.empty() && writes_ == 0) {
    figures_.resting = false;
    observer_("");
  }
  UpdateFigures();
}

// ---- Reading.

bool ReadCache::StartRead(CachedVolume* volume, const ByteRange& range,
                          absl::AnyInvocable<void(std::optional<CacheBytes>)>& done) {
  auto read = std::make_unique<PendingRead>();
  read->volume = volume;
  read->space = volume->space_;
  read->identity = volume->identity_;
  read->range = range;
  read->blocks = {range.begin / kCacheBlockBytes * kCacheBlockBytes,
                  (range.end + kCacheBlockBytes - 1) / kCacheBlockBytes * kCacheBlockBytes};
  bool all = true;
  ForLines(range, [&](uint64_t line, BlockMask blocks) {
    if (!all) return;
    const std::optional<SlotRef> ref = index_.Find({read->space, line}, blocks);
    all = ref.has_value();
    if (!all) return;
    Part& part = read->parts.emplace_back();
    part.ref = *ref;
    part.line = line;
    part.first_block = static_cast<uint32_t>(std::countr_zero(blocks));
    part.blocks = static_cast<uint32_t>(std::popcount(blocks));
    part.begin = line * kCacheLineBytes + part.first_block * kCacheBlockBytes - read->blocks.begin;
  });
  if (!all) return false;
  read->bytes = CacheBytes::Allocate(read->blocks.size());
  read->started_nanos = now_();
  const uint64_t id = next_read_++;
  PendingRead& started = *(reads_[id] = std::move(read));
  for (const Part& part : started.parts) {
    const uint64_t offset =
        uint64_t{part.ref.slot} * kCacheLineBytes + uint64_t{part.first_block} * kCacheBlockBytes;
    const bool taken =
        store_.Read(offset, PartOf(started.bytes, part.begin, part.blocks * kCacheBlockBytes),
                    [this, id, alive = alive_](bool ok) {
                      if (*alive) PartDone(id, ok);
                    });
    if (!taken) {
      started.answered = true;  // by the caller, who is told
      break;
    }
    ++started.outstanding;
  }
  const bool taken = !started.answered;
  if (taken) started.done = std::move(done);
  if (started.outstanding == 0) reads_.erase(id);
  return taken;
}

void ReadCache::PartDone(uint64_t read_id, bool ok) {
  const auto found = reads_.find(read_id);
  PendingRead& read = *found->second;
  read.failed |= !ok;
  if (--read.outstanding > 0) return;
  const std::unique_ptr<PendingRead> over = std::move(found->second);
  reads_.erase(found);
  if (over->failed) {
    for (const Part& part : over->parts) {
      if (!index_.Unchanged(part.ref)) continue;
      index_.Invalidate({over->space, part.line}, ~BlockMask{0});
    }
    Rest("a read of the cache's file failed");
  }
  if (!over->answered) Answer(*over, !over->failed && Good(*over));
}

// The bytes are what the volume's content is at this moment.
bool ReadCache::Good(const PendingRead& read) {
  if (read.volume == nullptr || read.volume->space_ != read.space || !read.volume->leased()) {
    return false;
  }
  for (const Part& part : read.parts) {
    if (!index_.Unchanged(part.ref)) return false;
    for (uint32_t i = 0; i < part.blocks; ++i) {
      const std::span<const std::byte> block =
          read.bytes.bytes().subspan(part.begin + i * kCacheBlockBytes, kCacheBlockBytes);
      if (ChecksumOf(read.identity, part.line, part.first_block + i, block) ==
          index_.checksum(part.ref, part.first_block + i)) {
        continue;
      }
      ++figures_.wrong_checksums;
      ++figures_.errors;
      index_.Invalidate({read.space, part.line}, ~BlockMask{0});
      return false;
    }
  }
  return true;
}

void ReadCache::Answer(PendingRead& read, bool hit) {
  read.answered = true;
  const uint64_t bytes = read.range.size();
  ++(hit ? figures_.hits : figures_.misses);
  if (hit) figures_.hit_bytes += bytes;
  if (read.volume != nullptr) {
    ++(hit ? read.volume->hits_ : read.volume->misses_);
    if (hit) read.volume->hit_bytes_ += bytes;
  }
  std::optional<CacheBytes> answer;
  if (hit) answer = PartOf(read.bytes, read.range.begin - read.blocks.begin, bytes);
  // The last thing: whoever is told may end the cache.
  auto done = std::move(read.done);
  done(std::move(answer));
}

// ---- Filling.

bool ReadCache::WriteLine(const CachedVolume& volume, uint64_t line, BlockMask blocks,
                          std::span<const std::span<const std::byte>> content,
                          uint64_t content_begin) {
  const CacheLineKey key{volume.space_, line};
  for (BlockMask lacking = index_.Lacking(key, blocks); lacking != 0;) {
    const auto first = static_cast<uint32_t>(std::countr_zero(lacking));
    const auto count =
        static_cast<uint32_t>(std::countr_one(static_cast<BlockMask>(lacking >> first)));
    const auto run = static_cast<BlockMask>(((1u << count) - 1) << first);
    lacking = static_cast<BlockMask>(lacking & ~run);
    CacheBytes bytes = CacheBytes::Allocate(size_t{count} * kCacheBlockBytes);
    CopyFrom(content, line * kCacheLineBytes + uint64_t{first} * kCacheBlockBytes - content_begin,
             bytes.bytes());
    LineChecksums checksums{};
    for (uint32_t i = 0; i < count; ++i) {
      checksums[first + i] =
          ChecksumOf(volume.identity_, line, first + i,
                     bytes.bytes().subspan(size_t{i} * kCacheBlockBytes, kCacheBlockBytes));
    }
    const SlotRef ref = index_.BeginFill(key, run);
    const uint64_t size = bytes.size;
    const bool taken =
        store_.Write(uint64_t{ref.slot} * kCacheLineBytes + uint64_t{first} * kCacheBlockBytes,
                     std::move(bytes), [this, ref, run, checksums, size, alive = alive_](bool ok) {
                       if (!*alive) return;
                       --writes_;
                       if (ok) {
                         index_.Filled(ref, run, checksums);
                         figures_.admitted_bytes += size;
                       } else {
                         index_.NotFilled(ref, run);
                         Rest("a write of the cache's file failed");
                       }
                     });
    if (!taken) {
      index_.NotFilled(ref, run);
      return false;
    }
    ++writes_;
  }
  return true;
}

// ---- A volume.

CachedVolume::~CachedVolume() {
  for (const auto& [id, read] : cache_.reads_) {
    if (read->volume == this) read->volume = nullptr;
  }
  cache_.fills_ -= static_cast<uint32_t>(fills_.size());
  if (keep_) {
    cache_.kept_.push_back({space_, identity_});
  } else {
    cache_.index_.DropSpace(space_);
  }
}

void CachedVolume::WriteBegins(const ByteRange& range) {
  const ByteRange blocks{range.begin / kCacheBlockBytes * kCacheBlockBytes,
                         (range.end + kCacheBlockBytes - 1) / kCacheBlockBytes * kCacheBlockBytes};
  for (Fill& fill : fills_) fill.spoiled |= fill.range.Overlaps(blocks);
  const uint64_t first_whole = (blocks.begin + kCacheLineBytes - 1) / kCacheLineBytes;
  const uint64_t end_whole = blocks.end / kCacheLineBytes;
  const auto edge = [this](uint64_t line, BlockMask part) {
    cache_.index_.Invalidate({space_, line}, part);
  };
  if (first_whole >= end_whole) return ForLines(blocks, edge);
  ForLines({blocks.begin, first_whole * kCacheLineBytes}, edge);
  cache_.index_.InvalidateLines(space_, first_whole, end_whole);
  ForLines({end_whole * kCacheLineBytes, blocks.end}, edge);
}

void CachedVolume::Drop() {
  cache_.index_.DropSpace(space_);
  space_ = cache_.index_.NewSpace();
}

void CachedVolume::SetIdentity(const CacheIdentity& identity) {
  if (identity == identity_) return;
  Drop();
  identity_ = identity;
  EndLease();
}

void CachedVolume::EndLease() {
  lease_until_nanos_ = 0;
  lease_serial_ = cache_.next_lease_serial_++;
}

std::optional<CachedVolume::LeaseWish> CachedVolume::WishForLease() const {
  if (cache_.figures_.resting || identity_.generation <= given_up_) return std::nullopt;
  return LeaseWish{identity_.generation, lease_serial_};
}

void CachedVolume::SetLease(const LeaseWish& wish, uint64_t sent_nanos, uint32_t lease_ms) {
  if (wish.serial != lease_serial_ || wish.generation != identity_.generation) return;
  lease_until_nanos_ = std::max(lease_until_nanos_, sent_nanos + lease_ms * kLeaseNanosOfMilli);
}

uint64_t CachedVolume::GiveUpLease() {
  Drop();
  given_up_ = identity_.generation;
  EndLease();
  return given_up_;
}

bool CachedVolume::leased() const { return cache_.now_() < lease_until_nanos_; }

bool CachedVolume::Read(const ByteRange& range, ReadDone done) {
  if (range.empty() || range.size() > kCachedReadBytesMax) return false;
  const bool usable = !cache_.figures_.resting && leased();
  if (usable && cache_.StartRead(this, range, done)) return true;
  ++misses_;
  ++cache_.figures_.misses;
  return false;
}

std::optional<CachedVolume::FillId> CachedVolume::BeginFill(const ByteRange& range,
                                                            bool writes_in_flight) {
  if (writes_in_flight || cache_.figures_.resting || range.size() > kCachedReadBytesMax ||
      cache_.fills_ >= cache_.options_.fills_max) {
    return std::nullopt;
  }
  Fill fill;
  fill.range = NarrowToBlocks(range);
  if (fill.range.empty()) return std::nullopt;
  ForLines(fill.range, [&](uint64_t line, BlockMask blocks) {
    const CacheLineKey key{space_, line};
    if (cache_.index_.Has(key) || cache_.ghosts_.MissedAgain(key, blocks)) {
      fill.wanted.emplace_back(line, blocks);
    }
  });
  if (fill.wanted.empty()) return std::nullopt;
  fill.id = next_fill_++;
  fill.space = space_;
  ++cache_.fills_;
  fills_.push_back(std::move(fill));
  return fills_.back().id;
}

std::optional<CachedVolume::Fill> CachedVolume::TakeFill(FillId id) {
  const auto found =
      std::find_if(fills_.begin(), fills_.end(), [id](const Fill& fill) { return fill.id == id; });
  if (found == fills_.end()) return std::nullopt;
  Fill fill = std::move(*found);
  fills_.erase(found);
  --cache_.fills_;
  return fill;
}

void CachedVolume::EndFill(FillId id, uint64_t content_begin,
                           std::span<const std::span<const std::byte>> content) {
  const std::optional<Fill> fill = TakeFill(id);
  uint64_t size = 0;
  for (const std::span<const std::byte> span : content) size += span.size();
  if (!fill.has_value() || fill->spoiled || fill->space != space_ || cache_.figures_.resting ||
      content_begin > fill->range.begin || content_begin + size < fill->range.end) {
    return;
  }
  for (const auto& [line, blocks] : fill->wanted) {
    if (!cache_.WriteLine(*this, line, blocks, content, content_begin)) return;
  }
}

void CachedVolume::AbandonFill(FillId id) { (void)TakeFill(id); }

}  // namespace tessera::sdc
