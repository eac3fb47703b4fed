"""gRPC-Web by hand: frames, the few protobuf fields of the echo service, and sockets that can be misused.

The echo service is services/mgmt/web/testing/echo.proto; tessera-grpcweb-echo serves it behind the real frontend and gateway.
"""
import base64
import http.client
import pathlib
import socket
import struct
import subprocess
import tempfile
import urllib.parse

from cluster import BIN, ROOT, run, wait_until
from sanitizer_reports import reports_in

BINARY = "application/grpc-web+proto"
TEXT = "application/grpc-web-text+proto"
SERVICE = "/tessera.test.v1.EchoService/"


def varint(value):
    out = bytearray()
    while value > 0x7f:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def encode(*fields):
    """A message of (number, int | str | bytes) pairs."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def decode(message):
    """Number -> values of a message that has varint and length-delimited fields only."""
    fields, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        value = number()
        if key & 7 == 2:
            value, at = message[at:at + value], at + value
        fields.setdefault(key >> 3, []).append(value)
    return fields


def failure(code, message="", reason=""):
    return encode((1, code), (2, message), (3, reason))


def frame(message, flags=0):
    return struct.pack(">BI", flags, len(message)) + message


def take_frames(body):
    """([message], {trailer: value} or None) of whole frames, and what is left."""
    messages, trailers = [], None
    while len(body) >= 5:
        flags, length = struct.unpack(">BI", body[:5])
        if len(body) < 5 + length:
            break
        content, body = body[5:5 + length], body[5 + length:]
        if flags & 0x80:
            trailers = dict(line.split(": ", 1) for line in content.decode().split("\r\n") if line)
        else:
            assert trailers is None, "a message after the trailers"
            messages.append(content)
    return messages, trailers, body


def decode_runs(text):
    """Base64 pieces with padding between them."""
    assert len(text) % 4 == 0, len(text)
    return b"".join(base64.b64decode(text[i:i + 4]) for i in range(0, len(text), 4))


class Answer:
    def __init__(self, status, headers, body, form=BINARY):
        self.status = status
        self.headers = headers
        self.body = body
        self.messages, self.trailers = [], None
        if status == 200:
            self.messages, self.trailers, rest = take_frames(decode_runs(body) if form == TEXT else body)
            assert rest == b"", "the answer ends within a frame"

    @property
    def code(self):
        return int(self.trailers["grpc-status"])

    @property
    def message(self):
        return urllib.parse.unquote(self.trailers.get("grpc-message", ""))


class EchoServer:
    """The process; ends with stop()."""

    def __init__(self, *arguments):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([str(BIN / "tessera-grpcweb-echo"), *map(str, arguments)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True)
        lines = [self.process.stdout.readline().strip() for _ in range(2)]
        self.endpoints = dict(line.split("=", 1) for line in lines)
        self.web = self.endpoints["web"]
        self.host, self.port = self.web.rsplit(":", 1)

    def stop(self):
        self.process.stdin.close()
        code = self.process.wait()
        self.process.stdout.close()
        self.log.seek(0)
        log = self.log.read()
        self.log.close()
        assert code == 0 and not reports_in(log), f"the server ended with {code}:\n{log[-4000:]}"

    def connect(self, receive_buffer=None):
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect((self.host, int(self.port)))
        return sock

    def request(self, method, message, form=BINARY, headers=()):
        """The bytes of a call."""
        body = frame(message)
        if form == TEXT:
            body = base64.b64encode(body)
        lines = [f"POST {SERVICE}{method} HTTP/1.1", f"Host: {self.web}", f"Content-Type: {form}",
                 f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def post(self, path, body, headers, connection=None):
        """(status, headers, body) of any POST."""
        own = connection or http.client.HTTPConnection(self.host, int(self.port))
        own.request("POST", path, body=body, headers=headers)
        response = own.getresponse()
        result = response.status, response.headers, response.read()
        if connection is None:
            own.close()
        return result

    def call(self, method, message=b"", form=BINARY, headers=(), connection=None):
        body = frame(message)
        if form == TEXT:
            body = base64.b64encode(body)
        status, got, answer = self.post(SERVICE + method, body, {"Content-Type": form, **dict(headers)}, connection)
        return Answer(status, got, answer, form)

    def counts(self):
        fields = decode(self.call("GetCounts").messages[0])
        names = ["started", "cancelled", "open_streams", "written", "resident_bytes"]
        return {name: fields.get(number, [0])[0] for number, name in enumerate(names, 1)}

    def wait_for_streams(self, count):
        wait_until(lambda: self.counts()["open_streams"] == count, f"{count} open streams")


class StreamReader:
    """A stream on a socket of its own, read message by message."""

    def __init__(self, server, message, form=BINARY, sock=None, headers=()):
        self.sock = sock or server.connect()
        self.sock.sendall(server.request("EchoStream", message, form, headers))
        self.response = http.client.HTTPResponse(self.sock)
        self.response.begin()
        self.rest = b""
        self.trailers = None

    def read(self):
        """The next message; None at the trailers, which are kept in `trailers`."""
        while True:
            length = struct.unpack(">I", self.rest[1:5])[0] if len(self.rest) >= 5 else None
            if length is not None and len(self.rest) >= 5 + length:
                messages, self.trailers, _ = take_frames(self.rest[:5 + length])
                self.rest = self.rest[5 + length:]
                return messages[0] if messages else None
            piece = self.response.read1(65536)
            if not piece:
                raise EOFError("the stream ended without trailers")
            self.rest += piece

    def close(self):
        self.response.close()
        self.sock.close()


def echo_schema(folder):
    """The echo service's descriptors, for buf."""
    image = pathlib.Path(folder) / "echo.binpb"
    run(["protoc", "-I", ROOT, "--include_imports", f"--descriptor_set_out={image}",
         "services/mgmt/web/testing/echo.proto"])
    return image
