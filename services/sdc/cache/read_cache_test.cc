#include "services/sdc/cache/read_cache.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <string>

#include "services/sdc/cache/memory_store.h"

namespace tessera::sdc {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint32_t kBlock = kCacheBlockBytes;
constexpr uint32_t kLine = kCacheLineBytes;

// One volume of 1 MiB on a cache of four lines; "servers" hold `content`.
struct CacheFixture {
  CacheFixture() : content(1 << 20, '\0') {
    for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 7 + i / kBlock);
    NewLife(false);
  }
  static CacheIdentity Identity(uint64_t generation) {
    return {.volume_id = 7, .vtree_id = 8, .generation = generation, .size_bytes = 1 << 20};
  }
  // The process begins anew, with what the one before has saved.
  void NewLife(bool resumed, const SavedCache& saved = {}) {
    volume.reset();
    cache.reset();
    store = std::make_unique<MemoryStore>(disk);
    ReadCacheOptions options;
    options.slots = 4;
    cache = std::make_unique<ReadCache>(
        options, *store, [this] { return now; },
        [this](const std::string& why) { told.push_back(why); });
    cache->Restore(saved);
    volume = cache->Open(Identity(generation), resumed);
    cache->DropRestored();
    Lease();
  }
  void Lease() {
    const auto wish = volume->WishForLease();
    if (wish.has_value()) volume->SetLease(*wish, now, 1'000'000);
  }
  // What a read brings from the cache; empty: a miss.
  std::string Hit(uint64_t begin, uint64_t length) {
    std::string bytes;
    bool asked = volume->Read({begin, begin + length}, [&](std::optional<CacheBytes> got) {
      if (got.has_value())
        bytes.assign(reinterpret_cast<const char*>(got->memory.get()), got->size);
    });
    if (asked) store->RunAll();
    return bytes;
  }
  void End(CachedVolume::FillId fill, uint64_t begin, uint64_t length) {
    const auto all = std::as_bytes(std::span(content)).subspan(begin, length);
    const std::array<std::span<const std::byte>, 2> pieces{all.first(length / 3),
                                                           all.subspan(length / 3)};
    volume->EndFill(fill, begin, pieces);
  }
  // A read as the engine does it. True: it was a hit.
  bool Read(uint64_t begin, uint64_t length) {
    const std::string bytes = Hit(begin, length);
    if (!bytes.empty()) {
      CHECK(bytes == content.substr(begin, length));
      return true;
    }
    const auto fill = volume->BeginFill({begin, begin + length}, false);
    if (fill.has_value()) End(*fill, begin, length);
    store->RunAll();
    return false;
  }
  void Warm(uint64_t begin, uint64_t length) {
    for (int i = 0; i < 2; ++i) REQUIRE_FALSE(Read(begin, length));
    REQUIRE(Read(begin, length));
  }

  uint64_t now = 100 * kSecond;
  uint64_t generation = 5;
  std::string content;
  std::vector<std::byte> disk = std::vector<std::byte>(4 * kLine);
  std::vector<std::string> told;
  std::unique_ptr<MemoryStore> store;
  std::unique_ptr<ReadCache> cache;
  std::unique_ptr<CachedVolume> volume;
};

TEST_CASE_METHOD(CacheFixture, "what was missed twice is a hit from then on", "[cache]") {
  CHECK_FALSE(Read(kBlock, 2 * kBlock));
  CHECK(cache->figures().admitted_bytes == 0);
  CHECK_FALSE(Read(kBlock, 2 * kBlock));
  CHECK(cache->figures().admitted_bytes == 2 * kBlock);
  CHECK(Read(kBlock, 2 * kBlock));
  CHECK(Read(2 * kBlock + 512, 1024));
  CHECK_FALSE(Read(0, 2 * kBlock));  // the line is there: a block that lacks comes at once
  CHECK(Read(0, 2 * kBlock));
  CHECK(cache->figures().hits == 3);
  CHECK(volume->hits() == 3);
  CHECK(volume->misses() == 3);
}

TEST_CASE_METHOD(CacheFixture, "a read over several lines is a hit when all are there", "[cache]") {
  Warm(kLine - kBlock, 2 * kLine);
  CHECK(Read(kLine - 512, kLine + 1024));
  CHECK_FALSE(Read(kLine - 2 * kBlock, 4 * kBlock));
  CHECK_FALSE(Read(0, kCachedReadBytesMax + 512));
}

TEST_CASE_METHOD(CacheFixture, "parts of blocks are hits, and are never put in", "[cache]") {
  for (int i = 0; i < 3; ++i) CHECK_FALSE(Read(512, kBlock - 512));
  CHECK(cache->figures().admitted_bytes == 0);
}

