"""How packets find pods: a cable and an address for each pod, Services and NetworkPolicies as nftables rules.

Every pod's packets are routed through the cluster's private network (node_namespace.PrivateNetwork), so one set of
rules there is what kube-proxy and a network plug-in are to a cluster.
"""
import collections
import ipaddress
import re
import threading

import node_namespace as ns
from node_spec import refusals, selects, HONOURED, Lists, NO_EFFECT, Only

SELECTOR = {"matchLabels": HONOURED, "matchExpressions": HONOURED}
PEERS = Lists({"podSelector": SELECTOR, "namespaceSelector": SELECTOR,
               "ipBlock": {"cidr": HONOURED, "except": HONOURED}})
POLICY_PORTS = Lists({"protocol": Only("TCP", "UDP"), "port": HONOURED, "endPort": HONOURED})
POLICY = {"podSelector": SELECTOR, "policyTypes": HONOURED, "ingress": Lists({"from": PEERS, "ports": POLICY_PORTS}),
          "egress": Lists({"to": PEERS, "ports": POLICY_PORTS})}
SERVICE = {
    "type": Only("ClusterIP", "NodePort"), "clusterIP": HONOURED, "clusterIPs": HONOURED, "selector": HONOURED,
    "publishNotReadyAddresses": HONOURED, "sessionAffinity": Only("None"), "internalTrafficPolicy": HONOURED,
    "externalTrafficPolicy": Only("Cluster"), "ipFamilies": Only(["IPv4"]), "trafficDistribution": NO_EFFECT,
    "ipFamilyPolicy": Only("SingleStack", "PreferDualStack"),
    "ports": Lists({"name": HONOURED, "port": HONOURED, "targetPort": HONOURED, "protocol": Only("TCP", "UDP"),
                    "nodePort": HONOURED, "appProtocol": NO_EFFECT})}

Member = collections.namedtuple("Member", "namespace labels address ports")  # ports: {(name, protocol): number}


def connect_pod(number, namespaces, address, gateway, node_address):
    """A cable between a pod and the private network, of the calling thread."""
    port = f"pod{number}"
    ns.tool("ip", "-batch", "-", text=f"""
        link add {port} type veth peer name eth0 netns {namespaces.path("net")}
        link set {port} up
        route add {address}/32 dev {port} src {node_address}
        """)

    def inside():
        ns.tool("ip", "-batch", "-", text=f"""
            link set lo up
            address add {address}/32 dev eth0
            link set eth0 up
            route add default via {gateway} dev eth0 onlink
            """)
        # As container runtimes do: any user may listen below 1024.
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w", encoding="ascii") as file:
            file.write("0")
    namespaces.inside(inside)
    return port


def named_ports(pod):
    return {(port["name"], port.get("protocol", "TCP")): port["containerPort"]
            for container in pod["spec"]["containers"] for port in container.get("ports") or [] if "name" in port}


