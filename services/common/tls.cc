#include "services/common/tls.h"

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <functional>
#include <map>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "services/common/certificate.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"

namespace tessera {
namespace {

namespace tls = grpc::experimental;

constexpr std::string_view kScheme = "spiffe://";

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// Of "spiffe://<cluster>/<role>/<id>"; empty parts where it is none.
std::pair<std::string_view, std::string_view> ClusterAndRole(std::string_view uri) {
  if (uri.substr(0, kScheme.size()) != kScheme) return {};
  uri.remove_prefix(kScheme.size());
  const size_t role_at = uri.find('/');
  const size_t id_at = role_at == std::string_view::npos ? role_at : uri.find('/', role_at + 1);
  if (id_at == std::string_view::npos || role_at == 0 || id_at + 1 == uri.size()) return {};
  return {uri.substr(0, role_at), uri.substr(role_at + 1, id_at - role_at - 1)};
}

// "ipv4:10.0.0.1:8001", "[::1]:8001", "host:8001" and "host" without what is not the host.
std::string_view HostOf(std::string_view target) {
  for (const std::string_view scheme : {"ipv4:", "ipv6:", "dns:///", "dns:"}) {
    if (target.substr(0, scheme.size()) == scheme) {
      target.remove_prefix(scheme.size());
      break;
    }
  }
  if (!target.empty() && target.front() == '[') {
    const size_t end = target.find(']');
    return end == std::string_view::npos ? target : target.substr(1, end - 1);
  }
  const size_t colon = target.find(':');
  // An IPv6 address without brackets has no port.
  if (colon == std::string_view::npos || target.find(':', colon + 1) != std::string_view::npos) {
    return target;
  }
  return target.substr(0, colon);
}

// RFC 6125 6.4.3: a wildcard is the whole first label, and stands for one label.
bool NameMatches(std::string_view pattern, std::string_view host) {
  if (!host.empty() && host.back() == '.') host.remove_suffix(1);
  if (absl::EqualsIgnoreCase(View(pattern), View(host))) return !host.empty();
  if (pattern.substr(0, 2) != "*." || pattern.find('.', 2) == std::string_view::npos) return false;
  const size_t dot = host.find('.');
  return dot != std::string_view::npos && dot > 0 &&
         absl::EqualsIgnoreCase(View(pattern.substr(1)), View(host.substr(dot)));
}

std::vector<std::string> Copies(const std::vector<grpc::string_ref>& texts) {
  std::vector<std::string> copies;
  for (const grpc::string_ref& text : texts) copies.emplace_back(text.data(), text.size());
  return copies;
}

class PartVerifier final : public tls::ExternalCertificateVerifier {
 public:
  PartVerifier(std::string cluster, std::vector<std::string> roles)
      : cluster_(std::move(cluster)), roles_(std::move(roles)) {}
  ~PartVerifier() override = default;

  bool Verify(tls::TlsCustomVerificationCheckRequest* request,
              std::function<void(grpc::Status)> /*callback*/, grpc::Status* sync_status) override {
    const grpc::string_ref target = request->target_name();
    const absl::Status status = CheckServerNames(
        {Copies(request->uri_names()), Copies(request->dns_names()), Copies(request->ip_names())},
        {std::string(target.data(), target.size()), cluster_, roles_});
    *sync_status = status.ok() ? grpc::Status::OK
                               : grpc::Status(grpc::StatusCode::UNAUTHENTICATED,
                                              std::string(status.message()));
    return true;
  }
  void Cancel(tls::TlsCustomVerificationCheckRequest* /*request*/) override {}

 private:
  const std::string cluster_;
  const std::vector<std::string> roles_;
};

// One watcher of the same files: each has a thread.
std::shared_ptr<tls::CertificateProviderInterface> ProviderOf(const TlsFiles& files) {
  using Key = std::tuple<std::string, std::string, std::string>;
  static absl::Mutex mutex(absl::kConstInit);
  static auto* const providers =
      new std::map<Key, std::weak_ptr<tls::CertificateProviderInterface>>();
  absl::MutexLock lock(&mutex);
  std::weak_ptr<tls::CertificateProviderInterface>& slot =
      (*providers)[{files.certificate, files.key, files.authority}];
  std::shared_ptr<tls::CertificateProviderInterface> provider = slot.lock();
  if (provider == nullptr) {
    provider = std::make_shared<tls::FileWatcherCertificateProvider>(
        files.key, files.certificate, files.authority, kTlsRefreshSeconds);
    slot = provider;
  }
  return provider;
}

}  // namespace

std::string ClusterOfUri(std::string_view uri) { return std::string(ClusterAndRole(uri).first); }

absl::Status CheckTlsFiles(const TlsFiles& files) {
  TESSERA_RETURN_IF_ERROR(CheckKeyOfCertificate(files.certificate, files.key));
  return CertificateEndMs(files.authority).status();
}

absl::Status CheckServerNames(const CertificateNames& found, const WantedServer& wanted) {
  const std::string_view host = HostOf(wanted.target);
  for (const std::string& address : found.addresses) {
    if (address == host) return absl::OkStatus();
  }
  for (const std::string& name : found.hosts) {
    if (NameMatches(name, host)) return absl::OkStatus();
  }
  for (const std::string& uri : found.uris) {
    const auto [cluster, role] = ClusterAndRole(uri);
    if (cluster.empty() || cluster != wanted.cluster) continue;
    if (std::find(wanted.roles.begin(), wanted.roles.end(), role) != wanted.roles.end()) {
      return absl::OkStatus();
    }
  }
  std::vector<std::string> names = found.uris;
  names.insert(names.end(), found.hosts.begin(), found.hosts.end());
  names.insert(names.end(), found.addresses.begin(), found.addresses.end());
  return absl::UnauthenticatedError(absl::StrCat(
      "the certificate at ", wanted.target, " is for ",
      names.empty() ? "nobody" : absl::StrJoin(names, ", "), ": it must name that host",
      wanted.cluster.empty() || wanted.roles.empty()
          ? ""
          : absl::StrCat(", or spiffe://", wanted.cluster, "/", absl::StrJoin(wanted.roles, "|"),
                         "/<id>")));
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> TlsServerCredentialsOf(
    const TlsFiles& files) {
  TESSERA_RETURN_IF_ERROR(CheckTlsFiles(files));
  tls::TlsServerCredentialsOptions options(ProviderOf(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return tls::TlsServerCredentials(options);
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> TlsChannelCredentialsOf(
    const TlsFiles& files, const std::vector<std::string>& roles) {
  TESSERA_RETURN_IF_ERROR(CheckTlsFiles(files));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<std::string> own, CertificateUris(files.certificate));
  std::string cluster;
  for (const std::string& uri : own) {
    if (cluster.empty()) cluster = ClusterOfUri(uri);
  }
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(ProviderOf(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_verify_server_certs(true);
  options.set_certificate_verifier(
      tls::ExternalCertificateVerifier::Create<PartVerifier>(cluster, roles));
  // The verifier does that, when the connection is made.
  options.set_check_call_host(false);
  return tls::TlsCredentials(options);
}

}  // namespace tessera
