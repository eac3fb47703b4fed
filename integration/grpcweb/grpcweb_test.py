"""Conformance of the gateway to gRPC-Web: the real frontend and gateway before an echo service, from outside.

Raw sockets and Python's HTTP client speak both forms, well and badly; buf, a client that others wrote, speaks it as browsers do.
"""
import base64
import http.client
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
import unittest
import warnings

from cluster import run, wait_until
from grpcweb_client import (BINARY, SERVICE, TEXT, Answer, EchoServer, StreamReader, decode, echo_schema, encode, failure,
                            frame)

MIB = 1 << 20


class Conformance(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = EchoServer("--calls-per-session", 1000)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_unary_calls_are_answered_in_both_forms(self):
        for form in (BINARY, TEXT):
            with self.subTest(form=form):
                answer = self.server.call("Echo", encode((1, "hällo")), form)
                self.assertEqual(answer.status, 200)
                self.assertEqual(answer.headers["content-type"], form)
                self.assertEqual(answer.code, 0)
                self.assertEqual(decode(answer.messages[0])[1], ["hällo".encode()])
                self.assertEqual(answer.headers["tessera-initial"], "first")
                self.assertEqual(answer.trailers["tessera-trailing"], "last")

    def test_an_empty_message_is_a_message(self):
        answer = self.server.call("EchoStream", encode((2, 1)))
        self.assertEqual(answer.messages, [b""])
        self.assertEqual(answer.code, 0)

    def test_text_may_be_cut_into_runs_with_padding_anywhere(self):
        body = frame(encode((1, "cut into runs")))
        for step in (1, 2, 3, 5, 7):
            text = b"".join(base64.b64encode(body[i:i + step]) for i in range(0, len(body), step))
            status, headers, answer = self.server.post(SERVICE + "Echo", text, {"Content-Type": TEXT})
            got = Answer(status, headers, answer, TEXT)
            self.assertEqual(decode(got.messages[0])[1], [b"cut into runs"])

    def test_streams_come_in_order_in_both_forms(self):
        for form in (BINARY, TEXT):
            with self.subTest(form=form):
                answer = self.server.call("EchoStream", encode((1, "s"), (2, 500)), form)
                self.assertEqual([decode(m).get(2, [0])[0] for m in answer.messages], list(range(500)))
                self.assertEqual(answer.code, 0)

    def test_large_messages_pass_both_ways(self):
        text = "x" * (4 * MIB - 1000)
        answer = self.server.call("Echo", encode((1, text), (2, 8 * MIB)))
        fields = decode(answer.messages[0])
        self.assertEqual(fields[1], [text.encode()])
        self.assertEqual(len(fields[2][0]), 8 * MIB)
        status, _, body = self.server.post(SERVICE + "Echo", b"x" * (4 * MIB + 1), {"Content-Type": BINARY})
        self.assertEqual(status, 413)
        self.assertIn(b"more than 4194304 bytes", body)

    def test_an_error_has_code_message_and_details(self):
        for form in (BINARY, TEXT):
            answer = self.server.call("Echo", encode((3, failure(9, "nicht so: ü\n100%", "NOT_SO"))), form)
            self.assertEqual(answer.code, 9)
            self.assertEqual(answer.message, "nicht so: ü\n100%")
            details = answer.trailers["grpc-status-details-bin"]
            self.assertIn(b"NOT_SO", base64.b64decode(details + "=" * (-len(details) % 4)))
        answer = self.server.call("EchoStream", encode((2, 3), (5, failure(8, "enough"))))
        self.assertEqual((len(answer.messages), answer.code, answer.message), (3, 8, "enough"))

    def test_a_deadline_reaches_the_server_and_ends_the_call(self):
        answer = self.server.call("Echo", b"", headers={"grpc-timeout": "60S"})
        # gRPC rounds up what it sends.
        self.assertTrue(0 < decode(answer.messages[0])[4][0] <= 62_000)
        answer = self.server.call("EchoStream", encode((3, 20)), headers={"grpc-timeout": "200m"})
        self.assertEqual(answer.code, 4)
        self.assertEqual(self.server.call("Echo", headers={"grpc-timeout": "soon"}).code, 3)
        self.server.wait_for_streams(0)

    def test_a_client_that_leaves_cancels_its_call_at_the_server(self):
        for leave in ("close", "reset", "shutdown"):
            with self.subTest(leave=leave):
                before = self.server.counts()["cancelled"]
                stream = StreamReader(self.server, encode((1, "s"), (3, 20)))
                self.assertEqual(decode(stream.read())[1], [b"s"])
                if leave == "reset":
                    stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                if leave == "shutdown":
                    stream.sock.shutdown(socket.SHUT_WR)
                else:
                    stream.close()
                self.server.wait_for_streams(0)
                self.assertEqual(self.server.counts()["cancelled"], before + 1)
                stream.close()

    def test_200_streams_are_open_at_once_and_others_are_served(self):
        streams = [StreamReader(self.server, encode((1, str(i)), (3, 50))) for i in range(200)]
        self.server.wait_for_streams(200)
        for i, stream in enumerate(streams):
            for number in range(3):
                fields = decode(stream.read())
                self.assertEqual(fields[1], [str(i).encode()])
                self.assertEqual(fields.get(2, [0]), [number])
        self.assertEqual(self.server.call("Echo", encode((1, "meanwhile"))).code, 0)
        for stream in streams:
            stream.close()
        self.server.wait_for_streams(0)

    def test_readers_that_do_not_read_take_no_memory(self):
        before = self.server.counts()["resident_bytes"]
        request = encode((4, 64 << 10))
        sockets = [self.server.connect(receive_buffer=4096) for _ in range(20)]
        for sock in sockets:
            sock.sendall(self.server.request("EchoStream", request))
        self.server.wait_for_streams(20)
        # Quiet when nothing more was written for many looks: all buffers are full.
        written, quiet = -1, 0
        while quiet < 50:
            now = self.server.counts()["written"]
            quiet = quiet + 1 if now == written else 0
            written = now
        grown = self.server.counts()["resident_bytes"] - before
        self.assertLess(grown, 128 * MIB, f"20 slow readers took {grown / MIB:.0f} MiB")
        # They were slowed down, not given up: who reads again gets on.
        sockets[0].settimeout(None)
        received = 0
        while received < 16 * MIB:
            received += len(sockets[0].recv(1 << 16))
        for sock in sockets:
            sock.close()
        self.server.wait_for_streams(0)

    def test_fuzzed_bodies_are_refused_or_answered_and_memory_stays(self):
        seed = int.from_bytes(os.urandom(4), "big")
        print(f"seed {seed}", flush=True)
        chance = random.Random(seed)
        before = self.server.counts()["resident_bytes"]
        connection = http.client.HTTPConnection(self.server.host, int(self.server.port))
        good = frame(encode((1, "a text"), (2, 100)))
        for _ in range(3000):
            form = chance.choice((BINARY, TEXT))
            body = bytearray(good if chance.random() < 0.5 else base64.b64encode(good))
            for _ in range(chance.randrange(5)):
                at = chance.randrange(len(body))
                change = chance.randrange(3)
                if change == 0:
                    body[at] = chance.randrange(256)
                elif change == 1:
                    body[at:at] = chance.randbytes(chance.randrange(8))
                elif len(body) > 8:
                    del body[at:at + chance.randrange(8)]
            answer = Answer(*self.server.post(SERVICE + "Echo", bytes(body), {"Content-Type": form}, connection), form)
            with self.subTest(seed=seed, body=bytes(body), form=form):
                self.assertEqual(answer.status, 200)
                self.assertEqual(len(answer.messages), 1 if answer.code == 0 else 0)
                # 13: a frame whose bytes are no message of the service, which gRPC's server says so.
                self.assertIn(answer.code, (0, 3, 8, 12, 13))
        connection.close()
        self.assertLess(self.server.counts()["resident_bytes"] - before, 64 * MIB)

    def test_what_is_no_grpc_web_is_not_called(self):
        before = self.server.counts()["started"]
        empty = frame(b"")
        for content_type in ("text/plain", "application/json", "application/x-www-form-urlencoded", "application/grpc"):
            status, headers, _ = self.server.post(SERVICE + "Echo", empty, {"Content-Type": content_type})
            self.assertEqual(status, 415)
            self.assertNotIn("access-control-allow-origin", headers)
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            status, got, _ = self.server.post(SERVICE + "Echo", empty, {"Content-Type": BINARY, **headers})
            self.assertEqual(status, 403)
            self.assertNotIn("access-control-allow-origin", got)
        self.assertEqual(self.server.counts()["started"], before)

    def test_a_browser_cannot_forge_what_the_gateway_says(self):
        answer = self.server.call("Echo", headers={"x-gw-peer": "ipv4:10.9.8.7:1", "x-gw-anything": "1", "User-Agent": "Browser 1",
                                                   "x-tessera-on-behalf-of": "admin.root", "Cookie": "tessera-session=session.7.ab"})
        seen = decode(answer.messages[0])[3]
        self.assertFalse([line for line in seen if b"10.9.8.7" in line or b"anything" in line or b"behalf" in line])
        self.assertTrue([line for line in seen if line.startswith(b"x-gw-peer: ipv4:127.0.0.1:")])
        self.assertIn(b"x-gw-user-agent: Browser 1", seen)
        self.assertIn(b"authorization: Bearer session.7.ab", seen)
        self.assertIsNone(answer.headers["set-cookie"])
        self.assertIsNone(answer.headers["access-control-allow-origin"])


class WithTls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.certificate, cls.key = (os.path.join(cls.folder.name, name) for name in ("web.pem", "web.key"))
        cls.renew("first")
        cls.server = EchoServer("--web-certificate", cls.certificate, "--web-key", cls.key)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()

    @classmethod
    def renew(cls, name):
        drafts = [path + ".new" for path in (cls.certificate, cls.key)]
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", drafts[1],
             "-out", drafts[0]])
        for draft, path in zip(drafts, (cls.certificate, cls.key)):
            os.replace(draft, path)

    def context(self):
        return ssl.create_default_context(cafile=self.certificate)

    def connection(self):
        return http.client.HTTPSConnection(self.server.host, int(self.server.port), context=self.context())

    def call(self, method, message, headers=()):
        connection = self.connection()
        answer = self.server.call(method, message, headers=headers, connection=connection)
        connection.close()
        return answer

    def test_calls_and_streams_pass_tls(self):
        answer = self.call("Echo", encode((1, "secret"), (2, 3 * MIB)))
        self.assertEqual(decode(answer.messages[0])[1], [b"secret"])
        self.assertEqual(len(self.call("EchoStream", encode((1, "s"), (2, 1000))).messages), 1000)

    def test_cookies_are_of_this_host_alone_and_secure(self):
        answer = self.call("Echo", encode((5, "session.7.ab")))
        self.assertEqual(answer.headers["set-cookie"],
                         "__Host-tessera-session=session.7.ab; Path=/; HttpOnly; SameSite=Strict; Secure")
        self.assertIn("Max-Age=0", self.call("Echo", encode((5, ""))).headers["set-cookie"])
        seen = decode(self.call("Echo", b"", {"Cookie": "__Host-tessera-session=session.7.ab"}).messages[0])[3]
        self.assertIn(b"authorization: Bearer session.7.ab", seen)
        seen = decode(self.call("Echo", b"", {"Cookie": "tessera-session=session.7.ab"}).messages[0])[3]
        self.assertFalse([line for line in seen if line.startswith(b"authorization")])

    def test_a_page_of_plain_http_is_foreign(self):
        connection = self.connection()
        status, _, _ = self.server.post(SERVICE + "Echo", frame(b""), {
            "Content-Type": BINARY, "Origin": f"http://{self.server.web}"}, connection)
        self.assertEqual(status, 403)
        connection.close()

    def test_a_client_that_leaves_is_noticed_under_tls(self):
        sock = self.context().wrap_socket(self.server.connect(), server_hostname="localhost")
        stream = StreamReader(self.server, encode((1, "s"), (3, 20)), sock=sock)
        self.assertEqual(decode(stream.read())[1], [b"s"])
        stream.close()

        def is_closed():
            connection = self.connection()
            fields = decode(self.server.call("GetCounts", connection=connection).messages[0])
            connection.close()
            return fields.get(3, [0])[0] == 0
        wait_until(is_closed, "the stream's end at the server")

    def test_a_renewed_certificate_is_used_without_a_restart(self):
        def common_name():
            with self.context().wrap_socket(self.server.connect(), server_hostname="localhost") as sock:
                return dict(pair[0] for pair in sock.getpeercert()["subject"])["commonName"]
        first = common_name()
        name = "second" if first == "first" else "first"
        self.renew(name)

        def is_new():
            try:
                return common_name() == name
            except ssl.SSLError:  # the old one, which the new authority did not sign
                return False
        wait_until(is_new, "the new certificate")

    def test_bytes_that_are_no_tls_end_their_connection_alone(self):
        sock = self.server.connect()
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        while sock.recv(4096):
            pass
        sock.close()
        self.assertEqual(self.call("Echo", b"").code, 0)

    def test_old_versions_of_tls_are_refused(self):
        context = self.context()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(self.server.connect(), server_hostname="localhost")


