"""What the NBD suites share: a server to test, and a client that speaks the raw protocol.

The server is the one that TESSERA_NBD_URI names (nbd://host:port/export or
nbd+unix:///export?socket=path), else the memory server at TESSERA_NBD_MEMORY_SERVER, started for
the run. TESSERA_SDC_PID names the process whose memory is watched. The tests write to the export.
"""

import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import unittest
import urllib.parse

REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
OPTION_REPLY_MAGIC = 0x0003E889045565A9

OPTION_EXPORT_NAME = 1
OPTION_ABORT = 2
OPTION_LIST = 3
OPTION_STARTTLS = 5
OPTION_INFO = 6
OPTION_GO = 7
OPTION_STRUCTURED_REPLY = 8
OPTION_LIST_META_CONTEXT = 9
OPTION_SET_META_CONTEXT = 10
OPTION_EXTENDED_HEADERS = 11

REPLY_ACK = 1
REPLY_INFO = 3
REPLY_UNSUPPORTED = 2**31 + 1
REPLY_INVALID = 2**31 + 3
REPLY_UNKNOWN = 2**31 + 6
REPLY_TOO_BIG = 2**31 + 9

READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, RESIZE = range(9)

# Time-outs are for a plain build; a sanitizer build is some times slower.
TIMEOUT_FACTOR = float(os.environ.get("TESSERA_TIMEOUT_FACTOR", "1"))
PATIENCE_SECONDS = 20 * TIMEOUT_FACTOR


