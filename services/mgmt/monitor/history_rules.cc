#include "services/mgmt/monitor/history_rules.h"

#include <bit>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace tessera::mgmt {
namespace {

static_assert(std::endian::native == std::endian::little, "floats are stored as they are");

constexpr char kVersion = 1;
constexpr char kConstant = 0;
constexpr char kMeans = 1;
constexpr char kBoth = 2;
constexpr size_t kHeaderBytes = 4;

void Append(std::string* bytes, float value) {
  char raw[sizeof(value)];
  std::memcpy(raw, &value, sizeof(value));
  bytes->append(raw, sizeof(value));
}

float FloatAt(std::string_view bytes, size_t offset) {
  float value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

char FormOf(const BlockPoints& points) {
  const HistoryPoint* first = nullptr;
  char form = kConstant;
  for (const auto& point : points) {
    if (!point) continue;
    if (first == nullptr) first = &*point;
    if (point->mean != point->maximum) return kBoth;
    if (point->mean != first->mean) form = kMeans;
  }
  return form;
}

}  // namespace

std::string EncodeBlock(const BlockPoints& points) {
  const char form = FormOf(points);
  std::string bytes = {kVersion, form, static_cast<char>(points.size() & 0xff),
                       static_cast<char>(points.size() >> 8)};
  bytes.resize(kHeaderBytes + (points.size() + 7) / 8, '\0');
  for (size_t i = 0; i < points.size(); ++i) {
    if (!points[i]) continue;
    char& bits = bytes[kHeaderBytes + i / 8];
    bits = static_cast<char>(static_cast<unsigned char>(bits) | (1U << (i % 8)));
  }
  for (const auto& point : points) {
    if (!point) continue;
    Append(&bytes, point->mean);
    if (form == kConstant) break;
  }
  if (form == kBoth) {
    for (const auto& point : points) {
      if (point) Append(&bytes, point->maximum);
    }
  }
  return bytes;
}

absl::StatusOr<BlockPoints> DecodeBlock(std::string_view bytes, size_t slots) {
  const size_t bitmap = (slots + 7) / 8;
  if (bytes.size() < kHeaderBytes + bitmap || bytes[0] != kVersion) {
    return absl::DataLossError("a block of history is too short, or of an unknown version");
  }
  const size_t stated = static_cast<unsigned char>(bytes[2]) |
                        (static_cast<size_t>(static_cast<unsigned char>(bytes[3])) << 8);
  if (stated != slots) {
    return absl::DataLossError(
        absl::StrCat("a block of history has ", stated, " slots, ", slots, " are right"));
  }
  BlockPoints points(slots);
  size_t present = 0;
  for (size_t i = 0; i < slots; ++i) {
    if ((static_cast<unsigned char>(bytes[kHeaderBytes + i / 8]) >> (i % 8) & 1) == 0) continue;
    points[i] = HistoryPoint{};
    ++present;
  }
  const char form = bytes[1];
  const size_t floats = form == kConstant ? std::min<size_t>(present, 1)
                        : form == kMeans  ? present
                                          : 2 * present;
  const size_t begin = kHeaderBytes + bitmap;
  if (form < kConstant || form > kBoth || bytes.size() != begin + floats * sizeof(float)) {
    return absl::DataLossError("a block of history has a wrong length, or an unknown form");
  }
  size_t next = 0;
  for (auto& point : points) {
    if (!point) continue;
    const size_t mean = form == kConstant ? 0 : next;
    point->mean = FloatAt(bytes, begin + mean * sizeof(float));
    point->maximum =
        form == kBoth ? FloatAt(bytes, begin + (present + next) * sizeof(float)) : point->mean;
    ++next;
  }
  return points;
}

BlockPoints MergeBlocks(const BlockPoints& newer, const BlockPoints& older) {
  BlockPoints merged = newer;
  for (size_t i = 0; i < merged.size() && i < older.size(); ++i) {
    if (!merged[i]) merged[i] = older[i];
  }
  return merged;
}

std::optional<size_t> LevelToTrim(const LevelExtents& extents) {
  for (size_t level = 0; level < kHistoryLevels; ++level) {
    const LevelExtent& extent = extents[level];
    if (!extent.empty && extent.newest_ms - extent.oldest_ms >= kHistory[level].spare_ms) {
      return level;
    }
  }
  for (size_t level = 0; level < kHistoryLevels; ++level) {
    const LevelExtent& extent = extents[level];
    if (!extent.empty && extent.newest_ms > extent.oldest_ms) return level;
  }
  return std::nullopt;
}

QueryPlan PlanQuery(uint64_t from_ms, uint64_t until_ms, uint32_t points, uint64_t now_ms,
                    const LevelExtents& extents) {
  uint64_t oldest_of_all = now_ms;
  for (const LevelExtent& extent : extents) {
    if (!extent.empty) oldest_of_all = std::min(oldest_of_all, extent.oldest_ms);
  }
  // What is older than everything there is asks nothing of a level.
  const uint64_t first = std::max(from_ms, oldest_of_all);
  QueryPlan plan;
  while (plan.level + 1 < kHistoryLevels) {
    const LevelExtent& extent = extents[plan.level];
    const bool within_time = first + kHistory[plan.level].keep_ms >= now_ms;
    const bool there = !extent.empty && extent.oldest_ms <= first;
    if (within_time && there) break;
    ++plan.level;
  }
  const uint64_t wanted = std::max<uint64_t>(1, (until_ms - from_ms + points - 1) / points);
  while (plan.level + 1 < kHistoryLevels && kHistory[plan.level + 1].step_ms <= wanted) {
    ++plan.level;
  }
  plan.step_ms = CeilTo(wanted, kHistory[plan.level].step_ms);
  plan.begin_ms = FloorTo(from_ms, plan.step_ms);
  plan.end_ms = CeilTo(until_ms, plan.step_ms);
  return plan;
}

void ClockGuard::Observe(uint64_t wall_ms, uint64_t boot_ms) {
  bool jumped = false;
  if (!observed_) {
    // How long this process was away, nobody knows: a day is usual, a step back never.
    jumped = newest_ms_ != 0 && (wall_ms + kJumpMs < newest_ms_ || wall_ms > newest_ms_ + kDayMs);
  } else {
    const auto wall = static_cast<int64_t>(wall_ms - wall_ms_);
    const auto boot = static_cast<int64_t>(boot_ms - boot_ms_);
    jumped = std::abs(wall - boot) > static_cast<int64_t>(kJumpMs);
  }
  observed_ = true;
  wall_ms_ = wall_ms;
  boot_ms_ = boot_ms;
  if (jumped) {
    jumped_boot_ms_ = boot_ms;
    settled_ = false;
  } else if (!settled_ && boot_ms - jumped_boot_ms_ >= kSettleMs) {
    settled_ = true;
  }
}

}  // namespace tessera::mgmt
