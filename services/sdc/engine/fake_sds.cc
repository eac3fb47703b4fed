#include "services/sdc/engine/fake_sds.h"

#include <algorithm>
#include <span>

#include "absl/strings/str_cat.h"
#include "libtoken/base_path.h"
#include "services/common/crc32c.h"

namespace tessera::sdc {
namespace {

token::Operation TokenOperation(v1::IoOperationType type) {
  switch (type) {
    case v1::IO_OPERATION_TYPE_WRITE:
      return token::Operation::kWrite;
    case v1::IO_OPERATION_TYPE_WRITE_ZEROES:
      return token::Operation::kWriteZeroes;
    case v1::IO_OPERATION_TYPE_TRIM:
      return token::Operation::kTrim;
    case v1::IO_OPERATION_TYPE_ADOPT:
      return token::Operation::kAdopt;
    case v1::IO_OPERATION_TYPE_FLUSH:
      return token::Operation::kFlush;
    default:
      return token::Operation::kRead;
  }
}

bool IsWriteType(v1::IoOperationType type) {
  return type == v1::IO_OPERATION_TYPE_WRITE || type == v1::IO_OPERATION_TYPE_WRITE_ZEROES ||
         type == v1::IO_OPERATION_TYPE_TRIM || type == v1::IO_OPERATION_TYPE_ADOPT;
}

v1::IoResult Status(v1::IoStatus status) {
  v1::IoResult result;
  result.set_status(status);
  return result;
}

v1::IoResult Refused(v1::TokenRefusal refusal) {
  v1::IoResult result = Status(v1::IO_STATUS_TOKEN_REFUSED);
  result.set_refusal(refusal);
  return result;
}

}  // namespace

FakeSds::FakeSds(uint64_t sds_id, uint64_t device_id, const token::Key& cluster_secret,
                 uint32_t chunk_bytes)
    : sds_id_(sds_id),
      device_id_(device_id),
      sds_key_(token::DeriveSdsKey(cluster_secret, sds_id)),
      chunk_bytes_(chunk_bytes) {}

FakeSds::~FakeSds() { Stop(); }

void FakeSds::Start() {
  {
    absl::MutexLock lock(&mutex_);
    ++incarnation_;
    stopping_ = false;
    grants_.clear();
  }
  grpc::ServerBuilder builder;
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", port_), grpc::InsecureServerCredentials(),
                           &port_);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

void FakeSds::Stop() {
  if (server_ == nullptr) return;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (grpc::ServerContext* context : contexts_) context->TryCancel();
  }
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

void FakeSds::ReopenStore(bool lose) {
  absl::MutexLock lock(&mutex_);
  ++store_incarnation_;
  if (lose) store_ = flushed_;
}

void FakeSds::SetScript(Script script) {
  absl::MutexLock lock(&mutex_);
  script_ = std::move(script);
}

void FakeSds::Hold(bool held) {
  absl::MutexLock lock(&mutex_);
  held_ = held;
}

void FakeSds::SayTimes(const v1::StageTimes& times) {
  absl::MutexLock lock(&mutex_);
  times_ = times;
}

void FakeSds::Apply(const v1::PlacementGroup& entry) {
  absl::MutexLock lock(&mutex_);
  v1::PlacementGroup& known = entries_[entry.placement_group_id()];
  if (entry.epoch() > known.epoch()) known = entry;
}

void FakeSds::RaiseGeneration(uint64_t generation) {
  absl::MutexLock lock(&mutex_);
  lowest_generation_ = std::max(lowest_generation_, generation);
}

void FakeSds::CopyGroup(FakeSds& source, uint64_t placement_group_id,
                        const std::set<uint64_t>& chunks) {
  if (&source == this) return;
  Store copy;
  {
    absl::MutexLock lock(&source.mutex_);
    copy = source.store_;
  }
  absl::MutexLock lock(&mutex_);
  store_.cursors[placement_group_id] = copy.cursors[placement_group_id];
  for (const uint64_t chunk : chunks) {
    store_.chunks.erase(chunk);
    if (copy.chunks.contains(chunk)) store_.chunks[chunk] = copy.chunks[chunk];
  }
  flushed_ = store_;
}

v1::SdsAddress FakeSds::Address() const {
  absl::MutexLock lock(&mutex_);
  v1::SdsAddress address;
  address.set_sds_id(sds_id_);
  address.mutable_endpoints()->set_data(absl::StrCat("127.0.0.1:", port_));
  address.set_incarnation(incarnation_);
  return address;
}

size_t FakeSds::UnflushedWrites() const {
  absl::MutexLock lock(&mutex_);
  size_t groups = 0;
  for (const auto& [id, cursor] : store_.cursors) {
    const auto flushed = flushed_.cursors.find(id);
    groups += flushed == flushed_.cursors.end() ||
              flushed->second.generation != cursor.generation ||
              flushed->second.sequence != cursor.sequence;
  }
  return groups;
}

FakeSds::Counts FakeSds::counts() const {
  absl::MutexLock lock(&mutex_);
  return counts_;
}

std::multiset<uint64_t> FakeSds::Adopted() const {
  absl::MutexLock lock(&mutex_);
  return store_.adopted;
}

std::multiset<uint64_t> FakeSds::DurablyAdopted() const {
  absl::MutexLock lock(&mutex_);
  return flushed_.adopted;
}

std::string FakeSds::Chunk(uint64_t chunk_index) const {
  absl::MutexLock lock(&mutex_);
  const auto found = store_.chunks.find(chunk_index);
  return found == store_.chunks.end() ? std::string(chunk_bytes_, '\0') : found->second;
}

std::string& FakeSds::ChunkBytes(uint64_t chunk_index) {
  std::string& chunk = store_.chunks[chunk_index];
  chunk.resize(chunk_bytes_);
  return chunk;
}

std::optional<v1::IoResult> FakeSds::Refuse(const v1::IoOperation& operation,
                                            const std::string& data) {
  const auto shown = grants_.find(operation.grant_id());
  if (shown == grants_.end()) return Refused(v1::TOKEN_REFUSAL_NO_TOKEN);
  token::IoToken token;
  token.operation = TokenOperation(operation.type());
  token.grant_id = operation.grant_id();
  token.generation = operation.generation();
  token.placement_group_id = operation.placement_group_id();
  token.epoch = operation.epoch();
  token.counter = operation.counter();
  token.chunk_index = operation.chunk_index();
  token.snapshot_sequence = operation.snapshot_sequence();
  token.offset_bytes = operation.offset_bytes();
  token.length_bytes = operation.length_bytes();
  token.data_crc32c = operation.data_crc32c();
  token.sds_incarnation = operation.sds_incarnation();
  const auto* signature = reinterpret_cast<const uint8_t*>(operation.signature().data());
  if (!shown->second.key.Verify(token, {signature, operation.signature().size()})) {
    return Refused(v1::TOKEN_REFUSAL_BAD_SIGNATURE);
  }
  if (operation.sds_incarnation() != incarnation_) {
    return Refused(v1::TOKEN_REFUSAL_WRONG_INCARNATION);
  }
  if (operation.generation() < lowest_generation_) {
    v1::IoResult result = Status(v1::IO_STATUS_STALE_GENERATION);
    result.set_lowest_generation(lowest_generation_);
    return result;
  }
  if (operation.type() == v1::IO_OPERATION_TYPE_WRITE &&
      Crc32c(std::as_bytes(std::span(data))) != operation.data_crc32c()) {
    return Refused(v1::TOKEN_REFUSAL_DATA_MISMATCH);
  }
  if (!IsWriteType(operation.type()) &&
      !used_counters_
           .emplace(operation.grant_id() << 20 | operation.generation(), operation.counter())
           .second) {
    return Refused(v1::TOKEN_REFUSAL_REPLAYED);
  }
  const v1::PlacementGroup& entry = entries_[operation.placement_group_id()];
  if (operation.epoch() != entry.epoch()) {
    v1::IoResult result = Status(operation.epoch() < entry.epoch() ? v1::IO_STATUS_STALE_EPOCH
                                                                   : v1::IO_STATUS_UNKNOWN_EPOCH);
    result.set_current_epoch(entry.epoch());
    return result;
  }
  const bool member = std::any_of(
      entry.replicas().begin(), entry.replicas().end(), [&](const v1::Replica& replica) {
        return replica.device_id() == device_id_ && replica.role() != v1::REPLICA_ROLE_OUT_OF_SYNC;
      });
  if (member) return std::nullopt;
  v1::IoResult result = Status(v1::IO_STATUS_NOT_MEMBER);
  result.set_current_epoch(entry.epoch());
  return result;
}

v1::IoResult FakeSds::Write(const v1::IoOperation& operation, const std::string& data) {
  Cursor& cursor = store_.cursors[operation.placement_group_id()];
  const bool newer = operation.generation() > cursor.generation;
  const uint64_t expected = newer ? 1 : cursor.sequence + 1;
  if (!newer && operation.counter() < expected) {
    ++counts_.duplicates;
    return Status(v1::IO_STATUS_DUPLICATE);
  }
  if (operation.counter() != expected) {
    v1::IoResult result = Status(v1::IO_STATUS_SEQUENCE_GAP);
    result.set_expected_sequence(expected);
    return result;
  }
  cursor = {operation.generation(), operation.counter()};
  if (operation.type() == v1::IO_OPERATION_TYPE_ADOPT) {
    store_.adopted.insert(operation.chunk_index());
    return Status(v1::IO_STATUS_OK);
  }
  const std::string bytes = operation.type() == v1::IO_OPERATION_TYPE_WRITE
                                ? data
                                : std::string(operation.length_bytes(), '\0');
  ChunkBytes(operation.chunk_index()).replace(operation.offset_bytes(), bytes.size(), bytes);
  ++counts_.writes;
  if (operation.force_unit_access()) flushed_ = store_;
  return Status(v1::IO_STATUS_OK);
}

v1::IoResult FakeSds::Do(const v1::IoOperation& operation, const std::string& data,
                         std::string* payload) {
  if (script_ != nullptr) {
    if (std::optional<v1::IoResult> result = script_(operation)) return *std::move(result);
  }
  if (std::optional<v1::IoResult> refused = Refuse(operation, data)) {
    ++counts_.refused;
    return *std::move(refused);
  }
  if (IsWriteType(operation.type())) return Write(operation, data);
  v1::IoResult result = Status(v1::IO_STATUS_OK);
  switch (operation.type()) {
    case v1::IO_OPERATION_TYPE_FLUSH:
      ++counts_.flushes;
      flushed_ = store_;
      break;
    case v1::IO_OPERATION_TYPE_MAP: {
      v1::ChunkExtent* extent = result.add_extents();
      extent->set_length_bytes(operation.length_bytes());
      extent->set_mapped(store_.chunks.contains(operation.chunk_index()));
      break;
    }
    case v1::IO_OPERATION_TYPE_CHANGES: {
      // Its layers are none: what it has differs from any base, and is equal to itself.
      std::vector<token::PathPart> base;
      for (const auto& part : operation.base_path()) {
        base.push_back({part.branch(), part.ordinal_max()});
      }
      if (token::BasePathChecksum(base) != operation.data_crc32c()) {
        return Refused(v1::TOKEN_REFUSAL_DATA_MISMATCH);
      }
      v1::ChunkExtent* extent = result.add_extents();
      extent->set_length_bytes(operation.length_bytes());
      extent->set_mapped(store_.chunks.contains(operation.chunk_index()));
      extent->set_changed(extent->mapped() && (base.empty() || base[0].branch != 0));
      break;
    }
    case v1::IO_OPERATION_TYPE_POSITION: {
      const Cursor& cursor = store_.cursors[operation.placement_group_id()];
      const bool newer = operation.generation() > cursor.generation;
      result.set_expected_sequence(newer ? 1 : cursor.sequence + 1);
      break;
    }
    default: {
      ++counts_.reads;
      payload->append(ChunkBytes(operation.chunk_index()), operation.offset_bytes(),
                      operation.length_bytes());
      result.set_payload_bytes(operation.length_bytes());
      break;
    }
  }
  return result;
}

grpc::Status FakeSds::Io(grpc::ServerContext* context,
                         grpc::ServerReaderWriter<v1::IoResponse, v1::IoRequest>* stream) {
  v1::IoResponse hello;
  {
    absl::MutexLock lock(&mutex_);
    contexts_.insert(context);
    ++counts_.streams;
    hello.mutable_hello()->set_sds_id(sds_id_);
    hello.mutable_hello()->set_incarnation(incarnation_);
    hello.mutable_hello()->set_window_bytes(4 << 20);
  }
  stream->Write(hello);
  v1::IoRequest request;
  while (stream->Read(&request)) {
    v1::IoResponse response;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(
          +[](FakeSds* sds)
               ABSL_EXCLUSIVE_LOCKS_REQUIRED(sds->mutex_) { return !sds->held_ || sds->stopping_; },
          this));
      if (stopping_) break;
      ++counts_.messages;
      for (const std::string& bytes : request.grants()) {
        const auto grant = token::DecodeGrant(bytes);
        if (!grant.ok()) continue;
        grants_.insert_or_assign(grant->grant_id,
                                 Shown{*grant, token::GrantKey::Derive(sds_key_, bytes)});
      }
      for (const v1::SignedPlacementGroup& shown : request.placement_groups()) {
        v1::PlacementGroup entry;
        entry.ParseFromString(shown.placement_group());
        v1::PlacementGroup& known = entries_[entry.placement_group_id()];
        if (entry.epoch() > known.epoch()) known = entry;
      }
      size_t offset = 0;
      for (const v1::IoOperation& operation : request.operations()) {
        std::string data;
        if (operation.type() == v1::IO_OPERATION_TYPE_WRITE) {
          data = request.payload().substr(offset, operation.length_bytes());
          offset += operation.length_bytes();
        }
        v1::IoResult result = Do(operation, data, response.mutable_payload());
        result.set_tag(operation.tag());
        result.set_store_incarnation(store_incarnation_);
        *response.add_results() = std::move(result);
      }
      if (times_.has_value()) {
        *response.add_stages() = *times_;
        response.mutable_stages(0)->set_results(static_cast<uint32_t>(response.results_size()));
      }
    }
    if (!stream->Write(response)) break;
  }
  absl::MutexLock lock(&mutex_);
  contexts_.erase(context);
  return grpc::Status::OK;
}

}  // namespace tessera::sdc
