#include "services/common/certificate.h"

#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"

namespace tessera {

absl::StatusOr<uint64_t> CertificateEndMs(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string pem, ReadFile(path));
  const std::unique_ptr<BIO, decltype(&BIO_free)> memory(
      BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &BIO_free);
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(
      PEM_read_bio_X509(memory.get(), nullptr, nullptr, nullptr), &X509_free);
  std::tm end{};
  if (certificate == nullptr || ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &end) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(path, " holds no certificate in PEM form"));
  }
  return static_cast<uint64_t>(timegm(&end)) * 1000;
}

}  // namespace tessera
