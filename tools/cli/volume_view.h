// How volumes and snapshots are shown, and what their commands share.
#ifndef TESSERA_TOOLS_CLI_VOLUME_VIEW_H_
#define TESSERA_TOOLS_CLI_VOLUME_VIEW_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tessera/v1/volume.pb.h"

namespace tessera::cli {

inline constexpr char kBudgetHelp[] =
    "How much it alone may take, such as 10GiB: beyond that its writes fail; 0: no budget.";

// "2026-03-01 12:00:00Z".
[[nodiscard]] std::string TimeText(uint64_t mdm_ms);
[[nodiscard]] std::string ModeText(const v1::VolumeMapping& mapping);
// "thin", "snapshot of data", "thin, clone of before".
[[nodiscard]] std::string VolumeType(const v1::Volume& volume);
// A table on standard output. With `trash` it says when they are deleted, not where they are
// mapped.
void PrintVolumes(const std::vector<v1::Volume>& volumes, bool trash = false);
// "key=value" sets, "key-" takes away; anything else throws CommandError.
void ApplyLabels(const std::vector<std::string>& texts,
                 google::protobuf::Map<std::string, std::string>* labels);
// "168h" in milliseconds; throws CommandError that names the option.
[[nodiscard]] uint64_t ParseMillis(const std::string& option, const std::string& text);
// When something expires that is to last so long from now on; "never" is 0.
[[nodiscard]] uint64_t ParseExpiry(const std::string& option, const std::string& text);

}  // namespace tessera::cli

#endif  // TESSERA_TOOLS_CLI_VOLUME_VIEW_H_
