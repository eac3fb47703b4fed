// One entry for every decoder of foreign bytes: grants, key files, and tokens with their
// signatures. The first byte chooses; what each must hold is checked and ends the process when it
// does not.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "libtoken/key_file.h"
#include "libtoken/token.h"

namespace tessera::token {
namespace {

void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "token_fuzz: does not hold: %s\n", what);
  std::abort();
}

// Takes fields off the front of the input; zeros when it is used up.
class Input {
 public:
  explicit Input(std::string_view bytes) : bytes_(bytes) {}
  template <typename Field>
  void Take(Field& field) {
    Field value{};
    const size_t size = std::min(sizeof(value), bytes_.size());
    std::memcpy(&value, bytes_.data(), size);
    bytes_.remove_prefix(size);
    field = value;
  }
  std::string_view TakeBytes(size_t size) {
    const std::string_view taken = bytes_.substr(0, size);
    bytes_.remove_prefix(taken.size());
    return taken;
  }

 private:
  std::string_view bytes_;
};

void FuzzGrant(std::string_view bytes) {
  const auto grant = DecodeGrant(bytes);
  if (grant.ok()) Require(EncodeGrant(*grant) == bytes, "a decoded grant encodes to its own bytes");
}

void FuzzKeyFile(std::string_view bytes) {
  const auto keys = DecodeKeyFile(bytes);
  if (keys.ok()) {
    Require(EncodeKeyFile(*keys) == bytes, "a decoded key file encodes to its own bytes");
  }
}

IoToken TakeToken(Input& input) {
  IoToken token;
  uint8_t operation = 0;
  uint8_t binds_data = 0;
  input.Take(operation);
  input.Take(binds_data);
  token.operation = static_cast<Operation>(operation);
  token.binds_data = (binds_data & 1) != 0;
  input.Take(token.grant_id);
  input.Take(token.generation);
  input.Take(token.counter);
  input.Take(token.chunk_index);
  input.Take(token.snapshot_sequence);
  input.Take(token.offset_bytes);
  input.Take(token.length_bytes);
  input.Take(token.data_crc32c);
  input.Take(token.sds_incarnation);
  return token;
}

// The rules of FORMAT.md section 5 once more, in 128 bits where nothing wraps.
bool MayPass(const Grant& grant, const IoToken& token, uint64_t lowest_generation,
             const MdmTime& now) {
  __extension__ using Wide = unsigned __int128;
  const uint64_t end_ms =
      now.mdm_reachable ? grant.expiry_ms : std::max(grant.expiry_ms, grant.outage_expiry_ms);
  const Wide begin = Wide{token.chunk_index} * grant.chunk_bytes + token.offset_bytes;
  const Wide end = begin + token.length_bytes;
  const bool transaction = grant.access == AccessMode::kTransaction;
  const bool inside = token.length_bytes > 0 &&
                      Wide{token.offset_bytes} + token.length_bytes <= grant.chunk_bytes &&
                      end <= grant.volume_size_bytes &&
                      (!transaction || (begin >= grant.transaction_offset_bytes &&
                                        end <= Wide{grant.transaction_offset_bytes} +
                                                   grant.transaction_length_bytes));
  const auto operation = static_cast<int>(token.operation);
  return token.grant_id == grant.grant_id && token.generation == grant.generation &&
         token.generation >= lowest_generation &&
         token.snapshot_sequence == grant.snapshot_sequence && now.latest_ms >= grant.issued_ms &&
         now.latest_ms < end_ms && operation >= 1 && operation <= 6 &&
         (grant.access != AccessMode::kReadOnly || token.operation == Operation::kRead) &&
         (!transaction || token.operation == grant.transaction_operation) &&
         (token.operation == Operation::kFlush || inside) &&
         (token.operation != Operation::kWrite || token.binds_data || transaction);
}

void FuzzToken(std::string_view bytes) {
  Input input(bytes);
  auto grant = DecodeGrant(input.TakeBytes(136));
  if (!grant.ok()) return;
  // With a path, too, which version 1 has not.
  uint8_t parts = 0;
  input.Take(parts);
  for (uint32_t left = parts % (kPathPartsMax + 1); left > 0; --left) {
    grant->path.push_back({.branch = left, .ordinal_max = parts});
  }
  const auto again = DecodeGrant(EncodeGrant(*grant));
  if (!again.ok() || *again != *grant) __builtin_trap();
  const IoToken token = TakeToken(input);
  MdmTime now;
  uint8_t reachable = 0;
  uint64_t lowest_generation = 0;
  uint64_t own_incarnation = 0;
  input.Take(reachable);
  input.Take(now.latest_ms);
  input.Take(lowest_generation);
  input.Take(own_incarnation);
  now.mdm_reachable = (reachable & 1) != 0;
  const std::string_view foreign = input.TakeBytes(64);
  const auto* foreign_bytes = reinterpret_cast<const uint8_t*>(foreign.data());

  const GrantKey key = GrantKey::Derive(Key{}, EncodeGrant(*grant));
  const Signature signature = key.Sign(token);
  const Refusal signed_result =
      CheckToken(*grant, key, token, signature, own_incarnation, lowest_generation, now);
  const bool may_pass =
      token.sds_incarnation == own_incarnation && MayPass(*grant, token, lowest_generation, now);
  Require((signed_result == Refusal::kNone) == may_pass,
          "a signed token passes by the rules alone");
  Require(!RefusalName(signed_result).empty(), "a refusal has a name");

  const Refusal foreign_result = CheckToken(*grant, key, token, {foreign_bytes, foreign.size()},
                                            own_incarnation, lowest_generation, now);
  const bool same = foreign.size() == signature.size() &&
                    std::memcmp(foreign.data(), signature.data(), signature.size()) == 0;
  Require(same || foreign_result == Refusal::kBadSignature || foreign_result == Refusal::kNoToken,
          "an unsigned token is refused for its signature");
}

}  // namespace
}  // namespace tessera::token

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0] % 3) {
    case 0:
      tessera::token::FuzzGrant(bytes);
      break;
    case 1:
      tessera::token::FuzzKeyFile(bytes);
      break;
    default:
      tessera::token::FuzzToken(bytes);
      break;
  }
  return 0;
}
