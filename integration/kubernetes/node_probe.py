"""Probes of containers: startup, liveness, readiness, by grpc, httpGet, tcpSocket and exec."""
import http.client
import socket
import ssl
import struct
import threading

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
SERVING_STATUS = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


def _frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _header(name, value):
    """A header field without compression, RFC 7541 6.2.2."""
    assert len(name) < 127 and len(value) < 127
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def grpc_health(host, port, service, timeout):
    """What grpc.health.v1.Health/Check says: "SERVING", or else why not. One call over plain HTTP/2, by hand: it is
    made all the time, so it must cost less than starting a program."""
    name = service.encode()
    message = b"\x0a" + bytes([len(name)]) + name if name else b""
    headers = b"".join(_header(*pair) for pair in (
        (":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"),
        (":authority", f"{host}:{port}"), ("content-type", "application/grpc"), ("te", "trailers")))
    with socket.create_connection((host, port), timeout) as connection, connection.makefile("rb") as reader:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0) + _frame(HEADERS, END_HEADERS, 1, headers)
            + _frame(DATA, END_STREAM, 1, struct.pack("!BI", 0, len(message)) + message))
        answer = b""
        while True:
            head = reader.read(9)
            if len(head) < 9:
                return "the connection was closed without an answer"
            length = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack("!BBI", head[3:])
            payload = reader.read(length)
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(_frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                connection.sendall(_frame(PING, ACK, 0, payload))
            elif kind == DATA and stream == 1:
                answer += payload
            if kind in (RST_STREAM, GOAWAY) or (stream == 1 and kind in (DATA, HEADERS) and flags & END_STREAM):
                break
        if len(answer) < 5:
            return f"the server does not know the health of service {service!r}"
        status = answer[6] if answer[5:6] == b"\x08" and len(answer) > 6 else 0
        return SERVING_STATUS.get(status, f"status {status}")


def http_get(host, port, action, timeout):
    """The status of the answer. OSError or HTTPException where there is none."""
    headers = {item["name"]: item["value"] for item in action.get("httpHeaders") or []}
    if action.get("scheme", "HTTP").upper() == "HTTPS":
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl._create_unverified_context())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", action.get("path") or "/", headers={"User-Agent": "kube-probe/test", **headers})
        return connection.getresponse().status
    finally:
        connection.close()


def port_number(port, container):
    """A port of a probe, by number or by the container's name for it."""
    if isinstance(port, int):
        return port
    for item in container.get("ports") or []:
        if item.get("name") == port:
            return item["containerPort"]
    return int(port)


def check(probe, container, pod_ip, execute):
    """None if the probe holds, else why not. `execute(argv, timeout)` runs a program in the container and returns its
    exit code and output."""
    timeout = probe.get("timeoutSeconds", 1)
    try:
        if "grpc" in probe:
            status = grpc_health(pod_ip, probe["grpc"]["port"], probe["grpc"].get("service") or "", timeout)
            return None if status == "SERVING" else status
        if "httpGet" in probe:
            action = probe["httpGet"]
            status = http_get(action.get("host") or pod_ip, port_number(action["port"], container), action, timeout)
            return None if 200 <= status < 400 else f"HTTP status {status}"
        if "tcpSocket" in probe:
            action = probe["tcpSocket"]
            address = action.get("host") or pod_ip, port_number(action["port"], container)
            socket.create_connection(address, timeout).close()
            return None
        code, output = execute(probe["exec"]["command"], timeout)
        return None if code == 0 else f"exit code {code}: {output[-200:]}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__


class Prober:
    """One probe of one run of a container. `report(result, why)` is called in the prober's thread with True or False
    whenever the probe's verdict is reached; results between the thresholds are not told."""

    def __init__(self, probe, container, pod_ip, execute, report):
        self._probe = probe
        self._arguments = container, pod_ip, execute
        self._report = report
        self._stop = threading.Event()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def stop(self):
        self._stop.set()

    def _run(self):
        probe = self._probe
        if self._stop.wait(probe.get("initialDelaySeconds", 0)):
            return
        successes = failures = 0
        while True:
            why = check(probe, *self._arguments)
            if self._stop.is_set():
                return
            successes, failures = (successes + 1, 0) if why is None else (0, failures + 1)
            if successes >= probe.get("successThreshold", 1):
                self._report(True, "")
            elif failures >= probe.get("failureThreshold", 3):
                self._report(False, why)
            if self._stop.wait(probe.get("periodSeconds", 10)):
                return
