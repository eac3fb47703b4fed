#include "services/common/forward_ticket.h"

#include <algorithm>
#include <optional>

#include "libtoken/token.h"
#include "services/common/auth.h"

namespace tessera {
namespace {

constexpr char kPurpose[] = "forward";

void AppendLittleEndian(uint64_t value, std::string* bytes) {
  for (int i = 0; i < 8; ++i) bytes->push_back(static_cast<char>(value >> (8 * i)));
}

std::string MessageOf(const ForwardTicket& ticket) {
  std::string bytes;
  AppendLittleEndian(ticket.volume_id, &bytes);
  AppendLittleEndian(ticket.generation, &bytes);
  AppendLittleEndian(ticket.writer_sdc_id, &bytes);
  AppendLittleEndian(ticket.sender_sdc_id, &bytes);
  AppendLittleEndian(ticket.expiry_ms, &bytes);
  return bytes;
}

std::optional<token::Key> KeyOf(const std::string& node_secret) {
  const absl::StatusOr<std::string> secret = FromHex(node_secret);
  token::Key key{};
  if (!secret.ok() || secret->size() != key.size()) return std::nullopt;
  std::copy(secret->begin(), secret->end(), key.begin());
  return key;
}

}  // namespace

std::string SignForwardTicket(const std::string& node_secret, const ForwardTicket& ticket) {
  const std::optional<token::Key> key = KeyOf(node_secret);
  if (!key.has_value()) return "";
  const token::Key signature = token::SignMessage(*key, kPurpose, MessageOf(ticket));
  return {reinterpret_cast<const char*>(signature.data()), signature.size()};
}

bool VerifyForwardTicket(const std::string& node_secret, const ForwardTicket& ticket,
                         const std::string& signature) {
  const std::optional<token::Key> key = KeyOf(node_secret);
  return key.has_value() &&
         token::VerifyMessage(
             *key, kPurpose, MessageOf(ticket),
             {reinterpret_cast<const uint8_t*>(signature.data()), signature.size()});
}

}  // namespace tessera
