#include "services/mgmt/people/peer_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"

namespace tessera::mgmt {
namespace {

constexpr size_t kAddressBytesMax = 64;

}  // namespace

std::string AddressOf(std::string_view peer) {
  std::string text = absl::StrReplaceAll(absl::string_view(peer.data(), peer.size()),
                                         {{"%5B", "["}, {"%5D", "]"}, {"%5b", "["}, {"%5d", "]"}});
  if (absl::StartsWith(text, "unix:") || absl::StartsWith(text, "fd:")) return "local";
  for (const char* scheme : {"ipv4:", "ipv6:"}) {
    if (absl::StartsWith(text, scheme)) text.erase(0, std::strlen(scheme));
  }
  if (absl::StartsWith(text, "[")) {
    text = text.substr(1, text.find(']') - 1);
  } else if (std::count(text.begin(), text.end(), ':') == 1) {
    text.resize(text.find(':'));
  }
  text.resize(std::min(text.size(), kAddressBytesMax));
  return text;
}

std::string PlaceOf(const std::string& address) {
  in6_addr parsed{};
  if (inet_pton(AF_INET6, address.substr(0, address.find('%')).c_str(), &parsed) != 1) {
    return address;
  }
  char text[INET6_ADDRSTRLEN];
  if (IN6_IS_ADDR_V4MAPPED(&parsed)) {
    inet_ntop(AF_INET, &parsed.s6_addr[12], text, sizeof(text));
    return text;
  }
  std::memset(&parsed.s6_addr[8], 0, 8);
  inet_ntop(AF_INET6, &parsed, text, sizeof(text));
  return std::string(text) + "/64";
}

}  // namespace tessera::mgmt
