#include "integration/sim/application.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "integration/sim/addresses.h"
#include "integration/sim/oracle.h"
#include "integration/sim/sdc_node.h"

namespace tessera::sim {
namespace {

Nanos g_pause = 20 * kMillisecond;
constexpr uint64_t kCellsOfSector = 512 / kCellBytes;

void TraceIo(const std::string& what, uint64_t volume_id, uint64_t first, uint64_t end) {
  World::Get().Trace(absl::StrCat("v", volume_id, " ", what, " [", first, ", ", end, ")"));
}

}  // namespace

void Application::SetPause(Nanos pause) { g_pause = pause; }

uint64_t Application::Range::bytes() const { return (end - first) * kCellBytes; }

Application::Application(Cluster* cluster, NodeId client, uint64_t volume_id)
    : cluster_(cluster), client_(client), volume_id_(volume_id), life_(World::Get().current()) {}

void Application::Start() { Next(); }

void Application::Next() {
  const Nanos pause = burst_ > 0 || regions_left_ > 0 ? kMillisecond : 2 * g_pause;
  World::Get().After(World::Get().random().Below(pause) + kMicrosecond, life_, [this] { Act(); });
}

void Application::Burst() { burst_ = 12; }

Application::Range Application::Region(uint64_t index) {
  return {index * kCellsOfRegion, (index + 1) * kCellsOfRegion};
}

Application::Range Application::PickRange(bool aligned) {
  chunk::SeededRandom& random = World::Get().random();
  const uint64_t region = random.Below(kRegions) * kCellsOfRegion;
  const uint64_t unit = aligned ? (random.Chance(1, 3) ? 4096 / kCellBytes : kCellsOfSector) : 1;
  const uint64_t units = kCellsOfRegion / unit;
  const uint64_t first = random.Below(units);
  const uint64_t count = std::min(units - first, uint64_t{1} << random.Below(unit > 8 ? 2 : 5));
  return {region + first * unit, region + (first + count) * unit};
}

void Application::Act() {
  if (stopped_) return;
  SdcNode* sdc = cluster_->sdc(client_);
  if (sdc == nullptr || sdc->life() != life_ || sdc->Volume(volume_id_) == nullptr) {
    World::Get().After(50 * kMillisecond, life_, [this] { Act(); });
    return;
  }
  chunk::SeededRandom& random = World::Get().random();
  waiting_ = true;
  const uint64_t attachment = cluster_->oracle().LifeNumber(life_);
  // Who gets a volume looks what there is, and whether it stays so.
  if (std::exchange(attachment_, attachment) != attachment && random.Chance(1, 2)) {
    regions_left_ = 2 * kRegions;
  }
  if (std::exchange(verify_, false)) {
    regions_left_ = kRegions;
    return Flush();
  }
  if (regions_left_ > 0) {
    return Read(Region(--regions_left_ % kRegions));
  }
  uint64_t dice = random.Below(100);
  if (burst_ > 0) {
    --burst_;
    dice = 44 + dice % 44;
  }
  if (dice < 4) return Read(Region(random.Below(kRegions)));
  if (dice < 44) return Read(PickRange(random.Chance(2, 3)));
  if (dice < 72) return Write(PickRange(true), random.Chance(1, 10));
  if (dice < 80) return Write(PickRange(false), false);
  if (dice < 84) return Zero(PickRange(random.Chance(2, 3)), sdc::Command::kWriteZeroes);
  if (dice < 88) return Zero(PickRange(true), sdc::Command::kTrim);
  Flush();
}

// By way of the loop, whose turn then sends what was made.
void Application::Submit(sdc::BlockRequest request) {
  cluster_->sdc(client_)->Submit(volume_id_, std::move(request));
}

Application::Holds Application::HoldsNow() const {
  SdcNode* sdc = cluster_->sdc(client_);
  const auto volume = sdc == nullptr ? nullptr : sdc->engine().FindVolume(volume_id_);
  if (volume == nullptr) return {};
  return {.volume = volume.get(), .count = volume->holds(), .holding = volume->holding()};
}

bool Application::WasPrompt(const Holds& submitted) const {
  const Holds now = HoldsNow();
  return now.volume == submitted.volume && now.count == submitted.count && !submitted.holding;
}

std::function<void()> Application::EndCheck(const Range& range) const {
  return [this, range, before = cluster_->oracle().EndOf(volume_id_)] {
    const Oracle& oracle = cluster_->oracle();
    if (range.end <= before.cell || oracle.EndOf(volume_id_).revision != before.revision) return;
    if (!oracle.Counts(life_, volume_id_)) return;
    World::Get().Violation(absl::StrCat("volume ", volume_id_, " ends before cell ", before.cell,
                                        ", and ", doing_, " of [", range.first, ", ", range.end,
                                        ") was served"));
  };
}

void Application::Failed(const char* what, const sdc::BlockReply& reply) {
  if (reply.error == ENOSPC) Hit(Coverage::kNoSpace);
  World::Get().Trace(absl::StrCat("v", volume_id_, " ", what, ": ", std::strerror(reply.error),
                                  ": ", reply.message));
}

void Application::Read(const Range& range) {
  doing_ = "a read";
  const Nanos begin = World::Get().now();
  sdc::BlockRequest request;
  request.command = sdc::Command::kRead;
  request.offset_bytes = OffsetOfCell(range.first);
  request.length_bytes = range.bytes();
  request.done = [this, range, begin, check = EndCheck(range)](sdc::BlockReply reply) {
    waiting_ = false;
    Next();
    if (reply.error != 0) return Failed("read", reply);
    check();
    if (!cluster_->oracle().Counts(life_, volume_id_)) return;
    Hit(Coverage::kReadOk);
    std::vector<std::byte> data;
    for (const auto& piece : reply.data.pieces) data.insert(data.end(), piece.begin(), piece.end());
    if (World::Get().tracing()) TraceIo("read", volume_id_, range.first, range.end);
    for (uint64_t cell = range.first; cell < range.end; ++cell) {
      uint64_t words[kCellBytes / 8];
      std::memcpy(words, data.data() + (cell - range.first) * kCellBytes, kCellBytes);
      for (const uint64_t word : words) {
        if (word == words[0]) continue;
        World::Get().Violation(absl::StrCat("volume ", volume_id_, ": cell ", cell,
                                            " is torn: it holds writes ", words[0], " and ", word));
        return;
      }
      cluster_->oracle().history(volume_id_).Read(cell, words[0], begin, World::Get().now());
    }
    cluster_->oracle().CheckHistories();
  };
  Submit(std::move(request));
}

void Application::Write(const Range& range, bool force_unit_access) {
  doing_ = "a write";
  Oracle& oracle = cluster_->oracle();
  const uint64_t number = oracle.history(volume_id_)
                              .BeginWrite(History::Kind::kData, range.first, range.end,
                                          oracle.LifeNumber(life_), World::Get().now());
  auto data = std::make_shared<std::vector<uint64_t>>(range.bytes() / 8, number);
  sdc::BlockRequest request;
  request.command = sdc::Command::kWrite;
  request.offset_bytes = OffsetOfCell(range.first);
  request.length_bytes = range.bytes();
  request.force_unit_access = force_unit_access;
  request.data.pieces.push_back(std::as_bytes(std::span(*data)));
  request.data.owner = data;
  const bool unaligned = request.offset_bytes % 512 != 0 || request.length_bytes % 512 != 0;
  if (World::Get().tracing()) {
    TraceIo(absl::StrCat("write ", number, force_unit_access ? " FUA" : ""), volume_id_,
            range.first, range.end);
  }
  // A rollback gives the volume another history, while this one may still be under way.
  request.done = [this, number, force_unit_access, unaligned, holds = HoldsNow(),
                  check = EndCheck(range),
                  history = oracle.SharedHistory(volume_id_)](sdc::BlockReply reply) {
    waiting_ = false;
    Next();
    if (reply.error == 0) check();
    if (World::Get().tracing() && reply.error == 0) {
      World::Get().Trace(absl::StrCat("v", volume_id_, " write ", number, " done"));
    }
    history->EndWrite(number, reply.error == 0, reply.error == 0 && force_unit_access,
                      World::Get().now(), WasPrompt(holds));
    cluster_->oracle().CheckHistories();
    if (reply.error != 0) return Failed("write", reply);
    if (cluster_->sdc(client_)->on_its_own()) Hit(Coverage::kAnsweredAlone);
    Hit(force_unit_access ? Coverage::kFuaOk
                          : (unaligned ? Coverage::kUnalignedWrite : Coverage::kWriteOk));
  };
  Submit(std::move(request));
}

void Application::Zero(const Range& range, sdc::Command command) {
  doing_ = "a zeroing";
  Oracle& oracle = cluster_->oracle();
  const uint64_t number = oracle.history(volume_id_)
                              .BeginWrite(History::Kind::kZeroes, range.first, range.end,
                                          oracle.LifeNumber(life_), World::Get().now());
  sdc::BlockRequest request;
  request.command = command;
  request.offset_bytes = OffsetOfCell(range.first);
  request.length_bytes = range.bytes();
  if (World::Get().tracing()) {
    TraceIo(absl::StrCat("zeroes ", number), volume_id_, range.first, range.end);
  }
  request.done = [this, number, command, holds = HoldsNow(), check = EndCheck(range),
                  history = oracle.SharedHistory(volume_id_)](sdc::BlockReply reply) {
    waiting_ = false;
    Next();
    if (reply.error == 0) check();
    history->EndWrite(number, reply.error == 0, false, World::Get().now(), WasPrompt(holds));
    cluster_->oracle().CheckHistories();
    if (reply.error != 0) return Failed("zeroing", reply);
    Hit(command == sdc::Command::kTrim ? Coverage::kTrimOk : Coverage::kZeroesOk);
  };
  Submit(std::move(request));
}

void Application::Flush() {
  doing_ = "a flush";
  const Nanos begin = World::Get().now();
  sdc::BlockRequest request;
  request.command = sdc::Command::kFlush;
  if (World::Get().tracing()) TraceIo("flush", volume_id_, 0, 0);
  request.done = [this, begin](sdc::BlockReply reply) {
    waiting_ = false;
    Next();
    History& history = cluster_->oracle().history(volume_id_);
    if (reply.error == EIO) {
      Hit(Coverage::kLossTold);
      history.FlushTold(World::Get().now());
      regions_left_ = kRegions;  // what is there now?
    }
    if (reply.error != 0) return Failed("flush", reply);
    if (World::Get().tracing()) TraceIo("flushed", volume_id_, 0, 0);
    Hit(Coverage::kFlushOk);
    cluster_->Flushed();
    Oracle& oracle = cluster_->oracle();
    history.FlushOk(oracle.LifeNumber(life_), oracle.Counts(life_, volume_id_), begin,
                    World::Get().now());
    cluster_->oracle().CheckHistories();
  };
  Submit(std::move(request));
}

}  // namespace tessera::sim
