// A stream of ForwardService to the client that writes a shared volume.
//
// gRPC's threads only hand over to the loop. A channel must not lose its last reference in one of
// their callbacks, so ended streams are kept by ForwardStreams until the loop, or its destructor,
// lets go of them.
//
// Threads: loop thread, but for the callbacks of gRPC.
#ifndef TESSERA_SERVICES_SDC_FORWARD_FORWARD_STREAM_H_
#define TESSERA_SERVICES_SDC_FORWARD_FORWARD_STREAM_H_

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/sdc/event_loop.h"
#include "tessera/v1/forward.grpc.pb.h"

namespace tessera::sdc {

class ForwardStreams;

class ForwardStream final : public grpc::ClientBidiReactor<v1::ForwardRequest, v1::ForwardResponse>,
                            public std::enable_shared_from_this<ForwardStream> {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void StreamReceived(v1::ForwardResponse response) = 0;
    // Nothing more comes, and nothing more is sent.
    virtual void StreamEnded(const std::string& why) = 0;
  };

  ForwardStream(ForwardStreams& streams, Listener* listener)
      : streams_(streams), listener_(listener) {}

  // In the order of the calls; bounded by the window of the one that receives.
  void Write(v1::ForwardRequest request);
  // The listener hears nothing more.
  void Close();

 private:
  friend class ForwardStreams;
  void Start(const std::string& address,
             const std::shared_ptr<grpc::ChannelCredentials>& credentials);
  void WriteNext();
  void Ended(const std::string& why);
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  ForwardStreams& streams_;
  Listener* listener_;
  std::shared_ptr<ForwardStream> self_;  // from Start until OnDone
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ForwardService::Stub> stub_;
  grpc::ClientContext context_;
  v1::ForwardResponse incoming_;
  std::deque<v1::ForwardRequest> writes_;  // the first is on its way while writing_
  bool writing_ = false;
  bool held_ = false;  // gRPC waits for us before OnDone
};

class ForwardStreams {
 public:
  // `loop` must outlive it.
  ForwardStreams(EventLoop& loop, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : loop_(loop), credentials_(std::move(credentials)) {}
  // Waits for the streams, which must have been closed.
  ~ForwardStreams();

  [[nodiscard]] std::shared_ptr<ForwardStream> Open(const std::string& address,
                                                    ForwardStream::Listener* listener);

 private:
  friend class ForwardStream;
  struct Ended {
    absl::Mutex mutex;
    size_t running ABSL_GUARDED_BY(mutex) = 0;
    std::vector<std::shared_ptr<ForwardStream>> streams ABSL_GUARDED_BY(mutex);
    void LetGo();
  };
  void Over(std::shared_ptr<ForwardStream> stream);

  EventLoop& loop_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;     // shared with all channels
  const std::shared_ptr<Ended> ended_ = std::make_shared<Ended>();  // shared with tasks of the loop
};

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_FORWARD_FORWARD_STREAM_H_
