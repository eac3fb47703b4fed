// Shared volumes: a client that writes, with scripted servers behind it, clients that forward to
// it, and one that forwards to a writer that does as it is told.
#include "services/sdc/forward/shared_volume.h"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <deque>
#include <set>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "services/common/forward_ticket.h"
#include "services/sdc/engine/test_cluster.h"
#include "services/sdc/forward/forward_service.h"
#include "services/sdc/forward/shared_volumes.h"

namespace tessera::sdc {
namespace {

constexpr char kSecret[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
constexpr uint64_t kWriter = 1;
constexpr uint64_t kSender = 2;
constexpr uint64_t kExpiry = 5'000'000;

// What a client asks of the MDM. From any thread.
class FakeHost final : public SharedVolume::Host {
 public:
  void TargetNeeded(uint64_t, uint64_t unreachable_generation) override {
    absl::MutexLock lock(&mutex_);
    asked_.push_back(unreachable_generation);
  }
  void GrantDoubted(uint64_t) override { ++doubts; }
  bool AwaitAsked(uint64_t generation) {
    const auto asked = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return std::count(asked_.begin(), asked_.end(), generation) > 0;
    };
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&asked), absl::FromChrono(kPatience));
  }
  size_t asked() {
    absl::MutexLock lock(&mutex_);
    return asked_.size();
  }
  std::atomic<int> doubts{0};

 private:
  absl::Mutex mutex_;
  std::vector<uint64_t> asked_ ABSL_GUARDED_BY(mutex_);
};

// A request that ends some time.
struct Pending {
  absl::Notification done;
  BlockReply reply;
  bool Ended() { return done.WaitForNotificationWithTimeout(absl::FromChrono(kPatience)); }
};

v1::ForwardHello HelloOf(uint64_t generation, const std::string& secret = kSecret,
                         uint64_t expiry_ms = kExpiry) {
  v1::ForwardHello hello;
  hello.set_volume_id(7);
  hello.set_generation(generation);
  hello.set_sdc_id(kSender);
  hello.set_expiry_ms(expiry_ms);
  hello.set_ticket(SignForwardTicket(secret, {7, generation, kWriter, kSender, expiry_ms}));
  return hello;
}

