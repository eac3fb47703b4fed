// The address of a caller, out of what gRPC or the gateway says of it.
//
// Pure. Threads: any.
#ifndef TESSERA_SERVICES_MGMT_PEOPLE_PEER_ADDRESS_H_
#define TESSERA_SERVICES_MGMT_PEOPLE_PEER_ADDRESS_H_

#include <string>
#include <string_view>

namespace tessera::mgmt {

// "192.0.2.7" of "ipv4:192.0.2.7:4711", "192.0.2.7:4711" or "192.0.2.7"; "2001:db8::1" of
// "ipv6:%5B2001:db8::1%5D:4711" or "[2001:db8::1]:4711"; "local" of unix sockets; else the text, at
// most 64 bytes of it.
[[nodiscard]] std::string AddressOf(std::string_view peer);

// What counts as one place: an IPv4 address (also where it is mapped into IPv6), or the /64 network
// of an IPv6 address, all of which belongs to one customer.
[[nodiscard]] std::string PlaceOf(const std::string& address);

}  // namespace tessera::mgmt

#endif  // TESSERA_SERVICES_MGMT_PEOPLE_PEER_ADDRESS_H_
