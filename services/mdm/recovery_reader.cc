#include "services/mdm/recovery_reader.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libtoken/token.h"
#include "services/common/errors.h"
#include "services/common/grpc_server.h"
#include "services/common/status_macros.h"

namespace tessera::mdm {

bool IsGenuineEntry(const ClusterKeys& keys, uint64_t sds_id,
                    const v1::SignedPlacementGroup& entry) {
  bool signed_for_it = false;
  for (const v1::PlacementGroupSignature& signature : entry.signatures()) {
    if (signature.sds_id() != sds_id) continue;
    signed_for_it = true;
    const std::optional<token::Key> key = keys.SdsKey(signature.key_id(), sds_id);
    if (!key.has_value()) continue;
    const std::string& bytes = signature.signature();
    if (!token::VerifyMessage(*key, "map", entry.placement_group(),
                              {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()})) {
      return false;
    }
  }
  return signed_for_it;
}

absl::Status RecoveryReader::TakeEntry(const v1::SignedPlacementGroup& entry,
                                       ServerCopy* copy) const {
  v1::PlacementGroup group;
  if (!group.ParseFromString(entry.placement_group()) ||
      !IsGenuineEntry(*keys_, copy->identity.sds_id(), entry)) {
    return absl::DataLossError(
        absl::StrCat("server ", copy->identity.name(), ": its entry of placement group ",
                     group.placement_group_id(), " is not signed by this MDM"));
  }
  const uint64_t id = group.placement_group_id();
  copy->groups[id] = std::move(group);
  return absl::OkStatus();
}

absl::Status RecoveryReader::TakePiece(const v1::ReadClusterCopyResponse& piece,
                                       ServerCopy* copy) const {
  if (piece.has_identity()) {
    if (piece.identity().sds_id() != copy->identity.sds_id()) {
      return absl::FailedPreconditionError("it has become another server meanwhile");
    }
    copy->identity = piece.identity();
    copy->records_revision = piece.records_revision();
  }
  copy->devices.insert(copy->devices.end(), piece.devices().begin(), piece.devices().end());
  copy->pools.insert(copy->pools.end(), piece.pools().begin(), piece.pools().end());
  for (const v1::SignedPlacementGroup& entry : piece.placement_groups()) {
    TESSERA_RETURN_IF_ERROR(TakeEntry(entry, copy));
  }
  for (const v1::VolumeGeneration& lowest : piece.generations()) {
    copy->generations[lowest.volume_id()] = lowest.generation();
  }
  copy->deleted_vtree_ids.insert(piece.deleted_vtree_ids().begin(),
                                 piece.deleted_vtree_ids().end());
  for (const v1::SealedRecord& sealed : piece.records()) {
    absl::StatusOr<v1::ClusterRecord> record = keys_->OpenRecord(sealed);
    if (!record.ok()) {
      return Annotate(record.status(), absl::StrCat("server ", copy->identity.name()));
    }
    copy->records.push_back(*std::move(record));
  }
  copy->vtrees.insert(copy->vtrees.end(), piece.vtrees().begin(), piece.vtrees().end());
  return absl::OkStatus();
}

absl::StatusOr<ServerCopy> RecoveryReader::ReadOne(const std::string& address) const {
  const auto stub = v1::SdsControlService::NewStub(NewChannel(address, credentials_));
  ServerCopy copy;
  {
    grpc::ClientContext context;
    PrepareCall(&context, kIdentityTimeoutMillis, "");
    v1::GetServerIdentityResponse response;
    TESSERA_RETURN_IF_ERROR(FromGrpcStatus(
        stub->GetServerIdentity(&context, v1::GetServerIdentityRequest(), &response)));
    copy.identity = response.identity();
  }
  if (copy.identity.sds_id() == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("server ", copy.identity.name(), " has never been in a cluster"));
  }
  grpc::ClientContext context;
  PrepareCall(&context, kCopyTimeoutMillis,
              keys_->BearerForUnknownSds(copy.identity.sds_id(), copy.identity.node_uuid()));
  const auto reader = stub->ReadClusterCopy(&context, v1::ReadClusterCopyRequest());
  v1::ReadClusterCopyResponse piece;
  bool complete = false;
  absl::Status taken;
  while (taken.ok() && reader->Read(&piece)) {
    taken = TakePiece(piece, &copy);
    complete |= piece.complete();
  }
  if (!taken.ok()) context.TryCancel();
  const absl::Status ended = FromGrpcStatus(reader->Finish());
  TESSERA_RETURN_IF_ERROR(taken);
  if (absl::IsUnauthenticated(ended)) {
    return absl::DataLossError(absl::StrCat(
        "server ", copy.identity.name(), " of cluster ", copy.identity.cluster_uuid(),
        " does not accept this secrets.key: is it that cluster's, as of when it was lost?"));
  }
  TESSERA_RETURN_IF_ERROR(ended);
  if (!complete) {
    return absl::UnavailableError(
        absl::StrCat("server ", copy.identity.name(), " ended before its copy was whole"));
  }
  return copy;
}

absl::StatusOr<std::vector<ServerCopy>> RecoveryReader::ReadAll(
    const std::vector<std::string>& addresses) {
  std::deque<std::string> due(addresses.begin(), addresses.end());
  std::set<std::string> asked;
  std::set<uint64_t> known;
  std::vector<ServerCopy> copies;
  absl::Status last_error;
  while (!due.empty()) {
    const std::string address = due.front();
    due.pop_front();
    if (address.empty() || !asked.insert(address).second) continue;
    absl::StatusOr<ServerCopy> copy = ReadOne(address);
    if (!copy.ok()) {
      if (absl::IsDataLoss(copy.status())) return copy.status();
      last_error = copy.status();
      progress_(absl::StrCat(address, ": no answer (", std::string(last_error.message()), ")"));
      continue;
    }
    const v1::ServerIdentity& identity = copy->identity;
    progress_(absl::StrCat(address, ": server ", identity.name(), ", ", copy->groups.size(),
                           " placement groups, ", copy->records.size(), " records at revision ",
                           copy->records_revision));
    // The same server under two addresses.
    const bool twice = std::any_of(copies.begin(), copies.end(), [&](const ServerCopy& other) {
      return other.identity.node_uuid() == identity.node_uuid();
    });
    if (twice) continue;
    for (const v1::ClusterRecord& record : copy->records) {
      if (record.has_sds() && !known.contains(record.object_id())) {
        due.push_back(record.sds().endpoints().control());
      }
    }
    known.insert(identity.sds_id());
    copies.push_back(*std::move(copy));
  }
  if (copies.empty()) {
    return absl::UnavailableError(
        absl::StrCat("no server answers; the last error: ", std::string(last_error.message())));
  }
  return copies;
}

}  // namespace tessera::mdm
