#include "services/mdm/layer_paths.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace tessera::mdm {
namespace {

constexpr token::PathPart kFirstHead{.branch = 0, .ordinal_max = token::kPathHead};

}  // namespace

LayerPath SnapshotPath(const LayerPath& head, uint64_t layer) {
  LayerPath path = head;
  if (path.empty()) path.push_back(kFirstHead);
  path.front().ordinal_max = OrdinalOf(layer) - 1;
  return path;
}

std::optional<LayerPath> BranchPath(uint32_t branch, const LayerPath& snapshot) {
  if (snapshot.size() >= token::kPathPartsMax) return std::nullopt;
  LayerPath path{{.branch = branch, .ordinal_max = token::kPathHead}};
  path.insert(path.end(), snapshot.begin(), snapshot.end());
  return path;
}

bool Sees(const LayerPath& path, uint64_t layer) {
  if (path.empty()) return BranchOf(layer) == 0;
  return std::any_of(path.begin(), path.end(), [&](const token::PathPart& part) {
    return part.branch == BranchOf(layer) && OrdinalOf(layer) <= part.ordinal_max;
  });
}

std::string FormatPath(const LayerPath& path) {
  return absl::StrJoin(path, ",", [](std::string* out, const token::PathPart& part) {
    absl::StrAppend(out, part.branch, ":", part.ordinal_max);
  });
}

std::optional<LayerPath> ParsePath(const std::string& text) {
  LayerPath path;
  if (text.empty()) return path;
  for (const auto piece : absl::StrSplit(text, ',')) {
    const std::vector<std::string> numbers = absl::StrSplit(piece, ':');
    token::PathPart part;
    if (numbers.size() != 2 || !absl::SimpleAtoi(numbers[0], &part.branch) ||
        !absl::SimpleAtoi(numbers[1], &part.ordinal_max)) {
      return std::nullopt;
    }
    if (!path.empty() && part.branch >= path.back().branch) return std::nullopt;
    path.push_back(part);
  }
  if (path.size() > token::kPathPartsMax || path == LayerPath{kFirstHead}) return std::nullopt;
  return path;
}

v1::LayerPath ToMessage(const LayerPath& path) {
  v1::LayerPath message;
  for (const token::PathPart& part : path) {
    v1::LayerPathPart* entry = message.add_parts();
    entry->set_branch(part.branch);
    entry->set_ordinal_max(part.ordinal_max);
  }
  return message;
}

LayerPath FromMessage(const v1::LayerPath& message) {
  LayerPath path;
  for (const v1::LayerPathPart& part : message.parts()) {
    path.push_back({.branch = part.branch(), .ordinal_max = part.ordinal_max()});
  }
  return path;
}

}  // namespace tessera::mdm
