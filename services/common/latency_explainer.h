// From what clients have added up of a volume's requests to the causes, worst first:
// docs/decisions/0013-where-latency-goes.md.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_COMMON_LATENCY_EXPLAINER_H_
#define TESSERA_SERVICES_COMMON_LATENCY_EXPLAINER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "tessera/v1/latency.pb.h"

namespace tessera {

inline constexpr uint32_t kLatencyWindowDefaultSeconds = 300;
inline constexpr size_t kLatencyExamples = 8;

// What people call servers and devices; those that are not in it have their ids.
struct LatencyNames {
  std::map<uint64_t, std::string> sds;
  std::map<uint64_t, std::string> device_paths;
};

// The window that a request asks for. INVALID_ARGUMENT: says what would be right.
[[nodiscard]] absl::StatusOr<uint32_t> CheckLatencyWindow(uint32_t window_s);

// Adds one client's figures to those of others.
void MergeLatency(const v1::LatencyFigures& from, v1::LatencyFigures* into);

// The slowest requests in their order, as many as are kept.
void SortSlowest(v1::LatencyFigures* figures);

// Everything but the volume's name and who was silent.
[[nodiscard]] v1::ExplainLatencyResponse ExplainLatency(const v1::LatencyFigures& figures,
                                                        const LatencyNames& names);

// "320 µs", "5.1 ms", "2.0 s".
[[nodiscard]] std::string FormatMicros(double micros);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_LATENCY_EXPLAINER_H_
