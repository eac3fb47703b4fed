// The steps of learning that run on the device's worker, between its cycles, and so never beside a
// write of the same device. The learner (learner.h) calls them through DeviceWorker::Control.
//
// Errors common to all: ABORTED (the epoch moved on, or learning can't succeed in it: stop).
//
// Threads: the worker's.
#ifndef TESSERA_SERVICES_SDS_LEARNING_STEPS_H_
#define TESSERA_SERVICES_SDS_LEARNING_STEPS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "libchunk/store.h"
#include "services/sds/device_worker.h"
#include "services/sds/learner_state.h"

namespace tessera::sds {

struct LearningId {
  uint64_t placement_group_id = 0;
  uint64_t epoch = 0;
};

// Where learning stands.
struct LearningView {
  bool base_known = false;
  bool listing_done = false;
  bool done = false;
  std::optional<chunk::ChunkKey> position;
  std::vector<chunk::ChunkKey> pending;  // the first of them
  size_t pending_count = 0;              // all
  uint32_t chunk_bytes = 0;
  bool compares_contents = false;  // equal versions prove nothing
  LearnerProgress progress;
};
[[nodiscard]] absl::StatusOr<LearningView> ViewLearning(DeviceWorker* worker, const LearningId& id,
                                                        size_t pending_limit);

// The source's streams are known: sets the cursors that have not moved.
[[nodiscard]] absl::Status SetLearningBase(DeviceWorker* worker, const LearningId& id,
                                           std::span<const SourceStream> source);

// A piece of the listing, of whole chunks; see LearnerState::Classify. Drops what the source lacks.
[[nodiscard]] absl::Status ClassifyChunks(DeviceWorker* worker, const LearningId& id,
                                          std::optional<chunk::ChunkKey> up_to,
                                          std::span<const SourceChunk> source,
                                          std::span<const chunk::ChunkInfo> own);

// A chunk that was copied, on its way into the store.
struct CopiedChunk {
  bool is_absent = false;  // the source has no such chunk
  // The store's answer to the staging of the image.
  absl::StatusOr<std::unique_ptr<chunk::StagedImage>> staged;
  // The source's cursors: not later than what is in the image, and not earlier.
  std::vector<chunk::StreamCursor> before, after;
};
struct CopyOutcome {
  enum class Kind : uint8_t {
    kDone,
    kWait,       // more writes have to be taken before; `progress` is notified of them
    kNotYet,     // the source does not have it yet: to be copied again
    kNeedsWhole  // what it shares with its base is not here: to be copied again, whole
  };
  Kind kind = Kind::kDone;
  std::shared_ptr<absl::Notification> progress;
};
// Applies a copied chunk when this replica has taken all that may be in it. The image is used up
// unless more writes have to be taken.
[[nodiscard]] absl::StatusOr<CopyOutcome> ApplyCopiedChunk(DeviceWorker* worker,
                                                           const LearningId& id,
                                                           CopiedChunk* copied);

// Marks the learning as hopeless in this epoch: writes are refused until the next.
void FailLearning(DeviceWorker* worker, const LearningId& id, const std::string& reason);

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_LEARNING_STEPS_H_
