#include "services/sdc/forward/forward_service.h"

#include <cerrno>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/common/errors.h"
#include "services/common/forward_ticket.h"
#include "services/common/logging.h"
#include "services/sdc/forward/forward_peer.h"

namespace tessera::sdc {
namespace {

constexpr uint64_t kDataBytesMax = 32 << 20;  // of one request: NBD's
// A sender that keeps to its window is never held up, also when one request alone is larger: it
// must hear that this client is there. Of one that does not, no more is read.
constexpr uint64_t kPauseBytes = ForwardService::kWindowBytes + kDataBytesMax;
constexpr size_t kConnectionsMax = 4096;  // of one stream
constexpr uint32_t kHole = 1;             // NBD's base:allocation
constexpr uint32_t kZero = 2;

bool CommandOf(v1::ForwardCommand from, Command* command) {
  switch (from) {
    case v1::FORWARD_COMMAND_READ:
      *command = Command::kRead;
      return true;
    case v1::FORWARD_COMMAND_WRITE:
      *command = Command::kWrite;
      return true;
    case v1::FORWARD_COMMAND_WRITE_ZEROES:
      *command = Command::kWriteZeroes;
      return true;
    case v1::FORWARD_COMMAND_TRIM:
      *command = Command::kTrim;
      return true;
    case v1::FORWARD_COMMAND_FLUSH:
      *command = Command::kFlush;
      return true;
    case v1::FORWARD_COMMAND_BLOCK_STATUS:
      *command = Command::kBlockStatus;
      return true;
    default:
      return false;
  }
}

}  // namespace

class ForwardService::Session final
    : public grpc::ServerBidiReactor<v1::ForwardRequest, v1::ForwardResponse>,
      public ForwardPeer,
      public std::enable_shared_from_this<Session> {
 public:
  explicit Session(ForwardService& service) : service_(service) {}

  void Begin() {
    self_ = shared_from_this();
    Read();
  }
  // From any thread; once counts.
  void End(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(finished_, true)) return;
    Finish(ToGrpcStatus(status));
  }

  // ForwardPeer.
  uint64_t sdc_id() const override { return sdc_id_; }
  void Answer(uint64_t tag, BlockReply reply) override;
  void NotWriter(bool losses) override;
  std::vector<std::shared_ptr<LossCursor>> cursors() const override {
    std::vector<std::shared_ptr<LossCursor>> all;
    for (const auto& [id, cursor] : cursors_) all.push_back(cursor);
    return all;
  }

 private:
  void Read() {
    absl::MutexLock lock(&mutex_);
    if (!finished_) StartRead(&incoming_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      End(absl::CancelledError("the sender is gone"));
      service_.loop_.Post([self = shared_from_this()] { self->Gone(); });
      return;
    }
    service_.loop_.Post([self = shared_from_this()] { self->Received(); });
  }
  void OnWriteDone(bool ok) override {
    service_.loop_.Post([self = shared_from_this(), ok] { self->Written(ok); });
  }
  void OnCancel() override {
    End(absl::CancelledError("cancelled by the sender"));
    service_.loop_.Post([self = shared_from_this()] { self->Gone(); });
  }
  void OnDone() override {
    service_.Ended(this);
    const std::shared_ptr<Session> last = std::move(self_);
  }

  void Received();
  // Error: the stream ends with it.
  [[nodiscard]] absl::Status Hello(const v1::ForwardHello& hello);
  [[nodiscard]] absl::Status Take(v1::ForwardRequest request);
  [[nodiscard]] std::shared_ptr<LossCursor> CursorOf(uint64_t connection_id);
  void Refuse(uint64_t tag, int error, std::string message);
  void Send(v1::ForwardResponse response);
  void Written(bool ok);
  void WriteNext();
  void ReadOn();
  // Nobody is there to answer to any more.
  void Gone();

  ForwardService& service_;
  std::shared_ptr<Session> self_;  // until OnDone
  v1::ForwardRequest incoming_;
  absl::Mutex mutex_;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;

  // Loop thread.
  // Not kept alive by us: it may go while gRPC still has the stream.
  std::weak_ptr<SharedVolume> volume_;
  bool greeted_ = false;
  uint64_t sdc_id_ = 0;
  uint64_t volume_id_ = 0;
  uint64_t generation_ = 0;
  bool ending_ = false;  // with what is queued
  bool gone_ = false;
  std::map<uint64_t, std::shared_ptr<LossCursor>> cursors_;  // by connection
  std::map<uint64_t, uint64_t> in_flight_;                   // what each request counts for, by tag
  uint64_t in_flight_bytes_ = 0;
  bool reading_paused_ = false;
  std::deque<v1::ForwardResponse> writes_;
  bool writing_ = false;
};

