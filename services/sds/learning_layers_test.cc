// A replica learns while snapshots are made, cloned, rolled back to and deleted, and the source
// drops layers: the real workers, stores and steps of learning, with every interleaving that the
// seed says. At the end each volume and snapshot reads the same everywhere, as its history says.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "services/sds/layer_drop.h"
#include "services/sds/learning_steps.h"
#include "services/sds/replica_messages.h"
#include "services/sds/testing/bare_replica.h"

namespace tessera::sds {
namespace {

using Path = std::vector<token::PathPart>;

constexpr uint64_t kGroup = kTestPool * 65536;
constexpr uint64_t kVtree = 11;
constexpr uint64_t kChunks = 3;
constexpr uint32_t kSector = chunk::kSectorBytes;

std::vector<chunk::ChunkInfo> LayersOf(BareReplica* replica, uint64_t chunk_index) {
  auto layers = replica->store()->ListLayers(kVtree, chunk_index);
  REQUIRE(layers.ok());
  return *std::move(layers);
}

struct LoggedWrite {
  BareWrite write;
  bool is_missed = false;  // no replica has room for it
};

struct Volume {
  uint32_t branch = 0;
  uint32_t ordinal = 0;  // that its writes have
  uint32_t head = 0;     // the greatest given out
  Path inherited;
  Path before_flat;  // what was inherited before the volume was flattened: it means the same
  uint64_t generation = 1;
  std::map<uint64_t, std::string> content;  // by chunk, of all writes in the log
  std::vector<LoggedWrite> log;             // of this generation
  size_t at_source = 0, at_learner = 0;     // taken so far

  [[nodiscard]] Path path() const { return With(token::kPathHead); }
  [[nodiscard]] Path With(uint32_t ordinal_max) const {
    Path path{{branch, ordinal_max}};
    path.insert(path.end(), inherited.begin(), inherited.end());
    return path;
  }
  [[nodiscard]] Path former_path() const {
    Path path = this->path();
    if (inherited.empty()) path.insert(path.end(), before_flat.begin(), before_flat.end());
    return path;
  }
};

struct Snapshot {
  Path path;
  std::map<uint64_t, std::string> content;
};

// What a run met.
struct Counts {
  uint64_t dropped = 0;    // layers, by the source or in sync
  uint64_t inherited = 0;  // images over a base
  uint64_t wholes = 0;     // images that were asked for once more, whole
  uint64_t not_yets = 0;   // layers that the source did not have yet
  uint64_t rooms = 0;      // bases that what was made from them had to make room for
  uint64_t flattened = 0;  // volumes
};

enum class LearnerIs { kInSync, kOut, kLearning };

class World {
 public:
  explicit World(uint64_t seed) : random_(seed), source_(seed, kGroup), learner_(~seed, kGroup) {
    volumes_[1];
    SetRoles(LearnerIs::kInSync);
  }

  uint64_t Random(uint64_t below) { return random_() % below; }
  bool Chance(uint64_t of) { return Random(of) == 0; }

  void SetRoles(LearnerIs is) {
    ++epoch_;
    is_ = is;
    source_.SetRole(epoch_, v1::REPLICA_ROLE_IN_SYNC);
    learner_.SetRole(epoch_, is == LearnerIs::kInSync ? v1::REPLICA_ROLE_IN_SYNC
                             : is == LearnerIs::kOut  ? v1::REPLICA_ROLE_OUT_OF_SYNC
                                                      : v1::REPLICA_ROLE_LEARNER);
  }

