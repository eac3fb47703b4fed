// All machines and processes of one run, and how they are started and ended.
//
// Machines: 0 the MDM's, 1 to 7 the servers', 8 and on the clients'.
//
// Threads: one.
#ifndef TESSERA_INTEGRATION_SIM_CLUSTER_H_
#define TESSERA_INTEGRATION_SIM_CLUSTER_H_

#include <grpcpp/support/byte_buffer.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "integration/sim/network.h"
#include "integration/sim/options.h"
#include "integration/sim/sim_store.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::sim {

class MdmNode;
class SdsNode;
class SdcNode;
class Oracle;

inline constexpr NodeId kMdm = 0;
inline constexpr NodeId kFirstSds = 1;
inline constexpr NodeId kFirstSdc = 8;

// The machine of an address "sim:3"; kNodeLimit for another.
[[nodiscard]] NodeId NodeOf(const std::string& address);
[[nodiscard]] std::string AddressOf(NodeId node);

class Cluster {
 public:
  // `folder` is there, empty, and gone afterwards.
  Cluster(const RunOptions& options, std::string folder);
  static Cluster& Get();

  [[nodiscard]] Network& network() { return network_; }
  [[nodiscard]] Oracle& oracle() { return *oracle_; }
  [[nodiscard]] const RunOptions& options() const { return options_; }
  [[nodiscard]] uint32_t server_count() const { return options_.servers; }
  [[nodiscard]] uint32_t client_count() const { return options_.clients; }

  // What runs on the machine now; null: nothing.
  [[nodiscard]] MdmNode* mdm() { return mdm_; }
  [[nodiscard]] SdsNode* sds(NodeId node) { return sds_[node]; }
  [[nodiscard]] SdcNode* sdc(NodeId node) { return sdc_[node]; }
  [[nodiscard]] Disk& disk(NodeId node) { return disks_[node]; }
  // Null: not known, or not running.
  [[nodiscard]] SdsNode* FindSds(uint64_t sds_id);

  void StartMdm();
  void StartSds(NodeId node);
  void StartSdc(NodeId node);
  // kill -9: the kernel goes on, connections are reset.
  void Kill(NodeId node);
  // The machine is off until PowerOn; unsynced bytes may be lost, and memory is.
  void PowerOff(NodeId node);
  void PowerOn(NodeId node);
  [[nodiscard]] bool Runs(NodeId node) { return network_.machine(node).life != nullptr; }

  // Sees each message that a server takes.
  using Tap = std::function<void(NodeId client, NodeId server, const grpc::ByteBuffer& message)>;
  void SetTap(Tap tap) { tap_ = std::move(tap); }

  // Told of each flush that was answered OK.
  void SetFlushed(std::function<void()> flushed) { flushed_ = std::move(flushed); }
  void Flushed() const { flushed_(); }

  // The server on the machine is known by this id from now on.
  void NoteSdsId(NodeId node, uint64_t sds_id) { sds_ids_[node] = sds_id; }
  [[nodiscard]] uint64_t sds_id(NodeId node) const { return sds_ids_[node]; }

  // A call to the MDM, whichever life of it is there when the call arrives.
  template <typename Response>
  absl::StatusOr<Response> AskMdm(Nanos timeout,
                                  std::function<absl::Status(MdmNode&, Response*)> serve) {
    return network_.CallAndWait<Response>(
        kMdm, timeout, [this, serve = std::move(serve)](Response* r) { return Served(serve, r); });
  }
  template <typename Response>
  void AskMdmSoon(Nanos timeout, std::function<absl::Status(MdmNode&, Response*)> serve,
                  std::function<void(absl::StatusOr<Response>)> done) {
    network_.Call<Response>(
        kMdm, timeout, [this, serve = std::move(serve)](Response* r) { return Served(serve, r); },
        std::move(done));
  }

 private:
  template <typename Serve, typename Response>
  absl::Status Served(const Serve& serve, Response* response) {
    if (mdm_ == nullptr) return absl::UnavailableError("the MDM is starting");
    return serve(*mdm_, response);
  }
  Life* NewLife(NodeId node, const std::string& name);
  void End(NodeId node);

  const RunOptions options_;
  const std::string folder_;
  Network network_;
  std::unique_ptr<Oracle> oracle_;
  std::array<Disk, kNodeLimit> disks_;
  MdmNode* mdm_ = nullptr;  // of ended lives are never destroyed: see world.h
  std::array<SdsNode*, kNodeLimit> sds_{};
  std::array<SdcNode*, kNodeLimit> sdc_{};
  std::array<uint64_t, kNodeLimit> sds_ids_{};
  Tap tap_;
  std::function<void()> flushed_ = [] {};
};

}  // namespace tessera::sim

#endif  // TESSERA_INTEGRATION_SIM_CLUSTER_H_
