#include "services/sdc/resume/resume_table.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "services/common/crc32c.h"
#include "services/sdc/resume/test_memory.h"

namespace tessera::sdc {
namespace {

const ResumeOwner kOwner{"boot-1", "node-1", 1};
constexpr ResumeGeometry kGeometry{64, 256 << 10};
constexpr uint64_t kVolume = 7;
constexpr uint64_t kGroup = 65'537;

// A file and the lives that use it, one after another.
class Lives {
 public:
  Lives() { table = ResumeTable::Create(memory, kOwner, kGeometry); }
  // kill -9, and another start. What is held of the old life is dropped only afterwards.
  absl::Status Restart() { return Restart("boot-1", "node-1", incarnation + 1); }
  absl::Status Restart(const std::string& boot_id, const std::string& node_uuid,
                       uint64_t next_life) {
    const ResumeOwner owner{boot_id, node_uuid, next_life};
    auto copy = std::make_shared<TestMemory>(*memory);
    ResumedState taken;
    auto next = ResumeTable::TakeOver(copy, owner, &taken);
    if (!next.ok()) return next.status();
    blocks.clear();
    incarnation = next_life;
    memory = copy;
    table = *std::move(next);
    state = std::move(taken);
    return absl::OkStatus();
  }
  ResumeSlot Write(uint64_t sequence, const std::string& text, uint64_t group = kGroup) {
    ResumeWrite write;
    write.volume_id = kVolume;
    write.placement_group_id = group;
    write.generation = 3;
    write.sequence = sequence;
    write.chunk_index = 5;
    write.offset_bytes = 512;
    write.length_bytes = static_cast<uint32_t>(text.size());
    write.type = 2;
    write.force_unit_access = sequence % 2 == 0;
    const auto bytes = std::as_bytes(std::span(text));
    write.data_crc32c = Crc32c(bytes);
    const std::array<std::span<const std::byte>, 2> pieces = {bytes.first(bytes.size() / 2),
                                                              bytes.subspan(bytes.size() / 2)};
    std::shared_ptr<ResumeBlock> block;
    const ResumeSlot slot = table->PutWrite(write, pieces, &block);
    blocks.push_back(std::move(block));
    return slot;
  }
  ResumeGroup Attach() {
    REQUIRE(table->PutVolume(kVolume, "db", 3, "grant"));
    return table->PutGroup(kVolume, kGroup, 3, 5, 1);
  }
  const ResumedVolume& volume() {
    REQUIRE(state.volumes.size() == 1);
    return state.volumes[0];
  }