TEST_CASE_METHOD(CacheFixture, "a write takes its blocks out before it is sent", "[cache]") {
  Warm(0, kLine);
  volume->WriteBegins({kBlock + 512, kBlock + 1024});
  CHECK(Hit(kBlock, kBlock).empty());
  CHECK(Hit(0, kBlock) == content.substr(0, kBlock));
  CHECK(Hit(2 * kBlock, kBlock) == content.substr(2 * kBlock, kBlock));
  volume->WriteBegins({0, 1 << 20});
  CHECK(Hit(2 * kBlock, kBlock).empty());
}

TEST_CASE_METHOD(CacheFixture, "what was read while a write was in flight is not put in",
                 "[cache]") {
  const ByteRange range{0, kBlock};
  REQUIRE_FALSE(volume->BeginFill(range, false).has_value());
  SECTION("the write was there before") { CHECK_FALSE(volume->BeginFill(range, true).has_value()); }
  SECTION("the write began before the bytes came") {
    const auto fill = volume->BeginFill(range, false);
    REQUIRE(fill.has_value());
    volume->WriteBegins({100, 200});
    End(*fill, 0, kBlock);
    CHECK(store->waiting() == 0);
  }
  SECTION("the write began while the file was written") {
    const auto fill = volume->BeginFill(range, false);
    REQUIRE(fill.has_value());
    End(*fill, 0, kBlock);
    CHECK(store->waiting() == 1);
    volume->WriteBegins({100, 200});
    store->RunAll();
    CHECK(Hit(0, kBlock).empty());
  }
  SECTION("the write began while the file was read") {
    REQUIRE_FALSE(Read(0, kBlock));
    REQUIRE(Read(0, kBlock));
    std::optional<CacheBytes> got;
    bool told_of = false;
    REQUIRE(volume->Read(range, [&](std::optional<CacheBytes> bytes) {
      got = std::move(bytes);
      told_of = true;
    }));
    REQUIRE(store->Step());
    volume->WriteBegins({100, 200});
    store->RunAll();
    CHECK(told_of);
    CHECK_FALSE(got.has_value());
  }
}

