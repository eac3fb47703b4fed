#include "libtoken/crypto.h"

#include <openssl/mem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <cstring>

// Only C functions and types without constructors here: an inline C++ function would leave this
// object as a weak global symbol, which the partial link then turns into a private copy.
namespace {

constexpr size_t kBlockBytes = SHA256_CBLOCK;
constexpr size_t kDigestBytes = SHA256_DIGEST_LENGTH;
// SHA-256 ends a message with a 0x80 byte and its length in bits as 8 bytes (FIPS 180-4, 5.1.1).
constexpr size_t kPaddingBytes = 9;
constexpr size_t kShortBytes = 2 * kBlockBytes - kPaddingBytes;

constexpr uint32_t kInitialState[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

void StoreBigEndian32(uint8_t* out, uint32_t value) {
  value = __builtin_bswap32(value);
  memcpy(out, &value, sizeof(value));
}

void StoreState(uint8_t* out, const uint32_t state[8]) {
  for (size_t i = 0; i < 8; ++i) StoreBigEndian32(out + 4 * i, state[i]);
}

// The state after the padded key block and the whole inner message.
void ShortInnerHash(uint32_t state[8], const void* label, size_t label_bytes, const void* message,
                    size_t message_bytes) {
  alignas(16) uint8_t blocks[2 * kBlockBytes] = {};
  const size_t bytes = label_bytes + message_bytes;
  if (label_bytes > 0) memcpy(blocks, label, label_bytes);
  if (message_bytes > 0) memcpy(blocks + label_bytes, message, message_bytes);
  blocks[bytes] = 0x80;
  const size_t block_count = bytes + kPaddingBytes <= kBlockBytes ? 1 : 2;
  StoreBigEndian32(blocks + block_count * kBlockBytes - 4,
                   static_cast<uint32_t>(8 * (kBlockBytes + bytes)));
  SHA256_TransformBlocks(state, blocks, block_count);
}

}  // namespace

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "SHA-256 words are swapped below");

extern "C" {

void tessera_token_hmac_prepare(const uint8_t* key, size_t key_bytes, uint32_t inner[8],
                                uint32_t outer[8]) {
  alignas(16) uint8_t block[kBlockBytes] = {};
  if (key_bytes > kBlockBytes) __builtin_trap();
  memcpy(block, key, key_bytes);
  for (uint8_t& byte : block) byte ^= 0x36;
  memcpy(inner, kInitialState, sizeof(kInitialState));
  SHA256_TransformBlocks(inner, block, 1);
  for (uint8_t& byte : block) byte ^= 0x36 ^ 0x5c;
  memcpy(outer, kInitialState, sizeof(kInitialState));
  SHA256_TransformBlocks(outer, block, 1);
  OPENSSL_cleanse(block, sizeof(block));
}

void tessera_token_hmac(const uint32_t inner[8], const uint32_t outer[8], const void* label,
                        size_t label_bytes, const void* message, size_t message_bytes,
                        uint8_t out[32]) {
  alignas(16) uint8_t outer_block[kBlockBytes] = {};
  if (label_bytes <= kShortBytes && message_bytes <= kShortBytes - label_bytes) {
    uint32_t state[8];
    memcpy(state, inner, sizeof(state));
    ShortInnerHash(state, label, label_bytes, message, message_bytes);
    StoreState(outer_block, state);
  } else {
    SHA256_CTX context;
    SHA256_Init(&context);
    memcpy(context.h, inner, sizeof(context.h));
    context.Nl = 8 * kBlockBytes;
    SHA256_Update(&context, label, label_bytes);
    SHA256_Update(&context, message, message_bytes);
    SHA256_Final(outer_block, &context);
  }
  outer_block[kDigestBytes] = 0x80;
  StoreBigEndian32(outer_block + kBlockBytes - 4, 8 * (kBlockBytes + kDigestBytes));
  uint32_t state[8];
  memcpy(state, outer, sizeof(state));
  SHA256_TransformBlocks(state, outer_block, 1);
  StoreState(out, state);
}

int tessera_token_equal(const void* a, const void* b, size_t bytes) {
  return CRYPTO_memcmp(a, b, bytes) == 0 ? 1 : 0;
}

void tessera_token_random(void* out, size_t bytes) {
  if (RAND_bytes(static_cast<uint8_t*>(out), bytes) != 1) __builtin_trap();
}

void tessera_token_wipe(void* area, size_t bytes) { OPENSSL_cleanse(area, bytes); }

}  // extern "C"
