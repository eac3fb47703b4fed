"""The server's side of WebSockets, RFC 6455, after an HTTP request that asks for one."""
import base64
import hashlib
import struct
import threading

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class WebSocket:
    """Takes over the connection of a BaseHTTPRequestHandler with one of the protocols that the client offers."""

    def __init__(self, handler, protocol):
        self._reader = handler.rfile
        self._writer = handler.wfile
        self._lock = threading.Lock()
        accept = base64.b64encode(hashlib.sha1(handler.headers["Sec-WebSocket-Key"].encode() + GUID).digest())
        handler.send_response(101)
        handler.send_header("Upgrade", "websocket")
        handler.send_header("Connection", "Upgrade")
        handler.send_header("Sec-WebSocket-Accept", accept.decode())
        handler.send_header("Sec-WebSocket-Protocol", protocol)
        handler.end_headers()
        handler.close_connection = True

    @staticmethod
    def offered(handler):
        """The protocols that a request offers."""
        return [name.strip() for name in handler.headers.get("Sec-WebSocket-Protocol", "").split(",")]

    def send(self, payload, kind=BINARY):
        """Sends one message; to nobody when the client is gone, which receive() tells."""
        length = len(payload)
        head = bytes([0x80 | kind])
        head += bytes([length]) if length < 126 else struct.pack("!BH", 126, length) if length < 65536 else (
            struct.pack("!BQ", 127, length))
        with self._lock:
            try:
                self._writer.write(head + payload)
                self._writer.flush()
            except OSError:
                pass

    def close(self):
        self.send(struct.pack("!H", 1000), CLOSE)

    def receive(self):
        """The next piece of data; b"" at the end of the connection."""
        while True:
            try:
                head = self._reader.read(2)
                if len(head) < 2:
                    return b""
                kind, length = head[0] & 15, head[1] & 127
                if length > 125:
                    length, = struct.unpack("!H", self._reader.read(2)) if length == 126 else (
                        struct.unpack("!Q", self._reader.read(8)))
                mask = self._reader.read(4) if head[1] & 128 else bytes(4)
                data = self._reader.read(length)
            except (OSError, struct.error):
                return b""
            if kind == CLOSE:
                return b""
            payload = _unmask(data, mask)
            if kind == PING:
                self.send(payload, PONG)
            elif payload and kind != PONG:
                return payload


def _unmask(data, mask):
    key = (mask * (len(data) // 4 + 1))[:len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(len(data), "big")