  // ---- The writers and the MDM.
  BareWrite NextWrite(uint64_t volume_id, uint64_t chunk_index) {
    const Volume& volume = volumes_.at(volume_id);
    BareWrite write;
    write.volume_id = volume_id;
    write.vtree_id = kVtree;
    write.version = {volume.generation, volume.log.size() + 1};
    write.layer = chunk::MakeLayer(volume.branch, volume.ordinal);
    // Its client may have heard of another path or not.
    write.path = Chance(4) ? volume.former_path() : volume.path();
    write.chunk_index = chunk_index;
    return write;
  }
  void Adopt(uint64_t volume_id, uint64_t chunk_index) {
    LoggedWrite logged{.write = NextWrite(volume_id, chunk_index)};
    logged.write.adopts = true;
    logged.write.length_bytes = kTestChunkBytes;
    volumes_.at(volume_id).log.push_back(std::move(logged));
  }
  void Flatten(uint64_t volume_id) {
    Volume& volume = volumes_.at(volume_id);
    if (volume.inherited.empty()) return;
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) Adopt(volume_id, chunk);
    while (!IsAnswered(volume)) DeliverOne(&volume, Chance(2));
    volume.before_flat = std::exchange(volume.inherited, {});
    ++counts_.flattened;
  }
  void Write(uint64_t volume_id) {
    if (Chance(12)) return Adopt(volume_id, Random(kChunks));
    Volume& volume = volumes_.at(volume_id);
    LoggedWrite logged{.write = NextWrite(volume_id, Random(kChunks))};
    BareWrite& write = logged.write;
    const auto sectors = static_cast<uint32_t>(Chance(6) ? 1 + Random(200) : 1 + Random(20));
    const auto first = static_cast<uint32_t>(Random(kTestChunkBytes / kSector - sectors));
    write.offset_bytes = first * kSector;
    write.length_bytes = sectors * kSector;
    if (!Chance(8)) write.data.assign(write.length_bytes, static_cast<char>(1 + Random(250)));
    logged.is_missed = !write.data.empty() && Chance(40);
    if (!logged.is_missed) {
      std::string& content = Content(&volume.content, write.chunk_index);
      content.replace(write.offset_bytes, write.length_bytes,
                      write.data.empty() ? std::string(write.length_bytes, 0) : write.data);
    }
    volume.log.push_back(std::move(logged));
  }
  static std::string& Content(std::map<uint64_t, std::string>* content, uint64_t chunk) {
    std::string& found = (*content)[chunk];
    if (found.empty()) found.resize(kTestChunkBytes);
    return found;
  }
  [[nodiscard]] bool IsAnswered(const Volume& volume) const {
    return volume.at_source == volume.log.size() &&
           (is_ == LearnerIs::kOut || volume.at_learner == volume.log.size());
  }
  void Deliver(BareReplica* replica, const LoggedWrite& logged) {
    replica->faults().full = logged.is_missed;
    const v1::IoResult result = replica->Do(logged.write);
    replica->faults().full = false;
    INFO(result.ShortDebugString());
    REQUIRE(result.status() == (logged.is_missed ? v1::IO_STATUS_NO_SPACE : v1::IO_STATUS_OK));
  }
  void DeliverOne(Volume* volume, bool to_source) {
    if (!to_source && is_ == LearnerIs::kOut) return;
    size_t& at = to_source ? volume->at_source : volume->at_learner;
    if (at == volume->log.size()) return;
    Deliver(to_source ? &source_ : &learner_, volume->log[at]);
    ++at;
  }
  void DeliverAll() {
    for (auto& [id, volume] : volumes_) {
      while (volume.at_source < volume.log.size()) DeliverOne(&volume, true);
      while (is_ != LearnerIs::kOut && volume.at_learner < volume.log.size()) {
        DeliverOne(&volume, false);
      }
      if (is_ == LearnerIs::kOut) volume.at_learner = volume.log.size();
    }
  }
  void Cut(Volume* volume) {
    ++volume->head;
    // One that fails: the ordinal is used up, the writer goes on as before.
    if (Chance(4) || !IsAnswered(*volume)) return;
    snapshots_.push_back({volume->With(volume->head - 1), volume->content});
    volume->ordinal = volume->head;
  }
  void Clone() {
    if (snapshots_.empty() || volumes_.size() >= 5) return;
    const Snapshot& from = snapshots_[Random(snapshots_.size())];
    if (from.path.size() >= 5) return;
    Volume& clone = volumes_[++last_volume_];
    clone.branch = ++last_branch_;
    clone.inherited = from.path;
    clone.content = from.content;
  }
  void RollBack(Volume* volume) {
    // In a new generation, which learning does not always survive.
    if (is_ == LearnerIs::kLearning || snapshots_.empty() || !IsAnswered(*volume)) return;
    const Snapshot& to = snapshots_[Random(snapshots_.size())];
    if (to.path.size() >= 5) return;
    BeginGeneration(volume);
    volume->branch = ++last_branch_;
    volume->ordinal = volume->head = 0;
    volume->inherited = to.path;
    volume->before_flat.clear();
    volume->content = to.content;
  }
  void BeginGeneration(Volume* volume) {
    ++volume->generation;
    volume->log.clear();
    volume->at_source = volume->at_learner = 0;
  }
  void Delete() {
    if (Chance(3) && volumes_.size() > 1) {
      auto victim = volumes_.begin();
      std::advance(victim, Random(volumes_.size()));
      // What it has written and nobody took is in no order any more.
      if (IsAnswered(victim->second)) volumes_.erase(victim);
    } else if (!snapshots_.empty()) {
      snapshots_.erase(snapshots_.begin() + static_cast<long>(Random(snapshots_.size())));
    }
  }
  v1::VtreeCatalog Catalog() {
    v1::VtreeCatalog catalog;
    catalog.set_vtree_id(kVtree);
    const auto add = [&](const Path& path) {
      v1::LayerPath* to = catalog.add_paths();
      for (const token::PathPart& part : path) {
        v1::LayerPathPart* part_to = to->add_parts();
        part_to->set_branch(part.branch);
        part_to->set_ordinal_max(part.ordinal_max);
      }
    };
    for (const auto& [id, volume] : volumes_) {
      add(volume.path());
      heads_[volume.branch] = volume.head;
    }
    for (const Snapshot& snapshot : snapshots_) add(snapshot.path);
    for (const auto& [branch, head] : heads_) {
      v1::LayerPathPart* to = catalog.add_heads();
      to->set_branch(branch);
      to->set_ordinal_max(head);
    }
    return catalog;
  }
  void NoteCatalog() {
    catalogs_.push_back(Catalog());
    if (catalogs_.size() > 6) catalogs_.pop_front();
  }
  void Drop(BareReplica* replica) {
    if (catalogs_.empty()) return;
    const auto catalog = LayerCatalog::Make(catalogs_[Random(catalogs_.size())]);
    REQUIRE(catalog.ok());
    std::vector<chunk::ChunkKey> keys;
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      const auto drop = LayersToDrop(LayersOf(replica, chunk), *catalog);
      keys.insert(keys.end(), drop.begin(), drop.end());
    }
    std::vector<absl::Status> results(keys.size());
    replica->store()->DropLayers(keys, std::span(results));
    for (const absl::Status& result : results) {
      REQUIRE((result.ok() || absl::IsAborted(result)));
      counts_.dropped += result.ok() ? 1 : 0;
    }
  }
  // Something that goes on whether or not a replica learns.
  void LiveOn(uint64_t writes_of_100) {
    for (auto& [id, volume] : volumes_) heads_[volume.branch] = volume.head;
    auto at = volumes_.begin();
    std::advance(at, Random(volumes_.size()));
    Volume& volume = at->second;
    if (Random(100) < writes_of_100) {
      if (volume.log.size() < volume.at_source + 4) Write(at->first);
      return;
    }
    switch (Random(13)) {
      case 0:
      case 1:
        return Cut(&volume);
      case 2:
        return Clone();
      case 3:
        return Delete();
      case 4:
        return Drop(&source_);
      case 5:
        if (is_ == LearnerIs::kInSync) Drop(&learner_);
        return;
      case 6:
        return NoteCatalog();
      case 7:
        if (Chance(4)) RollBack(&volume);
        return;
      case 12:
        if (Chance(2)) Flatten(at->first);
        return;
      case 8:
        REQUIRE((Chance(2) ? source_ : learner_).store()->RunBackgroundWork(true).ok());
        return;
      default:
        // One of the two may be ahead of the other.
        DeliverOne(&volume, Chance(2));
    }
  }
  // What reached this replica alone, of writers that are gone.
  void DivergeLearner() {
    for (auto& [id, volume] : volumes_) {
      if (!Chance(2)) continue;
      Volume before = volume;
      for (uint64_t i = 1 + Random(3); i > 0; --i) Write(id);
      while (volume.at_learner < volume.log.size()) DeliverOne(&volume, false);
      volume = std::move(before);
    }
  }