  std::shared_ptr<TestMemory> memory = std::make_shared<TestMemory>(kGeometry.TotalBytes());
  std::unique_ptr<ResumeTable> table;
  std::vector<std::shared_ptr<ResumeBlock>> blocks;
  ResumedState state;
  uint64_t incarnation = 1;
};

std::string Text(const std::shared_ptr<ResumeBlock>& block) {
  return {reinterpret_cast<const char*>(block->bytes().data()), block->bytes().size()};
}

TEST_CASE("the next life finds the volume, its order and its writes", "[resume]") {
  Lives lives;
  ResumeGroup group = lives.Attach();
  CHECK(lives.table->PutGrant(kVolume, 3, "better grant"));
  const ResumeSlot first = lives.Write(1, std::string(4096, 'a'));
  lives.Write(2, std::string(1000, 'b'));
  lives.Write(3, "");
  lives.Write(4, std::string(512, 'd'));
  group.Set(resume::kFront, 3);
  group.Set(resume::kUnkeptBelow, 2);
  group.Set(resume::kKnownEpoch, 17);
  group.Set(resume::kLearnersInDoubt, 1);
  lives.table->ReleaseWrite(first);
  ResumeVolume live = lives.table->Volume(kVolume);
  live.SetNextCounter(99);
  live.SetUncovered(true);
  live.SetLosses(2);
  live.SetHeard(1);

  REQUIRE(lives.Restart().ok());
  const ResumedVolume& volume = lives.volume();
  CHECK(volume.volume_id == kVolume);
  CHECK(volume.name == "db");
  CHECK(volume.grant == "better grant");
  CHECK(volume.generation == 3);
  CHECK(volume.next_counter == 99);
  CHECK(volume.uncovered);
  CHECK(volume.losses == 2);
  CHECK(volume.heard_losses == 1);
  REQUIRE(volume.groups.size() == 1);
  const ResumedGroup& resumed = volume.groups[0];
  CHECK(resumed.placement_group_id == kGroup);
  CHECK(resumed.chunk_index == 5);
  CHECK(resumed.front_sequence == 3);
  CHECK(resumed.unkept_below == 2);
  CHECK(resumed.known_epoch == 17);
  CHECK(resumed.learners_in_doubt);
  REQUIRE(resumed.writes.size() == 3);
  CHECK(resumed.writes[0].write.sequence == 2);
  CHECK(resumed.writes[0].write.force_unit_access);
  CHECK(resumed.writes[0].write.offset_bytes == 512);
  CHECK(resumed.writes[0].write.type == 2);
  CHECK(Text(resumed.writes[0].block) == std::string(1000, 'b'));
  CHECK(resumed.writes[1].block == nullptr);
  CHECK_FALSE(resumed.writes[1].write.force_unit_access);
  CHECK(Text(resumed.writes[2].block) == std::string(512, 'd'));
}

TEST_CASE("a life after the next finds what both left", "[resume]") {
  Lives lives;
  lives.Attach();
  lives.Write(1, std::string(4096, 'a'));
  REQUIRE(lives.Restart().ok());
  lives.Write(2, std::string(4096, 'b'));
  REQUIRE(lives.Restart().ok());
  REQUIRE(lives.volume().groups[0].writes.size() == 2);
  CHECK(Text(lives.state.volumes[0].groups[0].writes[0].block) == std::string(4096, 'a'));
  CHECK(Text(lives.state.volumes[0].groups[0].writes[1].block) == std::string(4096, 'b'));
}

TEST_CASE("the newest of the map is found", "[resume]") {
  Lives lives;
  CHECK(lives.table->PutEntry(1, 5, "old"));
  CHECK(lives.table->PutEntry(1, 6, "new"));
  CHECK(lives.table->PutEntry(2, 1, "other"));
  CHECK(lives.table->PutLayout(1, "layout 1"));
  CHECK(lives.table->PutLayout(1, "layout 2"));
  CHECK(lives.table->PutAddress(10, "here"));
  REQUIRE(lives.Restart().ok());
  CHECK(lives.state.entries == std::vector<std::string>{"new", "other"});
  CHECK(lives.state.layouts == std::vector<std::string>{"layout 2"});
  CHECK(lives.state.addresses == std::vector<std::string>{"here"});
  CHECK(lives.table->PutLayout(1, "layout 3"));
  REQUIRE(lives.Restart().ok());
  CHECK(lives.state.layouts == std::vector<std::string>{"layout 3"});
}

TEST_CASE("a volume with writes outside the file is not taken over", "[resume]") {
  Lives lives;
  lives.Attach();
  ResumeVolume live = lives.table->Volume(kVolume);
  live.AddOutside();
  SECTION("refused") {
    REQUIRE(lives.Restart().ok());
    CHECK(lives.state.volumes.empty());
    REQUIRE(lives.state.refused.size() == 1);
    CHECK(lives.state.refused[0].first == "db");
    // Nothing of it is left.
    REQUIRE(lives.Restart().ok());
    CHECK(lives.state.refused.empty());
    CHECK(lives.table->used_bytes() == 0);
  }
  SECTION("until there are none") {
    live.RemoveOutside();
    REQUIRE(lives.Restart().ok());
    CHECK(lives.state.volumes.size() == 1);
  }
}

TEST_CASE("an order with a hole is refused", "[resume]") {
  Lives lives;
  ResumeGroup group = lives.Attach();
  const ResumeSlot first = lives.Write(1, "x");
  const ResumeSlot second = lives.Write(2, "y");
  lives.Write(3, "z");
  group.Set(resume::kFront, 2);
  SECTION("in the middle") { lives.table->ReleaseWrite(second); }
  SECTION("before what is not acknowledged") {
    group.Set(resume::kFront, 1);
    lives.table->ReleaseWrite(first);
  }
  SECTION("at the end") { group.Set(resume::kFront, 5); }
  SECTION("of another generation") { lives.table->MoveWrite(second, 4, 2); }
  SECTION("a grant of another generation") { CHECK(lives.table->PutGrant(kVolume, 4, "grant")); }
  const absl::Status restarted = lives.Restart();
  REQUIRE(restarted.ok());
  CHECK(lives.state.volumes.empty());
}

TEST_CASE("a new generation is another order", "[resume]") {
  Lives lives;
  ResumeGroup group = lives.Attach();
  lives.table->ReleaseWrite(lives.Write(1, "acknowledged"));
  const ResumeSlot waiting = lives.Write(2, "waiting");
  group.Set(resume::kFront, 2);
  ResumeVolume live = lives.table->Volume(kVolume);
  live.AddOutside();
  CHECK(lives.table->PutGrant(kVolume, 4, "new grant"));
  ResumeTable::MoveGroup(group, 4);
  group.Set(resume::kFront, 1);
  lives.table->MoveWrite(waiting, 4, 1);
  live.RemoveOutside();
  REQUIRE(lives.Restart().ok());
  CHECK(lives.volume().generation == 4);
  REQUIRE(lives.volume().groups[0].writes.size() == 1);
  CHECK(lives.volume().groups[0].writes[0].write.sequence == 1);
  CHECK(Text(lives.volume().groups[0].writes[0].block) == "waiting");
}

TEST_CASE("a foreign file is refused as a whole", "[resume]") {
  Lives lives;
  lives.Attach();
  CHECK(absl::IsFailedPrecondition(lives.Restart("boot-2", "node-1", 2)));
  CHECK(absl::IsFailedPrecondition(lives.Restart("boot-1", "node-2", 2)));
  auto& header = *reinterpret_cast<resume::Header*>(lives.memory->bytes().data());
  SECTION("another version") {
    header.version = 2;
    CHECK(absl::IsFailedPrecondition(lives.Restart()));
  }
  SECTION("no such file") {
    header.magic = 1;
    CHECK(absl::IsDataLoss(lives.Restart()));
  }
  SECTION("cut off") {
    lives.memory->Resize(kGeometry.TotalBytes() - 4096);
    CHECK(absl::IsDataLoss(lives.Restart()));
    lives.memory->Resize(100);
    CHECK(absl::IsDataLoss(lives.Restart()));
  }
}

// What a life in between did, with another file or none, this one does not know.
TEST_CASE("only the next life takes over", "[resume]") {
  Lives lives;
  lives.Attach();
  CHECK(absl::IsFailedPrecondition(lives.Restart("boot-1", "node-1", 1)));
  CHECK(absl::IsFailedPrecondition(lives.Restart("boot-1", "node-1", 3)));
  CHECK(lives.Restart("boot-1", "node-1", 2).ok());
  CHECK(absl::IsFailedPrecondition(lives.Restart("boot-1", "node-1", 2)));
  CHECK(lives.Restart("boot-1", "node-1", 3).ok());
  CHECK(lives.state.volumes.size() == 1);
}

TEST_CASE("a flipped bit of what counts is found", "[resume]") {
  Lives lives;
  lives.Attach();
  CHECK(lives.table->PutEntry(1, 5, "entry"));
  lives.Write(1, std::string(4096, 'a'));
  const std::span<std::byte> bytes = lives.memory->bytes();
  const auto flipped = [&](size_t at) {
    bytes[at] ^= std::byte{4};
    const absl::Status status = lives.Restart();
    bytes[at] ^= std::byte{4};
    return status;
  };
  for (size_t at = 16; at < 192; ++at) {
    CAPTURE(at);
    CHECK_FALSE(flipped(at).ok());
  }
  for (ResumeSlot slot = 0; slot < 5; ++slot) {
    for (size_t at = 4; at < 80; ++at) {
      CAPTURE(slot, at);
      CHECK_FALSE(flipped(resume::kPageBytes + slot * 128 + at).ok());
    }
  }
  const uint64_t data = lives.blocks[0]->bytes().data() - bytes.data();
  CHECK_FALSE(flipped(data).ok());
  CHECK_FALSE(flipped(data + 4095).ok());
  CHECK(lives.Restart().ok());
}

// Plays a history and takes the file over as it is after each store of a random sample of them.
TEST_CASE("at whatever store a life ends, the next finds a whole state", "[resume]") {
  const unsigned seed = GENERATE(range(1u, 33u));
  CAPTURE(seed);
  std::mt19937 random(seed);
  Lives lives;
  ResumeGroup group = lives.Attach();
  std::vector<ResumeSlot> held;
  uint64_t next = 1;
  uint64_t front = 1;
  uint64_t low = 1;
  for (int step = 0; step < 60; ++step) {
    switch (random() % 4) {
      case 0:
      case 1: {
        const ResumeSlot slot =
            lives.Write(next, std::string(1 + random() % 5000, 'a' + next % 26));
        if (slot == kNoResumeSlot) break;
        held.push_back(slot);
        ++next;
        break;
      }
      case 2:
        if (front < next) group.Set(resume::kFront, ++front);
        break;
      default:
        if (low < front) {
          lives.table->ReleaseWrite(held.front());
          held.erase(held.begin());
          lives.blocks[low - 1].reset();
          ++low;
        }
    }
    auto copy = std::make_shared<TestMemory>(*lives.memory);
    ResumedState state;
    const auto taken = ResumeTable::TakeOver(copy, {"boot-1", "node-1", 2}, &state);
    REQUIRE(taken.ok());
    REQUIRE(state.volumes.size() == 1);
    const ResumedGroup& resumed = state.volumes[0].groups[0];
    CHECK(resumed.front_sequence == front);
    REQUIRE(resumed.writes.size() == next - low);
    for (size_t i = 0; i < resumed.writes.size(); ++i) {
      CHECK(resumed.writes[i].write.sequence == low + i);
      CHECK(Text(resumed.writes[i].block)[0] == static_cast<char>('a' + (low + i) % 26));
    }
  }
}

TEST_CASE("what is not finished does not count", "[resume]") {
  Lives lives;
  lives.Attach();
  const ResumeSlot slot = lives.Write(1, std::string(4096, 'a'));
  auto& record = *reinterpret_cast<resume::Slot*>(lives.memory->bytes().data() +
                                                  resume::kPageBytes + slot * 128);
  // As if killed before the last store of the write.
  record.kind = 0;
  record.data_crc32c ^= 1;
  REQUIRE(lives.Restart().ok());
  CHECK(lives.volume().groups[0].writes.empty());
  CHECK(lives.Write(1, "again") == slot);
}

TEST_CASE("writes that find no room are refused, and what is let go is room again", "[resume]") {
  Lives lives;
  lives.Attach();
  std::vector<ResumeSlot> slots;
  for (uint64_t sequence = 1;; ++sequence) {
    const ResumeSlot slot = lives.Write(sequence, std::string(16 << 10, 'a'));
    if (slot == kNoResumeSlot) break;
    slots.push_back(slot);
  }
  CHECK(slots.size() == 13);  // an eighth is for the map, and the volume has a little
  CHECK(lives.table->pressed());
  CHECK_FALSE(lives.table->closed());
  CHECK(lives.table->PutEntry(1, 1, std::string(1000, 'e')));
  lives.table->ReleaseWrite(slots[0]);
  // Somebody still sends from it.
  CHECK(lives.Write(20, std::string(16 << 10, 'b')) == kNoResumeSlot);
  lives.blocks[0].reset();
  CHECK(lives.Write(20, std::string(16 << 10, 'b')) != kNoResumeSlot);
}

TEST_CASE("a table that can't take the map is closed", "[resume]") {
  Lives lives;
  lives.Attach();
  SECTION("no slots") {
    for (uint64_t id = 1; id < 70; ++id) (void)lives.table->PutEntry(id, 1, "entry");
  }
  SECTION("no data") { CHECK_FALSE(lives.table->PutEntry(1, 1, std::string(300 << 10, 'e'))); }
  SECTION("no memory") {
    lives.memory->set_full(true);
    CHECK_FALSE(lives.table->PutEntry(1, 1, std::string(200 << 10, 'e')));
  }
  CHECK(lives.table->closed());
  CHECK_FALSE(lives.table->PutEntry(1, 2, "small"));
  CHECK(lives.Write(1, "x") == kNoResumeSlot);
  CHECK(absl::IsFailedPrecondition(lives.Restart()));
}

TEST_CASE("memory is given back where nothing is kept", "[resume]") {
  constexpr ResumeGeometry kLarge{64, 64 << 20};
  auto memory = std::make_shared<TestMemory>(kLarge.TotalBytes());
  auto table = ResumeTable::Create(memory, kOwner, kLarge);
  REQUIRE(table->PutVolume(kVolume, "db", 3, "grant"));
  (void)table->PutGroup(kVolume, kGroup, 3, 5, 1);
  std::vector<std::shared_ptr<ResumeBlock>> blocks;
  std::vector<ResumeSlot> slots;
  const std::string text(1 << 20, 'a');
  for (uint64_t sequence = 1; sequence <= 40; ++sequence) {
    ResumeWrite write;
    write.volume_id = kVolume;
    write.placement_group_id = kGroup;
    write.generation = 3;
    write.sequence = sequence;
    const std::array<std::span<const std::byte>, 1> pieces = {std::as_bytes(std::span(text))};
    write.data_crc32c = Crc32c(pieces[0]);
    slots.push_back(table->PutWrite(write, pieces, &blocks.emplace_back()));
  }
  table->TrimIfIdle();
  CHECK(memory->given_back_bytes() == 0);
  // All but the first.
  for (size_t i = 1; i < slots.size(); ++i) table->ReleaseWrite(slots[i]);
  blocks.resize(1);
  table->TrimIfIdle();
  CHECK(memory->given_back_bytes() >= 38 << 20);
  CHECK(Text(blocks[0]) == text);
  ResumedState state;
  REQUIRE(ResumeTable::TakeOver(memory, {"boot-1", "node-1", 2}, &state).ok());
  REQUIRE(state.volumes.size() == 1);
  CHECK(Text(state.volumes[0].groups[0].writes[0].block) == text);
}

TEST_CASE("the default size has room for all kept writes, the smallest too", "[resume]") {
  for (const uint64_t limit : {uint64_t{0}, uint64_t{128} << 20, uint64_t{1} << 40}) {
    const ResumeGeometry geometry = ResumeGeometry::For(limit);
    CHECK(std::has_single_bit(geometry.data_bytes));
    CHECK(geometry.data_bytes <= uint64_t{64} << 30);
    CHECK(geometry.slot_count < kNoResumeSlot);
    if (limit > uint64_t{30} << 30) continue;
    CHECK(geometry.slot_count >= limit / 768);
    CHECK(geometry.data_bytes >= 2 * limit);
  }
}

}  // namespace
}  // namespace tessera::sdc