// The writer's client and one that forwards, on one loop.
class Pair {
 public:
  Pair() {
    cluster.OnLoop([this] {
      volumes = std::make_unique<SharedVolumes>(*cluster.engine);
      other = std::make_unique<IoEngine>(cluster.loop(), TestCluster::PatientOptions(), nullptr);
      streams =
          std::make_unique<ForwardStreams>(cluster.loop(), grpc::InsecureChannelCredentials());
      writer = std::make_shared<SharedVolume>(cluster.loop(), *cluster.engine, *streams,
                                              writer_host, 7, "test");
      writer->Adopt(cluster.engine->FindVolume(7));
      volumes->Add(writer);
      sender =
          std::make_shared<SharedVolume>(cluster.loop(), *other, *streams, sender_host, 7, "test");
    });
    service = std::make_unique<ForwardService>(
        cluster.loop(), *volumes,
        [this] {
          return ForwardIdentity{kWriter, kSecret, mdm_ms.load()};
        },
        [this](uint64_t) { ++meant; });
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service.get());
    server = builder.BuildAndStart();
    address = absl::StrCat("127.0.0.1:", port);
  }
  ~Pair() {
    service->Stop();
    server->Shutdown(std::chrono::system_clock::now());
    server->Wait();
    cluster.OnLoop([this] {
      volumes->Remove(7);
      sender.reset();
      writer.reset();
      other.reset();
    });
    streams.reset();
  }

  v1::ForwardTarget Target(uint64_t generation, const std::string& at) const {
    v1::ForwardTarget target;
    target.set_sdc_id(kWriter);
    target.mutable_endpoints()->set_control(at);
    target.set_generation(generation);
    target.set_expiry_ms(kExpiry);
    target.set_ticket(HelloOf(generation).ticket());
    target.set_volume_size_bytes(kVolumeBytes);
    target.set_chunk_bytes(kChunkBytes);
    return target;
  }
  void Send(uint64_t generation = 1) { SendTo(generation, address); }
  void SendTo(uint64_t generation, const std::string& at) {
    cluster.OnLoop([&] { sender->SetTarget(Target(generation, at), kSender); });
  }
  // The writer gets a grant of the next generation.
  void NextGeneration() {
    cluster.RaiseGeneration();
    cluster.OnLoop([this] { writer->SetGrant(cluster.MakeGrant()); });
  }

  std::shared_ptr<Pending> Start(const std::shared_ptr<SharedVolume>& device,
                                 BlockRequest request) {
    auto pending = std::make_shared<Pending>();  // shared with the request
    request.done = [pending](BlockReply reply) {
      pending->reply = std::move(reply);
      pending->done.Notify();
    };
    cluster.OnLoop([&] { device->Submit(std::move(request)); });
    return pending;
  }
  BlockReply Do(const std::shared_ptr<SharedVolume>& device, BlockRequest request) {
    const auto pending = Start(device, std::move(request));
    REQUIRE(pending->Ended());
    return pending->reply;
  }
  int Write(const std::shared_ptr<SharedVolume>& device, uint64_t offset,
            const std::string& bytes) {
    return Do(device, TestCluster::WriteRequest(offset, bytes)).error;
  }
  std::string Read(const std::shared_ptr<SharedVolume>& device, uint64_t offset, uint64_t length) {
    const BlockReply reply = Do(device, TestCluster::Simple(Command::kRead, offset, length));
    REQUIRE(reply.error == 0);
    return TestCluster::Text(reply.data);
  }
  std::shared_ptr<LossCursor> Open(const std::shared_ptr<SharedVolume>& device) {
    std::shared_ptr<LossCursor> cursor;
    cluster.OnLoop([&] { cursor = device->OpenCursor(); });
    return cursor;
  }
  int Flush(const std::shared_ptr<SharedVolume>& device,
            const std::shared_ptr<LossCursor>& cursor = nullptr) {
    BlockRequest flush = TestCluster::Simple(Command::kFlush);
    flush.client = cursor;
    return Do(device, std::move(flush)).error;
  }
  std::shared_ptr<std::pair<absl::Notification, absl::Status>> Yield(uint64_t generation,
                                                                     EventLoop::Duration longest) {
    auto yielded = std::make_shared<std::pair<absl::Notification, absl::Status>>();
    cluster.OnLoop([&] {
      writer->Yield(generation, longest, [yielded](absl::Status status) {
        yielded->second = std::move(status);
        yielded->first.Notify();
      });
    });
    return yielded;
  }
  void Hold(bool held) {
    for (auto& sds : cluster.servers) sds->Hold(held);
  }
  uint64_t InFlightAtEngine() {
    uint64_t count = 0;
    cluster.OnLoop([&] { count = cluster.engine->FindVolume(7)->stats().in_flight.Get(); });
    return count;
  }
  bool AwaitInFlight(uint64_t count) {
    for (int i = 0; i < 2'000; ++i) {
      if (InFlightAtEngine() == count) return true;
      cluster.PassTime(std::chrono::milliseconds(5));
    }
    return false;
  }

  TestCluster cluster{2};
  std::atomic<uint64_t> mdm_ms{1'000'000};
  std::atomic<int> meant{0};
  FakeHost writer_host;
  FakeHost sender_host;
  std::unique_ptr<SharedVolumes> volumes;
  std::unique_ptr<IoEngine> other;
  std::unique_ptr<ForwardStreams> streams;
  std::shared_ptr<SharedVolume> writer;
  std::shared_ptr<SharedVolume> sender;
  std::unique_ptr<ForwardService> service;
  std::unique_ptr<grpc::Server> server;
  std::string address;
};

