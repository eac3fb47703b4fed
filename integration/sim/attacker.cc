#include "integration/sim/attacker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "integration/sim/coverage.h"
#include "integration/sim/sdc_node.h"
#include "integration/sim/sds_node.h"

namespace tessera::sim {

// Counts, by tag, how often a read was served.
class Attacker::Session final : public sds::IoClient {
 public:
  Session(std::shared_ptr<IoRequestFrame> sent, std::shared_ptr<std::map<uint64_t, int>> served)
      : sent_(std::move(sent)), served_(std::move(served)) {}
  void Deliver(IoResponseFrame frame) override {
    for (const v1::IoResult& result : frame.header.results()) {
      const auto& operations = sent_->header.operations();
      const auto operation =
          std::find_if(operations.begin(), operations.end(),
                       [&](const v1::IoOperation& o) { return o.tag() == result.tag(); });
      if (operation == operations.end() || operation->type() != v1::IO_OPERATION_TYPE_READ)
        continue;
      if (result.status() != v1::IO_STATUS_OK) {
        Hit(Coverage::kReplayRefused);
      } else if (++(*served_)[result.tag()] > 1) {
        World::Get().Violation(absl::StrCat("the token of a read works twice: grant ",
                                            operation->grant_id(), ", counter ",
                                            operation->counter()));
      }
    }
  }
  void Release(size_t) override {}
  void Break(const absl::Status&) override {}

 private:
  const std::shared_ptr<IoRequestFrame> sent_;
  const std::shared_ptr<std::map<uint64_t, int>> served_;
};

void Attacker::Saw(NodeId server, const grpc::ByteBuffer& message) {
  if (!armed_) return;
  auto frame = std::make_shared<IoRequestFrame>();
  if (!DecodeIoRequest(message, frame.get()).ok()) return;
  const auto& operations = frame->header.operations();
  if (std::none_of(operations.begin(), operations.end(), [](const v1::IoOperation& operation) {
        return operation.type() == v1::IO_OPERATION_TYPE_READ;
      })) {
    return;
  }
  armed_ = false;
  // What was shown on the stream before is known to who recorded it all.
  for (NodeId node = kFirstSdc; node < kFirstSdc + cluster_->client_count(); ++node) {
    if (cluster_->sdc(node) == nullptr) continue;
    for (const auto& volume : cluster_->sdc(node)->engine().Volumes()) {
      frame->header.add_grants(volume->grant().bytes);
    }
  }
  auto served = std::make_shared<std::map<uint64_t, int>>();
  const Life* life = cluster_->network().machine(server).life;
  for (int i = 0; i < 2; ++i) {
    const Nanos delay = World::Get().random().Chance(1, 2)
                            ? World::Get().random().Below(20 * kMillisecond)
                            : World::Get().random().Below(4 * kSecond);
    World::Get().After(delay, nullptr, [=, this] { Replay(server, life, frame, served); });
  }
}

void Attacker::Replay(NodeId server, const Life* life, const std::shared_ptr<IoRequestFrame>& frame,
                      const std::shared_ptr<std::map<uint64_t, int>>& served) {
  SdsNode* sds = cluster_->sds(server);
  if (sds == nullptr || sds->engine() == nullptr) return;
  if (cluster_->network().machine(server).life != life) return;
  Hit(Coverage::kReplayedMessage);
  sds::IoEngine* engine = sds->engine();
  const auto session = engine->NewSession(std::make_shared<Session>(frame, served), 0);
  const grpc::ByteBuffer message = EncodeIoRequest(*frame);
  engine->workers()[0]->Post(
      [engine, session, message] { engine->Submit(session, message, message.Length()); });
}

}  // namespace tessera::sim
