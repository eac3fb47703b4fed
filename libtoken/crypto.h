// The only door to BoringSSL: HMAC-SHA256 from precomputed states, comparison in constant time,
// random bytes, wiping. crypto.cc alone includes BoringSSL's headers.
//
// The functions have C names because the partial link in CMakeLists.txt keeps exactly these global
// and hides every other symbol: a program may link libtoken and OpenSSL (through gRPC) side by side
// although both define HMAC, SHA256_Update and a thousand more names.
//
// No function here fails; all may be called from any thread at any time.
#ifndef TESSERA_LIBTOKEN_CRYPTO_H_
#define TESSERA_LIBTOKEN_CRYPTO_H_

#include <cstddef>
#include <cstdint>

extern "C" {

// SHA-256's chaining values after the HMAC key's inner and outer padded block (RFC 2104 section 4:
// "the intermediate results can be computed once ... and stored"). `key_bytes` is at most 64.
void tessera_token_hmac_prepare(const uint8_t* key, size_t key_bytes, uint32_t inner[8],
                                uint32_t outer[8]);

// out = HMAC-SHA256(key, label | message) from the prepared states, 32 bytes. Up to 119 bytes in
// all take three SHA-256 blocks, and nothing is allocated whatever the size.
void tessera_token_hmac(const uint32_t inner[8], const uint32_t outer[8], const void* label,
                        size_t label_bytes, const void* message, size_t message_bytes,
                        uint8_t out[32]);

// 1 if the two areas are equal, else 0; the time depends on `bytes` alone.
int tessera_token_equal(const void* a, const void* b, size_t bytes);

// From the kernel's generator by way of BoringSSL's; safe across fork. Ends the process if the
// kernel has no randomness to give.
void tessera_token_random(void* out, size_t bytes);

// Overwrites with zeros in a way that the compiler does not drop.
void tessera_token_wipe(void* area, size_t bytes);

}  // extern "C"

#endif  // TESSERA_LIBTOKEN_CRYPTO_H_
