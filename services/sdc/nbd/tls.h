// TLS for NBD (OpenSSL 3): the server's certificate, and one transport for each session.
//
// TLS 1.2 and later. With a client authority, clients must show a certificate that it has signed.
//
// Source: doc/proto.md of the NBD project, "TLS support".
// Threads: a TlsContext may be shared by all; a transport is used by one caller at a time.
#ifndef TESSERA_SERVICES_SDC_NBD_TLS_H_
#define TESSERA_SERVICES_SDC_NBD_TLS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/sdc/nbd/transport.h"

struct ssl_ctx_st;

namespace tessera::sdc {

// Paths of PEM files.
struct TlsFiles {
  std::string certificate_chain;  // the server's own certificate first
  std::string private_key;
  std::string client_authority;  // empty: clients need no certificate
};

namespace nbd {

// Differs when a file was replaced. Empty names count as no file.
[[nodiscard]] std::string StampOf(const TlsFiles& files);

class TlsContext {
 public:
  // FAILED_PRECONDITION when a file cannot be read or key and certificate are no pair.
  static absl::StatusOr<std::unique_ptr<TlsContext>> Create(const TlsFiles& files);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  // The server's side of a TLS session over `plain`. The TLS handshake happens inside Read.
  [[nodiscard]] std::unique_ptr<Transport> Wrap(std::unique_ptr<Transport> plain) const;

 private:
  explicit TlsContext(ssl_ctx_st* context) : context_(context) {}
  ssl_ctx_st* const context_;
};

}  // namespace nbd
}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_NBD_TLS_H_
