#include "services/sds/learner_state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera::sds {

using chunk::ChunkKey;
using chunk::Version;

namespace {

// Names no chunk when there is none.
ChunkKey BaseOf(const chunk::ChunkInfo& info) {
  ChunkKey base = info.key;
  base.layer = info.base.value_or(chunk::kNoBase);
  return base;
}

}  // namespace

void ReceivedChunk::Mark(uint32_t offset_bytes, uint32_t length_bytes) {
  const uint32_t begin = offset_bytes / chunk::kSectorBytes;
  const uint32_t end = begin + length_bytes / chunk::kSectorBytes;
  for (uint32_t sector = begin; sector < end; ++sector) {
    sectors[sector / 64] |= uint64_t{1} << (sector % 64);
  }
}

uint8_t ReceivedChunk::SectorsOfBlock(uint32_t block) const {
  return static_cast<uint8_t>(sectors[block / 8] >> (block % 8 * 8));
}

Absence JudgeAbsence(const ChunkKey& key, const ReceivedChunk* received, const Version& before,
                     const Version& after) {
  if (received == nullptr || before >= received->last) return Absence::kGone;
  return key.layer == 0 && after < received->first ? Absence::kNeverMade : Absence::kNotYet;
}

void LearnerState::Fail(const std::string& reason) {
  if (failure_.empty()) failure_ = reason;
}

OrderJudgement LearnerState::JudgeOrder(uint64_t volume_id, const Version& cursor,
                                        const Version& version) {
  if (!failure_.empty()) {
    return {.status = v1::IO_STATUS_SEQUENCE_GAP, .expected_sequence = cursor.sequence + 1};
  }
  const Stream& stream = streams_[volume_id];
  if (!base_known_ && !stream.moved) {
    if (version.sequence == 0)
      return {.status = v1::IO_STATUS_SEQUENCE_GAP, .expected_sequence = 1};
    return {.status = v1::IO_STATUS_OK};
  }
  const OrderJudgement judgement = sds::JudgeOrder(cursor, version);
  if (judgement.status != v1::IO_STATUS_OK || version.generation == cursor.generation) {
    return judgement;
  }
  // The first write of a newer generation.
  if (base_known_ && OlderGenerationsCovered(stream, cursor, version.generation)) return judgement;
  Fail(absl::StrCat("volume ", volume_id, " went from generation ", cursor.generation, " to ",
                    version.generation,
                    " while learning: the source may have taken more of the old one"));
  return {.status = v1::IO_STATUS_SEQUENCE_GAP, .expected_sequence = cursor.sequence + 1};
}

bool LearnerState::OlderGenerationsCovered(const Stream& stream, const Version& cursor,
                                           uint64_t generation) const {
  if (generation <= stream.source_lowest) {
    // The source took nothing older after the base was read; all up to the base must be here.
    return cursor >= stream.base;
  }
  // A generation that began after the base was read: fine when it is the volume's very first.
  const bool first_generation = stream.source_lowest == 0 && !stream.raised_repeatedly &&
                                (stream.raised_to == 0 || stream.raised_to == generation);
  return first_generation && cursor == Version{} && stream.base == Version{};
}

void LearnerState::OnTaken(uint64_t volume_id, const Version& version) {
  Stream& stream = streams_[volume_id];
  if (stream.moved) return;
  stream.moved = true;
  stream.first = version;
}

void LearnerState::OnGenerationRaised(uint64_t volume_id, uint64_t generation) {
  Stream& stream = streams_[volume_id];
  if (stream.raised_to != 0 && stream.raised_to != generation) stream.raised_repeatedly = true;
  stream.raised_to = generation;
}

bool LearnerState::FirstWriteFits(const Stream& stream) const {
  if (stream.first.generation == stream.base.generation) {
    return stream.first.sequence <= stream.base.sequence + 1;
  }
  if (stream.first.generation < stream.base.generation) return false;
  return stream.first.sequence == 1 &&
         OlderGenerationsCovered(stream, stream.base, stream.first.generation);
}

absl::StatusOr<std::vector<chunk::StreamCursor>> LearnerState::SetBase(
    uint64_t placement_group_id, std::span<const SourceStream> source,
    std::span<const chunk::StreamCursor> own) {
  std::vector<chunk::StreamCursor> cursors;
  if (base_known_) return cursors;
  for (const SourceStream& at_source : source) {
    Stream& stream = streams_[at_source.volume_id];
    stream.base = at_source.last;
    stream.source_lowest = at_source.lowest_generation;
  }
  for (const auto& [volume_id, stream] : streams_) {
    if (stream.moved && !FirstWriteFits(stream)) {
      Fail(absl::StrCat("volume ", volume_id, ": the first write received, ",
                        stream.first.generation, ".", stream.first.sequence,
                        ", does not follow the source's ", stream.base.generation, ".",
                        stream.base.sequence));
    }
  }
  if (!failure_.empty()) return absl::AbortedError(failure_);
  base_known_ = true;
  for (const chunk::StreamCursor& cursor : own) streams_[cursor.stream.volume_id];
  for (const auto& [volume_id, stream] : streams_) {
    if (stream.moved) continue;
    const auto found = std::find_if(own.begin(), own.end(), [id = volume_id](const auto& cursor) {
      return cursor.stream.volume_id == id;
    });
    const Version here = found == own.end() ? Version{} : found->last;
    if (here == stream.base) continue;
    cursors.push_back({.stream = {.volume_id = volume_id, .placement_group_id = placement_group_id},
                       .last = stream.base});
  }
  return cursors;
}

