"""SPDY/3.1, so far as `kubectl port-forward` needs it: streams of bytes in both directions within one connection.

Source: draft-mbelshe-httpbis-spdy-00 and the changes of version 3.1; no flow control, as Kubernetes has none.
"""
import socket
import struct
import threading
import zlib

SYN_STREAM, SYN_REPLY, RST_STREAM, PING, GOAWAY = 1, 2, 3, 6, 7
FIN = 1
CHUNK_BYTES = 32768

# What both sides' compression starts from: names with their lengths, then text.
_NAMES = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status").split() + [
        "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"]
_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.")
DICTIONARY = b"".join(struct.pack("!I", len(name)) + name.encode() for name in _NAMES) + _TEXT.encode()


class PortForward:
    """Serves one connection: every pair of streams (data, error) with one request id is a connection to a port.

    `connect(port)` gives a socket; send(bytes) and receive() -> bytes, b"" at the end, are the way to the client.
    """

    def __init__(self, connect, send, receive):
        self._connect = connect
        self._send = send
        self._receive = receive
        self._lock = threading.Lock()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._errors = {}   # request id: stream
        self._sockets = {}  # stream: socket

    def run(self):
        pending = b""
        try:
            while data := self._receive():
                pending += data
                while len(pending) >= 8:
                    length = int.from_bytes(pending[5:8], "big")
                    if len(pending) < 8 + length:
                        break
                    frame, pending = pending[:8 + length], pending[8 + length:]
                    self._take(frame)
        finally:
            for connection in list(self._sockets.values()):
                _shut(connection, socket.SHUT_RDWR)

    def _take(self, frame):
        first, = struct.unpack("!I", frame[:4])
        flags, payload = frame[4], frame[8:]
        if not first >> 31:
            connection = self._sockets.get(first)
            if connection is not None:
                try:
                    connection.sendall(payload)
                except OSError:
                    pass  # the pump of the other direction tells the client
                if flags & FIN:
                    _shut(connection, socket.SHUT_WR)
            return
        kind = first & 0xFFFF
        if kind == SYN_STREAM:
            stream, = struct.unpack("!I", payload[:4])
            self._open(stream & 0x7FFFFFFF, self._headers(payload[10:]))
        elif kind == PING:
            self._write(frame)
        elif kind == RST_STREAM:
            connection = self._sockets.get(struct.unpack("!I", payload[:4])[0])
            if connection is not None:
                _shut(connection, socket.SHUT_RDWR)

    def _headers(self, block):
        data = self._inflate.decompress(block)
        count, = struct.unpack("!I", data[:4])
        at, parts = 4, []
        for _ in range(2 * count):
            length, = struct.unpack("!I", data[at:at + 4])
            parts.append(data[at + 4:at + 4 + length].decode())
            at += 4 + length
        return dict(zip(parts[::2], parts[1::2]))

    def _open(self, stream, headers):
        with self._lock:
            block = self._deflate.compress(bytes(4)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
            self._send(_control(SYN_REPLY, struct.pack("!I", stream) + block))
        if headers["streamtype"] == "error":
            self._errors[headers["requestid"]] = stream
            return
        error = self._errors.pop(headers["requestid"])
        try:
            self._sockets[stream] = connection = self._connect(int(headers["port"]))
        except OSError as problem:
            self._data(error, f"port {headers['port']}: {problem}".encode(), FIN)
            self._data(stream, b"", FIN)
            return
        threading.Thread(target=self._pump, args=(connection, stream, error), daemon=True).start()

    def _pump(self, connection, stream, error):
        with connection:
            try:
                while data := connection.recv(CHUNK_BYTES):
                    self._data(stream, data)
                problem = b""
            except OSError as failure:
                problem = str(failure).encode()
            self._data(error, problem, FIN)
            self._data(stream, b"", FIN)
        self._sockets.pop(stream, None)

    def _data(self, stream, payload, flags=0):
        self._write(struct.pack("!IB", stream, flags) + len(payload).to_bytes(3, "big") + payload)

    def _write(self, frame):
        with self._lock:
            self._send(frame)


def _control(kind, payload):
    return struct.pack("!IB", 0x80030000 | kind, 0) + len(payload).to_bytes(3, "big") + payload


def _shut(connection, how):
    try:
        connection.shutdown(how)
    except OSError:
        pass  # it is gone already