void ForwardService::Session::Received() {
  if (gone_ || ending_) return;
  v1::ForwardRequest request = std::move(incoming_);
  incoming_.Clear();
  const absl::Status taken = Take(std::move(request));
  if (!taken.ok()) {
    LogWarning("a stream of another client ends", {{"sdc", sdc_id_}, {"why", taken}});
    End(taken);
    return Gone();
  }
  if (in_flight_bytes_ > kPauseBytes) {
    reading_paused_ = true;
  } else {
    Read();
  }
}

absl::Status ForwardService::Session::Hello(const v1::ForwardHello& hello) {
  if (absl::Status known = service_.CheckHello(hello); !known.ok()) return known;
  if (greeted_) {
    const bool same = hello.volume_id() == volume_id_ && hello.sdc_id() == sdc_id_ &&
                      hello.generation() == generation_;
    return same
               ? absl::OkStatus()
               : InvalidField("hello", "is of another volume, client or generation than the first");
  }
  sdc_id_ = hello.sdc_id();
  volume_id_ = hello.volume_id();
  generation_ = hello.generation();
  const std::shared_ptr<SharedVolume> volume = service_.volumes_.FindShared(volume_id_);
  if (volume == nullptr || !volume->Serves(generation_)) {
    NotWriter(false);
    if (volume != nullptr && volume->generation() + (volume->engine() != nullptr) <= generation_) {
      service_.meant_(volume_id_);
    }
    return absl::OkStatus();
  }
  greeted_ = true;
  volume_ = volume;
  volume->AddPeer(shared_from_this());
  v1::ForwardResponse response;
  response.set_window_bytes(kWindowBytes);
  Send(std::move(response));
  return absl::OkStatus();
}

absl::Status ForwardService::Session::Take(v1::ForwardRequest request) {
  if (request.has_hello()) {
    if (absl::Status status = Hello(request.hello()); !status.ok()) return status;
  }
  if (ending_) return absl::OkStatus();
  const std::shared_ptr<SharedVolume> volume = volume_.lock();
  if (volume == nullptr) return InvalidField("hello", "is missing in the first message");
  const uint64_t connection_id = request.connection_id();
  const std::shared_ptr<LossCursor> cursor = CursorOf(connection_id);
  if (connection_id != 0 && cursor == nullptr) {
    return absl::ResourceExhaustedError("more connections than one stream may have");
  }
  if (request.connection_closed()) {
    if (cursor != nullptr) cursor->closed = true;
    cursors_.erase(connection_id);
  }
  const uint64_t tag = request.tag();
  if (tag == 0) {
    // Somebody wants to know whether we are there.
    if (!request.has_hello() && connection_id == 0) Send(v1::ForwardResponse());
    return absl::OkStatus();
  }
  BlockRequest block;
  if (!CommandOf(request.command(), &block.command)) {
    return InvalidField("command", absl::StrCat(request.command(), " is none that is known"));
  }
  const bool data = block.command == Command::kRead || block.command == Command::kWrite;
  const uint64_t charge = kForwardRequestBytes + (data ? request.length_bytes() : 0);
  if (data && request.length_bytes() > kDataBytesMax) {
    Refuse(tag, EINVAL, absl::StrCat("more than ", kDataBytesMax, " bytes in one request"));
    return absl::OkStatus();
  }
  if (!in_flight_.emplace(tag, charge).second) {
    return InvalidField("tag", absl::StrCat(tag, " is in use"));
  }
  in_flight_bytes_ += charge;
  block.offset_bytes = request.offset_bytes();
  block.length_bytes = request.length_bytes();
  block.force_unit_access = request.force_unit_access();
  block.no_hole = request.no_hole();
  block.client = cursor;
  if (block.command == Command::kWrite) {
    auto bytes = std::make_shared<const std::string>(std::move(*request.mutable_data()));
    block.data.pieces.push_back(std::as_bytes(std::span(*bytes)));
    block.data.owner = std::move(bytes);
  }
  volume->SubmitFor(this, tag, std::move(block));
  return absl::OkStatus();
}

std::shared_ptr<LossCursor> ForwardService::Session::CursorOf(uint64_t connection_id) {
  if (connection_id == 0) return nullptr;
  const auto found = cursors_.find(connection_id);
  if (found != cursors_.end()) return found->second;
  if (cursors_.size() >= kConnectionsMax) return nullptr;
  auto cursor = std::make_shared<LossCursor>();
  if (const auto volume = volume_.lock()) volume->AdoptCursor(cursor);
  cursors_.emplace(connection_id, cursor);
  return cursor;
}