@unittest.skipIf(shutil.which("buf") is None, "buf is not installed")
class WithBuf(unittest.TestCase):
    """The same calls by buf's gRPC-Web client through the gateway and by gRPC past it: the answers are the same."""

    @classmethod
    def setUpClass(cls):
        cls.server = EchoServer()
        cls.folder = tempfile.TemporaryDirectory()
        cls.schema = echo_schema(cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()
        cls.folder.cleanup()

    def curl(self, method, request, web):
        protocol = ["--protocol", "grpcweb"] if web else ["--protocol", "grpc", "--http2-prior-knowledge"]
        address = self.server.web if web else self.server.endpoints["grpc"]
        return subprocess.run(["buf", "curl", *protocol, "--schema", self.schema, "-d", json.dumps(request),
                               f"http://{address}{SERVICE}{method}"], capture_output=True, text=True, check=False)

    def test_unary_calls_and_streams_are_as_without_the_gateway(self):
        answers = {}
        for web in (True, False):
            unary = self.curl("Echo", {"text": "hällo", "paddingBytes": 10}, web)
            self.assertEqual(unary.returncode, 0, unary.stderr)
            answer = json.loads(unary.stdout)
            answer.pop("metadata")
            stream = self.curl("EchoStream", {"text": "s", "count": 20}, web)
            self.assertEqual(stream.returncode, 0, stream.stderr)
            answers[web] = answer, stream.stdout
        self.assertEqual(answers[True], answers[False])
        self.assertEqual(answers[True][0]["text"], "hällo")

    def test_errors_and_their_details_are_as_without_the_gateway(self):
        request = {"failure": {"code": 9, "message": "nicht so: ü", "reason": "NOT_SO"}}
        web, direct = (self.curl("Echo", request, web) for web in (True, False))
        self.assertEqual(web.returncode, 9 * 8)
        self.assertEqual((web.returncode, web.stderr), (direct.returncode, direct.stderr))
        detail = json.loads(web.stderr)["details"][0]
        self.assertEqual(detail["type"], "google.rpc.ErrorInfo")
        self.assertIn(b"NOT_SO", base64.b64decode(detail["value"] + "=" * (-len(detail["value"]) % 4)))


if __name__ == "__main__":
    unittest.main()
