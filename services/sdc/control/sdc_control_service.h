// SdcControlService: attaching, and IO for those without an NBD client. Handlers validate, ask the
// loop, and map the outcome; IO goes through the same engine as NBD's.
//
// Threads: gRPC's and the dispatcher's.
#ifndef TESSERA_SERVICES_SDC_CONTROL_SDC_CONTROL_SERVICE_H_
#define TESSERA_SERVICES_SDC_CONTROL_SDC_CONTROL_SERVICE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/common/rpc.h"
#include "services/sdc/control/attachments.h"
#include "services/sdc/engine/io_engine.h"
#include "services/sdc/nbd/nbd_server.h"
#include "tessera/v1/sdc_control.grpc.pb.h"

namespace tessera::sdc {

class SdcControlServiceImpl final : public v1::SdcControlService::CallbackService {
 public:
  // All must outlive it. `nbd_uris` are listeners without an export name.
  SdcControlServiceImpl(RpcDispatcher& rpc, EventLoop& loop, IoEngine& engine,
                        const SharedVolumes& volumes, Attachments& attachments, MdmClient& mdm,
                        const NbdServer& nbd, std::vector<std::string> nbd_uris);

  grpc::ServerUnaryReactor* AttachVolume(grpc::CallbackServerContext* context,
                                         const v1::AttachVolumeRequest* request,
                                         v1::AttachVolumeResponse* response) override;
  grpc::ServerUnaryReactor* DetachVolume(grpc::CallbackServerContext* context,
                                         const v1::DetachVolumeRequest* request,
                                         v1::DetachVolumeResponse* response) override;
  grpc::ServerUnaryReactor* ListAttachments(grpc::CallbackServerContext* context,
                                            const v1::ListAttachmentsRequest* request,
                                            v1::ListAttachmentsResponse* response) override;
  grpc::ServerWriteReactor<v1::ReadVolumeResponse>* ReadVolume(
      grpc::CallbackServerContext* context, const v1::ReadVolumeRequest* request) override;
  grpc::ServerReadReactor<v1::WriteVolumeRequest>* WriteVolume(
      grpc::CallbackServerContext* context, v1::WriteVolumeResponse* response) override;
  grpc::ServerUnaryReactor* FlushVolume(grpc::CallbackServerContext* context,
                                        const v1::FlushVolumeRequest* request,
                                        v1::FlushVolumeResponse* response) override;
  grpc::ServerUnaryReactor* HoldWrites(grpc::CallbackServerContext* context,
                                       const v1::HoldWritesRequest* request,
                                       v1::HoldWritesResponse* response) override;
  grpc::ServerUnaryReactor* CutSnapshot(grpc::CallbackServerContext* context,
                                        const v1::CutSnapshotRequest* request,
                                        v1::CutSnapshotResponse* response) override;
  grpc::ServerUnaryReactor* ReleaseHold(grpc::CallbackServerContext* context,
                                        const v1::ReleaseHoldRequest* request,
                                        v1::ReleaseHoldResponse* response) override;
  grpc::ServerUnaryReactor* AdoptLayers(grpc::CallbackServerContext* context,
                                        const v1::AdoptLayersRequest* request,
                                        v1::AdoptLayersResponse* response) override;
  grpc::ServerUnaryReactor* ShrinkVolume(grpc::CallbackServerContext* context,
                                         const v1::ShrinkVolumeRequest* request,
                                         v1::ShrinkVolumeResponse* response) override;
  grpc::ServerUnaryReactor* YieldWriter(grpc::CallbackServerContext* context,
                                        const v1::YieldWriterRequest* request,
                                        v1::YieldWriterResponse* response) override;
  grpc::ServerWriteReactor<v1::ListChangedExtentsResponse>* ListChangedExtents(
      grpc::CallbackServerContext* context, const v1::ListChangedExtentsRequest* request) override;
  grpc::ServerUnaryReactor* ExplainVolumeLatency(
      grpc::CallbackServerContext* context, const v1::ExplainVolumeLatencyRequest* request,
      v1::ExplainVolumeLatencyResponse* response) override;

