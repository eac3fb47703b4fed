// tessera_certificate_expiry_timestamp_seconds: until when a part's certificate is good.
//
// Threads: any.
#ifndef TESSERA_SERVICES_COMMON_CERTIFICATE_GAUGE_H_
#define TESSERA_SERVICES_COMMON_CERTIFICATE_GAUGE_H_

#include <string>

#include "services/common/certificate.h"
#include "services/common/metrics.h"

namespace tessera {

// Read anew at each scrape: files are replaced while a part runs. Nothing to do without a path;
// `name` is the label's ("node"). `registry` outlives its scrapes.
inline void AddCertificateGauge(MetricRegistry* registry, const std::string& name,
                                const std::string& path) {
  if (path.empty()) return;
  registry->AddCollector([registry, name, path] {
    const auto end_ms = CertificateEndMs(path);
    if (!end_ms.ok()) return;
    registry
        ->Gauge("tessera_certificate_expiry_timestamp_seconds",
                "Until when the certificate is good, seconds since the Unix epoch.",
                {{"certificate", name}})
        .Set(static_cast<double>(*end_ms) * 1e-3);
  });
}

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_CERTIFICATE_GAUGE_H_
