#!/usr/bin/env python3
"""Clients that break the rules: the right error or a disconnect, and the server goes on serving.

Usage: [TESSERA_NBD_URI=... TESSERA_SDC_PID=...] hostile_test.py [-v] [test]
TESSERA_NBD_SEED repeats the random tests of an earlier run.
"""

import errno
import os
import random
import socket
import struct
import sys
import unittest

import nbd_harness as nbd
from nbd_harness import Disconnected, RawClient

SERVER = None
# What all hostile clients of one test together may add to the server's memory.
MEMORY_BYTES = 256 << 20


def setUpModule():
    global SERVER
    SERVER = nbd.Server()


def tearDownModule():
    SERVER.stop()


class HostileTest(unittest.TestCase):
    def setUp(self):
        self.seed = int(os.environ.get("TESSERA_NBD_SEED", random.SystemRandom().getrandbits(32)))
        self.random = random.Random(self.seed)
        if "random" in self._testMethodName:
            print(f"{self._testMethodName}: TESSERA_NBD_SEED={self.seed}", file=sys.stderr)
        self.resident_before = SERVER.resident_bytes()

    def tearDown(self):
        self.assertTrue(SERVER.is_running(), "the server has died")
        self.assertTrue(nbd.serves(SERVER), f"a good client is not served (seed {self.seed})")
        resident = SERVER.resident_bytes()
        if resident is not None:
            self.assertLess(resident - self.resident_before, MEMORY_BYTES,
                            "the server's memory has grown too much")

    def assertDisconnects(self, client):
        self.assertTrue(client.is_disconnected(), "the server should have closed the connection")

    # The handshake

    def test_unknown_client_flags_disconnect(self):
        with RawClient(SERVER, client_flags=1 << 7) as client:
            self.assertDisconnects(client)

    def test_wrong_option_magic_disconnects(self):
        with RawClient(SERVER) as client:
            client.send(b"IWANTOPT" + bytes(8))
            self.assertDisconnects(client)

    def test_unknown_options_are_unsupported(self):
        with RawClient(SERVER) as client:
            for option in (0, 4, nbd.OPTION_EXTENDED_HEADERS, 12, 99, 2**32 - 1):
                self.assertEqual(client.ask(option, b"data")[-1][0], nbd.REPLY_UNSUPPORTED)
            client.enter()
            self.assertEqual(client.do(nbd.READ, 0, 512)[0], 0)

    def test_option_lengths_that_lie_are_invalid(self):
        with RawClient(SERVER) as client:
            for data in (b"", b"\xff" * 4, b"\xff" * 8, struct.pack(">I", 2**31) + b"x",
                         client.info_data() + b"more", client.info_data()[:-1]):
                self.assertEqual(client.ask(nbd.OPTION_GO, data)[-1][0], nbd.REPLY_INVALID)
                self.assertEqual(client.ask(nbd.OPTION_INFO, data)[-1][0], nbd.REPLY_INVALID)
            client.enter()

    def test_long_option_data_is_too_big_and_the_stream_stays_in_step(self):
        with RawClient(SERVER) as client:
            self.assertEqual(client.ask(nbd.OPTION_INFO, bytes(500000))[-1][0], nbd.REPLY_TOO_BIG)
            client.enter()

    def test_an_option_of_four_gigabytes_disconnects(self):
        with RawClient(SERVER) as client:
            client.send_option(nbd.OPTION_INFO, length=2**32 - 1)
            self.assertDisconnects(client)

    def test_an_unknown_export_is_unknown_and_ends_export_name(self):
        with RawClient(SERVER) as client:
            self.assertEqual(client.ask(nbd.OPTION_GO, client.info_data("no such export"))[-1][0],
                             nbd.REPLY_UNKNOWN)
            client.send_option(nbd.OPTION_EXPORT_NAME, b"no such export")
            self.assertDisconnects(client)

    def test_endless_options_end(self):
        with RawClient(SERVER) as client:
            with self.assertRaises(Disconnected):
                for _ in range(100000):
                    client.ask(nbd.OPTION_STRUCTURED_REPLY)

    # Requests

    def test_ranges_past_the_end(self):
        with RawClient(SERVER, enter=True) as client:
            for offset, length in ((client.size, 1), (client.size - 1, 2), (client.size + 2**40, 1),
                                   (2**64 - 1, 1), (2**64 - 4096, 4096), (2**64 - 1, 2**20),
                                   (2**63, 512)):
                self.assertEqual(client.do(nbd.READ, offset, length)[0], errno.EINVAL)
                self.assertEqual(client.do(nbd.WRITE, offset, length, bytes(length))[0],
                                 errno.ENOSPC)
                self.assertEqual(client.do(nbd.TRIM, offset, length)[0], errno.EINVAL)
                self.assertEqual(client.do(nbd.WRITE_ZEROES, offset, length)[0], errno.ENOSPC)
            self.assertEqual(client.do(nbd.READ, client.size - 1, 1)[0], 0)

    def test_a_trim_of_nearly_four_gigabytes_past_the_end(self):
        with RawClient(SERVER, enter=True) as client:
            self.assertEqual(client.do(nbd.TRIM, client.size - 1, 2**32 - 1)[0], errno.EINVAL)

    def test_empty_ranges_succeed(self):
        with RawClient(SERVER, enter=True) as client:
            for command in (nbd.READ, nbd.WRITE, nbd.TRIM, nbd.WRITE_ZEROES):
                self.assertEqual(client.do(command, 0, 0)[0], 0)

    def test_unknown_commands_and_flags_are_invalid_and_the_stream_stays_in_step(self):
        with RawClient(SERVER, enter=True) as client:
            for command in (nbd.RESIZE, 9, 255, 65535):
                self.assertEqual(client.do(command, 0, 0)[0], errno.EINVAL)
            self.assertEqual(client.do(nbd.READ, 0, 512, flags=1 << 15)[0], errno.EINVAL)
            self.assertEqual(client.do(nbd.WRITE, 0, 512, bytes(512), flags=1 << 9)[0],
                             errno.EINVAL)
            self.assertEqual(client.do(nbd.BLOCK_STATUS, 0, 512)[0], errno.EINVAL)
            self.assertEqual(client.do(nbd.READ, 0, 512)[0], 0)

    def test_a_read_longer_than_any_payload_is_invalid(self):
        with RawClient(SERVER, enter=True) as client:
            if client.size <= 64 << 20:
                self.skipTest("the export is too small")
            self.assertEqual(client.do(nbd.READ, 0, (32 << 20) + 1)[0], errno.EINVAL)

    def test_a_write_longer_than_any_payload_disconnects(self):
        with RawClient(SERVER, enter=True) as client:
            client.send_request(nbd.WRITE, 1, 0, 2**32 - 1)
            self.assertDisconnects(client)

    def test_wrong_request_magic_disconnects(self):
        with RawClient(SERVER, enter=True) as client:
            client.send(bytes(28))
            self.assertDisconnects(client)

    # Resources

    def test_half_a_request_and_silence_blocks_nobody(self):
        clients = []
        for i in range(50):
            client = RawClient(SERVER, enter=True)
            header = struct.pack(">IHHQQI", nbd.REQUEST_MAGIC, 0, nbd.WRITE, i, 0, 32 << 20)
            client.send(header[:20] if i % 2 else header + bytes(1000))
            clients.append(client)
        self.assertTrue(nbd.serves(SERVER))
        for client in clients:
            client.socket.close()

    def test_a_thousand_connections(self):
        clients = []
        try:
            for i in range(1000):
                client = SERVER.connect()
                clients.append(client)
                if i % 2:
                    client.sendall(struct.pack(">I", 3) + b"IHAVEOPT")
        except (ConnectionError, socket.timeout):
            pass  # a server may have its limit
        self.assertGreater(len(clients), 100)
        for client in clients[500:]:
            client.close()
        self.assertTrue(nbd.serves(SERVER))
        resident = SERVER.resident_bytes()
        for client in clients[:500]:
            client.close()
        if resident is not None:
            self.assertLess(resident - self.resident_before, MEMORY_BYTES)

    def test_floods_of_requests_whose_replies_nobody_reads(self):
        clients = []
        flood = b"".join(
            struct.pack(">IHHQQI", nbd.REQUEST_MAGIC, 0, nbd.READ, i, 0, 65536) for i in range(100))
        for _ in range(2):
            client = RawClient(SERVER, enter=True)
            client.socket.settimeout(0.2)
            clients.append(client)
            try:
                while True:
                    client.socket.sendall(flood)
            except (socket.timeout, ConnectionError):
                pass
        self.assertTrue(nbd.serves(SERVER))
        resident = SERVER.resident_bytes()
        if resident is not None:
            self.assertLess(resident - self.resident_before, MEMORY_BYTES)
        for client in clients:
            client.socket.close()

    def test_clients_that_leave_with_requests_in_flight(self):
        for _ in range(100):
            with RawClient(SERVER, enter=True) as client:
                for cookie in range(self.random.randrange(50)):
                    client.send_request(nbd.READ, cookie, 0, 65536)

    # Noise

    def test_random_bytes_instead_of_a_handshake(self):
        for _ in range(200):
            client = SERVER.connect()
            try:
                client.sendall(self.random.randbytes(self.random.randrange(1, 4096)))
            except ConnectionError:
                pass
            client.close()

    def test_random_bytes_after_a_good_handshake(self):
        for _ in range(200):
            with RawClient(SERVER, enter=True, structured=self.random.random() < 0.5) as client:
                try:
                    client.send(self.random.randbytes(self.random.randrange(1, 4096)))
                except Disconnected:
                    pass

    def test_random_requests_each_get_one_answer(self):
        with RawClient(SERVER, enter=True) as client:
            for _ in range(2000):
                command = self.random.choice((nbd.READ, nbd.WRITE, nbd.FLUSH, nbd.TRIM, nbd.CACHE,
                                              nbd.WRITE_ZEROES, nbd.BLOCK_STATUS, nbd.RESIZE, 77))
                length = self.random.choice((0, 1, 511, 512, 4096, 65537))
                offset = self.random.choice(
                    (0, 1, self.random.randrange(client.size), client.size - length, 2**64 - 1))
                payload = bytes(length) if command == nbd.WRITE else b""
                error, _ = client.do(command, offset, length, payload,
                                     flags=self.random.choice((0, 0, 1, 2, 4, 16, 1 << 13)))
                self.assertIn(error, (0, errno.EINVAL, errno.ENOSPC, errno.ENOTSUP, errno.EPERM),
                              f"seed {self.seed}")


if __name__ == "__main__":
    unittest.main()
