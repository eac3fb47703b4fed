"""The cluster's DNS: A records of Services and of the pods behind them, from what the API server says."""
import ipaddress
import random
import socket
import struct
import threading

TYPE_A, TYPE_ANY = 1, 255
NO_ERROR, FORMAT_ERROR, NAME_ERROR, NOT_IMPLEMENTED = 0, 1, 3, 4
TTL_SECONDS = 5


class Server:
    """Answers at address:53 by UDP and TCP. `lookup(name)` gives addresses, [] where the name is there without any,
    None where there is no such name."""

    def __init__(self, address, lookup):
        self._lookup = lookup
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((address, 53))
        self._tcp = socket.create_server((address, 53))
        for body in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=body, name="dns", daemon=True).start()

    def close(self):
        for sock in (self._udp, self._tcp):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # an unconnected UDP socket says so, and its reader wakes up all the same
            sock.close()

    def _serve_udp(self):
        while True:
            try:
                query, peer = self._udp.recvfrom(4096)
                if not query:
                    return
                self._udp.sendto(self.answer(query, 512), peer)
            except OSError:
                if self._udp.fileno() < 0:
                    return

    def _serve_tcp(self):
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_connection, args=(connection,), daemon=True).start()

    def _serve_connection(self, connection):
        with connection, connection.makefile("rb") as reader:
            connection.settimeout(10)
            try:
                while len(header := reader.read(2)) == 2:
                    answer = self.answer(reader.read(struct.unpack("!H", header)[0]), 65535)
                    connection.sendall(struct.pack("!H", len(answer)) + answer)
            except OSError:
                return

    def answer(self, query, size_max):
        if len(query) < 12:
            return b"\0\0\x80\x01" + bytes(8)
        number, flags, questions = struct.unpack("!HHH", query[:6])

        def header(code, answers=0, truncated=False):
            return struct.pack("!HHHHHH", number, 0x8480 | (flags & 0x0100) | code | (0x0200 if truncated else 0),
                               1 if code != FORMAT_ERROR else 0, answers, 0, 0)
        try:
            labels, end = [], 12
            while query[end]:
                labels.append(query[end + 1:end + 1 + query[end]].decode("ascii"))
                end += 1 + query[end]
            kind, = struct.unpack("!H", query[end + 1:end + 3])
        except (IndexError, UnicodeDecodeError, struct.error):
            return header(FORMAT_ERROR)
        question = query[12:end + 5]
        if questions != 1 or flags & 0x7800:
            return header(NOT_IMPLEMENTED) + question
        addresses = self._lookup(".".join(labels).lower())
        if addresses is None:
            return header(NAME_ERROR) + question
        if kind not in (TYPE_A, TYPE_ANY):
            return header(NO_ERROR) + question
        addresses = random.sample(addresses, len(addresses))
        records = [struct.pack("!HHHIH", 0xC00C, TYPE_A, 1, TTL_SECONDS, 4) + ipaddress.IPv4Address(a).packed
                   for a in addresses]
        fitting = records[:(size_max - 12 - len(question)) // 16]
        return header(NO_ERROR, len(fitting), len(fitting) < len(records)) + question + b"".join(fitting)


class ClusterNames:
    """lookup() for a Server, from the watches of Services and EndpointSlices."""

    def __init__(self, services, slices, domain):
        self._services = services
        self._slices = slices
        self._suffix = f".svc.{domain}"

    def lookup(self, name):
        if not name.endswith(self._suffix):
            return [] if self._suffix.endswith("." + name) or "." + name == self._suffix else None
        labels = name[:-len(self._suffix)].split(".")
        if len(labels) == 1:
            return []  # a namespace
        service = self._services.get(labels[-1], labels[-2])
        if service is None or len(labels) > 3:
            return None
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return None
        if spec.get("clusterIP") != "None":
            return [spec["clusterIP"]] if len(labels) == 2 else None
        found = [endpoint for item in self._slices.items() for endpoint in item.get("endpoints") or []
                 if item["metadata"]["namespace"] == labels[-1] and item["addressType"] == "IPv4"
                 and item["metadata"].get("labels", {}).get("kubernetes.io/service-name") == labels[-2]
                 and endpoint.get("conditions", {}).get("ready") is not False]
        if len(labels) == 3:
            found = [endpoint for endpoint in found if endpoint.get("hostname") == labels[0]]
        addresses = sorted({address for endpoint in found for address in endpoint["addresses"]})
        return addresses or (None if len(labels) == 3 else [])
