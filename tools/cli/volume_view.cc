#include "tools/cli/volume_view.h"

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tools/cli/client.h"
#include "tools/cli/format.h"

namespace tessera::cli {

std::string TimeText(uint64_t mdm_ms) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%SZ", absl::FromUnixMillis(static_cast<int64_t>(mdm_ms)),
                          absl::UTCTimeZone());
}

std::string ModeText(const v1::VolumeMapping& mapping) {
  if (mapping.mode() == v1::MAPPING_MODE_SHARED)
    return mapping.writer() ? "shared, writes" : "shared";
  return mapping.mode() == v1::MAPPING_MODE_READ_ONLY ? "read-only" : "read-write";
}

std::string VolumeType(const v1::Volume& volume) {
  const std::string parent =
      volume.parent_name().empty() ? absl::StrCat(volume.parent_id()) : volume.parent_name();
  if (volume.kind() == v1::VOLUME_KIND_SNAPSHOT) return absl::StrCat("snapshot of ", parent);
  const std::string type = FormatEnum(v1::Provisioning_descriptor(), volume.provisioning());
  return volume.parent_id() == 0 ? type : absl::StrCat(type, ", clone of ", parent);
}

void PrintVolumes(const std::vector<v1::Volume>& volumes, bool trash) {
  Table table({"ID", "NAME", "SIZE", "POOL", "TYPE", trash ? "DELETED AT" : "MAPPED TO"});
  for (const v1::Volume& volume : volumes) {
    std::vector<std::string> mapped;
    for (const auto& mapping : volume.mappings()) {
      mapped.push_back(absl::StrCat(mapping.sdc_name(), " (", ModeText(mapping),
                                    mapping.attached() ? ")" : ", not attached)"));
    }
    table.Add({absl::StrCat(volume.volume_id()), volume.name(), FormatSize(volume.size_bytes()),
               volume.pool_name(), VolumeType(volume),
               trash            ? TimeText(volume.trashed_until_ms())
               : mapped.empty() ? "-"
                                : absl::StrJoin(mapped, ", ")});
  }
  table.Print(std::cout);
}

void ApplyLabels(const std::vector<std::string>& texts,
                 google::protobuf::Map<std::string, std::string>* labels) {
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    if (equals != std::string::npos) {
      (*labels)[text.substr(0, equals)] = text.substr(equals + 1);
    } else if (text.size() > 1 && text.back() == '-') {
      labels->erase(text.substr(0, text.size() - 1));
    } else {
      throw CommandError(absl::InvalidArgumentError(
          absl::StrCat("'", text, "' is neither KEY=VALUE nor KEY-, which takes a label away")));
    }
  }
}

uint64_t ParseMillis(const std::string& option, const std::string& text) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration < absl::Milliseconds(1) ||
      duration > absl::Hours(24 * 36'500)) {
    throw CommandError(
        absl::InvalidArgumentError(absl::StrCat(option, ": '", text, "' is no time such as 168h")));
  }
  return static_cast<uint64_t>(absl::ToInt64Milliseconds(duration));
}

uint64_t ParseExpiry(const std::string& option, const std::string& text) {
  if (text == "never") return 0;
  return static_cast<uint64_t>(absl::ToUnixMillis(absl::Now())) + ParseMillis(option, text);
}

}  // namespace tessera::cli
