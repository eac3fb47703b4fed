// Mutual TLS between parts: files that may be replaced while a part runs, and whom a client takes
// for the server that it wanted.
//
// A client believes a server whose certificate its authority has signed, if it
//  - names the host that was called (RFC 6125: a DNS name, a wildcard in the first label, an
//    address), or
//  - names a part of the same cluster in a role that is expected there, by its SAN URI
//    spiffe://<cluster>/<role>/<id>. The cluster is the one of the client's own certificate.
// So parts that come and go with their addresses need no certificate of their own.
//
// The files are looked at every kTlsRefreshSeconds; what changed is used by the next handshake.
// They should be replaced at once (rename, or a symbolic link to a folder): while key and
// certificate don't belong together, new connections may fail.
//
// Threads: any.
#ifndef TESSERA_SERVICES_COMMON_TLS_H_
#define TESSERA_SERVICES_COMMON_TLS_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace tessera {

inline constexpr unsigned kTlsRefreshSeconds = 10;

struct TlsFiles {
  std::string certificate;  // PEM chain
  std::string key;          // PEM
  std::string authority;    // PEM: peers must have certificates of it
};

// The roles of parts, as they stand in SAN URIs.
inline constexpr char kRoleMdm[] = "mdm";
inline constexpr char kRoleSds[] = "sds";
inline constexpr char kRoleSdc[] = "sdc";
inline constexpr char kRoleMgmt[] = "mgmt";

// NOT_FOUND and the like naming the file; INVALID_ARGUMENT for one that holds something else, or a
// key of another certificate.
[[nodiscard]] absl::Status CheckTlsFiles(const TlsFiles& files);

// Clients must have certificates of the authority. Errors of CheckTlsFiles.
[[nodiscard]] absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> TlsServerCredentialsOf(
    const TlsFiles& files);
// `roles`: what is expected at the other end. Errors of CheckTlsFiles.
[[nodiscard]] absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> TlsChannelCredentialsOf(
    const TlsFiles& files, const std::vector<std::string>& roles);

// The names of a certificate, and what a client wants of it.
struct CertificateNames {
  std::vector<std::string> uris;
  std::vector<std::string> hosts;      // DNS
  std::vector<std::string> addresses;  // IP, as text
};
struct WantedServer {
  std::string target;   // as it was called: "host:port", "[::1]:8001", "ipv4:10.0.0.1:8001", "host"
  std::string cluster;  // empty: only the host counts
  std::vector<std::string> roles;
};
// OK, or UNAUTHENTICATED with what was wanted and what was found.
[[nodiscard]] absl::Status CheckServerNames(const CertificateNames& found,
                                            const WantedServer& wanted);

// The cluster that a SPIFFE URI of a part names; empty for other URIs.
[[nodiscard]] std::string ClusterOfUri(std::string_view uri);

}  // namespace tessera

#endif  // TESSERA_SERVICES_COMMON_TLS_H_
