"""Snapshots, clones and rollback: real processes, real sockets, a real database."""
import hashlib
import os
import sqlite3
import sys
import threading
import time
import unittest

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "faults"))
import cluster as tessera  # noqa: E402  pylint: disable=wrong-import-position
from end_to_end_test import ClusterTest, need  # noqa: E402  pylint: disable=wrong-import-position
import nbd_client  # noqa: E402  pylint: disable=wrong-import-position
from numbered_writer import BLOCK, Moment, NumberedWriter, Numbers, read_numbers  # noqa: E402  pylint: disable=wrong-import-position
from mounted import Mounted  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20


def content(uri, size):
    handle = nbd_client.connect(uri)
    digest = hashlib.sha256()
    for offset in range(0, size, MIB):
        digest.update(handle.pread(MIB, offset))
    handle.shutdown()
    return digest.hexdigest()


class Snapshots(ClusterTest):
    def write(self, uri, offset, text):
        handle = nbd_client.connect(uri)
        handle.pwrite(text, offset)
        handle.flush()
        handle.shutdown()

    def read(self, uri, offset, length):
        handle = nbd_client.connect(uri)
        found = bytes(handle.pread(length, offset))
        handle.shutdown()
        return found

    def map_read_only(self, name):
        self.cluster.cli("volume", "map", name, "--read-only")
        return self.cluster.nbd_uri(name)

    def unmap_and_delete(self, *names):
        for name in names:
            self.cluster.cli("volume", "unmap", name)
            self.cluster.cli("volume", "delete", name)

    def refused(self, *arguments):
        with self.assertRaises(tessera.CommandFailed) as failed:
            self.cluster.cli(*arguments)
        return failed.exception.output

    def test_a_snapshot_keeps_what_was_and_cannot_be_written(self):
        uri = self.volume("kept", "16MiB")
        self.write(uri, 4096, b"before" * 1000)
        self.cluster.cli("snapshot", "create", "kept", "kept-1", "--label", "why=test")
        self.write(uri, 4096, b"after!" * 1000)
        self.write(uri, 8 * MIB, b"new")
        self.cluster.cli("snapshot", "create", "kept", "kept-2")
        self.write(uri, 4096, b"later!" * 1000)
        listed = {v["name"]: v for v in self.cluster.cli_json("snapshot", "list", "kept")["volumes"]}
        self.assertEqual(sorted(listed), ["kept-1", "kept-2"])
        self.assertEqual(listed["kept-1"]["labels"], {"why": "test"})
        self.assertIn("read", self.refused("volume", "map", "kept-1"))
        for name, text in (("kept-1", b"before"), ("kept-2", b"after!")):
            of = self.map_read_only(name)
            self.assertEqual(self.read(of, 4096, 6000), text * 1000)
            self.assertEqual(self.read(of, 8 * MIB, 3), bytes(3) if name == "kept-1" else b"new")
            handle = nbd_client.connect(of)
            self.assertTrue(handle.is_read_only())
            handle.shutdown()
        self.assertEqual(self.read(uri, 4096, 6000), b"later!" * 1000)
        self.cluster.cli("volume", "unmap", "kept")
        self.assertIn("has 2 snapshots", self.refused("volume", "delete", "kept"))
        self.cluster.cli("volume", "map", "kept")
        uri = self.cluster.nbd_uri("kept")
        # The older one goes, the younger one stays as it is.
        self.unmap_and_delete("kept-1")
        self.assertEqual(self.read(self.cluster.nbd_uri("kept-2"), 4096, 6000), b"after!" * 1000)
        self.unmap_and_delete("kept-2")
        self.assertEqual(self.read(uri, 4096, 6000), b"later!" * 1000)

    def test_a_clone_is_a_volume_of_its_own(self):
        uri = self.volume("origin", "16MiB")
        self.write(uri, 0, b"shared" * 2000)
        self.cluster.cli("snapshot", "create", "origin", "origin-1")
        self.cluster.cli("snapshot", "clone", "origin-1", "copy")
        self.cluster.cli("snapshot", "delete", "origin-1")    # the clone does not need it
        self.cluster.cli("volume", "map", "copy")
        copy = self.cluster.nbd_uri("copy")
        self.assertEqual(self.read(copy, 0, 12000), b"shared" * 2000)
        self.write(copy, 4096, b"copied")
        self.write(uri, 0, b"origin")
        self.assertEqual(self.read(uri, 0, 12000), b"origin" + b"shared" * 1999)
        self.assertEqual(self.read(copy, 4096, 6), b"copied")
        self.assertEqual(self.read(copy, 0, 6), b"shared")
        # A clone of the clone, by way of a snapshot of it; then its origin goes.
        self.cluster.cli("snapshot", "create", "copy", "copy-1")
        self.cluster.cli("snapshot", "clone", "copy-1", "second")
        self.cluster.cli("snapshot", "delete", "copy-1")
        self.unmap_and_delete("copy")
        self.cluster.cli("volume", "map", "second")
        self.assertEqual(self.read(self.cluster.nbd_uri("second"), 4096, 6), b"copied")
        self.unmap_and_delete("second")

    def test_rollback_brings_back_what_was_and_keeps_what_is(self):
        uri = self.volume("rolled", "16MiB")
        self.write(uri, 0, b"good")
        self.cluster.cli("snapshot", "create", "rolled", "rolled-good")
        self.write(uri, 0, b"ouch")
        self.assertIn("mapped", self.refused("snapshot", "rollback", "rolled", "rolled-good"))
        self.cluster.cli("volume", "unmap", "rolled")
        self.assertIn("rolled-before-rolled-good", self.cluster.cli("snapshot", "rollback", "rolled", "rolled-good"))
        self.cluster.cli("volume", "map", "rolled")
        uri = self.cluster.nbd_uri("rolled")
        self.assertEqual(self.read(uri, 0, 4), b"good")
        self.write(uri, 0, b"next")
        self.assertEqual(self.read(self.map_read_only("rolled-before-rolled-good"), 0, 4), b"ouch")
        self.assertEqual(self.read(self.map_read_only("rolled-good"), 0, 4), b"good")
        self.assertEqual(self.read(uri, 0, 4), b"next")
        self.unmap_and_delete("rolled-good", "rolled-before-rolled-good")

    def test_a_locked_snapshot_stays(self):
        self.volume("locked", "4MiB")
        self.cluster.cli("snapshot", "create", "locked", "locked-1", "--for", "2s")
        self.assertIn("locked", self.refused("snapshot", "delete", "locked-1"))
        tessera.wait_until(lambda: self._delete("locked-1"), "the lock to end", 60)

    def _delete(self, name):
        try:
            self.cluster.cli("snapshot", "delete", name)
            return True
        except tessera.CommandFailed as error:
            self.assertIn("locked", error.output)
            return False

    def test_snapshots_under_load_are_of_one_moment(self):
        seed = int(os.environ.get("TESSERA_SNAPSHOT_SEED", "0")) or int.from_bytes(os.urandom(3), "little")
        print(f"{self.id()}: TESSERA_SNAPSHOT_SEED={seed}")
        blocks = 8 * MIB // BLOCK
        numbers = Numbers()
        writers = {name: NumberedWriter(self.volume(name, "8MiB"), blocks, f"{seed} {name}", numbers).start()
                   for name in ("moment-a", "moment-b")}
        for number in range(6):
            began = time.monotonic()
            self.cluster.cli("snapshot", "create", "moment-a", f"moment-a-{number}",
                             "--also", f"moment-b=moment-b-{number}", "--deadline", "10s")
            moment = Moment(began, time.monotonic())
            for name, writer in writers.items():
                moment.check(writer, read_numbers(self.map_read_only(f"{name}-{number}"), blocks))
        for writer in writers.values():
            writer.stop()
        for number in (3, 0, 5, 1, 4, 2):
            for name in writers:
                self.unmap_and_delete(f"{name}-{number}")

    def test_a_database_is_whole_in_a_clone_of_a_snapshot_under_load(self):
        need("nbdfuse", "fusermount3", "mkfs.ext4", "mount")
        if os.geteuid() != 0:
            raise unittest.SkipTest("mounting needs root")
        with Mounted(self.volume("db", "128MiB"), make=True) as root:
            committed = [0]
            stop = threading.Event()
            errors = []

            def insert():
                try:
                    database = sqlite3.connect(root / "test.db", isolation_level=None)
                    database.execute("PRAGMA journal_mode=WAL")
                    database.execute("PRAGMA synchronous=FULL")
                    database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, text TEXT)")
                    while not stop.is_set():
                        number = committed[0] + 1
                        database.execute("BEGIN")
                        database.execute("INSERT INTO rows VALUES (?, ?)", (number, f"row {number} " * 50))
                        database.execute("COMMIT")
                        committed[0] = number
                    database.close()
                except Exception as error:  # pylint: disable=broad-except
                    errors.append(error)
            thread = threading.Thread(target=insert)
            thread.start()
            try:
                promised = []
                for number in range(3):
                    target = committed[0] + 20
                    tessera.wait_until(lambda t=target: committed[0] >= t or errors, "transactions", 180)
                    promised.append(committed[0])
                    self.cluster.cli("snapshot", "create", "db", f"db-{number}", "--deadline", "10s")
            finally:
                stop.set()
                thread.join()
            self.assertEqual(errors, [])
        for number, least in enumerate(promised):
            self.cluster.cli("snapshot", "clone", f"db-{number}", f"db-copy-{number}")
            self.cluster.cli("volume", "map", f"db-copy-{number}")
            with Mounted(self.cluster.nbd_uri(f"db-copy-{number}")) as root:
                database = sqlite3.connect(root / "test.db")
                self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                rows = [row[0] for row in database.execute("SELECT id FROM rows ORDER BY id")]
                database.close()
            self.assertEqual(rows, list(range(1, len(rows) + 1)))
            self.assertGreaterEqual(len(rows), least)
            self.unmap_and_delete(f"db-copy-{number}")
            self.cluster.cli("snapshot", "delete", f"db-{number}")
