#!/usr/bin/env python3
"""Foreign NBD clients against the server: each does its work as with any other server.

Usage: [TESSERA_NBD_URI=...] clients_test.py [-v] [test]
Clients that are not installed are skipped. The export is overwritten.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import nbd_harness as nbd

SERVER = None
PATIENCE_SECONDS = 120 * nbd.TIMEOUT_FACTOR
MEBIBYTE = 1 << 20


def setUpModule():
    global SERVER
    SERVER = nbd.Server()


def tearDownModule():
    SERVER.stop()


def run(*command, check=True, **options):
    """Runs a client; its standard output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=PATIENCE_SECONDS, check=False, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def needs(*tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return unittest.skipIf(missing, f"not installed: {', '.join(missing)}")


class ClientsTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="tessera-nbd-clients-")
        self.uri = SERVER.uri
        with nbd.RawClient(SERVER, enter=True) as client:
            self.size = client.size

    def tearDown(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.assertTrue(SERVER.is_running(), "the server has died")

    def file(self, name):
        return os.path.join(self.folder, name)

    def random_file(self, name, size):
        path = self.file(name)
        with open(path, "wb") as out:
            left = size
            while left > 0:
                out.write(os.urandom(min(left, MEBIBYTE)))
                left -= MEBIBYTE
            out.truncate(size)
        return path

    # libnbd

    @needs("nbdinfo")
    def test_nbdinfo_describes_the_export(self):
        info = json.loads(run("nbdinfo", "--json", self.uri))
        self.assertEqual(info["protocol"], "newstyle-fixed")
        self.assertTrue(info["structured"])
        export = info["exports"][0]
        self.assertEqual(export["export-size"], self.size)
        self.assertIn("base:allocation", export["contexts"])
        self.assertEqual(run("nbdinfo", "--size", self.uri).strip(), str(self.size))

    @needs("nbdinfo")
    def test_nbdinfo_finds_every_ability(self):
        for ability in ("cache", "df", "fast-zero", "flush", "fua", "multi-conn", "trim", "zero",
                        "write", "read", "connect", "structured-reply"):
            run("nbdinfo", "--can", ability, self.uri)
        done = subprocess.run(["nbdinfo", "--is", "read-only", self.uri], check=False)
        self.assertEqual(done.returncode, 2)

    @needs("nbdinfo")
    def test_nbdinfo_lists_the_exports(self):
        listing = json.loads(run("nbdinfo", "--list", "--json", self.uri))
        self.assertIn(SERVER.export, [export["export-name"] for export in listing["exports"]])

    @needs("nbdinfo", "qemu-io")
    def test_nbdinfo_maps_data_and_holes(self):
        run("qemu-io", "-f", "raw", "-c", f"discard 0 {64 * MEBIBYTE}", self.uri)
        run("qemu-io", "-f", "raw", "-c", f"write -P 5 {8 * MEBIBYTE} 1M", "-c", "flush", self.uri)
        extents = json.loads(run("nbdinfo", "--map", "--json", self.uri))
        self.assertEqual(extents[0]["offset"], 0)
        self.assertEqual(sum(extent["length"] for extent in extents), self.size)
        data = [e for e in extents if e["offset"] <= 8 * MEBIBYTE < e["offset"] + e["length"]]
        self.assertEqual(data[0]["type"], 0)
        self.assertEqual(extents[0]["type"] & 2, 2, "discarded space should read as zeros")

    @needs("nbdcopy")
    def test_nbdcopy_there_and_back(self):
        source = self.random_file("source", 32 * MEBIBYTE + 12345)
        with open(source, "ab") as out:  # nbdcopy wants equal sizes to compare the whole
            out.truncate(self.size)
        run("nbdcopy", "--flush", source, self.uri)
        run("nbdcopy", self.uri, self.file("back"))
        run("cmp", source, self.file("back"))
        run("nbdcopy", "--connections=4", "--requests=64", "--request-size=65536", self.uri,
            self.file("back"))
        run("cmp", source, self.file("back"))

    @needs("nbdcopy")
    def test_nbdcopy_one_request_at_a_time(self):
        source = self.random_file("source", 4 * MEBIBYTE)
        run("nbdcopy", "--synchronous", "--request-size=4096", source, self.uri)
        run("nbdcopy", "--synchronous", "--request-size=262144", self.uri, self.file("back"))
        run("cmp", "--bytes", str(4 * MEBIBYTE), source, self.file("back"))

    def test_nbdsh_reads_what_it_wrote(self):
        shell = self.find_nbdsh()
        script = ("b = bytes(range(256)) * 16; h.pwrite(b, 1000, nbd.CMD_FLAG_FUA); "
                  "assert h.pread(4096, 1000) == b; h.zero(4096, 1000, nbd.CMD_FLAG_NO_HOLE); "
                  "assert h.pread(4096, 1000) == bytes(4096); h.trim(4096, 4096); h.cache(4096, 0); "
                  "h.flush(); h.shutdown()")
        run(*shell, "-u", self.uri, "-c", script)

    def find_nbdsh(self):
        """nbdsh runs in whatever python3 comes first, which need not be the one with its module."""
        for shell in (["nbdsh"], ["/usr/bin/python3", "-m", "nbd"]):
            if shutil.which(shell[0]) and subprocess.run(
                    [*shell, "-c", "pass"], check=False, capture_output=True).returncode == 0:
                return shell
        return self.skipTest("nbdsh is not installed, or no Python here has its module")

    # qemu

    @needs("qemu-img")
    def test_qemu_img_info(self):
        info = json.loads(run("qemu-img", "info", "--output=json", "-f", "raw", self.uri))
        self.assertEqual(info["virtual-size"], self.size)
        self.assertEqual(info["format"], "raw")

    @needs("qemu-img")
    def test_qemu_img_converts_and_compares_both_ways(self):
        source = self.random_file("source", 16 * MEBIBYTE)
        with open(source, "ab") as out:
            out.truncate(self.size)
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "8", source, self.uri)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, self.uri)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.uri, self.file("disk.qcow2"))
        run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", self.file("disk.qcow2"), self.uri)
        done = subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 1 3M 512", self.uri],
                              check=True, stdout=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 0)
        done = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", source, self.uri],
                              check=False, stdout=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 1, "a difference was not found")

    @needs("qemu-img")
    def test_qemu_img_bench(self):
        for extra in ([], ["-w"], ["-w", "--flush-interval=64"]):
            run("qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "32", "-s", "4096", *extra,
                self.uri)

    @needs("qemu-io")
    def test_qemu_io_patterns(self):
        commands = [
            "write -P 1 0 1M", "write -P 2 1000 5000", "read -P 1 0 1000", "read -P 2 1000 5000",
            "read -P 1 6000 4000", "write -z 2000 1000", "read -P 0 2000 1000",
            "write -z -u 64k 128k", "read -P 0 64k 128k", "write -f -P 3 511 1026",
            "read -P 3 511 1026", "discard 256k 512k", "flush", "write -P 9 1M 16M",
            "read -P 9 1M 16M", "aio_write -P 4 20M 64k", "aio_read -P 4 20M 64k",
        ]
        arguments = []
        for command in commands[:-1]:
            arguments += ["-c", command]
        output = run("qemu-io", "-f", "raw", *arguments, self.uri)
        self.assertNotIn("Pattern verification failed", output)
        output = run("qemu-io", "-f", "raw", "-c", commands[-1], "-c", "aio_flush", self.uri)
        self.assertNotIn("Pattern verification failed", output)

    @needs("qemu-io")
    def test_qemu_io_without_the_page_cache_and_with_writethrough(self):
        run("qemu-io", "-f", "raw", "-t", "writethrough", "-c", "write -P 7 0 64k", self.uri)
        output = run("qemu-io", "-f", "raw", "-t", "none", "-c", "read -P 7 0 64k", self.uri)
        self.assertNotIn("Pattern verification failed", output)

    # fio

    def fio(self, *options):
        run("fio", "--name=nbd", "--ioengine=nbd", f"--uri={self.uri}", "--size=32M",
            "--minimal", *options, cwd=self.folder)

    @needs("fio")
    def test_fio_verifies_random_writes_at_depth(self):
        self.fio("--rw=randwrite", "--bs=4k", "--iodepth=32", "--verify=crc32c",
                 "--verify_fatal=1", "--do_verify=1")

    @needs("fio")
    def test_fio_verifies_mixed_sizes_unaligned(self):
        self.fio("--rw=randrw", "--bsrange=512-128k", "--blockalign=512", "--iodepth=16",
                 "--verify=sha256", "--verify_fatal=1", "--fsync=64", "--serialize_overlap=1")

    @needs("fio")
    def test_fio_trims(self):
        self.fio("--rw=randtrim", "--bs=64k", "--iodepth=8")

    # A file system of the kernel

    @needs("nbdfuse", "losetup", "mkfs.ext4", "fusermount3", "fsck.ext4")
    def test_a_file_system_lives_on_it(self):
        if os.geteuid() != 0:
            self.skipTest("needs root for losetup and mount")
        if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
            self.skipTest("this kernel gives no FUSE or no loop devices")
        fuse = self.file("fuse")
        mounted = self.file("mounted")
        os.mkdir(fuse)
        os.mkdir(mounted)
        server = subprocess.Popen(["nbdfuse", fuse, self.uri], stderr=subprocess.DEVNULL)
        self.addCleanup(self._end_fuse, server, fuse)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not os.path.exists(os.path.join(fuse, "nbd")):
            if server.poll() is not None or time.monotonic() > deadline:
                self.skipTest("nbdfuse cannot mount here")
            os.sched_yield()
        done = subprocess.run(["losetup", "-f", "--show", os.path.join(fuse, "nbd")], check=False,
                              capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest("losetup: " + done.stderr.strip())
        loop = done.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", loop], check=False)
        run("mkfs.ext4", "-q", "-F", loop)
        expected = {}
        run("mount", loop, mounted)
        try:
            for i in range(100):
                content = os.urandom(1000 * i + 1)
                expected[f"file{i}"] = content
                with open(os.path.join(mounted, f"file{i}"), "wb") as out:
                    out.write(content)
            os.unlink(os.path.join(mounted, "file7"))
            del expected["file7"]
        finally:
            run("umount", mounted)
        run("fsck.ext4", "-f", "-n", loop)
        run("mount", loop, mounted)
        try:
            found = {}
            for name in os.listdir(mounted):
                if name != "lost+found":
                    with open(os.path.join(mounted, name), "rb") as content:
                        found[name] = content.read()
        finally:
            run("umount", mounted)
        self.assertEqual(found, expected)

    @staticmethod
    def _end_fuse(server, folder):
        subprocess.run(["fusermount3", "-u", folder], check=False, stderr=subprocess.DEVNULL)
        try:
            server.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


if __name__ == "__main__":
    print("server:", os.environ.get("TESSERA_NBD_URI", "memory server"), file=sys.stderr)
    unittest.main()
