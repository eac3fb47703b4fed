#include "services/sds/unserved_writes.h"

#include <algorithm>

#include "services/common/status_macros.h"

namespace tessera::sds {

UnservedWrites::UnservedWrites(const std::vector<UnservedRange>& persisted, Persist persist)
    : persist_(std::move(persist)) {
  absl::MutexLock lock(&mutex_);
  for (const UnservedRange& range : persisted) {
    ranges_[{range.volume_id, range.placement_group_id}] = {
        range.generation, range.first_sequence, range.last_sequence, range.last_sequence};
  }
}

absl::Status UnservedWrites::Note(const chunk::StreamId& stream, const chunk::Version& version) {
  absl::MutexLock lock(&mutex_);
  const std::pair<uint64_t, uint64_t> key{stream.volume_id, stream.placement_group_id};
  const auto found = ranges_.find(key);
  Range range = found == ranges_.end() ? Range{} : found->second;
  if (version.generation < range.generation) return absl::OkStatus();  // nobody can repeat it
  if (version.generation > range.generation) {
    range = {.generation = version.generation, .first = version.sequence};
  }
  const bool covered = version.sequence >= range.first && version.sequence <= range.durable_last;
  range.first = std::min(range.first, version.sequence);
  range.last = std::max(range.last, version.sequence);
  if (!covered) {
    range.durable_last = std::max(range.durable_last, version.sequence + kAhead);
    TESSERA_RETURN_IF_ERROR(persist_({.volume_id = stream.volume_id,
                                      .placement_group_id = stream.placement_group_id,
                                      .generation = range.generation,
                                      .first_sequence = range.first,
                                      .last_sequence = range.durable_last}));
  }
  ranges_[key] = range;
  return absl::OkStatus();
}

bool UnservedWrites::MayLack(const chunk::StreamId& stream, const chunk::Version& version) const {
  absl::MutexLock lock(&mutex_);
  const auto found = ranges_.find({stream.volume_id, stream.placement_group_id});
  if (found == ranges_.end()) return false;
  const Range& range = found->second;
  return version.generation == range.generation && version.sequence >= range.first &&
         version.sequence <= range.last;
}

}  // namespace tessera::sds
