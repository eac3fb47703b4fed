// This server's keys under the cluster's secrets, replaced as a whole by registration and
// heartbeats.
//
// Threads: any.
#ifndef TESSERA_SERVICES_SDS_KEY_STORE_H_
#define TESSERA_SERVICES_SDS_KEY_STORE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "libtoken/token.h"
#include "services/common/auth.h"
#include "tessera/v1/discovery.pb.h"
#include "tessera/v1/placement.pb.h"

namespace tessera::sds {

class KeyStore {
 public:
  // Keys that are not in the list are forgotten; malformed ones are left out.
  void Replace(const google::protobuf::RepeatedPtrField<v1::SdsKey>& keys);
  [[nodiscard]] std::optional<token::Key> Find(uint32_t key_id) const;
  // The key with the highest id; nullopt before the first registration.
  [[nodiscard]] std::optional<std::pair<uint32_t, token::Key>> Newest() const;
  // All of them.
  [[nodiscard]] std::vector<v1::SdsKey> All() const;
  // Grows with every change.
  [[nodiscard]] uint64_t version() const { return version_.load(std::memory_order_acquire); }

 private:
  mutable absl::Mutex mutex_;
  token::SdsKeyring keyring_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> version_{0};
};

// True when the entry carries a signature for this server that is right.
[[nodiscard]] bool VerifyPlacementGroup(const KeyStore& keys, uint64_t sds_id,
                                        const v1::SignedPlacementGroup& entry);
// What the MDM has signed a ticket for.
enum class TicketPurpose { kLearn, kRepair };
// True when the ticket is the MDM's, for this server as source and this purpose. Its expiry is
// judged by the caller.
[[nodiscard]] bool VerifyTicket(const KeyStore& keys, TicketPurpose purpose,
                                const v1::LearningTicket& ticket);

// The MDM proves itself by `Bearer mdm.<key id>.<hex of HMAC(K_sds, "control" | "<sds id>")>`, or
// with key id 0 under the node's secret.
class MdmAuthenticator final : public Authenticator {
 public:
  // `sds_id` is 0 and `node_secret` (64 hex digits) empty until the server is registered. Both
  // pointers must outlive the authenticator.
  MdmAuthenticator(const KeyStore* keys, const std::atomic<uint64_t>* sds_id,
                   std::function<std::string()> node_secret)
      : keys_(keys), sds_id_(sds_id), node_secret_(std::move(node_secret)) {}
  [[nodiscard]] absl::StatusOr<Caller> Authenticate(std::string_view authorization) const override;

 private:
  [[nodiscard]] std::optional<token::Key> KeyOf(uint64_t key_id) const;

  const KeyStore* const keys_;
  const std::atomic<uint64_t>* const sds_id_;
  const std::function<std::string()> node_secret_;
};

}  // namespace tessera::sds

#endif  // TESSERA_SERVICES_SDS_KEY_STORE_H_