  // ---- Learning, a step at a time.
  [[nodiscard]] LearningId id() const { return {.placement_group_id = kGroup, .epoch = epoch_}; }
  void FindBase() {
    v1::BeginCopyResponse base;
    for (const auto& cursor : source_.store()->Cursors(kGroup)) {
      SetCursor(cursor, base.add_cursors());
    }
    for (const auto& [id, volume] : volumes_) {
      v1::VolumeGeneration* lowest = base.add_lowest_generations();
      lowest->set_volume_id(id);
      lowest->set_generation(volume.generation);
    }
    REQUIRE(SetLearningBase(learner_.worker(), id(), SourceStreamsOf(base)).ok());
    known_ = source_.store()->Cursors(kGroup);
  }
  // True when there is nothing left.
  bool Learn() {
    LearnerState* state = learner_.learner();
    REQUIRE(state != nullptr);
    INFO(state->failure());
    REQUIRE(state->failure().empty());
    if (!state->base_known()) {
      FindBase();
    } else if (!state->listing_done()) {
      Compare(*state);
    } else if (copy_.has_value() || state->pending_count() > 0) {
      Copy(*state);
    }
    return state->Done() && !copy_.has_value();
  }
  void Compare(const LearnerState& state) {
    const uint64_t next = state.position().has_value() ? state.position()->chunk_index + 1 : 0;
    if (next == kChunks) {
      REQUIRE(ClassifyChunks(learner_.worker(), id(), std::nullopt, {}, {}).ok());
      return;
    }
    if (!listed_.has_value()) {
      listed_.emplace();
      for (const chunk::ChunkInfo& info : LayersOf(&source_, next)) {
        listed_->push_back(
            {.key = info.key, .version = info.version, .incomplete = info.incomplete});
      }
      return;
    }
    if (!own_.has_value()) {
      own_ = LayersOf(&learner_, next);
      return;
    }
    const chunk::ChunkKey up_to{kVtree, next, chunk::kNoBase};
    REQUIRE(ClassifyChunks(learner_.worker(), id(), up_to, *listed_, *own_).ok());
    listed_.reset();
    own_.reset();
  }
  void Copy(const LearnerState& state) {
    if (!copy_.has_value()) {
      copy_.emplace();
      copy_->key = whole_.value_or(state.Pending(1)[0]);
      copy_->before = known_;
      return;
    }
    if (!copy_->image_read) {
      const auto image = source_.store()->ReadImage(
          copy_->key, whole_.has_value() ? chunk::ImageContent::kWhole : chunk::ImageContent::kOwn);
      SetChunkKey(copy_->key, copy_->response.mutable_key());
      copy_->response.set_absent(absl::IsNotFound(image.status()));
      if (image.ok()) SetImage(*image, &copy_->response);
      copy_->image_read = true;
      return;
    }
    if (!copy_->copied.has_value()) {
      auto image = ImageOf(copy_->response, kGroup, kTestChunkBytes);
      REQUIRE(image.ok());
      copy_->inherits = !image->inherited.empty();
      copy_->copied.emplace(
          CopiedChunk{.is_absent = copy_->response.absent(),
                      .staged = learner_.store()->StageImage(*std::move(image), nullptr),
                      .before = copy_->before,
                      .after = source_.store()->Cursors(kGroup)});
      known_ = copy_->copied->after;
      return;
    }
    const bool is_base = state.IsBase(copy_->key);
    const auto outcome = ApplyCopiedChunk(learner_.worker(), id(), &*copy_->copied);
    INFO(outcome.status().ToString());
    REQUIRE(outcome.ok());
    if (outcome->kind == CopyOutcome::Kind::kWait) return;
    counts_.rooms += is_base && !state.IsBase(copy_->key) ? 1 : 0;
    whole_.reset();
    if (outcome->kind == CopyOutcome::Kind::kNeedsWhole) {
      whole_ = copy_->key;
      ++counts_.wholes;
    } else if (outcome->kind == CopyOutcome::Kind::kNotYet) {
      ++counts_.not_yets;
    } else if (copy_->inherits) {
      ++counts_.inherited;
    }
    copy_.reset();
  }