// A writer that keeps what it gets, and answers when it is told.
class FakeWriter final : public v1::ForwardService::Service {
 public:
  FakeWriter() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address = absl::StrCat("127.0.0.1:", port);
  }
  ~FakeWriter() override {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }
  grpc::Status Forward(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::ForwardResponse, v1::ForwardRequest>* stream) override {
    {
      absl::MutexLock lock(&mutex_);
      ++streams_;
      contexts_.insert(context);
    }
    v1::ForwardRequest request;
    while (stream->Read(&request)) {
      absl::MutexLock lock(&mutex_);
      const bool plain = request.tag() == 0;
      if (!plain) requests_.push_back(request);
      if (request.has_hello() && opening_) {
        v1::ForwardResponse response;
        response.set_window_bytes(window_bytes);
        stream->Write(response);
      } else if (plain && !request.has_hello() && request.connection_id() == 0 && !silent) {
        stream->Write(v1::ForwardResponse());
      }
      stream_ = stream;
    }
    absl::MutexLock lock(&mutex_);
    contexts_.erase(context);
    stream_ = nullptr;
    return grpc::Status::OK;
  }
  // Requests so far, over all streams.
  std::vector<v1::ForwardRequest> Await(size_t count) {
    const auto there = [&]()
                           ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return requests_.size() >= count; };
    absl::MutexLock lock(&mutex_);
    REQUIRE(mutex_.AwaitWithTimeout(absl::Condition(&there), absl::FromChrono(kPatience)));
    return requests_;
  }
  size_t count() {
    absl::MutexLock lock(&mutex_);
    return requests_.size();
  }
  int streams() {
    absl::MutexLock lock(&mutex_);
    return streams_;
  }
  void Answer(const v1::ForwardResponse& response) {
    absl::MutexLock lock(&mutex_);
    REQUIRE(stream_ != nullptr);
    stream_->Write(response);
  }
  void Answer(uint64_t tag) {
    v1::ForwardResponse response;
    response.set_tag(tag);
    Answer(response);
  }
  void BreakStreams() {
    absl::MutexLock lock(&mutex_);
    for (grpc::ServerContext* context : contexts_) context->TryCancel();
  }

  std::string address;
  std::atomic<bool> opening_{true};
  std::atomic<bool> silent{false};
  std::atomic<uint64_t> window_bytes{1 << 20};

 private:
  std::unique_ptr<grpc::Server> server_;
  absl::Mutex mutex_;
  int streams_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<v1::ForwardRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::set<grpc::ServerContext*> contexts_ ABSL_GUARDED_BY(mutex_);
  grpc::ServerReaderWriter<v1::ForwardResponse, v1::ForwardRequest>* stream_
      ABSL_GUARDED_BY(mutex_) = nullptr;
};