bool LearnerState::IsVerified(const ChunkKey& key) const {
  const bool classified = listing_done_ || (position_.has_value() && key <= *position_);
  return classified && !pending_.contains(key);
}

bool LearnerState::AnyPendingBelow(const ChunkKey& key) const {
  const auto lowest =
      pending_.lower_bound({.vtree_id = key.vtree_id, .chunk_index = key.chunk_index});
  return lowest != pending_.end() && *lowest < key;
}

bool LearnerState::BeginWrite(const ChunkKey& key, const std::function<bool()>& is_here) {
  if (!IsVerified(key)) return false;
  if (!AnyPendingBelow(key) || is_here()) return true;
  pending_.insert(key);
  return false;
}

void LearnerState::OnApplied(const ChunkKey& key, uint64_t volume_id, uint32_t offset_bytes,
                             uint32_t length_bytes, const Version& version) {
  if (IsVerified(key)) return;
  ReceivedChunk& received = received_[key];
  if (received.sectors.empty()) {
    received.sectors.resize((chunk_bytes_ / chunk::kSectorBytes + 63) / 64);
    received.volume_id = volume_id;
    received.first = version;
  }
  received.Mark(offset_bytes, length_bytes);
  received.last = version;
}

void LearnerState::SettleOwnOnly(std::span<const chunk::ChunkInfo> layers,
                                 std::span<const ChunkKey> own_only, std::vector<ChunkKey>* drop) {
  // From the end, so that what was made from a layer is settled before it.
  std::set<ChunkKey> dropped;
  for (size_t i = own_only.size(); i-- > 0;) {
    const ChunkKey& key = own_only[i];
    bool any_stays = false;
    bool any_verified = false;
    for (const chunk::ChunkInfo& other : layers) {
      if (other.base != key.layer || dropped.contains(other.key)) continue;
      any_stays = true;
      any_verified |= !pending_.contains(other.key);
    }
    // One from which a verified layer was made the source had, too, and has dropped: nobody sees
    // it, and it goes when this server is told to.
    if (any_verified) continue;
    if (any_stays) {
      pending_.insert(key);
      continue;
    }
    dropped.insert(key);
    drop->push_back(key);
  }
}

std::vector<ChunkKey> LearnerState::Classify(std::optional<ChunkKey> up_to,
                                             std::span<const SourceChunk> source,
                                             std::span<const chunk::ChunkInfo> own) {
  // What the stream touched before the listing came here has to be copied, whatever the lists say.
  auto touched = position_.has_value() ? received_.upper_bound(*position_) : received_.begin();
  for (; touched != received_.end() && (!up_to.has_value() || touched->first <= *up_to);
       ++touched) {
    pending_.insert(touched->first);
  }
  std::vector<ChunkKey> drop;
  size_t at_source = 0;
  for (size_t i = 0; i < own.size();) {
    const size_t begin = i;
    std::vector<ChunkKey> own_only;
    for (; i < own.size() && own[i].key.vtree_id == own[begin].key.vtree_id &&
           own[i].key.chunk_index == own[begin].key.chunk_index;
         ++i) {
      const chunk::ChunkInfo& here = own[i];
      for (; at_source < source.size() && source[at_source].key < here.key; ++at_source) {
        pending_.insert(source[at_source].key);
      }
      ++progress_.chunks_compared;
      // What was made from one that is to be copied, is to be copied, too.
      if (pending_.contains(BaseOf(here))) pending_.insert(here.key);
      const bool both = at_source < source.size() && source[at_source].key == here.key;
      if (both) {
        const SourceChunk& there = source[at_source++];
        const bool equal = here.version == there.version && !here.incomplete && !there.incomplete;
        if (!equal) pending_.insert(here.key);
      } else if (!pending_.contains(here.key)) {
        own_only.push_back(here.key);
      }
    }
    const std::span<const chunk::ChunkInfo> layers = own.subspan(begin, i - begin);
    SettleOwnOnly(layers, own_only, &drop);
    for (const chunk::ChunkInfo& here : layers) {
      if (pending_.contains(BaseOf(here))) bases_.insert(BaseOf(here));
    }
  }
  for (; at_source < source.size(); ++at_source) pending_.insert(source[at_source].key);
  if (up_to.has_value()) {
    position_ = up_to;
  } else {
    listing_done_ = true;
  }
  return drop;
}

std::vector<ChunkKey> LearnerState::Pending(size_t limit) const {
  std::vector<ChunkKey> keys;
  for (auto it = pending_.begin(); it != pending_.end() && keys.size() < limit; ++it) {
    keys.push_back(*it);
  }
  return keys;
}

const ReceivedChunk* LearnerState::Received(const ChunkKey& key) const {
  const auto found = received_.find(key);
  return found == received_.end() ? nullptr : &found->second;
}

void LearnerState::OnCopied(const ChunkKey& key, uint64_t bytes) {
  if (pending_.erase(key) == 0) return;
  bases_.erase(key);
  received_.erase(key);
  ++progress_.chunks_copied;
  progress_.bytes_copied += bytes;
}

void LearnerState::ForgetVtree(uint64_t vtree_id) {
  const auto of_vtree = [vtree_id](const auto& key) { return key.vtree_id == vtree_id; };
  std::erase_if(pending_, of_vtree);
  std::erase_if(bases_, of_vtree);
  std::erase_if(received_, [&](const auto& entry) { return of_vtree(entry.first); });
}

}  // namespace tessera::sds
