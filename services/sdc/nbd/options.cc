#include "services/sdc/nbd/options.h"

namespace tessera::sdc::nbd {

void ServerCounters::CountError(int error) {
  for (size_t i = 0; i < NbdServerStats::kErrors.size(); ++i) {
    if (NbdServerStats::kErrors[i] == error) errors[i].Add();
  }
}

NbdServerStats ServerCounters::Snapshot() const {
  NbdServerStats stats;
  stats.connections_accepted = connections_accepted.Get();
  stats.connections_refused = connections_refused.Get();
  stats.connections_timed_out = connections_timed_out.Get();
  stats.connections_broken = connections_broken.Get();
  stats.connections_open = connections_open.Get();
  stats.handshakes_completed = handshakes_completed.Get();
  stats.tls_sessions = tls_sessions.Get();
  for (size_t i = 0; i < requests.size(); ++i) stats.requests[i] = requests[i].Get();
  stats.requests_refused = requests_refused.Get();
  stats.read_bytes = read_bytes.Get();
  stats.written_bytes = written_bytes.Get();
  for (size_t i = 0; i < errors.size(); ++i) stats.errors[i] = errors[i].Get();
  stats.inflight_requests = inflight_requests.Get();
  stats.inflight_bytes = inflight_bytes.Get();
  return stats;
}

}  // namespace tessera::sdc::nbd
