#include "services/common/sha256.h"

#include <openssl/evp.h>

#include <cstdlib>

namespace tessera {
namespace {

// OpenSSL fails here for want of memory alone.
void Check(int done) {
  if (done != 1) std::abort();
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  Check(context_ != nullptr ? 1 : 0);
  Check(EVP_DigestInit_ex(context_, EVP_sha256(), nullptr));
}

Sha256::~Sha256() { EVP_MD_CTX_free(context_); }

void Sha256::Add(std::span<const std::byte> bytes) {
  Check(EVP_DigestUpdate(context_, bytes.data(), bytes.size()));
}

std::string Sha256::Digest() const {
  EVP_MD_CTX* copy = EVP_MD_CTX_new();
  Check(copy != nullptr ? 1 : 0);
  Check(EVP_MD_CTX_copy_ex(copy, context_));
  std::string digest(kBytes, '\0');
  unsigned int length = 0;
  Check(EVP_DigestFinal_ex(copy, reinterpret_cast<unsigned char*>(digest.data()), &length));
  EVP_MD_CTX_free(copy);
  return digest;
}

}  // namespace tessera