TEST_CASE("a client that forwards reads and writes what the writer does") {
  Pair pair;
  pair.Send();
  const std::string text = Pattern(1, 5'000);
  REQUIRE(pair.Write(pair.sender, 100, text) == 0);  // unaligned, over a chunk's end it is not
  CHECK(pair.Read(pair.writer, 100, text.size()) == text);
  REQUIRE(pair.Write(pair.writer, 600, "writer") == 0);
  CHECK(pair.Read(pair.sender, 598, 10) == text.substr(498, 2) + "writer" + text.substr(506, 2));
  REQUIRE(pair.Do(pair.sender, TestCluster::Simple(Command::kWriteZeroes, 601, 2)).error == 0);
  CHECK(pair.Read(pair.writer, 600, 6) == std::string("w\0\0ter", 6));
  REQUIRE(pair.Do(pair.sender, TestCluster::Simple(Command::kTrim, 1024, 512)).error == 0);
  CHECK(pair.Read(pair.writer, 1024, 512) == std::string(512, '\0'));
  CHECK(pair.Flush(pair.sender) == 0);
  CHECK(pair.cluster.servers[0]->UnflushedWrites() == 0);
  const BlockReply status =
      pair.Do(pair.sender, TestCluster::Simple(Command::kBlockStatus, 0, kVolumeBytes));
  REQUIRE(status.error == 0);
  REQUIRE_FALSE(status.extents.empty());
  CHECK_FALSE(status.extents.front().hole);
  CHECK(pair.Do(pair.sender, TestCluster::Simple(Command::kCache, 0, 4096)).error == 0);
  // Past the end: that request alone.
  CHECK(pair.Do(pair.sender, TestCluster::Simple(Command::kRead, kVolumeBytes, 1)).error == EINVAL);
  const std::string all = Pattern(2, kVolumeBytes);
  REQUIRE(pair.Write(pair.sender, 0, all) == 0);
  CHECK(pair.Read(pair.sender, 0, kVolumeBytes) == all);
  CHECK(pair.sender->info().size_bytes == kVolumeBytes);
  CHECK(pair.sender->stats().errors.Get() == 1);
}

TEST_CASE("only the MDM's ticket for this writer opens a stream") {
  Pair pair;
  const auto stub = v1::ForwardService::NewStub(
      grpc::CreateChannel(pair.address, grpc::InsecureChannelCredentials()));
  const auto greet = [&](const v1::ForwardRequest& request, v1::ForwardResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    const auto stream = stub->Forward(&context);
    stream->Write(request);
    if (stream->Read(response)) {
      if (response->window_bytes() > 0) return grpc::StatusCode::OK;
      v1::ForwardResponse more;
      while (stream->Read(&more)) continue;
    }
    return stream->Finish().error_code();
  };
  v1::ForwardRequest request;
  v1::ForwardResponse response;
  const auto with = [&](v1::ForwardHello hello) {
    *request.mutable_hello() = std::move(hello);
    response.Clear();
    return greet(request, &response);
  };
  CHECK(with(HelloOf(1)) == grpc::StatusCode::OK);
  CHECK(response.window_bytes() == ForwardService::kWindowBytes);
  CHECK(with(HelloOf(1, std::string(64, 'a'))) == grpc::StatusCode::PERMISSION_DENIED);
  v1::ForwardHello altered = HelloOf(1);
  altered.set_sdc_id(kSender + 1);
  CHECK(with(altered) == grpc::StatusCode::PERMISSION_DENIED);
  altered = HelloOf(1);
  altered.clear_ticket();
  CHECK(with(altered) == grpc::StatusCode::PERMISSION_DENIED);
  CHECK(with(HelloOf(1, kSecret, pair.mdm_ms - 1)) == grpc::StatusCode::PERMISSION_DENIED);
  // A good one of another generation: not the writer. A later one says that it is meant to be.
  CHECK(pair.meant == 0);
  CHECK(with(HelloOf(2)) == grpc::StatusCode::OK);
  CHECK(response.not_writer());
  CHECK(pair.meant == 1);
  pair.NextGeneration();
  CHECK(with(HelloOf(1)) == grpc::StatusCode::OK);
  CHECK(response.not_writer());
  CHECK(pair.meant == 1);
  request.Clear();
  request.set_tag(1);
  request.set_command(v1::FORWARD_COMMAND_READ);
  CHECK(greet(request, &response) == grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_CASE("what was not answered under a generation is done under the next") {
  Pair pair;
  pair.Send();
  REQUIRE(pair.Write(pair.sender, 0, "first") == 0);
  pair.Hold(true);
  const auto own = pair.Start(pair.writer, TestCluster::WriteRequest(0, std::string(512, 'o')));
  const auto sent = pair.Start(pair.sender, TestCluster::WriteRequest(4096, std::string(512, 's')));
  REQUIRE(pair.AwaitInFlight(2));
  pair.NextGeneration();
  pair.Hold(false);
  REQUIRE(own->Ended());
  CHECK(own->reply.error == 0);
  // The other one hears that this is no writer of its generation, and asks.
  REQUIRE(pair.sender_host.AwaitAsked(0));
  CHECK_FALSE(sent->done.HasBeenNotified());
  pair.Send(2);
  REQUIRE(sent->Ended());
  CHECK(sent->reply.error == 0);
  CHECK(pair.Read(pair.sender, 0, 512) == std::string(512, 'o'));
  CHECK(pair.Read(pair.writer, 4096, 512) == std::string(512, 's'));
}

TEST_CASE("what a client sent under an old generation dies with it") {
  Pair pair;
  pair.Send();
  REQUIRE(pair.Write(pair.sender, 4096, std::string(512, 'x')) == 0);
  pair.Hold(true);
  const auto sent = pair.Start(pair.sender, TestCluster::WriteRequest(4096, std::string(512, 's')));
  REQUIRE(pair.AwaitInFlight(1));
  // It is unmapped meanwhile: no ticket of the next generation. The servers had not taken it.
  pair.NextGeneration();
  pair.Hold(false);
  CHECK(pair.Flush(pair.writer) == 0);
  CHECK(pair.Read(pair.writer, 4096, 512) == std::string(512, 'x'));
  CHECK_FALSE(sent->done.HasBeenNotified());
}

TEST_CASE("yielding finishes what there is, and holds what comes") {
  Pair pair;
  pair.Send();
  REQUIRE(pair.Write(pair.sender, 0, "first") == 0);
  CHECK(pair.Yield(2, std::chrono::seconds(10))->second.code() ==
        absl::StatusCode::kFailedPrecondition);
  pair.Hold(true);
  const auto before = pair.Start(pair.sender, TestCluster::WriteRequest(0, std::string(512, 'b')));
  REQUIRE(pair.AwaitInFlight(1));
  const auto yielded = pair.Yield(1, std::chrono::seconds(20));
  CHECK(pair.Yield(1, std::chrono::seconds(1))->second.code() == absl::StatusCode::kAborted);
  const auto own = pair.Start(pair.writer, TestCluster::WriteRequest(512, std::string(512, 'o')));
  const auto sent = pair.Start(pair.sender, TestCluster::WriteRequest(512, std::string(512, 's')));
  pair.cluster.PassTime(std::chrono::milliseconds(100));
  CHECK_FALSE(yielded->first.HasBeenNotified());
  CHECK(pair.InFlightAtEngine() == 1);
  pair.Hold(false);
  REQUIRE(before->Ended());
  REQUIRE(yielded->first.WaitForNotificationWithTimeout(absl::FromChrono(kPatience)));
  CHECK(yielded->second.ok());
  CHECK(pair.cluster.servers[0]->UnflushedWrites() == 0);
  pair.cluster.PassTime(std::chrono::milliseconds(100));
  CHECK_FALSE(own->done.HasBeenNotified());
  CHECK_FALSE(sent->done.HasBeenNotified());
  // It gets it back.
  pair.NextGeneration();
  REQUIRE(own->Ended());
  CHECK(own->reply.error == 0);
  pair.Send(2);
  REQUIRE(sent->Ended());
  CHECK(sent->reply.error == 0);
}

TEST_CASE("a writer that nobody relieves goes on by itself") {
  Pair pair;
  pair.Send();
  const auto yielded = pair.Yield(1, std::chrono::milliseconds(300));
  REQUIRE(yielded->first.WaitForNotificationWithTimeout(absl::FromChrono(kPatience)));
  CHECK(yielded->second.ok());
  CHECK(pair.writer_host.doubts == 0);
  CHECK(pair.Write(pair.sender, 0, "later") == 0);
  CHECK(pair.Write(pair.writer, 0, "later") == 0);
  CHECK(pair.writer_host.doubts == 1);

  // And one that does not get done in time.
  pair.Hold(true);
  const auto stuck = pair.Start(pair.sender, TestCluster::WriteRequest(0, "stuck"));
  REQUIRE(pair.AwaitInFlight(1));
  const auto late = pair.Yield(1, std::chrono::milliseconds(200));
  REQUIRE(late->first.WaitForNotificationWithTimeout(absl::FromChrono(kPatience)));
  CHECK(late->second.code() == absl::StatusCode::kDeadlineExceeded);
  const auto next = pair.Start(pair.writer, TestCluster::WriteRequest(4096, "next"));
  REQUIRE(pair.AwaitInFlight(2));
  pair.Hold(false);
  CHECK(stuck->Ended());
  CHECK(next->Ended());
}

TEST_CASE("a client's new stream waits for what its old one has under way") {
  Pair pair;
  pair.Send();
  REQUIRE(pair.Write(pair.sender, 0, "first") == 0);
  pair.Hold(true);
  const auto sent = pair.Start(pair.sender, TestCluster::WriteRequest(0, std::string(512, 's')));
  REQUIRE(pair.AwaitInFlight(1));
  // Another stream of the same client, as after a broken connection.
  const auto stub = v1::ForwardService::NewStub(
      grpc::CreateChannel(pair.address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto stream = stub->Forward(&context);
  v1::ForwardRequest request;
  *request.mutable_hello() = HelloOf(1);
  stream->Write(request);
  request.Clear();
  request.set_tag(1);
  request.set_command(v1::FORWARD_COMMAND_WRITE);
  request.set_length_bytes(512);
  request.set_data(std::string(512, 'n'));
  stream->Write(request);
  request.Clear();
  stream->Write(request);
  v1::ForwardResponse response;
  REQUIRE(stream->Read(&response));
  CHECK(response.window_bytes() > 0);
  // It is there, though.
  REQUIRE(stream->Read(&response));
  CHECK(response.tag() == 0);
  CHECK(pair.InFlightAtEngine() == 1);
  pair.Hold(false);
  REQUIRE(stream->Read(&response));
  CHECK(response.tag() == 1);
  CHECK(response.error() == 0);
  context.TryCancel();
  while (stream->Read(&response)) continue;
  (void)stream->Finish();
  // Whose newer stream that was, the older one heard that it is over, and comes again.
  REQUIRE(sent->Ended());
  CHECK(sent->reply.error == 0);
}

TEST_CASE("a sender hears that the writer is there while its window is full, and not beyond") {
  Pair pair;
  const auto stub = v1::ForwardService::NewStub(
      grpc::CreateChannel(pair.address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  const auto stream = stub->Forward(&context);
  v1::ForwardRequest request;
  *request.mutable_hello() = HelloOf(1);
  stream->Write(request);
  v1::ForwardResponse response;
  REQUIRE(stream->Read(&response));
  pair.Hold(true);
  uint64_t tag = 0;
  const auto write = [&](int count) {
    request.Clear();
    request.set_command(v1::FORWARD_COMMAND_WRITE);
    request.set_length_bytes(kVolumeBytes);
    request.set_data(std::string(kVolumeBytes, 'w'));
    for (int i = 0; i < count; ++i) {
      request.set_tag(++tag);
      stream->Write(request);
    }
    request.Clear();
    stream->Write(request);
  };
  constexpr int kWindow = static_cast<int>(ForwardService::kWindowBytes / kVolumeBytes);
  write(kWindow);
  REQUIRE(stream->Read(&response));
  CHECK(response.tag() == 0);
  CHECK(pair.InFlightAtEngine() == kWindow);
  // What does not keep to the window stays in the network.
  std::thread flood([&] { write(5 * kWindow); });
  pair.cluster.PassTime(std::chrono::milliseconds(300));
  CHECK(pair.InFlightAtEngine() < 4 * kWindow);
  pair.Hold(false);
  int answered = 0;
  while (answered < 6 * kWindow + 1) {
    if (!stream->Read(&response)) break;
    CHECK(response.error() == 0);
    ++answered;
  }
  flood.join();
  CHECK(answered == 6 * kWindow + 1);
  context.TryCancel();
  while (stream->Read(&response)) continue;
  (void)stream->Finish();
}

TEST_CASE("requests are sent again in their order, and before newer ones") {
  Pair pair;
  FakeWriter writer;
  pair.SendTo(1, writer.address);
  std::vector<std::shared_ptr<Pending>> pending;
  for (uint64_t i = 0; i < 5; ++i) {
    pending.push_back(
        pair.Start(pair.sender, TestCluster::WriteRequest(i * 512, std::string(512, 'a'))));
  }
  auto seen = writer.Await(5);
  writer.Answer(seen[1].tag());
  REQUIRE(pending[1]->Ended());
  // The newer one comes while there is no writer.
  writer.opening_ = false;
  writer.BreakStreams();
  pending.push_back(pair.Start(pair.sender, TestCluster::WriteRequest(0, std::string(512, 'b'))));
  writer.opening_ = true;
  seen = writer.Await(10);
  CHECK(writer.streams() >= 2);
  const std::vector<uint64_t> order = {seen[0].tag(), seen[2].tag(), seen[3].tag(), seen[4].tag()};
  for (size_t i = 0; i < 4; ++i) {
    CHECK(seen[5 + i].tag() == order[i]);
    CHECK(seen[5 + i].data() == std::string(512, 'a'));
  }
  CHECK(seen[9].data() == std::string(512, 'b'));
  for (size_t i = 5; i < 10; ++i) writer.Answer(seen[i].tag());
  for (const auto& request : pending) {
    REQUIRE(request->Ended());
    CHECK(request->reply.error == 0);
  }
  CHECK(pair.sender->WaitingFor().empty());
}

TEST_CASE("no more is sent than the writer has room for") {
  Pair pair;
  FakeWriter writer;
  writer.window_bytes = 3 * (4096 + kForwardRequestBytes);
  pair.SendTo(1, writer.address);
  std::vector<std::shared_ptr<Pending>> pending;
  for (uint64_t i = 0; i < 10; ++i) {
    pending.push_back(
        pair.Start(pair.sender, TestCluster::WriteRequest(i * 4096, std::string(4096, 'w'))));
  }
  for (size_t answered = 0; answered < 10; ++answered) {
    const auto seen = writer.Await(std::min<size_t>(10, answered + 3));
    pair.cluster.PassTime(std::chrono::milliseconds(20));
    CHECK(writer.count() == std::min<size_t>(10, answered + 3));
    writer.Answer(seen[answered].tag());
  }
  for (const auto& request : pending) REQUIRE(request->Ended());
  // One that is larger than the window goes alone.
  const auto large =
      pair.Start(pair.sender, TestCluster::WriteRequest(0, std::string(64 << 10, 'l')));
  const auto seen = writer.Await(11);
  writer.Answer(seen[10].tag());
  REQUIRE(large->Ended());
}

TEST_CASE("a writer that says nothing is told of to the MDM, one that is slow is not") {
  Pair pair;
  FakeWriter writer;
  pair.SendTo(4, writer.address);
  const auto slow = pair.Start(pair.sender, TestCluster::WriteRequest(0, "slow"));
  (void)writer.Await(1);
  pair.cluster.PassTime(SharedVolume::kSilence + std::chrono::milliseconds(500));
  CHECK(pair.sender_host.asked() == 0);
  writer.silent = true;
  writer.opening_ = false;
  REQUIRE(pair.sender_host.AwaitAsked(4));
  CHECK_FALSE(slow->done.HasBeenNotified());
  // Another one has the right.
  FakeWriter next;
  pair.SendTo(5, next.address);
  const auto seen = next.Await(1);
  CHECK(seen[0].data() == "slow");
  next.Answer(seen[0].tag());
  REQUIRE(slow->Ended());
  CHECK(slow->reply.error == 0);
}

TEST_CASE("every connection hears once of a loss that the writer of before knew of") {
  Pair pair;
  FakeWriter writer;
  pair.SendTo(1, writer.address);
  const auto first = pair.Open(pair.sender);
  const auto second = pair.Open(pair.sender);
  const auto write = pair.Start(pair.sender, TestCluster::WriteRequest(0, "text"));
  writer.Answer(writer.Await(1)[0].tag());
  REQUIRE(write->Ended());
  v1::ForwardResponse response;
  response.set_not_writer(true);
  response.set_error(EIO);
  writer.Answer(response);
  REQUIRE(pair.sender_host.AwaitAsked(0));
  pair.Send(1);  // to the one that has servers: a target of the same generation, elsewhere
  pair.NextGeneration();
  pair.Send(2);
  CHECK(pair.Flush(pair.sender, first) == EIO);
  CHECK(pair.Flush(pair.sender, first) == 0);
  CHECK(pair.Flush(pair.sender, second) == EIO);
  CHECK(pair.Flush(pair.sender, second) == 0);
  CHECK(pair.Flush(pair.sender, pair.Open(pair.sender)) == 0);
}

TEST_CASE("a client whose writer becomes another sends it what it held itself") {
  Pair pair;
  FakeWriter next;
  const auto yielded = pair.Yield(1, std::chrono::seconds(20));
  REQUIRE(yielded->first.WaitForNotificationWithTimeout(absl::FromChrono(kPatience)));
  const auto held = pair.Start(pair.writer, TestCluster::WriteRequest(0, "held"));
  pair.cluster.OnLoop([&] {
    v1::ForwardTarget target = pair.Target(2, next.address);
    target.set_sdc_id(9);
    pair.writer->SetTarget(target, kWriter);
  });
  const auto seen = next.Await(1);
  CHECK(seen[0].data() == "held");
  next.Answer(seen[0].tag());
  REQUIRE(held->Ended());
  pair.cluster.OnLoop([&] {
    CHECK(pair.writer->forwarded_to() == 9);
    CHECK(pair.cluster.engine->FindVolume(7) == nullptr);
    CHECK(pair.volumes->Find("test") == pair.writer);
  });
}

TEST_CASE("an orderly end finishes and flushes, a forced one answers at once") {
  Pair pair;
  pair.Send();
  REQUIRE(pair.Write(pair.sender, 0, "text") == 0);
  CHECK(pair.cluster.servers[0]->UnflushedWrites() > 0);
  const auto detach = [&](const std::shared_ptr<SharedVolume>& volume, bool drop) {
    auto done = std::make_shared<absl::Notification>();
    pair.cluster.OnLoop([&] { volume->Detach(drop, [done] { done->Notify(); }); });
    return done;
  };
  const auto sender_gone = detach(pair.sender, false);
  REQUIRE(sender_gone->WaitForNotificationWithTimeout(absl::FromChrono(kPatience)));
  CHECK(pair.cluster.servers[0]->UnflushedWrites() == 0);
  CHECK(pair.Do(pair.sender, TestCluster::Simple(Command::kFlush)).error == ESHUTDOWN);
  pair.Hold(true);
  const auto stuck = pair.Start(pair.writer, TestCluster::WriteRequest(0, "stuck"));
  REQUIRE(pair.AwaitInFlight(1));
  const auto waiting = detach(pair.writer, false);
  pair.cluster.PassTime(std::chrono::milliseconds(50));
  CHECK_FALSE(stuck->done.HasBeenNotified());
  const auto gone = detach(pair.writer, true);
  REQUIRE(stuck->Ended());
  CHECK(stuck->reply.error == ESHUTDOWN);
  REQUIRE(gone->WaitForNotificationWithTimeout(absl::FromChrono(kPatience)));
  pair.Hold(false);
}

}  // namespace
}  // namespace tessera::sdc
