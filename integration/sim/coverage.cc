#include "integration/sim/coverage.h"

#include <array>

namespace tessera::sim {
namespace {

uint64_t* g_counters = nullptr;

constexpr std::array<const char*, kCoverageCount> kNames = {
    "fault: server killed",
    "fault: server lost power",
    "fault: all servers lost power",
    "fault: server stopped for a while",
    "fault: server long away, back with old state",
    "fault: server restarted without the MDM",
    "fault: machine off inside a disk call",
    "fault: client killed",
    "fault: client died while it wrote",
    "fault: client stopped while it wrote",
    "fault: client lost power",
    "fault: client restarted without the MDM",
    "fault: client stopped for a while",
    "fault: MDM killed",
    "fault: MDM cut off",
    "fault: partition",
    "fault: one-way cut",
    "fault: slow link",
    "fault: message delayed",
    "fault: message held back",
    "fault: message after its stream was given up",
    "fault: call duplicated",
    "fault: IO message replayed",
    "fault: slow disk",
    "fault: full disk",
    "fault: disk write error",
    "fault: disk sync error",
    "fault: disk read error",
    "fault: flipped bits",
    "fault: clock drift",
    "fault: wall clock jump",
    "fault: watch of the map late",
    "fault: takeover by another client",
    "fault: takeover out of the MDM's sight",
    "fault: all lost power as a flush was answered",
    "fault: server lost for good",
    "path: stream broke",
    "path: replica taken out",
    "path: learner made",
    "path: learner promoted",
    "path: chunk copied",
    "path: generation raised at a server",
    "path: fence done",
    "path: fence took replicas out",
    "path: epoch changed",
    "path: read answered",
    "path: write answered",
    "path: unaligned write answered",
    "path: zeroing answered",
    "path: trim answered",
    "path: flush answered",
    "path: write with FUA answered",
    "path: ENOSPC answered",
    "path: loss told by a flush",
    "path: cells that a read showed to be lost",
    "path: replay refused",
    "path: read sent again",
    "path: replicas compared at rest",
    "path: member replaced",
    "path: volume resumed by a restarted client",
    "path: write resumed",
    "path: volume not resumed for want of room",
    "path: write answered by a resumed client before the MDM",
    "path: snapshot made",
    "path: snapshots of several volumes at once",
    "path: snapshot cut by a client that writes",
    "path: snapshot read",
    "path: snapshot deleted",
    "path: clone made",
    "path: volume rolled back",
    "path: layers adopted by a client",
    "path: volume resized",
    "path: beyond a smaller end discarded by a client",
    "path: layers dropped",
    "path: lease given for a client's read cache",
    "path: read answered from the client's read cache",
};

}  // namespace

const char* CoverageName(Coverage what) { return kNames[static_cast<size_t>(what)]; }

void SetCoverage(uint64_t* counters) { g_counters = counters; }

void Hit(Coverage what, uint64_t times) {
  if (g_counters != nullptr) g_counters[static_cast<size_t>(what)] += times;
}

}  // namespace tessera::sim
