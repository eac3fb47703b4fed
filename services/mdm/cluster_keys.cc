#include "services/mdm/cluster_keys.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/auth.h"
#include "services/common/status_macros.h"

namespace tessera::mdm {
namespace {

std::string_view AsText(const token::Key& key) {
  return {reinterpret_cast<const char*>(key.data()), key.size()};
}

token::Key NewKey() {
  token::Key key;
  token::RandomBytes(key);
  return key;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ClusterKeys>> ClusterKeys::Open(const std::string& path,
                                                               bool must_exist) {
  absl::StatusOr<token::KeyFile> file = token::LoadKeyFile(path);
  if (absl::IsNotFound(file.status())) {
    if (must_exist) {
      return absl::FailedPreconditionError(
          absl::StrCat(path,
                       " is missing, but mdm.db has nodes that were registered under it: "
                       "restore both from the same backup"));
    }
    token::KeyFile fresh;
    fresh.active_key_id = 1;
    fresh.keys = {{1, NewKey()}, {kRootKeyId, NewKey()}};
    TESSERA_RETURN_IF_ERROR(token::SaveKeyFile(path, fresh));
    file = fresh;
  }
  TESSERA_RETURN_IF_ERROR(file.status());
  const bool has_root = std::any_of(file->keys.begin(), file->keys.end(),
                                    [](const auto& entry) { return entry.first == kRootKeyId; });
  if (!has_root || file->active_key_id == kRootKeyId) {
    return absl::DataLossError(absl::StrCat(path, " is not an MDM's key file"));
  }
  return std::unique_ptr<ClusterKeys>(new ClusterKeys(path, *file));
}

ClusterKeys::ClusterKeys(std::string path, const token::KeyFile& file)
    : path_(std::move(path)), file_(file) {}

uint32_t ClusterKeys::active_key_id() const {
  absl::MutexLock lock(&mutex_);
  return file_.active_key_id;
}

std::vector<uint32_t> ClusterKeys::key_ids() const {
  absl::MutexLock lock(&mutex_);
  std::vector<uint32_t> ids;
  for (const auto& [id, key] : file_.keys) {
    if (id != kRootKeyId) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::optional<token::Key> ClusterKeys::FindLocked(uint32_t key_id) const {
  for (const auto& [id, key] : file_.keys) {
    if (id == key_id) return key;
  }
  return std::nullopt;
}

std::optional<token::Key> ClusterKeys::ClusterSecret(uint32_t key_id) const {
  if (key_id == kRootKeyId) return std::nullopt;
  absl::MutexLock lock(&mutex_);
  return FindLocked(key_id);
}

std::optional<token::Key> ClusterKeys::SdsKey(uint32_t key_id, uint64_t sds_id) const {
  const std::optional<token::Key> secret = ClusterSecret(key_id);
  if (!secret.has_value()) return std::nullopt;
  return token::DeriveSdsKey(*secret, sds_id);
}

std::vector<v1::SdsKey> ClusterKeys::KeysToDeliver(uint64_t sds_id) {
  std::vector<v1::SdsKey> keys;
  std::set<uint32_t> ids;
  for (uint32_t key_id : key_ids()) {
    const std::optional<token::Key> key = SdsKey(key_id, sds_id);
    if (!key.has_value()) continue;
    v1::SdsKey& entry = keys.emplace_back();
    entry.set_key_id(key_id);
    entry.set_key(std::string(AsText(*key)));
    ids.insert(key_id);
  }
  absl::MutexLock lock(&mutex_);
  sent_[sds_id] = std::move(ids);
  return keys;
}

void ClusterKeys::HeardFrom(uint64_t sds_id) {
  absl::MutexLock lock(&mutex_);
  if (const auto sent = sent_.find(sds_id); sent != sent_.end()) known_[sds_id] = sent->second;
}

uint32_t ClusterKeys::SigningKeyFor(const std::vector<uint64_t>& sds_ids) const {
  const std::vector<uint32_t> ids = key_ids();
  absl::MutexLock lock(&mutex_);
  uint32_t newest_known_by_all = 0;
  for (uint32_t key_id : ids) {
    const bool all = std::all_of(sds_ids.begin(), sds_ids.end(), [&](uint64_t sds_id) {
      mutex_.AssertHeld();
      const auto known = known_.find(sds_id);
      return known != known_.end() && known->second.contains(key_id);
    });
    if (all && key_id <= file_.active_key_id) newest_known_by_all = key_id;
  }
  // Nothing is known of some server: the oldest key is the one that it is most likely to have.
  return newest_known_by_all != 0 ? newest_known_by_all : ids.front();
}

absl::Status ClusterKeys::SaveLocked(const token::KeyFile& file) {
  TESSERA_RETURN_IF_ERROR(token::SaveKeyFile(path_, file));
  file_ = file;
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> ClusterKeys::Rotate() {
  absl::MutexLock lock(&mutex_);
  token::KeyFile next = file_;
  // Ids only grow: the active one is the highest there ever was, since it can't be revoked.
  next.active_key_id = file_.active_key_id + 1;
  next.keys.emplace_back(next.active_key_id, NewKey());
  TESSERA_RETURN_IF_ERROR(SaveLocked(next));
  return next.active_key_id;
}

absl::Status ClusterKeys::Revoke(uint32_t key_id) {
  absl::MutexLock lock(&mutex_);
  if (key_id == kRootKeyId || !FindLocked(key_id).has_value()) {
    return absl::NotFoundError(absl::StrCat("there is no cluster secret ", key_id));
  }
  if (key_id == file_.active_key_id) {
    return absl::FailedPreconditionError(
        absl::StrCat("cluster secret ", key_id, " is the active one: rotate first"));
  }
  token::KeyFile next = file_;
  std::erase_if(next.keys, [&](const auto& entry) { return entry.first == key_id; });
  return SaveLocked(next);
}

std::string ClusterKeys::NodeSecret(const std::string& kind, uint64_t id,
                                    const std::string& uuid) const {
  absl::MutexLock lock(&mutex_);
  const token::Key root = *FindLocked(kRootKeyId);
  return ToHex(
      AsText(token::SignMessage(root, "node secret", absl::StrCat(kind, ":", id, ":", uuid))));
}

std::string ClusterKeys::BearerForSds(uint64_t sds_id) const {
  const uint32_t key_id = SigningKeyFor({sds_id});
  const std::optional<token::Key> key = SdsKey(key_id, sds_id);
  if (!key.has_value()) return "";
  return FormatBearer(
      {"mdm", key_id, ToHex(AsText(token::SignMessage(*key, "control", absl::StrCat(sds_id))))});
}

std::string ClusterKeys::BearerByNodeSecret(const std::string& kind, uint64_t id,
                                            const std::string& uuid, uint64_t shown_id) const {
  const absl::StatusOr<std::string> secret = FromHex(NodeSecret(kind, id, uuid));
  token::Key key{};
  if (!secret.ok() || secret->size() != key.size()) return "";
  std::copy(secret->begin(), secret->end(), key.begin());
  return FormatBearer(
      {"mdm", shown_id, ToHex(AsText(token::SignMessage(key, "control", absl::StrCat(id))))});
}

std::string ClusterKeys::BearerForSdc(uint64_t sdc_id, const std::string& uuid) const {
  return BearerByNodeSecret("sdc", sdc_id, uuid, sdc_id);
}

std::string ClusterKeys::BearerForUnknownSds(uint64_t sds_id, const std::string& uuid) const {
  return BearerByNodeSecret("sds", sds_id, uuid, 0);
}

v1::SealedRecord ClusterKeys::SealRecord(const v1::ClusterRecord& record) const {
  v1::SealedRecord sealed;
  sealed.set_kind(record.kind());
  sealed.set_object_id(record.object_id());
  sealed.set_gone(record.content_case() == v1::ClusterRecord::CONTENT_NOT_SET);
  sealed.set_record(record.SerializeAsString());
  absl::MutexLock lock(&mutex_);
  const token::Key root = *FindLocked(kRootKeyId);
  sealed.set_seal(std::string(AsText(token::SignMessage(root, "record", sealed.record()))));
  return sealed;
}

absl::StatusOr<v1::ClusterRecord> ClusterKeys::OpenRecord(const v1::SealedRecord& sealed) const {
  bool genuine = false;
  {
    absl::MutexLock lock(&mutex_);
    const token::Key root = *FindLocked(kRootKeyId);
    genuine = token::VerifyMessage(
        root, "record", sealed.record(),
        {reinterpret_cast<const uint8_t*>(sealed.seal().data()), sealed.seal().size()});
  }
  v1::ClusterRecord record;
  if (!genuine || !record.ParseFromString(sealed.record()) || record.kind() != sealed.kind() ||
      record.object_id() != sealed.object_id()) {
    return absl::DataLossError(
        absl::StrCat("the record of ", v1::ClusterRecordKind_Name(sealed.kind()), " ",
                     sealed.object_id(), " does not carry this cluster's seal"));
  }
  return record;
}

v1::SignedPlacementGroup ClusterKeys::SignGroup(const v1::PlacementGroup& group,
                                                const std::set<uint64_t>& also) const {
  v1::SignedPlacementGroup result;
  result.set_placement_group(group.SerializeAsString());
  const std::vector<uint32_t> ids = key_ids();
  std::set<uint64_t> servers = also;
  for (const v1::Replica& replica : group.replicas()) servers.insert(replica.sds_id());
  for (uint64_t sds_id : servers) {
    for (uint32_t key_id : ids) {
      const std::optional<token::Key> key = SdsKey(key_id, sds_id);
      if (!key.has_value()) continue;
      v1::PlacementGroupSignature* signature = result.add_signatures();
      signature->set_sds_id(sds_id);
      signature->set_key_id(key_id);
      signature->set_signature(
          std::string(AsText(token::SignMessage(*key, "map", result.placement_group()))));
    }
  }
  return result;
}

}  // namespace tessera::mdm