class Server:
    """The server under test: a URI and, if known, a process id."""

    def __init__(self):
        self._process = None
        self._folder = None
        self.uri = os.environ.get("TESSERA_NBD_URI", "")
        pid = os.environ.get("TESSERA_SDC_PID", "")
        self.pid = int(pid) if pid else None
        if not self.uri:
            self._start_memory_server()
        parts = urllib.parse.urlsplit(self.uri)
        self.export = urllib.parse.unquote(parts.path.lstrip("/"))
        if parts.scheme == "nbd+unix":
            self._address = urllib.parse.parse_qs(parts.query)["socket"][0]
        else:
            self._address = (parts.hostname or "localhost", parts.port or 10809)

    def _start_memory_server(self):
        program = os.environ.get("TESSERA_NBD_MEMORY_SERVER", "")
        if not program or not os.access(program, os.X_OK):
            raise unittest.SkipTest(
                "set TESSERA_NBD_URI, or TESSERA_NBD_MEMORY_SERVER to a built nbd_memory_server")
        self._folder = tempfile.mkdtemp(prefix="tessera-nbd-")
        path = os.path.join(self._folder, "nbd.socket")
        self._process = subprocess.Popen(
            [program, "--unix", path, "--size", str(256 << 20)], stdout=subprocess.PIPE, text=True)
        if not self._process.stdout.readline():
            raise RuntimeError("the memory server did not start")
        self.pid = self._process.pid
        self.uri = "nbd+unix:///memory?socket=" + path

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            code = self._process.wait(PATIENCE_SECONDS)
            self._process.stdout.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            if code != 0:
                raise AssertionError(f"the memory server ended with {code}")

    def connect(self):
        """A connected socket, without a word said."""
        if isinstance(self._address, str):
            client = socket.socket(socket.AF_UNIX)
        else:
            client = socket.socket(socket.AF_INET)
        client.settimeout(PATIENCE_SECONDS)
        client.connect(self._address)
        return client

    def resident_bytes(self):
        """Resident memory of the server, or None if its process is not known.

        None under a sanitizer too: most of it would be shadow memory and freed blocks in quarantine."""
        if self.pid is None or os.environ.get("TESSERA_SANITIZER"):
            return None
        with open(f"/proc/{self.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        return None

    def is_running(self):
        return self.pid is None or os.path.exists(f"/proc/{self.pid}")


class Disconnected(Exception):
    """The server has closed the connection."""


class RawClient:
    """Says what it is told to. Everything that it receives is checked to be NBD."""

    def __init__(self, server, client_flags=3, enter=False, structured=False):
        self._server = server
        self.socket = server.connect()
        self.size = 0
        greeting = self.receive(18)
        if greeting[:16] != b"NBDMAGICIHAVEOPT":
            raise AssertionError(f"not an NBD greeting: {greeting!r}")
        self.send(struct.pack(">I", client_flags))
        if enter:
            self.enter(structured)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Disconnected() from error

    def receive(self, count):
        data = bytearray()
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except ConnectionResetError as error:
                raise Disconnected() from error
            if not piece:
                raise Disconnected()
            data += piece
        return bytes(data)

    def is_disconnected(self):
        """Reads over what is left; True when the server closes, False when it stays silent."""
        try:
            while self.socket.recv(65536):
                pass
            return True
        except ConnectionResetError:
            return True
        except socket.timeout:
            return False

    def send_option(self, option, data=b"", length=None):
        self.send(b"IHAVEOPT" + struct.pack(">II", option, len(data) if length is None else length)
                  + data)

    def receive_option_reply(self):
        magic, option, kind, length = struct.unpack(">QIII", self.receive(20))
        if magic != OPTION_REPLY_MAGIC:
            raise AssertionError(f"option reply magic {magic:#x}")
        return option, kind, self.receive(length)

    def ask(self, option, data=b""):
        """All replies to an option, up to ACK or an error."""
        self.send_option(option, data)
        replies = []
        while True:
            answered, kind, content = self.receive_option_reply()
            if answered != option:
                raise AssertionError(f"asked option {option}, answered {answered}")
            replies.append((kind, content))
            if kind == REPLY_ACK or kind & 2**31:
                return replies

    def info_data(self, name=None):
        name = (self._server.export if name is None else name).encode()
        return struct.pack(">I", len(name)) + name + struct.pack(">H", 0)

    def enter(self, structured=False):
        """Goes into the transmission phase."""
        if structured:
            if self.ask(OPTION_STRUCTURED_REPLY)[-1][0] != REPLY_ACK:
                raise AssertionError("no structured replies")
            name = self._server.export.encode()
            query = b"base:allocation"
            self.ask(OPTION_SET_META_CONTEXT, struct.pack(">I", len(name)) + name
                     + struct.pack(">II", 1, len(query)) + query)
        replies = self.ask(OPTION_GO, self.info_data())
        if replies[-1][0] != REPLY_ACK:
            raise AssertionError(f"GO was refused: {replies[-1]}")
        for kind, content in replies:
            if kind == REPLY_INFO and content[:2] == b"\0\0":
                self.size = struct.unpack(">Q", content[2:10])[0]

    def send_request(self, command, cookie, offset, length, payload=b"", flags=0):
        self.send(struct.pack(">IHHQQI", REQUEST_MAGIC, flags, command, cookie, offset, length)
                  + payload)

    def receive_simple(self):
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        if magic != SIMPLE_REPLY_MAGIC:
            raise AssertionError(f"reply magic {magic:#x}")
        return error, cookie

    def do(self, command, offset, length, payload=b"", flags=0):
        """A whole request under simple replies: its error, and the data of a read."""
        cookie = random.getrandbits(64)
        self.send_request(command, cookie, offset, length, payload, flags)
        error, answered = self.receive_simple()
        if answered != cookie:
            raise AssertionError("an answer to something that was not asked")
        data = self.receive(length) if command == READ and error == 0 else b""
        return error, data


def serves(server):
    """A good client is served from the greeting to goodbye."""
    with RawClient(server, enter=True) as client:
        payload = os.urandom(4096)
        if client.do(WRITE, 8192, 4096, payload)[0] != 0:
            return False
        error, data = client.do(READ, 8192, 4096)
        client.send_request(DISCONNECT, 0, 0, 0)
        return error == 0 and data == payload and client.is_disconnected()