  // ---- What must be.
  void Check(BareReplica* replica) {
    const auto check = [&](const Path& path, std::map<uint64_t, std::string> content) {
      for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
        const std::string read = replica->Read(path, kVtree, chunk);
        const std::string& expected = Content(&content, chunk);
        if (read == expected) continue;
        const auto at = std::mismatch(read.begin(), read.end(), expected.begin()).first;
        std::string layers;
        for (const auto& info : LayersOf(replica, chunk)) {
          layers += std::to_string(info.key.layer >> 32) + "." +
                    std::to_string(static_cast<uint32_t>(info.key.layer)) +
                    (info.incomplete ? "! " : " ");
        }
        FAIL((replica == &source_ ? "source" : "learner")
             << ", branch " << path[0].branch << " up to " << path[0].ordinal_max << ", chunk "
             << chunk << " of " << layers << "differs at " << at - read.begin() << ": "
             << read.substr(0, read.size() == kTestChunkBytes ? 0 : 200));
      }
    };
    for (const auto& [id, volume] : volumes_) {
      check(volume.path(), volume.content);
      check(volume.former_path(), volume.content);
    }
    for (const Snapshot& snapshot : snapshots_) check(snapshot.path, snapshot.content);
  }
  // Equal versions are equal bytes.
  void CheckVersions() {
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      for (const chunk::ChunkInfo& here : LayersOf(&learner_, chunk)) {
        const auto there = source_.store()->GetChunk(here.key);
        REQUIRE(there.ok());
        if (!there->has_value() || here.pruned || (*there)->pruned) continue;
        if (here.version != (*there)->version || here.incomplete || (*there)->incomplete) continue;
        const auto a = learner_.store()->ReadImage(here.key, chunk::ImageContent::kWhole);
        const auto b = source_.store()->ReadImage(here.key, chunk::ImageContent::kWhole);
        CHECK(ContentCrc32c(*a, kTestChunkBytes) == ContentCrc32c(*b, kTestChunkBytes));
      }
    }
  }
  void Round() {
    for (uint64_t i = Random(150); i > 0; --i) LiveOn(50);
    DeliverAll();
    Check(&source_);
    Check(&learner_);
    CheckVersions();
    if (Chance(2)) {
      DivergeLearner();
      for (auto& [id, volume] : volumes_) BeginGeneration(&volume);
    }
    SetRoles(LearnerIs::kOut);
    for (uint64_t i = Random(150); i > 0; --i) LiveOn(50);
    DeliverAll();
    Check(&source_);
    SetRoles(LearnerIs::kLearning);
    listed_.reset();
    own_.reset();
    copy_.reset();
    whole_.reset();
    const bool starts_over = Chance(4);
    for (uint64_t steps = 0; !Learn(); ++steps) {
      if (starts_over && Chance(30)) {
        DeliverAll();
        return SetRoles(LearnerIs::kOut), StartOver();
      }
      // In the end the writers are at rest, so that it ends.
      if (steps == 2'000) DeliverAll();
      REQUIRE(steps < 4'000);
      for (uint64_t i = steps < 2'000 ? Random(4) : 0; i > 0; --i) LiveOn(40);
    }
    DeliverAll();
    while (!Learn()) {
    }
    SetRoles(LearnerIs::kInSync);
    Check(&learner_);
    Check(&source_);
    CheckVersions();
  }
  // An attempt that was given up, and what it left behind.
  void StartOver() {
    SetRoles(LearnerIs::kLearning);
    listed_.reset();
    own_.reset();
    copy_.reset();
    whole_.reset();
    while (!Learn()) {
      if (Chance(2)) LiveOn(20);
      DeliverAll();
    }
    DeliverAll();
    SetRoles(LearnerIs::kInSync);
    Check(&learner_);
    CheckVersions();
  }
  [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
  struct CopyStep {
    chunk::ChunkKey key;
    std::vector<chunk::StreamCursor> before;
    bool image_read = false;
    bool inherits = false;
    v1::CopyChunksResponse response;
    std::optional<CopiedChunk> copied;
  };
  std::mt19937_64 random_;
  BareReplica source_;
  BareReplica learner_;
  LearnerIs is_ = LearnerIs::kInSync;
  uint64_t epoch_ = 0;
  std::map<uint64_t, Volume> volumes_;
  std::vector<Snapshot> snapshots_;
  std::map<uint32_t, uint32_t> heads_;
  std::deque<v1::VtreeCatalog> catalogs_;
  uint64_t last_volume_ = 1;
  uint32_t last_branch_ = 0;
  std::vector<chunk::StreamCursor> known_;
  std::optional<std::vector<SourceChunk>> listed_;
  std::optional<std::vector<chunk::ChunkInfo>> own_;
  std::optional<CopyStep> copy_;
  std::optional<chunk::ChunkKey> whole_;
  Counts counts_;
};

TEST_CASE("A learner gets every layer right, whatever happens beside it") {
  Counts all;
  const char* const from = std::getenv("TESSERA_LEARNING_SEED");
  const char* const count = std::getenv("TESSERA_LEARNING_SEEDS");
  const uint64_t first = from == nullptr ? 1 : std::strtoull(from, nullptr, 10);
  const uint64_t seeds = count == nullptr ? 12 : std::strtoull(count, nullptr, 10);
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    INFO("seed " << seed);
    World world(seed);
    for (int round = 0; round < 4; ++round) {
      INFO("round " << round);
      world.Round();
    }
    const Counts& met = world.counts();
    all.dropped += met.dropped;
    all.inherited += met.inherited;
    all.wholes += met.wholes;
    all.not_yets += met.not_yets;
    all.rooms += met.rooms;
    all.flattened += met.flattened;
  }
  if (count != nullptr) {
    WARN("dropped " << all.dropped << ", copied over a base " << all.inherited << ", asked whole "
                    << all.wholes << ", asked again " << all.not_yets << ", made room " << all.rooms
                    << ", flattened " << all.flattened);
  }
  CHECK(all.dropped > 0);
  CHECK(all.inherited > 0);
  CHECK(all.not_yets > 0);
  CHECK(all.rooms > 0);
  CHECK(all.flattened > 0);
}

TEST_CASE("An image is not laid over a base that is here and not verified") {
  BareReplica replica(1, kGroup);
  replica.SetRole(1, v1::REPLICA_ROLE_IN_SYNC);
  BareWrite write{.volume_id = 1,
                  .vtree_id = kVtree,
                  .version = {1, 1},
                  .length_bytes = 4096,
                  .data = std::string(4096, 'a')};
  REQUIRE(replica.Do(write).status() == v1::IO_STATUS_OK);
  replica.SetRole(2, v1::REPLICA_ROLE_LEARNER);
  const LearningId id{.placement_group_id = kGroup, .epoch = 2};
  const chunk::ChunkKey base{.vtree_id = kVtree};
  const chunk::ChunkKey above{.vtree_id = kVtree, .layer = 1};
  const bool is_verified = GENERATE(false, true);
  const std::vector<SourceChunk> source{{.key = base, .version = {1, is_verified ? 1u : 2u}},
                                        {.key = above, .version = {1, 3}}};
  const std::vector<chunk::ChunkInfo> own = LayersOf(&replica, 0);
  REQUIRE(ClassifyChunks(replica.worker(), id, std::nullopt, source, own).ok());
  chunk::ChunkImage image{.info = {.key = above, .version = {1, 3}, .base = 0}};
  image.info.placement_group_id = kGroup;
  image.mapped.resize(1);
  image.inherited = {1};
  CopiedChunk copied{.staged = replica.store()->StageImage(image, nullptr)};
  const auto outcome = ApplyCopiedChunk(replica.worker(), id, &copied);
  REQUIRE(outcome.ok());
  CHECK(outcome->kind == (is_verified ? CopyOutcome::Kind::kDone : CopyOutcome::Kind::kNeedsWhole));
  CHECK(replica.learner()->IsPending(above) == !is_verified);
}

}  // namespace
}  // namespace tessera::sds
