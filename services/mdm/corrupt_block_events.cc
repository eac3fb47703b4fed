#include "services/mdm/corrupt_block_events.h"

#include "absl/strings/str_cat.h"

namespace tessera::mdm {
namespace {

std::string Where(const v1::CorruptBlocks& blocks, const std::string& device,
                  const std::string& volume) {
  const uint32_t last = blocks.first_block() + blocks.block_count() - 1;
  return absl::StrCat(volume, ": ",
                      blocks.block_count() == 1
                          ? absl::StrCat("block ", last)
                          : absl::StrCat("blocks ", blocks.first_block(), " to ", last),
                      " of chunk ", blocks.key().vtree_id(), "/", blocks.key().chunk_index(), "/",
                      blocks.key().snapshot_sequence(), " on ", device);
}

const char* FoundBy(v1::CorruptBlockFinder finder) {
  switch (finder) {
    case v1::CORRUPT_BLOCK_FINDER_READ:
      return "a read";
    case v1::CORRUPT_BLOCK_FINDER_WRITE:
      return "a write";
    case v1::CORRUPT_BLOCK_FINDER_COPY:
      return "a read for another replica";
    case v1::CORRUPT_BLOCK_FINDER_SCRUB:
      return "scrub";
    default:
      return "the server";
  }
}

}  // namespace

CorruptBlockEvent EventOf(const v1::CorruptBlocks& blocks, const std::string& device,
                          const std::string& volume) {
  const std::string where = Where(blocks, device, volume);
  switch (blocks.change()) {
    case v1::CORRUPT_BLOCK_CHANGE_FOUND:
      return {v1::EVENT_SEVERITY_WARNING, "corrupt_block_found",
              absl::StrCat(where, ": bad, found by ", FoundBy(blocks.finder()))};
    case v1::CORRUPT_BLOCK_CHANGE_REPAIRED:
      return {v1::EVENT_SEVERITY_INFO, "corrupt_block_repaired",
              absl::StrCat(where, ": written anew from device ", blocks.other_device_id())};
    case v1::CORRUPT_BLOCK_CHANGE_UNREPAIRABLE:
      return {v1::EVENT_SEVERITY_ERROR, "corrupt_block_unrepairable",
              absl::StrCat(where, ": lost, reads of it fail: ", blocks.reason())};
    case v1::CORRUPT_BLOCK_CHANGE_DIFFERENT:
      return {v1::EVENT_SEVERITY_ERROR, "replicas_differ",
              absl::StrCat(where, " and on device ", blocks.other_device_id(),
                           " differ at the same version; nobody can tell which is right")};
    default:
      return {v1::EVENT_SEVERITY_INFO, "corrupt_block_healed",
              absl::StrCat(where, ": reads well again, written anew or deleted by a client")};
  }
}

}  // namespace tessera::mdm
