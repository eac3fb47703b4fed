#include "services/mgmt/monitor/overview.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace tessera::mgmt {
namespace {

constexpr int kListed = 100;
constexpr size_t kNamesMax = 3;

std::string Counted(size_t count, std::string_view one, std::string_view many) {
  return absl::StrCat(count, " ", count == 1 ? std::string(one) : std::string(many));
}

// "a, b and c", "a, b, c and 4 more".
std::string Names(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kNamesMax);
  std::vector<std::string> words(names.begin(), names.begin() + static_cast<ptrdiff_t>(shown));
  if (names.size() > shown) words.push_back(absl::StrCat(names.size() - shown, " more"));
  if (words.size() == 1) return words[0];
  const std::string last = words.back();
  words.pop_back();
  return absl::StrCat(absl::StrJoin(words, ", "), " and ", last);
}

// "2 volumes <have lost blocks>: a and b."
void AddVolumes(const ClusterSnapshot& snapshot, v1::VolumeVerdict verdict, std::string_view has,
                std::string_view have, std::vector<std::string>* sentences) {
  std::vector<std::string> names;
  for (const v1::VolumeHealth& volume : snapshot.volume_health) {
    if (volume.verdict() == verdict) names.push_back(volume.name());
  }
  if (names.empty()) return;
  sentences->push_back(absl::StrCat(Counted(names.size(), "volume ", "volumes "),
                                    names.size() == 1 ? std::string(has) : std::string(have), ": ",
                                    Names(names), "."));
}

void AddSilentParts(const ClusterSnapshot& snapshot, std::vector<std::string>* sentences) {
  for (const auto& [kind, one, many] :
       {std::tuple{v1::COMPONENT_KIND_SDS, "Server ", "Servers "},
        std::tuple{v1::COMPONENT_KIND_SDC, "Client ", "Clients "}}) {
    std::vector<std::string> names;
    for (const PolledPart& part : snapshot.parts) {
      const v1::MonitoredComponent& component = part.component;
      const bool asked = component.last_answer_ms() != 0 || !component.poll_error().empty();
      if (component.kind() == kind && asked && !component.answers()) {
        names.push_back(component.name());
      }
    }
    if (names.empty()) continue;
    sentences->push_back(absl::StrCat(names.size() == 1 ? one : many, Names(names),
                                      names.size() == 1 ? " does" : " do", " not answer."));
  }
}

void AddFailedDevices(const ClusterSnapshot& snapshot, std::vector<std::string>* sentences) {
  std::vector<std::string> servers;
  size_t failed = 0;
  const auto look = [&](const auto& sdss) {
    for (const v1::Sds& sds : sdss) {
      const auto of_it =
          std::count_if(sds.devices().begin(), sds.devices().end(), [](const v1::Device& device) {
            return device.state() == v1::COMPONENT_STATE_FAILED &&
                   device.use() != v1::DEVICE_USE_REMOVED;
          });
      failed += static_cast<size_t>(of_it);
      if (of_it > 0) servers.push_back(sds.name());
    }
  };
  for (const auto& domain : snapshot.topology.topology().protection_domains()) look(domain.sdss());
  look(snapshot.topology.topology().unassigned_sdss());
  if (failed == 0) return;
  sentences->push_back(absl::StrCat(Counted(failed, "device", "devices"), " of ", Names(servers),
                                    failed == 1 ? " has" : " have", " failed."));
}

void AddDegradedParts(const ClusterSnapshot& snapshot, std::vector<std::string>* sentences) {
  for (const PolledPart& part : snapshot.parts) {
    const v1::MonitoredComponent& component = part.component;
    if (!component.answers() || component.problems().empty()) continue;
    sentences->push_back(absl::StrCat(component.name(), ": ", component.problems(0),
                                      component.problems(0).ends_with('.') ? "" : "."));
  }
}

void AddRepair(const ClusterSnapshot& snapshot, std::vector<std::string>* sentences) {
  size_t running = 0;
  uint64_t eta_ms = 0;
  bool known = true;
  for (const v1::Operation& operation : snapshot.operations) {
    if (operation.kind() != v1::OPERATION_KIND_REBUILD &&
        operation.kind() != v1::OPERATION_KIND_RESYNC) {
      continue;
    }
    ++running;
    eta_ms = std::max(eta_ms, operation.eta_ms());
    known = known && operation.eta_ms() > 0;
  }
  if (running == 0) return;
  std::string text = absl::StrCat(
      "Missing copies are being made: ", BytesInWords(snapshot.figures.rebuild_remaining_bytes()),
      " left");
  if (known) absl::StrAppend(&text, ", about ", DurationInWords(eta_ms));
  sentences->push_back(text + ".");
}

void AddAlerts(const std::vector<v1::Alert>& alerts, std::vector<std::string>* sentences) {
  std::vector<const v1::Alert*> worst;
  for (const v1::Alert& alert : alerts) {
    if (alert.severity() >= v1::ALERT_SEVERITY_WARNING) worst.push_back(&alert);
  }
  if (worst.empty()) return;
  if (!sentences->empty()) {
    sentences->push_back(absl::StrCat(Counted(worst.size(), "alert is", "alerts are"), " active."));
    return;
  }
  const std::string& summary = worst.front()->summary();
  sentences->push_back(absl::StrCat(summary, summary.ends_with('.') ? "" : "."));
  if (worst.size() > 1) {
    sentences->push_back(
        absl::StrCat(Counted(worst.size() - 1, "more alert is", "more alerts are"), " active."));
  }
}

