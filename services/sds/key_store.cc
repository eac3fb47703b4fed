#include "services/sds/key_store.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"

namespace tessera::sds {
namespace {

std::span<const uint8_t> AsBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

void AppendLittleEndian(uint64_t value, std::string* out) {
  for (int shift = 0; shift < 64; shift += 8) out->push_back(static_cast<char>(value >> shift));
}

}  // namespace

void KeyStore::Replace(const google::protobuf::RepeatedPtrField<v1::SdsKey>& keys) {
  absl::MutexLock lock(&mutex_);
  bool changed = false;
  for (const uint32_t known : keyring_.key_ids()) {
    const bool kept = std::any_of(keys.begin(), keys.end(),
                                  [known](const v1::SdsKey& key) { return key.key_id() == known; });
    if (kept) continue;
    keyring_.Remove(known);
    changed = true;
  }
  for (const v1::SdsKey& key : keys) {
    if (key.key().size() != token::kKeyBytes) continue;
    token::Key bytes;
    std::memcpy(bytes.data(), key.key().data(), bytes.size());
    const token::Key* known = keyring_.Find(key.key_id());
    if (known != nullptr && *known == bytes) continue;
    keyring_.Remove(key.key_id());
    keyring_.Add(key.key_id(), bytes);
    changed = true;
  }
  if (changed) version_.fetch_add(1, std::memory_order_acq_rel);
}

std::optional<token::Key> KeyStore::Find(uint32_t key_id) const {
  absl::MutexLock lock(&mutex_);
  const token::Key* key = keyring_.Find(key_id);
  if (key == nullptr) return std::nullopt;
  return *key;
}

std::optional<std::pair<uint32_t, token::Key>> KeyStore::Newest() const {
  absl::MutexLock lock(&mutex_);
  std::optional<std::pair<uint32_t, token::Key>> newest;
  for (const uint32_t key_id : keyring_.key_ids()) {
    if (!newest.has_value() || key_id > newest->first) newest = {key_id, *keyring_.Find(key_id)};
  }
  return newest;
}

std::vector<v1::SdsKey> KeyStore::All() const {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::SdsKey> keys;
  for (const uint32_t key_id : keyring_.key_ids()) {
    const token::Key* key = keyring_.Find(key_id);
    v1::SdsKey& entry = keys.emplace_back();
    entry.set_key_id(key_id);
    entry.set_key(key->data(), key->size());
  }
  return keys;
}

bool VerifyPlacementGroup(const KeyStore& keys, uint64_t sds_id,
                          const v1::SignedPlacementGroup& entry) {
  for (const v1::PlacementGroupSignature& signature : entry.signatures()) {
    if (signature.sds_id() != sds_id) continue;
    const std::optional<token::Key> key = keys.Find(signature.key_id());
    if (key.has_value() && token::VerifyMessage(*key, "map", entry.placement_group(),
                                                AsBytes(signature.signature()))) {
      return true;
    }
  }
  return false;
}

bool VerifyTicket(const KeyStore& keys, TicketPurpose purpose, const v1::LearningTicket& ticket) {
  const std::optional<token::Key> key = keys.Find(ticket.key_id());
  if (!key.has_value()) return false;
  std::string message;
  AppendLittleEndian(ticket.placement_group_id(), &message);
  AppendLittleEndian(ticket.epoch(), &message);
  AppendLittleEndian(ticket.learner_sds_id(), &message);
  AppendLittleEndian(ticket.expiry_ms(), &message);
  const char* label = purpose == TicketPurpose::kLearn ? "learn" : "repair";
  return token::VerifyMessage(*key, label, message, AsBytes(ticket.signature()));
}

std::optional<token::Key> MdmAuthenticator::KeyOf(uint64_t key_id) const {
  if (key_id != 0) return keys_->Find(static_cast<uint32_t>(key_id));
  const absl::StatusOr<std::string> secret = FromHex(node_secret_());
  token::Key key;
  if (!secret.ok() || secret->size() != key.size()) return std::nullopt;
  std::memcpy(key.data(), secret->data(), key.size());
  return key;
}

absl::StatusOr<Caller> MdmAuthenticator::Authenticate(std::string_view authorization) const {
  absl::StatusOr<BearerCredential> credential = ParseBearer(authorization);
  if (!credential.ok()) return credential.status();
  const absl::Status refused = absl::UnauthenticatedError(
      "only the MDM has credentials for this port: 'mdm.<key id>.<hex>'");
  if (credential->kind != "mdm" || credential->id > UINT32_MAX) return refused;
  const std::optional<token::Key> key = KeyOf(credential->id);
  const absl::StatusOr<std::string> proof = FromHex(credential->secret);
  if (!key.has_value() || !proof.ok() ||
      !token::VerifyMessage(*key, "control", absl::StrCat(sds_id_->load()), AsBytes(*proof))) {
    return refused;
  }
  Caller caller;
  caller.roles = {v1::ROLE_MDM};
  caller.name = "mdm";
  return caller;
}

}  // namespace tessera::sds