class Rules:
    """The rules in the private network, written anew as a whole when something changed.

    `watches` has services, slices, policies, namespaces; `members()` gives the pods that have an address.
    """

    def __init__(self, watches, members, hosts, problem):
        self._watches = watches
        self._members = members
        self._hosts = hosts  # {name: node_host.Host}
        self._problem = problem
        self._lock = threading.Lock()
        self._applied = None

    def apply(self):
        with self._lock:
            text = self.text()
            if text != self._applied:
                ns.tool("nft", "-f", "-", text=text)
                self._applied = text

    def text(self):
        members = self._members()
        addresses = sorted(member.address for member in members)
        hairpins = ", ".join(f"{address} . {address}" for address in addresses)
        translations = self._translations()
        chains, jumps = self._policies(members)
        nl = "\n    "
        # The two tables are one transaction: there is no moment without rules.
        return f"""
table ip cluster {{}}
delete table ip cluster
table ip cluster {{
  chain services {{
    {nl.join(translations)}
  }}
  chain arriving {{ type nat hook prerouting priority dstnat; jump services; }}
  chain own {{ type nat hook output priority -100; jump services; }}
  chain leaving {{ type nat hook postrouting priority srcnat;
    {f"ip saddr . ip daddr {{ {hairpins} }} masquerade" if hairpins else ""}
  }}
{chr(10).join(chains)}
  chain outbound {{
    {nl.join(jumps["egress"])}
  }}
  chain inbound {{
    {nl.join(jumps["ingress"])}
  }}
  chain between {{ type filter hook forward priority filter;
    ip daddr {ns.PrivateNetwork.SERVICE_CIDR} reject
    ct state established,related accept
    jump outbound
    jump inbound
  }}
  chain to_us {{ type filter hook input priority filter;
    ct state established,related accept
    jump outbound
  }}
  chain from_us {{ type filter hook output priority filter;
    ip daddr {ns.PrivateNetwork.SERVICE_CIDR} reject
  }}
}}
"""

    def _translations(self):
        by_service = collections.defaultdict(list)
        for item in self._watches.slices.items():
            if item["addressType"] == "IPv4":
                name = item["metadata"].get("labels", {}).get("kubernetes.io/service-name")
                by_service[item["metadata"]["namespace"], name].append(item)
        lines = []
        for service in sorted(self._watches.services.items(), key=lambda item: item["metadata"]["uid"]):
            key = service["metadata"]["namespace"], service["metadata"]["name"]
            for text in refusals(service["spec"], SERVICE, f"Service {'/'.join(key)} spec"):
                self._problem(text)
            if service["spec"].get("clusterIP") in ("None", "", None):
                continue
            local = service["spec"].get("internalTrafficPolicy") == "Local"
            for port in service["spec"].get("ports") or []:
                protocol = port.get("protocol", "TCP").lower()
                inside = f"ip daddr {service['spec']['clusterIP']} {protocol} dport {port['port']}"
                ways = [(inside, None)]
                if local:
                    ways = [(f"ip saddr {host.pod_network} {inside}", name) for name, host in self._hosts.items()]
                if port.get("nodePort"):
                    nodes = ", ".join(host.address for host in self._hosts.values())
                    ways.append((f"ip daddr {{ {nodes} }} {protocol} dport {port['nodePort']}", None))
                for way, node in ways:
                    targets = self._targets(by_service[key], port, node)
                    for index, target in enumerate(targets):
                        left = len(targets) - index
                        lot = f"numgen random mod {left} == 0 " if left > 1 else ""
                        lines.append(f"{way} {lot}dnat to {target}")
        return lines

    @staticmethod
    def _targets(slices, port, node):
        """Addresses with ports of what is ready behind a Service's port, on all nodes or on one."""
        return sorted({
            f"{address}:{entry['port']}"
            for item in slices for entry in item.get("ports") or []
            if (entry.get("name") or "") == (port.get("name") or "")
            and entry.get("protocol", "TCP") == port.get("protocol", "TCP")
            for endpoint in item.get("endpoints") or []
            if endpoint.get("conditions", {}).get("ready") is not False and node in (None, endpoint.get("nodeName"))
            for address in endpoint["addresses"]})

    def _policies(self, members):
        """Chains that let pass what is allowed, and the jumps to them by a pod's address."""
        chains, jumps = [], {"ingress": [], "egress": []}
        allowed = {"ingress": collections.defaultdict(list), "egress": collections.defaultdict(list)}
        for policy in sorted(self._watches.policies.items(), key=lambda item: item["metadata"]["uid"]):
            metadata, spec = policy["metadata"], policy["spec"]
            for text in refusals(spec, POLICY, f"NetworkPolicy {metadata['namespace']}/{metadata['name']} spec"):
                self._problem(text)
            types = spec.get("policyTypes") or ["Ingress"] + (["Egress"] if "egress" in spec else [])
            for member in members:
                if member.namespace == metadata["namespace"] and selects(spec.get("podSelector") or {}, member.labels):
                    for kind in types:
                        direction = kind.lower()
                        allowed[direction][member.address] += [
                            line for rule in spec.get(direction) or []
                            for line in self._allow(rule, direction, member, metadata["namespace"], members)]
        for direction, match in (("egress", "saddr"), ("ingress", "daddr")):
            for address, lines in allowed[direction].items():
                name = f"{direction}_{re.sub('[.]', '_', address)}"
                body = "\n    ".join([*dict.fromkeys(lines), "drop"])
                chains.append(f"  chain {name} {{\n    {body}\n  }}")
                jumps[direction].append(f"ip {match} {address} jump {name}")
        return chains, jumps

    def _allow(self, rule, direction, member, namespace, members):
        """Rules that end in `return`, for one rule of a policy."""
        peers = rule.get("from" if direction == "ingress" else "to")
        side = "saddr" if direction == "ingress" else "daddr"
        matches = [("", None)]
        if peers:
            matches = []
            for peer in peers:
                if "ipBlock" in peer:
                    block = peer["ipBlock"]
                    ipaddress.ip_network(block["cidr"])
                    without = f" ip {side} != {{ {', '.join(block['except'])} }}" if block.get("except") else ""
                    matches.append((f"ip {side} {block['cidr']}{without} ", None))
                    continue
                found = [other for other in members if self._is_peer(peer, other, namespace)]
                matches += [(f"ip {side} {other.address} ", other) for other in found]
        if not rule.get("ports"):
            return [f"{match}return" for match, _ in matches]
        lines = []
        for match, other in matches:
            for port in rule["ports"]:
                protocol = port.get("protocol", "TCP")
                number = port.get("port")
                if number is None:
                    lines.append(f"{match}ip protocol {protocol.lower()} return")
                    continue
                if isinstance(number, str):  # the name that the pod at the receiving end gave it
                    holders = [member] if direction == "ingress" else [other] if other else members
                    numbers = {holder.ports[number, protocol] for holder in holders
                               if (number, protocol) in holder.ports}
                else:
                    numbers = {f"{number}-{port['endPort']}" if "endPort" in port else number}
                lines += [f"{match}{protocol.lower()} dport {item} return" for item in sorted(numbers, key=str)]
        return lines

    def _is_peer(self, peer, other, namespace):
        if "namespaceSelector" in peer:
            item = self._watches.namespaces.get("", other.namespace)
            labels = item["metadata"].get("labels") if item else {"kubernetes.io/metadata.name": other.namespace}
            if not selects(peer["namespaceSelector"], labels):
                return False
        elif other.namespace != namespace:
            return False
        return selects(peer.get("podSelector") or {}, other.labels)
