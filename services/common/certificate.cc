#include "services/common/certificate.h"

#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "services/common/node.h"
#include "services/common/status_macros.h"

namespace tessera {
namespace {

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

Bio MemoryOf(const std::string& pem) {
  return {BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &BIO_free};
}

absl::StatusOr<Certificate> ReadCertificate(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string pem, ReadFile(path));
  Certificate certificate(PEM_read_bio_X509(MemoryOf(pem).get(), nullptr, nullptr, nullptr),
                          &X509_free);
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(path, " holds no certificate in PEM form"));
  }
  return certificate;
}

}  // namespace

absl::StatusOr<uint64_t> CertificateEndMs(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const Certificate certificate, ReadCertificate(path));
  std::tm end{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &end) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds a certificate whose end can't be read"));
  }
  return static_cast<uint64_t>(timegm(&end)) * 1000;
}

absl::StatusOr<std::vector<std::string>> CertificateUris(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const Certificate certificate, ReadCertificate(path));
  const std::unique_ptr<GENERAL_NAMES, decltype(&GENERAL_NAMES_free)> names(
      static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(certificate.get(), NID_subject_alt_name, nullptr, nullptr)),
      &GENERAL_NAMES_free);
  std::vector<std::string> uris;
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* const name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* const uri = name->d.uniformResourceIdentifier;
    uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
                      static_cast<size_t>(ASN1_STRING_length(uri)));
  }
  return uris;
}

absl::Status CheckKeyOfCertificate(const std::string& certificate_path,
                                   const std::string& key_path) {
  TESSERA_ASSIGN_OR_RETURN(const Certificate certificate, ReadCertificate(certificate_path));
  TESSERA_ASSIGN_OR_RETURN(const std::string pem, ReadFile(key_path));
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      PEM_read_bio_PrivateKey(MemoryOf(pem).get(), nullptr, nullptr, nullptr), &EVP_PKEY_free);
  if (key == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(key_path, " holds no private key in PEM form"));
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(key_path, " is not the key of the certificate in ", certificate_path));
  }
  return absl::OkStatus();
}

}  // namespace tessera
