// A DeviceEnv against a model of what env.h promises: random calls, crashes and losses of power.
//
// The model has, for each file, its states since it was last synced: after a crash its size is that
// of one of them, and each sector has the value of one of them. For the names it has the states
// since the folder was last synced: one of them is found, whole. A sector has one letter.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <string>

#include "libchunk/device_env.h"
#include "libchunk/seeded_random.h"
#include "libchunk/sim_disk.h"
#include "libchunk/types.h"

namespace tessera::chunk {
namespace {

constexpr uint64_t kMiB = 1u << 20;
constexpr char kDevice[] = "/dev0";
constexpr std::array<const char*, 5> kNames = {"meta.db", "meta.db-wal", "superblock",
                                               "superblock.new", "creating"};
constexpr uint64_t kSectorsMax = 2048;  // of a file: 1 MiB, of the region's 4

// What was written to a file, a character a sector; '.' is a sector of zeros.
struct ModelFile {
  std::string content;
  // After a loss of power: each of these, whole, or any mix of the writes between them.
  std::vector<std::string> since_sync = {""};

  void Changed() { since_sync.push_back(content); }
  bool MayBe(const std::string& found) const {
    const bool size_fits = std::any_of(since_sync.begin(), since_sync.end(), [&](const auto& past) {
      return past.size() == found.size();
    });
    if (!size_fits) return false;
    for (size_t i = 0; i < found.size(); ++i) {
      const bool fits = std::any_of(since_sync.begin(), since_sync.end(), [&](const auto& past) {
        return i < past.size() ? past[i] == found[i] : false;
      });
      if (!fits) return false;
    }
    return true;
  }
};
using ModelNames = std::map<std::string, std::shared_ptr<ModelFile>>;

class ModelRun {
 public:
  explicit ModelRun(uint64_t seed) : random_(seed), disk_({.seed = seed * 31}) {
    disk_.AddBlockDevice(kDevice, 16 * kMiB);
    Open();
  }

  void Run(int steps) {
    for (int step = 0; step < steps; ++step) {
      if (random_.Chance(1, 12)) disk_.CrashAtChange(random_.Between(1, 12));
      Step();
      if (disk_.off() || random_.Chance(1, 40)) Crash();
    }
    Crash();
  }

 private:
  void Open() {
    auto opened = DeviceEnv::Open(&disk_, kDevice, DeviceFormat{.journal_bytes = kMiB});
    INFO(opened.status());
    REQUIRE(opened.ok());
    env_ = *std::move(opened);
  }

  std::string PickName() { return kNames[random_.Below(kNames.size())]; }
  static std::string Path(const std::string& name) { return std::string(kDevice) + "/" + name; }

  void NamesChanged() { names_since_sync_.push_back(names_); }

  // What a commit of the directory makes durable: at least this. The names are one whole.
  void NamesSynced() { names_since_sync_ = {names_}; }

  void Step() {
    const std::string name = PickName();
    const uint64_t draw = random_.Below(20);
    if (draw == 0) return Delete(name);
    if (draw == 1) return Rename(name, PickName());
    if (draw < 4) {
      const absl::Status synced = env_->SyncFolder(kDevice);
      if (synced.ok()) NamesSynced();
      REQUIRE((synced.ok() || disk_.off()));
      return;
    }
    const bool known = names_.contains(name);
    auto file = env_->OpenFile(Path(name), OpenMode::kCreateIfMissing);
    REQUIRE(file.ok());
    if (!known) {
      names_[name] = std::make_shared<ModelFile>();
      NamesChanged();
    }
    ChangeFile(**file, *names_[name], draw);
    if (!disk_.off()) REQUIRE(Content(**file) == names_[name]->content);
  }

