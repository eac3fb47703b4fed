// The bytes of FORMAT.md.
#ifndef TESSERA_SERVICES_SDC_RESUME_RESUME_FORMAT_H_
#define TESSERA_SERVICES_SDC_RESUME_RESUME_FORMAT_H_

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace tessera::sdc::resume {

static_assert(std::endian::native == std::endian::little);
static_assert(std::atomic<uint64_t>::is_always_lock_free &&
              sizeof(std::atomic<uint64_t>) == sizeof(uint64_t));

inline constexpr uint64_t kMagic = 0x4652434453525354;  // "TSRSDCRF"
inline constexpr uint32_t kFormatVersion = 1;
inline constexpr uint64_t kPageBytes = 4096;

enum class Kind : uint32_t {
  kFree = 0,
  kWrite = 1,
  kVolume = 2,
  kGrant = 3,
  kGroup = 4,
  kEntry = 5,
  kLayout = 6,
  kAddress = 7,
};

struct Header {
  std::atomic<uint64_t> magic;
  uint32_t version;
  uint32_t check;
  uint64_t slot_count;
  uint64_t data_bytes;
  std::array<char, 80> boot_id;
  std::array<char, 80> node_uuid;
  // Live.
  std::atomic<uint64_t> slots_used;
  std::atomic<uint64_t> closed;
  std::atomic<uint64_t> incarnation;
};
static_assert(sizeof(Header) == 216 && offsetof(Header, slot_count) == 16 &&
              offsetof(Header, slots_used) == 192);

inline constexpr uint32_t kForceUnitAccess = 1;

struct Slot {
  std::atomic<uint32_t> kind;
  uint32_t check;
  uint64_t volume_id;
  uint64_t group_id;
  uint64_t generation;
  uint64_t sequence;
  uint64_t data_offset;
  uint32_t data_bytes;
  uint32_t data_crc32c;
  uint64_t chunk_index;
  uint32_t offset_bytes;
  uint32_t length_bytes;
  uint32_t type;
  uint32_t flags;
  std::array<std::atomic<uint64_t>, 5> live;
  uint64_t reserved;
};
static_assert(sizeof(Slot) == 128 && offsetof(Slot, volume_id) == 8 && offsetof(Slot, live) == 80);

// Live values by kind.
enum VolumeLive : size_t { kNextCounter, kOutside, kUncovered, kLosses, kHeard };
enum GroupLive : size_t { kFront, kUnkeptBelow, kKnownEpoch, kLearnersInDoubt };

}  // namespace tessera::sdc::resume

#endif  // TESSERA_SERVICES_SDC_RESUME_RESUME_FORMAT_H_