TEST_CASE_METHOD(CacheFixture, "nothing is a hit without a lease", "[cache]") {
  Warm(0, kBlock);
  const auto wish = volume->WishForLease();
  REQUIRE(wish.has_value());
  now += 1'000 * kSecond;
  CHECK(Hit(0, kBlock).empty());
  volume->SetLease(*wish, now, 2'500);
  CHECK_FALSE(Hit(0, kBlock).empty());
  SECTION("it ends earlier than the MDM takes it to") {
    now += 2'490'000'000;
    CHECK(Hit(0, kBlock).empty());
  }
  SECTION("it ends while the file is read") {
    bool hit = true;
    REQUIRE(volume->Read({0, kBlock},
                         [&](const std::optional<CacheBytes>& bytes) { hit = bytes.has_value(); }));
    REQUIRE(store->Step());
    now += 3 * kSecond;
    store->RunAll();
    CHECK_FALSE(hit);
  }
  SECTION("it is given up for good, and an answer to an earlier wish changes nothing") {
    CHECK(volume->GiveUpLease() == generation);
    volume->SetLease(*wish, now, 2'500);
    CHECK_FALSE(volume->leased());
    CHECK_FALSE(volume->WishForLease().has_value());
    volume->SetIdentity(Identity(generation + 1));
    CHECK(volume->WishForLease().has_value());
  }
  SECTION("it is of one generation") {
    volume->SetIdentity(Identity(generation + 1));
    CHECK_FALSE(volume->leased());
    volume->SetLease(*wish, now, 2'500);
    CHECK_FALSE(volume->leased());
  }
}

TEST_CASE_METHOD(CacheFixture, "a volume that is attached again has no lease of before",
                 "[cache]") {
  const auto wish = volume->WishForLease();
  REQUIRE(wish.has_value());
  volume.reset();
  volume = cache->Open(Identity(generation), false);
  volume->SetLease(*wish, now, 2'500);
  CHECK_FALSE(volume->leased());
}

TEST_CASE_METHOD(CacheFixture, "another identity or a loss drops everything", "[cache]") {
  Warm(0, kBlock);
  SECTION("generation") {
    volume->SetIdentity(Identity(generation + 1));
    Lease();
  }
  SECTION("size") {
    CacheIdentity larger = Identity(generation);
    larger.size_bytes *= 2;
    volume->SetIdentity(larger);
    Lease();
  }
  SECTION("loss") { volume->Drop(); }
  CHECK(Hit(0, kBlock).empty());
  CHECK(cache->figures().hits == 1);
}

TEST_CASE_METHOD(CacheFixture, "a fill of before a drop is not put in", "[cache]") {
  REQUIRE_FALSE(volume->BeginFill({0, kBlock}, false).has_value());
  const auto fill = volume->BeginFill({0, kBlock}, false);
  REQUIRE(fill.has_value());
  volume->Drop();
  End(*fill, 0, kBlock);
  CHECK(store->waiting() == 0);
}

TEST_CASE_METHOD(CacheFixture, "a wrong checksum is a miss", "[cache]") {
  Warm(0, 2 * kBlock);
  for (std::byte& byte : disk) byte ^= std::byte{1};
  CHECK(Hit(0, 512).empty());
  CHECK(cache->figures().wrong_checksums == 1);
  CHECK(told.empty());
  CHECK_FALSE(Read(0, 2 * kBlock));
  CHECK(Read(0, 2 * kBlock));
}

TEST_CASE_METHOD(CacheFixture, "a failing file is left alone for a while", "[cache]") {
  Warm(0, kBlock);
  bool told_of = false;
  REQUIRE(volume->Read({0, kBlock}, [&](const std::optional<CacheBytes>& bytes) {
    CHECK_FALSE(bytes.has_value());
    told_of = true;
  }));
  REQUIRE(store->Step(/*fail=*/true));
  store->RunAll();
  CHECK(told_of);
  REQUIRE(told.size() == 1);
  CHECK_FALSE(volume->WishForLease().has_value());
  CHECK_FALSE(Read(0, kBlock));
  CHECK(store->waiting() == 0);
  now += 31 * kSecond;
  cache->Tick();
  CHECK(told.back().empty());
  CHECK_FALSE(Read(0, kBlock));
  CHECK(Read(0, kBlock));
}

TEST_CASE_METHOD(CacheFixture, "a file that does not answer holds nothing up", "[cache]") {
  Warm(0, kBlock);
  int answers = 0;
  REQUIRE(volume->Read({0, kBlock}, [&](const std::optional<CacheBytes>& bytes) {
    CHECK_FALSE(bytes.has_value());
    ++answers;
  }));
  now += kSecond / 100;
  cache->Tick();
  CHECK(answers == 0);
  now += kSecond / 10;
  cache->Tick();
  CHECK(answers == 1);
  CHECK(cache->figures().resting);
  // Not before it has answered.
  now += 60 * kSecond;
  cache->Tick();
  CHECK(cache->figures().resting);
  store->RunAll();
  CHECK(answers == 1);
  cache->Tick();
  CHECK_FALSE(cache->figures().resting);
}

TEST_CASE_METHOD(CacheFixture, "a full queue is a miss, and nothing is put in", "[cache]") {
  Warm(0, 2 * kLine);
  store->limit = 1;
  CHECK(Hit(0, 2 * kLine).empty());  // one of two
  store->RunAll();
  store->limit = 0;
  CHECK(Hit(0, kBlock).empty());
  const uint64_t admitted = cache->figures().admitted_bytes;
  CHECK_FALSE(Read(2 * kLine, kBlock));
  CHECK_FALSE(Read(2 * kLine, kBlock));
  CHECK(cache->figures().admitted_bytes == admitted);
  store->limit = 10;
  CHECK_FALSE(Hit(0, 2 * kLine).empty());
}

TEST_CASE_METHOD(CacheFixture, "reads that are under way when the volume goes are misses",
                 "[cache]") {
  Warm(0, kBlock);
  int answers = 0;
  REQUIRE(volume->Read({0, kBlock}, [&](const std::optional<CacheBytes>& bytes) {
    CHECK_FALSE(bytes.has_value());
    ++answers;
  }));
  volume.reset();
  store->RunAll();
  CHECK(answers == 1);
}

TEST_CASE_METHOD(CacheFixture, "what is saved counts for a volume that is gone on with",
                 "[cache]") {
  Warm(0, kBlock);
  volume->Keep();
  volume.reset();
  store->Close();
  const SavedCache saved = cache->Save();
  REQUIRE(saved.spaces.size() == 1);
  REQUIRE(saved.lines.size() == 1);
  SECTION("it is") {
    NewLife(true, saved);
    CHECK(Read(0, kBlock));
  }
  SECTION("it is attached anew") {
    NewLife(false, saved);
    CHECK(Hit(0, kBlock).empty());
  }
  SECTION("under another generation") {
    ++generation;
    NewLife(true, saved);
    CHECK(Hit(0, kBlock).empty());
  }
  SECTION("the file is another one") {
    std::fill(disk.begin(), disk.end(), std::byte{0});
    NewLife(true, saved);
    CHECK(Hit(0, kBlock).empty());
  }
}

TEST_CASE_METHOD(CacheFixture, "a volume that is detached leaves nothing", "[cache]") {
  Warm(0, kBlock);
  volume.reset();
  CHECK(cache->Save().lines.empty());
  volume = cache->Open(Identity(generation), false);
  Lease();
  CHECK(Hit(0, kBlock).empty());
}

}  // namespace
}  // namespace tessera::sdc