  void ChangeFile(File& file, ModelFile& model, uint64_t draw) {
    const std::string before = model.content;
    std::string& content = model.content;
    const uint64_t offset =
        random_.Below(random_.Chance(1, 8) ? kSectorsMax / 2 : content.size() + 2);
    const uint64_t length = random_.Between(1, random_.Chance(1, 4) ? 600 : 8);
    absl::Status status;
    if (draw < 7) {
      status = file.SyncData();
      if (status.ok()) model.since_sync = {content};
    } else if (draw < 9) {
      const uint64_t size = random_.Below(random_.Chance(1, 2) ? content.size() + 1 : 700);
      status = file.Truncate(size * kSectorBytes);
      content.resize(size, '.');
    } else if (draw == 9) {
      status = file.Allocate(offset * kSectorBytes, length * kSectorBytes);
      content.resize(std::max(content.size(), offset + length), '.');
    } else if (draw == 10) {
      status = file.PunchHole(offset * kSectorBytes, length * kSectorBytes);
      for (uint64_t i = offset; i < std::min(content.size(), offset + length); ++i)
        content[i] = '.';
    } else {
      letter_ = letter_ == 'z' ? 'a' : static_cast<char>(letter_ + 1);
      const std::vector<std::byte> bytes(length * kSectorBytes, static_cast<std::byte>(letter_));
      const auto whole = std::span<const std::byte>(bytes);
      const std::array<std::span<const std::byte>, 2> slices = {whole.first(200),
                                                                whole.subspan(200)};
      status = file.Write(offset * kSectorBytes, slices);
      content.resize(std::max(content.size(), offset + length), '.');
      std::fill_n(content.begin() + static_cast<ptrdiff_t>(offset), length, letter_);
    }
    if (absl::IsResourceExhausted(status)) {
      content = before;  // nothing changed
      return;
    }
    INFO(status);
    REQUIRE((status.ok() || disk_.off()));
    if (content != before) model.Changed();
  }

  void Delete(const std::string& name) {
    const absl::Status status = env_->Delete(Path(name));
    REQUIRE(status.ok() == names_.contains(name));
    names_.erase(name);
    NamesChanged();
  }

  void Rename(const std::string& from, const std::string& to) {
    const absl::Status status = env_->Rename(Path(from), Path(to));
    REQUIRE(status.ok() == names_.contains(from));
    if (!status.ok() || from == to) return;
    const std::shared_ptr<ModelFile> file = names_[from];
    names_.erase(from);
    names_[to] = file;
    NamesChanged();
  }

  static std::string Content(File& file) {
    std::vector<std::byte> bytes(*file.Size());
    REQUIRE(file.Read(0, bytes).ok());
    REQUIRE(bytes.size() % kSectorBytes == 0);
    std::string content;
    for (size_t i = 0; i < bytes.size(); i += kSectorBytes) {
      const auto begin = bytes.begin() + static_cast<ptrdiff_t>(i);
      const bool whole =
          std::all_of(begin, begin + kSectorBytes, [&](std::byte b) { return b == *begin; });
      const char letter = *begin == std::byte{0} ? '.' : static_cast<char>(*begin);
      content.push_back(whole ? letter : '?');
    }
    return content;
  }

  void Crash() {
    const bool power = random_.Chance(2, 3);
    env_.reset();
    power ? disk_.LosePower() : disk_.CrashProcess();
    while (random_.Chance(1, 4)) {  // and again while it is opened
      disk_.CrashAtChange(random_.Between(1, 3));
      auto opened = DeviceEnv::Open(&disk_, kDevice, std::nullopt);
      REQUIRE((opened.ok() || disk_.off()));
      if (opened.ok()) opened->reset();
      disk_.LosePower();
    }
    Open();
    std::map<std::string, std::string> found;
    const auto names = env_->List(kDevice);
    for (const std::string& name : *names) {
      found[name] = Content(**env_->OpenFile(Path(name), OpenMode::kMustExist));
    }
    Adopt(found);
  }

  // One of the states of the names fits what was found; the model goes on from there.
  void Adopt(const std::map<std::string, std::string>& found) {
    for (auto state = names_since_sync_.rbegin(); state != names_since_sync_.rend(); ++state) {
      const bool same =
          std::equal(state->begin(), state->end(), found.begin(), found.end(),
                     [](const auto& model, const auto& have) {
                       return model.first == have.first && model.second->MayBe(have.second);
                     });
      if (!same) continue;
      names_.clear();
      for (const auto& [name, content] : found) {
        names_[name] = std::make_shared<ModelFile>(ModelFile{content, {content}});
      }
      names_since_sync_ = {names_};
      return;
    }
    std::string text;
    for (const auto& [name, content] : found) {
      text += name + ": " + content.substr(0, 200) + "\n";
    }
    FAIL("found what no state of the model may be:\n" << text);
  }

  SeededRandom random_;
  SimulatedDisk disk_;
  std::unique_ptr<DeviceEnv> env_;
  ModelNames names_;
  std::vector<ModelNames> names_since_sync_ = {{}};
  char letter_ = 'a';
};

TEST_CASE("random calls and losses of power leave what the model allows") {
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    INFO("seed " << seed);
    ModelRun(seed).Run(400);
  }
}

}  // namespace
}  // namespace tessera::chunk