// "3 servers, 1 client."
std::string Inventory(const ClusterSnapshot& snapshot) {
  size_t servers = 0;
  size_t clients = 0;
  for (const PolledPart& part : snapshot.parts) {
    servers += part.component.kind() == v1::COMPONENT_KIND_SDS ? 1 : 0;
    clients += part.component.kind() == v1::COMPONENT_KIND_SDC ? 1 : 0;
  }
  return absl::StrCat(Counted(servers, "server", "servers"), ", ",
                      Counted(clients, "client", "clients"), ".");
}

void AddMdm(const ClusterSnapshot& snapshot, uint64_t now_ms, std::vector<std::string>* sentences) {
  if (snapshot.mdm_answers) return;
  const std::string why = snapshot.mdm_error.empty() ? "" : " (" + snapshot.mdm_error + ")";
  if (snapshot.mdm_answered_ms == 0) {
    sentences->push_back(
        absl::StrCat("The MDM has not answered yet", why, ": what it knows is not shown."));
    return;
  }
  const uint64_t age_ms = now_ms > snapshot.mdm_answered_ms ? now_ms - snapshot.mdm_answered_ms : 0;
  sentences->push_back(absl::StrCat("The MDM does not answer", why,
                                    ": volumes and redundancy are as of ", DurationInWords(age_ms),
                                    " ago."));
}

}  // namespace

std::string BytesInWords(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return Counted(bytes, "byte", "bytes");
  return absl::StrFormat(value < 9.95 ? "%.1f %s" : "%.0f %s", value, kUnits[unit]);
}

std::string DurationInWords(uint64_t ms) {
  const uint64_t seconds = (ms + 500) / 1'000;
  if (seconds < 120) return absl::StrCat(seconds, " s");
  if (seconds < 2 * 3'600) return absl::StrCat((seconds + 30) / 60, " min");
  if (seconds < 2 * 86'400) return absl::StrCat((seconds + 1'800) / 3'600, " h");
  return absl::StrCat((seconds + 43'200) / 86'400, " days");
}

std::string VerdictLine(const ClusterSnapshot& snapshot, const std::vector<v1::Alert>& alerts,
                        uint64_t now_ms) {
  if (snapshot.time_ms == 0) return "The cluster has not been looked at yet.";
  std::vector<std::string> sentences;
  AddVolumes(snapshot, v1::VOLUME_VERDICT_DAMAGED, "has lost blocks", "have lost blocks",
             &sentences);
  AddVolumes(snapshot, v1::VOLUME_VERDICT_UNAVAILABLE, "can't be used in part",
             "can't be used in part", &sentences);
  AddMdm(snapshot, now_ms, &sentences);
  AddVolumes(snapshot, v1::VOLUME_VERDICT_SINGLE_COPY, "has a single copy left of some data",
             "have a single copy left of some data", &sentences);
  AddSilentParts(snapshot, &sentences);
  AddFailedDevices(snapshot, &sentences);
  AddVolumes(snapshot, v1::VOLUME_VERDICT_DEGRADED, "has fewer copies than it should",
             "have fewer copies than they should", &sentences);
  AddRepair(snapshot, &sentences);
  AddDegradedParts(snapshot, &sentences);
  AddAlerts(alerts, &sentences);
  if (sentences.empty()) {
    sentences.push_back(snapshot.figures.volumes() == 0 ? "All is well. There are no volumes yet."
                                                        : "All data has its copies.");
  }
  if (sentences.size() > kSentencesMax) {
    const size_t more = sentences.size() - kSentencesMax + 1;
    sentences.resize(kSentencesMax - 1);
    sentences.push_back(absl::StrCat("And ", more, " more findings."));
  }
  sentences.push_back(Inventory(snapshot));
  return absl::StrJoin(sentences, " ");
}

v1::GetOverviewResponse MakeOverview(const ClusterSnapshot& snapshot, std::vector<v1::Alert> alerts,
                                     uint64_t now_ms) {
  std::stable_sort(alerts.begin(), alerts.end(), [](const v1::Alert& a, const v1::Alert& b) {
    return a.severity() != b.severity() ? a.severity() > b.severity()
                                        : a.raised_ms() > b.raised_ms();
  });
  v1::GetOverviewResponse overview;
  overview.set_verdict(VerdictLine(snapshot, alerts, now_ms));
  if (!alerts.empty()) overview.set_worst(alerts.front().severity());
  *overview.mutable_figures() = snapshot.figures;
  for (const PolledPart& part : snapshot.parts) *overview.add_components() = part.component;
  for (v1::Alert& alert : alerts) {
    if (overview.alerts_size() == kListed) break;
    *overview.add_alerts() = std::move(alert);
  }
  for (const v1::Operation& operation : snapshot.operations) {
    if (overview.operations_size() == kListed) break;
    *overview.add_operations() = operation;
  }
  overview.set_polled_ms(snapshot.time_ms);
  overview.set_mdm_answers(snapshot.mdm_answers);
  overview.set_mdm_answered_ms(snapshot.mdm_answered_ms);
  overview.set_cluster_name(snapshot.topology.topology().cluster_uuid());
  overview.set_now_ms(now_ms);
  return overview;
}

}  // namespace tessera::mgmt