 private:
  using Device = std::shared_ptr<VolumeEngine>;

  [[nodiscard]] absl::Status Attach(const CallContext& call, const v1::AttachVolumeRequest& request,
                                    v1::AttachVolumeResponse* response);
  [[nodiscard]] absl::Status Detach(const CallContext& call,
                                    const v1::DetachVolumeRequest& request);
  [[nodiscard]] absl::Status Hold(const CallContext& call, const v1::HoldWritesRequest& request,
                                  v1::HoldWritesResponse* response);
  [[nodiscard]] absl::Status Cut(const CallContext& call, const v1::CutSnapshotRequest& request,
                                 v1::CutSnapshotResponse* response);
  [[nodiscard]] absl::Status Adopt(const CallContext& call, const v1::AdoptLayersRequest& request);
  [[nodiscard]] absl::Status Shrink(const CallContext& call,
                                    const v1::ShrinkVolumeRequest& request);
  [[nodiscard]] absl::Status Yield(const CallContext& call, const v1::YieldWriterRequest& request);
  [[nodiscard]] absl::Status Release(const CallContext& call,
                                     const v1::ReleaseHoldRequest& request);
  [[nodiscard]] absl::Status List(const CallContext& call, v1::ListAttachmentsResponse* response);
  [[nodiscard]] absl::Status Explain(const CallContext& call,
                                     const v1::ExplainVolumeLatencyRequest& request,
                                     v1::ExplainVolumeLatencyResponse* response);
  [[nodiscard]] absl::Status Read(const CallContext& call, const v1::ReadVolumeRequest& request,
                                  StreamWriter<v1::ReadVolumeResponse>& writer);
  [[nodiscard]] absl::Status Write(const CallContext& call,
                                   StreamReader<v1::WriteVolumeRequest>& reader,
                                   v1::WriteVolumeResponse* response);
  // What is offered, whoever writes it; the engine of what this client does IO for.
  [[nodiscard]] absl::StatusOr<SharedVolumes::Offer> FindOffer(const CallContext& call,
                                                               uint64_t volume_id,
                                                               const std::string& name);
  [[nodiscard]] absl::Status ListChanges(const CallContext& call,
                                         const v1::ListChangedExtentsRequest& request,
                                         StreamWriter<v1::ListChangedExtentsResponse>& writer);
  // Null: compared with nothing. `base` is what the MDM says of it.
  [[nodiscard]] absl::StatusOr<std::shared_ptr<const ComparisonBase>> FindBase(
      const CallContext& call, const v1::ListChangedExtentsRequest& request, const Device& device,
      v1::Volume* base);
  [[nodiscard]] absl::Status CheckBaseStays(const CallContext& call, const v1::Volume& base);
  [[nodiscard]] absl::StatusOr<v1::Volume> AskForVolume(const CallContext& call,
                                                        const v1::GetVolumeRequest& which);
  [[nodiscard]] absl::StatusOr<Device> Find(const CallContext& call, uint64_t volume_id,
                                            const std::string& name);
  [[nodiscard]] absl::StatusOr<BlockReply> Submit(const CallContext& call,
                                                  const SharedVolumes::Offer& offer,
                                                  BlockRequest request);
  void FillAttachment(const SharedVolumes::Offer& offer, v1::Attachment* attachment) const;
  [[nodiscard]] std::vector<std::string> UrisOf(const std::string& volume_name) const;

  RpcDispatcher& rpc_;
  EventLoop& loop_;
  IoEngine& engine_;
  const SharedVolumes& volumes_;
  Attachments& attachments_;
  MdmClient& mdm_;
  const NbdServer& nbd_;
  const std::vector<std::string> nbd_uris_;
};

// "nbd://host:port/name", "nbd+unix:///name?socket=/path" for a listener and an export.
[[nodiscard]] std::string ExportUri(const std::string& listener_uri, const std::string& name);
// The status for an errno of BlockReply.
[[nodiscard]] absl::Status FromBlockError(int error, const std::string& message);

}  // namespace tessera::sdc

#endif  // TESSERA_SERVICES_SDC_CONTROL_SDC_CONTROL_SERVICE_H_