void ForwardService::Session::Refuse(uint64_t tag, int error, std::string message) {
  v1::ForwardResponse response;
  response.set_tag(tag);
  response.set_error(static_cast<uint32_t>(error));
  response.set_message(std::move(message));
  Send(std::move(response));
}

void ForwardService::Session::Answer(uint64_t tag, BlockReply reply) {
  const auto found = in_flight_.find(tag);
  if (found == in_flight_.end()) return;
  in_flight_bytes_ -= found->second;
  in_flight_.erase(found);
  v1::ForwardResponse response;
  response.set_tag(tag);
  response.set_error(static_cast<uint32_t>(reply.error));
  response.set_message(std::move(reply.message));
  for (const StatusExtent& extent : reply.extents) {
    v1::ForwardExtent* to = response.add_extents();
    to->set_length_bytes(extent.length_bytes);
    to->set_flags((extent.hole ? kHole : 0) | (extent.zero ? kZero : 0));
  }
  std::string* data = response.mutable_data();
  data->reserve(reply.data.size_bytes());
  for (const auto piece : reply.data.pieces) {
    data->append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  Send(std::move(response));
  ReadOn();
}

void ForwardService::Session::ReadOn() {
  if (!reading_paused_ || in_flight_bytes_ > kPauseBytes || gone_ || ending_) return;
  reading_paused_ = false;
  Read();
}

void ForwardService::Session::NotWriter(bool losses) {
  v1::ForwardResponse response;
  response.set_not_writer(true);
  if (losses) response.set_error(EIO);
  Send(std::move(response));
  ending_ = true;
  if (!writing_) WriteNext();
}

void ForwardService::Session::Send(v1::ForwardResponse response) {
  if (gone_ || ending_) return;
  writes_.push_back(std::move(response));
  if (!writing_) WriteNext();
}

void ForwardService::Session::WriteNext() {
  if (writes_.empty()) {
    if (ending_) End(absl::OkStatus());
    return;
  }
  absl::MutexLock lock(&mutex_);
  if (finished_) return;
  writing_ = true;
  StartWrite(&writes_.front());
}

void ForwardService::Session::Written(bool ok) {
  writing_ = false;
  writes_.pop_front();
  if (ok) WriteNext();
}

void ForwardService::Session::Gone() {
  if (std::exchange(gone_, true)) return;
  for (const auto& [id, cursor] : cursors_) cursor->closed = true;
  if (const auto volume = volume_.lock()) volume->RemovePeer(this);
}

ForwardService::ForwardService(EventLoop& loop, const SharedVolumes& volumes,
                               std::function<ForwardIdentity()> identity,
                               std::function<void(uint64_t)> meant)
    : loop_(loop), volumes_(volumes), identity_(std::move(identity)), meant_(std::move(meant)) {}

ForwardService::~ForwardService() = default;

grpc::ServerBidiReactor<v1::ForwardRequest, v1::ForwardResponse>* ForwardService::Forward(
    grpc::CallbackServerContext*) {
  auto session = std::make_shared<Session>(*this);
  Session* const begun = session.get();
  bool stopped = false;
  {
    absl::MutexLock lock(&mutex_);
    stopped = stopped_;
    sessions_.insert(begun);
  }
  begun->Begin();
  if (stopped) begun->End(absl::UnavailableError("the client is stopping"));
  return begun;
}

void ForwardService::Ended(Session* session) {
  absl::MutexLock lock(&mutex_);
  sessions_.erase(session);
}

void ForwardService::Stop() {
  std::vector<std::shared_ptr<Session>> sessions;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    for (Session* session : sessions_) sessions.push_back(session->shared_from_this());
  }
  for (const auto& session : sessions)
    session->End(absl::UnavailableError("the client is stopping"));
}

absl::Status ForwardService::CheckHello(const v1::ForwardHello& hello) const {
  const ForwardIdentity identity = identity_();
  ForwardTicket ticket;
  ticket.volume_id = hello.volume_id();
  ticket.generation = hello.generation();
  ticket.writer_sdc_id = identity.sdc_id;
  ticket.sender_sdc_id = hello.sdc_id();
  ticket.expiry_ms = hello.expiry_ms();
  if (identity.sdc_id == 0 || hello.sdc_id() == 0 ||
      !VerifyForwardTicket(identity.node_secret, ticket, hello.ticket())) {
    return absl::PermissionDeniedError("the ticket is not the MDM's for this client");
  }
  if (identity.earliest_mdm_ms > hello.expiry_ms()) {
    return absl::PermissionDeniedError("the ticket ran out");
  }
  return absl::OkStatus();
}

}  // namespace tessera::sdc
